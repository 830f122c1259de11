"""Data-parallel training: each process has its rows of every batch, and gradients are added up.

Gradients meet after the whole backward pass. DistributedDataParallel would reduce them from hooks inside it,
and does not support torch.autograd.grad and double backward, of which robust objectives are made.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from veridical.attacks.ball import Noise, NoiseRows
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.process_group import ProcessGroup
from veridical.runtime.seeds import stream
from veridical.training.checkpoint import Learner, pack
from veridical.training.objectives import ObjectiveValue

_NORMALISED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Share:
    """The rows of each batch of `count` examples that are this process's; alone, all of them.

    With several processes the sums and gradients of a step are those of one process up to rounding, and the
    same bits on each.
    """

    group: ProcessGroup
    count: int

    @property
    def rows(self) -> slice:
        """This process's rows; the processes' rows differ in number by at most one."""
        rank, size = self.group.rank, self.group.size
        return slice(self.count * rank // size, self.count * (rank + 1) // size)

    def noise(self, seed: int, step: int) -> Noise:
        """The source of a step's random starts: an example gets the same noise in whatever process it is."""
        generator = stream(seed, "noise", step)
        return generator if self.group.size == 1 else NoiseRows(generator, self.rows, self.count)

    def layer_seed(self, seed: int, step: int) -> int:
        """For layers that draw from the global generator (dropout): processes draw unrelated noise."""
        rank = self.group.rank
        return stream(seed, f"layers of process {rank}" if rank else "layers", step).initial_seed()

    def reduced(self, loss: Tensor, reduction: str) -> Tensor:
        """This process's summand of the batch's mean or sum of losses; loss (rows,)."""
        if reduction == "sum":
            return loss.sum()
        return loss.mean() if self.group.size == 1 else loss.sum() / self.count

    def whole(self, value: ObjectiveValue) -> ObjectiveValue:
        """The losses and parts of the whole batch, (count,) each, without a graph, on every process."""
        if self.group.size == 1:
            return ObjectiveValue(value.loss.detach(), value.parts)
        table = torch.zeros(1 + len(value.parts), self.count, dtype=torch.float64)
        table[:, self.rows] = torch.stack([value.loss.detach(), *value.parts.values()]).double().cpu()
        # Every number is added to zeros only, which leaves it as it is.
        loss, *parts = self.group.add_up(table).to(value.loss.dtype)
        return ObjectiveValue(loss, dict(zip(value.parts, parts, strict=True)))

    def add_gradients(self, model: nn.Module) -> None:
        """Replace every parameter's gradient by its sum over the processes; None where all have None."""
        if self.group.size == 1:
            return
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for dtype in sorted({parameter.dtype for parameter in trained}, key=str):
            self._add([parameter for parameter in trained if parameter.dtype == dtype])

    def _add(self, parameters: list[nn.Parameter]) -> None:
        """One exchange for all parameters of a dtype, and for how many processes have a gradient of each."""
        like = parameters[0]
        has = torch.tensor([p.grad is not None for p in parameters], dtype=like.dtype, device=like.device)
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self.group.add_up(torch.cat([*(gradient.reshape(-1) for gradient in flat), has]))
        *sums, counts = total.split([*(p.numel() for p in parameters), len(parameters)])
        for parameter, gradient, added, count in zip(parameters, flat, sums, counts.tolist(), strict=True):
            if count:
                # In place: the gradient keeps its memory layout, which a fused optimiser expects.
                parameter.grad = gradient.copy_(added.view_as(parameter))

    def check_step(self, step: int, folder: Path) -> None:
        """Raise a RunError on every process unless all continue from the same step."""
        first = self.group.told(step)
        with self.group.guarded():
            if step != first:
                raise RunError(
                    f"in {folder} process {self.group.rank} found the checkpoint of step {step}, process 0 "
                    f"that of step {first}. Name a folder that all processes see."
                )

    def check_equal(self, learner: Learner, step: int) -> None:
        """Raise a RunError on every process unless all hold the same weights, bit by bit."""
        if self.group.size == 1:
            return
        digests = torch.zeros(self.group.size, dtype=torch.int64)
        digest = hashlib.sha256(pack(learner.tensors())).digest()
        digests[self.group.rank] = int.from_bytes(digest[:7], "little")
        others = (self.group.add_up(digests) != digests[0]).nonzero().flatten().tolist()
        if others:
            raise RunError(
                f"after step {step} processes 0 and {others[0]} hold different weights or buffers. Either "
                "the model keeps statistics of the images that it sees (then train it in one process), or "
                "the processors differ in how they compute (then use machines of one kind)."
            )


def check_parallel(model: nn.Module, batch_size: int, group: ProcessGroup) -> None:
    """Raise a UsageError for what several processes cannot train as one does."""
    if group.size == 1:
        return
    names = [name for name, layer in model.named_modules() if isinstance(layer, _NORMALISED)]
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UsageError(
            f"{type(model).__name__} has batch normalisation ({shown}). Each of {group.size} processes would "
            "normalise by its own images, and train another network than one process does. Use group "
            "normalisation, or one process."
        )
    if batch_size < group.size:
        raise argument_error("batch_size", batch_size, f"an image for each of {group.size} processes")
