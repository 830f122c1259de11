"""Unmasking: instances of which one end of a ranking is shown, cut batch by batch, and what fills the rest.

A fill is called as (inputs, kept, numbers, part) -> filled inputs: inputs (n, C, H, W) floating in [0, 1],
kept bool (n, C or 1, H, W), True where a value stays, numbers (n,) those of the examples in their part,
"train" or "test", by which noise is keyed. It returns a new tensor of the inputs' shape and dtype.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from veridical.data import Dataset, Split
from veridical.faithfulness.ranking import PARTS, Part, Ranking, Ranks
from veridical.runtime.checking import check_value, record
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.options import ModeName
from veridical.runtime.registry import Registry, source_digest
from veridical.runtime.seeds import per_example_normal

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
    # Not -1, which has no size where there are no examples.
    return torch.as_tensor(stays).reshape(len(ranks), coordinates // (height * width), height, width)


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


# Images whose bytes are summed up at a time for the mean.
_IMAGES_AT_ONCE = 4096


class Fill(Protocol):
    """A callable as above that says in plain values what it is; its "kind" names who can restore it."""

    def __call__(self, inputs: Tensor, kept: Tensor, numbers: Tensor, part: str) -> Tensor:
        """Fill in what is not kept."""

    def describe(self) -> dict[str, Any]:
        """Plain values from which `restore_fill` makes the same fill."""


@dataclass(frozen=True)
class ConstantFill:
    """One number per channel (C,), in input units: the training mean, black, or any other."""

    values: tuple[float, ...]

    def __call__(self, inputs: Tensor, kept: Tensor, numbers: Tensor, part: str) -> Tensor:  # noqa: ARG002
        """Fill in what is not kept."""
        count = len(self.values)
        if count != inputs.shape[1]:
            raise argument_error("inputs", inputs, f"(n, {count}, H, W), as the fill has {count} values")
        return torch.where(kept, inputs, inputs.new_tensor(self.values).reshape(-1, 1, 1))

    def describe(self) -> dict[str, Any]:
        """Plain values from which `restore_fill` makes the same fill."""
        return {"kind": "constant", "values": list(self.values)}


@dataclass(frozen=True)
class LinearFill:
    """Noisy linear imputation (ROAD, Rong et al., ICML 2022): neighbours' means plus a little normal noise.

    fallback (C,): for planes of which nothing is shown. noise: standard deviation, in input units, theirs by
    default; as there, the sum is not cut to [0, 1]. Example i of a part gets the noise of the stream
    (seed, "imputation of PART", i).
    """

    fallback: tuple[float, ...]
    noise: float = 0.01
    seed: int = 0

    def __call__(self, inputs: Tensor, kept: Tensor, numbers: Tensor, part: str) -> Tensor:
        """Fill in what is not kept."""
        shape, purpose = inputs.shape[1:], f"imputation of {part}"
        noise = per_example_normal(shape, self.seed, purpose, numbers, inputs.dtype, inputs.device)
        filled = _impute(inputs, kept, inputs.new_tensor(self.fallback))
        return torch.where(kept, inputs, filled + self.noise * noise)

    def describe(self) -> dict[str, Any]:
        """Plain values from which `restore_fill` makes the same fill."""
        return {"kind": "linear", "fallback": list(self.fallback), "noise": self.noise, "seed": self.seed}


@dataclass(frozen=True)
class _OwnFill:
    """Trusted code of the caller's, "package.module:callable", called as every fill; what is kept stays."""

    name: str
    function: Callable[..., Tensor]

    def __call__(self, inputs: Tensor, kept: Tensor, numbers: Tensor, part: str) -> Tensor:
        filled = self.function(inputs.clone(), kept, numbers, part)
        if not isinstance(filled, Tensor) or filled.shape != inputs.shape:
            raise argument_error("fill", filled, f"a tensor {tuple(inputs.shape)} from {self.name}")
        return torch.where(kept, inputs, filled.to(inputs.dtype))

    def describe(self) -> dict[str, Any]:
        """Plain values from which `restore_fill` makes the same fill."""
        return {"kind": self.name, "source": source_digest(self.function)}


@dataclass(frozen=True)
class FillEntry:
    """A fill by name.

    create: (training images, seed) -> the fill. constant: it puts in one number per channel, so that natural
    retrainings of an mlp can be stacked. restore: from what the fill's `describe` gave to the same fill, in
    another process; the "kind" there is the entry's name.
    """

    name: str
    summary: str
    create: Callable[[Split, int], Fill]
    constant: bool = False
    restore: Callable[[Mapping[str, Any]], Fill] | None = None


# Fills by name. A number is a fill too: that constant in every channel.
FILLS = Registry(
    "fill",
    "veridical.fills",
    FillEntry,
    [
        FillEntry(
            "mean",
            "the training images' mean of each channel",
            lambda train, _seed: ConstantFill(_channel_means(train)),
            constant=True,
        ),
        FillEntry(
            "black", "zero", lambda train, _seed: ConstantFill((0.0,) * train.images.shape[1]), constant=True
        ),
        FillEntry(
            "linear",
            "noisy linear imputation (ROAD): the weighted mean of the neighbours, plus a little noise",
            lambda train, seed: LinearFill(_channel_means(train), seed=seed),
            restore=lambda record: LinearFill(
                tuple(map(float, record["fallback"])), float(record["noise"]), int(record["seed"])
            ),
        ),
    ],
    wrap=lambda name, function: FillEntry(
        name,
        "code of one's own",
        lambda _train, _seed: _OwnFill(name, function),
        restore=lambda _record: _OwnFill(name, function),
    ),
    positional=("inputs", "kept", "numbers", "part"),
    more=" or a number (images are in [0, 1])",
)


def resolve_fill(fill: str | float, train: Split, seed: int = 0, *, trust_code: bool = False) -> Fill:
    """The fill by its name in FILLS, "package.module:callable" with trust_code, or of one number."""
    if isinstance(fill, str):
        return FILLS.get(fill, trust_code=trust_code).create(train, seed)
    if isinstance(fill, bool) or not math.isfinite(fill):
        raise argument_error("fill", fill, f"{', '.join(FILLS)} or a number (images are in [0, 1])")
    return ConstantFill((float(fill),) * train.images.shape[1])


def restore_fill(record: Mapping[str, Any], *, trust_code: bool = False) -> Fill:
    """The fill that `describe` described; a RunError where code of one's own has changed since."""
    kind = record.get("kind")
    if kind == "constant":
        return ConstantFill(tuple(float(value) for value in record["values"]))
    entry = FILLS.get(str(kind), trust_code=trust_code)
    if entry.restore is None:
        raise argument_error("fill", dict(record), "a record of a fill that can be restored")
    fill = entry.restore(record)
    if fill.describe() != dict(record):
        raise RunError(f"fill {kind} is not the one that was planned with: its source differs.")
    return fill


def _channel_means(split: Split) -> tuple[float, ...]:
    """The mean of each channel over all images and places, in [0, 1]; exact sums of the bytes."""
    sums = torch.zeros(split.images.shape[1], dtype=torch.int64)
    for rows in split.images.split(_IMAGES_AT_ONCE):
        sums += rows.sum(dim=(0, 2, 3), dtype=torch.int64)
    values = len(split) * split.images[0, 0].numel()
    return tuple(total / (255 * values) for total in sums.tolist())


# A plane is solved when its residual is this share of its right side; errors are then below a grey level.
_TOLERANCE = 1e-5

# Of a place's neighbours: those at a side, and those at a corner.
_WEIGHTS = [[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0.0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]]


def _impute(inputs: Tensor, kept: Tensor, fallback: Tensor) -> Tensor:
    """Replace what is not kept so that each value is the weighted mean of its up to eight neighbours.

    inputs (n, C, H, W) floating. kept: bool, (n, C, H, W) or (n, 1, H, W), True where the value stays.
    fallback (C,): the value of a plane of which nothing is kept. Neighbours at a side weigh 1/6, at a corner
    1/12; at the image's border the weights of those that exist are scaled to one. Every plane is a system of
    its own, so neither the batch nor the order of examples changes a result beyond rounding.
    Source: Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022,
    section 5; the noise of their method is added by the caller.
    """
    shape = inputs.shape
    work = inputs if inputs.dtype == torch.float64 else inputs.float()
    planes = work.reshape(-1, 1, *shape[2:])
    known = kept.expand(shape).reshape(planes.shape)
    values = torch.where(known, planes, 0)
    count = known.sum(dim=(1, 2, 3), keepdim=True)
    instead = fallback.to(work).expand(shape[:2]).reshape(-1, 1, 1, 1)
    start = torch.where(count > 0, values.sum(dim=(1, 2, 3), keepdim=True) / count.clamp(min=1), instead)
    filled = torch.where(count > 0, _solve(values, known, start), start)
    return torch.where(known, planes, filled).reshape(shape).to(inputs.dtype)


def _solve(values: Tensor, known: Tensor, start: Tensor) -> Tensor:
    """The unknown values of planes (P, 1, H, W), by conjugate gradients from the constant `start`.

    The matrix is the Laplacian of the grid's graph without the known nodes: symmetric, and positive definite
    where a plane has a known value. A plane stops moving when it is solved, whatever the others need.
    """
    unknown = ~known
    kernel = values.new_tensor(_WEIGHTS)[None, None]

    def neighbours(planes: Tensor) -> Tensor:
        return conv2d(planes, kernel, padding=1)

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum(dim=(1, 2, 3), keepdim=True)

    # A x = b for the unknown x: degree x - its unknown neighbours = its known neighbours.
    degree = neighbours(torch.ones_like(values[:1])) if len(values) else values
    right = neighbours(values) * unknown
    result = start * unknown
    residual = right - (degree * result - neighbours(result)) * unknown
    direction = residual.clone()
    size = dot(residual, residual)
    target = _TOLERANCE**2 * torch.maximum(size, dot(right, right))
    solvable = known.flatten(1).any(1)[:, None, None, None]
    # Conjugate gradients need as many steps as there are unknowns at most; in practice a few image widths.
    for _ in range(values[0].numel() if len(values) else 0):
        active = (size > target) & solvable
        if not bool(active.any()):
            break
        image = (degree * direction - neighbours(direction)) * unknown
        length = torch.where(active, size / dot(direction, image), 0)
        result = result + length * direction
        residual = residual - length * image
        before, size = size, torch.where(active, dot(residual, residual), size)
        direction = torch.where(active, residual + size / before * direction, direction)
    return result
