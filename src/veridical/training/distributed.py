"""One training by several processes, as torchrun starts them: each has its rows of every batch.

Gradients meet after the whole backward pass. DistributedDataParallel would reduce them from hooks inside it,
and does not support torch.autograd.grad and double backward, of which robust objectives are made.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from veridical.attacks.ball import Noise, NoiseRows
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError, UsageError, VeridicalError, argument_error
from veridical.runtime.seeds import stream
from veridical.training.checkpoint import Learner, pack
from veridical.training.objectives import ObjectiveValue

# How long a process waits for the others, as while process 0 validates; one that ends is noticed at once.
_PATIENCE = timedelta(days=7)
_MOST_PROCESSES = 2**20
_NORMALISED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `size` that do one training together; `rank` counts from 0.

    local_rank: its number on its own machine, and that of its GPU. What communicates must be called by all
    processes in the same order: everything but `first` and `device`.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is process 0, which alone writes results and shows progress."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """What "auto", "cpu" or "cuda" means to this process: of several, each has a GPU of its own."""
        if self.size > 1 and name not in ("auto", "cpu", "cuda"):
            raise argument_error("device", name, f"auto, cpu or cuda for {self.size} processes")
        device = resolve_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if self.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"device: each process takes a GPU of its own, and process {self.rank} would be number "
                f"{self.local_rank + 1} of a machine with {torch.cuda.device_count()} GPUs. Start fewer, or "
                "give --device cpu."
            )
        return torch.device("cuda", self.local_rank)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace the tensor by its sum over all processes, with the same bits on each, and return it."""
        if self.size > 1:
            with self._connected():
                dist.all_reduce(tensor)
        return tensor

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """The plain value that process `source` gives, on every process."""
        if self.size == 1:
            return value
        # JSON: what travels between processes is never unpickled.
        content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor([len(content)])
        with self._connected():
            dist.broadcast(length, source)
            if self.rank != source:
                content = torch.zeros(int(length), dtype=torch.uint8)
            dist.broadcast(content, source)
        return json.loads(bytes(content.tolist()))

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A block that fails on all processes if it fails on one; nothing in it may communicate.

        Where it failed its error is raised as it is, elsewhere a RunError that quotes it.
        """
        failure = None
        try:
            yield
        except Exception as error:
            if self.size == 1:
                raise
            failure = error  # raised again as soon as the others know
        self._agree(failure)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """A guarded block that process 0 does first and the others, all at once, when it has done it."""
        if not self.first:
            self._agree()
        with self.guarded():
            yield
        if self.first:
            self._agree()

    def _agree(self, failure: Exception | None = None) -> None:
        """Wait for all processes; raise on each if one brings a failure."""
        if self.size == 1:
            return
        states = torch.zeros(self.size, dtype=torch.int64)
        states[self.rank] = failure is not None
        failed = self.all_reduce(states).nonzero()
        if not len(failed):
            return
        source = int(failed[0])
        own = str(failure) if isinstance(failure, VeridicalError | OSError) else f"{failure!r}"
        reason = self.broadcast(own, source)
        if failure is not None:
            raise failure
        raise RunError(f"process {source} of {self.size} stopped: {reason}")

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Turn a lost connection into a RunError that says what to do."""
        try:
            yield
        except RuntimeError as error:
            # Gloo's messages: a place in its source, what happened, then general advice.
            cause = str(error).partition("\n")[0].partition(". ")[0]
            cause = cause.partition("] ")[2] or cause
            raise RunError(
                f"process {self.rank} of {self.size} lost the others ({cause}). One of them was killed or "
                "ended by an error, which it printed itself. The same command continues where it was."
            ) from error


ALONE = ProcessGroup()


@contextmanager
def join_processes(device: str = "auto") -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started with this one, for the block; `ALONE` where there is only one.

    device: the option of that name; GPUs communicate by NCCL, all else by gloo. A program that has a
    torch.distributed group already makes its own `ProcessGroup`.
    """
    # A scheduler's WORLD_SIZE alone numbers no process.
    size = _variable("WORLD_SIZE", 1, 1, _MOST_PROCESSES) if "RANK" in os.environ else 1
    rank = _variable("RANK", 0, 0, size - 1)
    if size == 1:
        yield ALONE
        return
    group = ProcessGroup(rank, size, _variable("LOCAL_RANK", rank, 0, size - 1))
    if not dist.is_available():
        raise UsageError("this build of PyTorch has no torch.distributed. Start one process, not several.")
    own = group.device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    try:
        with group._connected():
            dist.init_process_group(backend, timeout=_PATIENCE)
    except ValueError as error:
        raise UsageError(f"{error}. Start the processes with torchrun.") from error
    try:
        yield group
        group._agree()
    except BaseException:
        # NCCL would wait here for processes that may be gone; this one is about to end anyway.
        if own.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _variable(name: str, default: int, least: int, most: int) -> int:
    """The number in a variable of the environment, checked; the default where it is not set."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        hint = "torchrun sets it; without torchrun, unset RANK and WORLD_SIZE."
        raise argument_error(name, text, f"a whole number from {least} to {most}", hint)
    return int(text)


@dataclass(frozen=True)
class Share:
    """The rows of each batch of `count` examples that are this process's; alone, all of them.

    Sums and gradients of a step are those of one process up to rounding, and the same bits on each.
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
        loss, *parts = self.group.all_reduce(table).to(value.loss.dtype)
        return ObjectiveValue(loss, dict(zip(value.parts, parts, strict=True)))

    def add_gradients(self, model: nn.Module) -> None:
        """Replace every parameter's gradient by its sum over the processes; None where all have None."""
        if self.group.size == 1:
            return
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # One exchange for all parameters of a dtype, and for how many processes have a gradient of each.
        for dtype in sorted({parameter.dtype for parameter in trained}, key=str):
            same = [parameter for parameter in trained if parameter.dtype == dtype]
            has = torch.tensor([p.grad is not None for p in same], dtype=dtype, device=same[0].device)
            flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in same]
            total = self.group.all_reduce(torch.cat([*(gradient.reshape(-1) for gradient in flat), has]))
            *sums, counts = total.split([*(p.numel() for p in same), len(same)])
            for parameter, gradient, added, count in zip(same, flat, sums, counts.tolist(), strict=True):
                if count:
                    # In place: the gradient keeps its memory layout, which a fused optimiser expects.
                    parameter.grad = gradient.copy_(added.view_as(parameter))

    def check_step(self, step: int, folder: Path) -> None:
        """Raise a RunError on every process unless all continue from the same step."""
        first = self.group.broadcast(step)
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
        others = (self.group.all_reduce(digests) != digests[0]).nonzero().flatten().tolist()
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
    if names := [name for name, layer in model.named_modules() if isinstance(layer, _NORMALISED)]:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UsageError(
            f"{type(model).__name__} has batch normalisation ({listed}). Each of {group.size} processes "
            "would normalise by its own images, and train another network than one process does. Use group "
            "normalisation, or one process."
        )
    if batch_size < group.size:
        raise argument_error("batch_size", batch_size, f"an image for each of {group.size} processes")
