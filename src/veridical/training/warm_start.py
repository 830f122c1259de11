"""Warm starts: the inner ascent goes on where it ended for the same image an epoch before."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from veridical.attacks.ball import Ball, Noise
from veridical.runtime.errors import UsageError
from veridical.training.distributed import Share
from veridical.training.objectives import Objective, ObjectiveValue, RobustAttribution
from veridical.training.settings import Settings

_LEVELS = 127
# The scale of an image that was not met yet; 0 is that of one that did not move.
_UNSEEN = -1.0


def starts_warm(objective: Objective, settings: Settings) -> bool:
    """Whether this objective's inner ascent starts warm; a UsageError where images change between epochs."""
    if not isinstance(objective, RobustAttribution) or objective.inner.start != "warm":
        return False
    for name in ("augment", "balance"):
        if getattr(settings, name) != "none":
            raise UsageError(
                f"inner_start=warm keeps where the ascent ended for each image until the next epoch, and "
                f"{name}={getattr(settings, name)} changes the images or how often they come. Give "
                f"{name}=none, or another inner_start."
            )
    return True


class WarmStarts:
    """What is kept for the next epoch: x' - x of every training image, as bytes.

    offsets: int8 (N, C, H, W), in steps of 1/127 of the image's greatest absolute offset. scales: that
    greatest offset, float32 (N,), -1 for an image that was not met yet; it starts at random, as does one
    whose ascent never left x. Both are in the checkpoint, so a run that goes on sees the same numbers.
    """

    def __init__(self, count: int, shape: Sequence[int]) -> None:
        self.offsets = torch.zeros(count, *shape, dtype=torch.int8)
        self.scales = torch.full((count,), _UNSEEN)
        self._pending: tuple[Tensor, Tensor] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of them, by name; references."""
        return {"offsets": self.offsets, "scales": self.scales}

    def value(
        self,
        objective: Objective,
        model: nn.Module,
        inputs: Tensor,
        target: Tensor,
        generator: Noise,
        images: Tensor,
    ) -> ObjectiveValue:
        """The objective, its ascent started where that of these images (positions, (n,)) ended last time."""
        assert isinstance(objective, RobustAttribution)
        start = self.start(inputs, objective.ball, generator, images)
        perturbed = objective.maximise(model, inputs, target, generator, start)
        # Kept by `keep`, when the step is known to be sound.
        self._pending = _packed(perturbed - inputs)
        return objective.at(model, inputs, target, perturbed)

    def start(self, inputs: Tensor, ball: Ball, generator: Noise, images: Tensor) -> Tensor | None:
        """The kept x' of these images, random for those without one; None where that is all of them."""
        scales = self.scales[images].to(inputs)
        # Where the ascent ended at x itself, as in a ball that is still a point, it would never leave it.
        met = scales > 0
        if not bool(met.any()):
            return None
        form = (-1, *[1] * (inputs.ndim - 1))
        kept = inputs + self.offsets[images].to(inputs) * (scales / _LEVELS).reshape(form)
        if bool(met.all()):
            return kept
        return torch.where(met.reshape(form), kept, ball.random_start(inputs, generator))

    def keep(self, images: Tensor, share: Share) -> None:
        """Keep where the last `value` ended, and the other processes for their rows of the batch."""
        assert self._pending is not None
        for kept, new in zip((self.offsets, self.scales), self._pending, strict=True):
            whole = torch.zeros(len(images), *new.shape[1:], dtype=new.dtype)
            whole[share.rows] = new
            # Every row is one process's, and is added to zeros.
            kept[images] = share.group.all_reduce(whole)
        self._pending = None


def _packed(offset: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (n, ...) as int8 of the same shape, and the scale of each, float32 (n,)."""
    exact = offset.detach().float()
    scale = exact.flatten(1).abs().amax(1)
    # Where nothing moved the offsets are zero, whatever they are divided by.
    unit = torch.where(scale > 0, scale, 1.0).reshape(-1, *[1] * (offset.ndim - 1))
    return (exact / unit * _LEVELS).round().to(torch.int8).cpu(), scale.cpu()
