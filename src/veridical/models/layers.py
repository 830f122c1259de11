"""Standardisation by constants, inside a network or around one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import isfinite

import torch
from torch import Tensor, nn

from veridical.runtime.errors import argument_error

# One number, or one for each channel.
PerChannel = float | Sequence[float] | Tensor


class Standardise(nn.Module):
    """(inputs - mean) / std by constants, (N, C, ...) to the same shape and dtype; no parameters, no buffers.

    mean 0 and std 1 pass the inputs through untouched.
    """

    def __init__(self, mean: PerChannel = 0.0, std: PerChannel = 1.0) -> None:
        super().__init__()
        # Python floats: a cast to bfloat16 and back leaves them as they are.
        self.mean, self.std = _numbers("mean", mean), _numbers("std", std)
        if min(self.std) <= 0:
            raise argument_error("std", std, "a positive number, or one positive number per channel")

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardised inputs; a UsageError if their channels are not as many as the constants."""
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return inputs
        return (inputs - _broadcast("mean", self.mean, inputs)) / _broadcast("std", self.std, inputs)

    def extra_repr(self) -> str:
        """The constants, where the module is printed."""
        return f"mean={self.mean}, std={self.std}"


class Normalized(nn.Module):
    """Wrap a network that expects standardised inputs into one that takes images in [0, 1]; logits unchanged.

    model gets (low + (high - low) * inputs - mean) / std, with bounds (low, high). mean and std, a number or
    one per channel, are in the units of `bounds`: the pixel range they were computed for, (0, 1) for
    torchvision's weights, (0, 255) for those trained on bytes. Radii of attacks stay in [0, 1] units.
    Raises UsageError for a std that is not positive, bounds that do not grow, or a wrong channel count.
    """

    def __init__(
        self, model: nn.Module, mean: PerChannel, std: PerChannel, bounds: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise argument_error("model", model, "an nn.Module from inputs to logits (N, K)")
        # Padded, so that a lone number is refused by the comparison and not by unpacking.
        low, high = (*_numbers("bounds", bounds), 0.0, 0.0)[:2]
        if not low < high:
            raise argument_error("bounds", bounds, "(low, high), finite, with low < high")
        # One affine map, not two: (low + span x - mean) / std = (x - (mean - low) / span) / (std / span).
        span = high - low
        self.standardise = Standardise(
            [(number - low) / span for number in _numbers("mean", mean)],
            [number / span for number in _numbers("std", std)],
        )
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """The wrapped model's logits for inputs (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.model(self.standardise(inputs))
        return logits


def _numbers(name: str, value: PerChannel) -> tuple[float, ...]:
    numbers: tuple[float, ...] = ()
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):
        numbers = tuple(torch.as_tensor(value, dtype=torch.float64).flatten().tolist())
    if not numbers or not all(isfinite(number) for number in numbers):
        raise argument_error(name, value, "a finite number, or one finite number per channel")
    return numbers


def _broadcast(name: str, numbers: tuple[float, ...], inputs: Tensor) -> float | Tensor:
    """The constants in a form that combines with (N, C, ...) inputs."""
    if len(numbers) == 1:
        return numbers[0]
    if inputs.ndim < 2 or inputs.shape[1] != len(numbers):
        # Broadcasting would turn one channel into three without a word.
        expected = f"(N, {len(numbers)}, ...), as {name} has {len(numbers)} numbers"
        raise argument_error("inputs", inputs, expected)
    return inputs.new_tensor(numbers).reshape(-1, *[1] * (inputs.ndim - 2))
