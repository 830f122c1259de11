"""What stands in the places that are not shown: a constant per channel, or noisy linear imputation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from veridical.data import Split
from veridical.runtime.errors import argument_error
from veridical.runtime.options import FillName
from veridical.runtime.seeds import per_example_normal

ROWS = 4096
"""Images whose bytes are summed up at a time for the mean."""


@dataclass(frozen=True)
class ConstantFill:
    """One number per channel (C,), in input units: the training mean, black, or any other."""

    values: tuple[float, ...]

    def __call__(self, inputs: Tensor, kept: Tensor, numbers: Tensor, part: str) -> Tensor:  # noqa: ARG002
        """Inputs (n, C, H, W) where `kept` is True, the constants elsewhere; a new tensor."""
        return torch.where(kept, inputs, _per_channel(self.values, inputs))

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
        """Inputs (n, C, H, W) where `kept` is True, imputed elsewhere; a new tensor."""
        filled = impute(inputs, kept, inputs.new_tensor(self.fallback))
        noise = per_example_normal(
            inputs.shape[1:], self.seed, f"imputation of {part}", numbers, inputs.dtype, inputs.device
        )
        return torch.where(kept, inputs, filled + self.noise * noise)

    def describe(self) -> dict[str, Any]:
        """Plain values from which `restore_fill` makes the same fill."""
        return {
            "kind": "linear",
            "fallback": list(self.fallback),
            "noise": self.noise,
            "seed": self.seed,
        }


Fill = ConstantFill | LinearFill


def resolve_fill(fill: FillName | float, train: Split, seed: int = 0) -> Fill:
    """The fill by its name: "mean" (of the training images, per channel), "black", "linear", or a number."""
    channels = train.images.shape[1]
    if fill == "mean":
        return ConstantFill(channel_means(train))
    if fill == "black":
        return ConstantFill((0.0,) * channels)
    if fill == "linear":
        return LinearFill(channel_means(train), seed=seed)
    if isinstance(fill, str | bool) or not isfinite(fill):
        raise argument_error("fill", fill, "mean, black, linear or a number (images are in [0, 1])")
    return ConstantFill((float(fill),) * channels)


def restore_fill(record: Mapping[str, Any]) -> Fill:
    """The fill that `describe` described."""
    if record.get("kind") == "constant":
        return ConstantFill(tuple(float(value) for value in record["values"]))
    if record.get("kind") == "linear":
        fallback = tuple(float(value) for value in record["fallback"])
        return LinearFill(fallback, float(record["noise"]), int(record["seed"]))
    raise argument_error("fill", dict(record), 'a record with kind "constant" or "linear"')


def channel_means(split: Split) -> tuple[float, ...]:
    """The mean of each channel over all images and places, in [0, 1]; exact sums of the bytes."""
    sums = torch.zeros(split.images.shape[1], dtype=torch.int64)
    for rows in split.images.split(ROWS):
        sums += rows.sum(dim=(0, 2, 3), dtype=torch.int64)
    values = len(split) * split.images[0, 0].numel()
    return tuple(total / (255 * values) for total in sums.tolist())


def _per_channel(values: tuple[float, ...], inputs: Tensor) -> Tensor:
    if len(values) != inputs.shape[1]:
        raise argument_error(
            "inputs", inputs, f"(n, {len(values)}, H, W), as the fill has {len(values)} values"
        )
    return inputs.new_tensor(values).reshape(-1, 1, 1)


TOLERANCE = 1e-5
"""A plane is solved when its residual is this share of its right side; errors are then below a grey level."""

_SIDE, _CORNER = 1 / 6, 1 / 12


def impute(inputs: Tensor, kept: Tensor, fallback: Tensor) -> Tensor:
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
    kernel = values.new_tensor(
        [[_CORNER, _SIDE, _CORNER], [_SIDE, 0.0, _SIDE], [_CORNER, _SIDE, _CORNER]]
    ).reshape(1, 1, 3, 3)

    def neighbours(planes: Tensor) -> Tensor:
        return conv2d(planes, kernel, padding=1)

    degree = neighbours(torch.ones_like(values[:1])) if len(values) else values
    right = neighbours(values) * unknown
    found = start * unknown
    residual = right - (degree * found - neighbours(found)) * unknown
    direction = residual.clone()
    size = _dot(residual, residual)
    target = TOLERANCE**2 * torch.maximum(size, _dot(right, right))
    solvable = known.flatten(1).any(1)[:, None, None, None]
    # Conjugate gradients need as many steps as there are unknowns at most; in practice a few image widths.
    for _ in range(values[0].numel() if len(values) else 0):
        active = (size > target) & solvable
        if not bool(active.any()):
            break
        image = (degree * direction - neighbours(direction)) * unknown
        length = torch.where(active, size / _dot(direction, image), 0)
        found = found + length * direction
        residual = residual - length * image
        before, size = size, torch.where(active, _dot(residual, residual), size)
        direction = torch.where(active, residual + size / before * direction, direction)
    return found


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(1, 2, 3), keepdim=True)
