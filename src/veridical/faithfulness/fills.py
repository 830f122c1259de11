"""What stands in the places that are not shown: a constant per channel, or noisy linear imputation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from veridical.data import Split
from veridical.faithfulness.imputation import impute
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
        """Plain values from which `fill_from` makes the same fill."""
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
        """Plain values from which `fill_from` makes the same fill."""
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


def fill_from(record: Mapping[str, Any]) -> Fill:
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
