"""Unmasking: instances of which only one end of a ranking is shown, cut batch by batch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from veridical.data import Dataset, Split
from veridical.faithfulness.fills import Fill
from veridical.faithfulness.ranking import PARTS, Part, Ranking, Ranks
from veridical.runtime.checking import check_value, record
from veridical.runtime.errors import argument_error
from veridical.runtime.options import ModeName

End = Literal["top", "bottom"]
Shown = Literal["images", "masks"]
ENDS: tuple[End, End] = ("top", "bottom")


@dataclass(frozen=True)
class Kept:
    """Which coordinates stay: so many from one end of the ranking.

    To remove the first k of D is to keep the last D - k, so both modes have this one form, and the same
    training is recognised as the same.
    """

    end: End
    count: int


def resolve_kept(level: float, coordinates: int, end: End = "top", mode: ModeName = "keep") -> Kept:
    """What stays of D coordinates when the share `level` at one end is kept, or removed.

    The count is level * D rounded to the nearest, halves up, and at least 1. Level 1 is everything.
    """
    if not 0 < level <= 1:
        raise argument_error("level", level, "a share of the coordinates, above 0 and at most 1")
    check_value("end", end, End)
    check_value("mode", mode, ModeName)
    # Halves up, not to even as round(): levels of two measurements then mean the same counts.
    count = max(1, math.floor(level * coordinates + 0.5))
    if mode == "keep":
        return Kept(end, count)
    return Kept("bottom" if end == "top" else "top", coordinates - count)


def mask(ranks: Tensor, kept: Kept, shape: Sequence[int]) -> Tensor:
    """True where a coordinate stays: ranks (n, D) to bool (n, C, H, W), or (n, 1, H, W) for ranked pixels.

    shape: (C, H, W) of an image; D is C * H * W, or H * W where whole pixels were ranked.
    """
    channels, height, width = shape
    coordinates = ranks.shape[1]
    if coordinates not in (channels * height * width, height * width):
        raise argument_error("ranks", ranks, f"ranks of images of shape {tuple(shape)}")
    # numpy compares short integers ten times as fast as torch does.
    rows: Any = ranks if ranks.device.type != "cpu" else ranks.numpy()
    # Rank 0 comes first, so the bottom k are the ranks from D - k on.
    stays = rows < kept.count if kept.end == "top" else rows >= coordinates - kept.count
    return torch.as_tensor(stays).reshape(len(ranks), -1, height, width)


def unmask(
    inputs: Tensor,
    ranks: Tensor,
    level: float,
    end: End = "top",
    *,
    mode: ModeName = "keep",
    fill: Fill,
    indices: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Instances of which the share `level` at one end of their ranking is kept (or removed); a new tensor.

    inputs (n, C, H, W) floating, ranks (n, D) integers, both of the same examples. fill: what stands in the
    other places. indices: the examples' numbers in their data set, by which the fill keys its noise.
    Source: Shah, Jain, Netrapalli (NeurIPS 2021), section 3, with mode "keep" and a constant fill.
    """
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise argument_error("inputs", inputs, "floating-point inputs (n, C, H, W)")
    if ranks.ndim != 2 or ranks.is_floating_point() or len(ranks) != len(inputs):
        raise argument_error("ranks", ranks, f"integers ({len(inputs)}, D), one row for each input")
    stays = mask(ranks.to(inputs.device), resolve_kept(level, ranks.shape[1], end, mode), inputs.shape[1:])
    numbers = torch.arange(len(inputs)) if indices is None else torch.as_tensor(indices).cpu()
    return fill(inputs, stays, numbers, "test")


@record
class UnmaskedSplit(Split):
    """A split whose batches are unmasked as they are cut; images and labels are those of the original.

    ranks: (M, D) of the whole split that this one was taken from, or (1, D). numbers (N,) int64: each
    example's row there. part: which split that was, by which the fill keys its noise.
    """

    ranks: Ranks
    numbers: Tensor
    kept: Kept
    fill: Fill
    part: Part

    def _cut(
        self, chosen: Tensor, dtype: torch.dtype, device: torch.device | str | None
    ) -> tuple[Tensor, Tensor]:
        """Unmasked inputs (n, C, H, W) and their target."""
        inputs, target = super()._cut(chosen, dtype, device)
        return self.fill(inputs, self._masks(chosen, device), self.numbers[chosen], self.part), target

    def _masks(self, chosen: Tensor, device: torch.device | str | None) -> Tensor:
        """What stays of these examples, bool (n, C or 1, H, W) on the device."""
        # One row stands for all examples. `take` copies, so that the file on disk is only read from.
        numbers = self.numbers[chosen].numpy() if len(self.ranks) > 1 else np.zeros(len(chosen), np.int64)
        rows = np.asarray(self.ranks).take(numbers, axis=0)
        return mask(torch.from_numpy(rows).to(device), self.kept, self.images.shape[1:])

    def subset(self, indices: Tensor | Sequence[int] | range | slice) -> UnmaskedSplit:
        """The examples with these indices, in the given order, with their own ranks and noise."""
        chosen = self._indices(indices)
        own = {name: getattr(self, name)[chosen] for name in ("images", "labels", "numbers")}
        return replace(self, **own)


class MaskSplit(UnmaskedSplit):
    """The control: batches hold the masks themselves, 1 where a coordinate would be shown, and no image."""

    def _cut(
        self, chosen: Tensor, dtype: torch.dtype, device: torch.device | str | None
    ) -> tuple[Tensor, Tensor]:
        """Masks (n, C, H, W) of zeros and ones and the examples' target."""
        stays = self._masks(chosen, device).to(dtype)
        whole = stays.expand(len(chosen), *self.images.shape[1:]).contiguous()
        return whole, self.labels[chosen].to(device)


def unmask_dataset(
    data: Dataset, ranking: Ranking, kept: Kept, fill: Fill, *, shown: Shown = "images"
) -> Dataset:
    """The data set with every instance unmasked; nothing is computed before a batch is cut.

    shown: "masks" gives the masks in place of the images. The checksum follows from those of the data and the
    ranking and from what is kept and filled in. Raises UsageError for a ranking of another data set.
    """
    check_value("shown", shown, Shown)
    if not 0 < kept.count <= ranking.coordinates:
        raise argument_error("kept", kept, f"1 to {ranking.coordinates} coordinates")
    what = {"data": data.checksum, "ranking": ranking.checksum, "kept": asdict(kept), "shown": shown}
    if shown == "images":
        what["fill"] = fill.describe()
    kind = MaskSplit if shown == "masks" else UnmaskedSplit
    parts: dict[Part, Split] = {}
    for part in PARTS:
        split: Split = getattr(data, part)
        ranks: Ranks = getattr(ranking, part)
        if ranking.shape != data.shape or len(ranks) not in (1, len(split)):
            expected = f"ranks of {len(split)} {part} images of shape {data.shape}, as {data.name} has"
            raise argument_error("ranking", f"{len(ranks)} of shape {ranking.shape}", expected)
        parts[part] = kind(split.images, split.labels, ranks, torch.arange(len(split)), kept, fill, part)
    checksum = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    options = {**data.options, "unmasked": what}
    return Dataset(data.name, parts["train"], parts["test"], data.classes, checksum, data.source, options)
