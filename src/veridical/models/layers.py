"""What the networks share: layers drawn from a given generator, normalisation, a folded convolution."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import erf, exp, isfinite, pi, sqrt
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import stream

CUT_DEVIATION = sqrt(1 - 4 * exp(-2) / (sqrt(2 * pi) * erf(sqrt(2))))
"""Deviation, .8796, of a standard normal that is cut at two deviations."""

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)

PerChannel = float | Sequence[float] | Tensor
"""One number, or one for each channel."""


def weight_generator(seed: int) -> torch.Generator:
    """The generator that all weights of one network are drawn from; on the CPU, so that devices agree."""
    return stream(seed, "weights")


def blank_convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
) -> nn.Conv2d:
    """A convolution with unset weights: nn.Conv2d's own constructor would draw from the global generator."""
    layer = nn.Conv2d(
        channels_in, channels_out, kernel, stride, padding, bias=bias, device="meta", dtype=torch.float32
    )
    return _unset(layer)


def blank_linear(features_in: int, features_out: int) -> nn.Linear:
    """A linear layer with unset weights, to be filled by one of the functions below."""
    return _unset(nn.Linear(features_in, features_out, device="meta", dtype=torch.float32))


def _unset(layer: _Layer) -> _Layer:
    """Give a layer on the device meta memory on the CPU."""
    # By hand: `to_empty` would import half a second of torch.
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
    return layer


@torch.no_grad()
def truncated_normal(
    layer: nn.Conv2d | nn.Linear, generator: torch.Generator, *, std: float, bias: float
) -> None:
    """Fill weights from a normal cut at two deviations (TensorFlow's truncated_normal), biases by `bias`."""
    nn.init.trunc_normal_(layer.weight, 0.0, std, -2 * std, 2 * std, generator=generator)
    if layer.bias is not None:
        layer.bias.fill_(bias)


@torch.no_grad()
def he_normal(layer: nn.Conv2d | nn.Linear, generator: torch.Generator, *, fan: str = "in") -> None:
    """Fill weights from a normal of variance 2 / fan, biases with zero.

    fan "in" counts the numbers that reach a unit, "out" takes kernel area x output channels instead.
    He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, section 2.2.
    """
    layer.weight.normal_(0.0, he_deviation(layer, fan=fan), generator=generator)
    if layer.bias is not None:
        layer.bias.zero_()


def he_deviation(layer: nn.Conv2d | nn.Linear, *, fan: str = "in") -> float:
    """The deviation sqrt(2 / fan) of `he_normal`."""
    units_out, units_in = layer.weight.shape[:2]
    # Of the kernel; 1 for a linear layer, whose weight[0, 0] is one number.
    area = layer.weight[0, 0].numel()
    return sqrt(2.0 / (area * (units_out if fan == "out" else units_in)))


@torch.no_grad()
def unit_variance_uniform(layer: nn.Linear, generator: torch.Generator) -> None:
    """Fill weights uniformly in +-sqrt(3 / fan in), which keeps the inputs' variance; biases with zero."""
    limit = sqrt(3.0 / layer.weight.shape[1])
    layer.weight.uniform_(-limit, limit, generator=generator)
    layer.bias.zero_()


class Standardise(nn.Module):
    """(inputs - mean) / std by constants, (N, C, ...) to the same shape and dtype; no parameters, no buffers.

    mean 0 and std 1 pass the inputs through untouched. The constants stay Python floats until they are used,
    so that float64 inputs meet them at full precision even after the network was cast to bfloat16 and back.
    """

    def __init__(self, mean: PerChannel = 0.0, std: PerChannel = 1.0) -> None:
        super().__init__()
        self.mean = _numbers("mean", mean)
        self.std = _numbers("std", std)
        if min(self.std) <= 0:
            raise argument_error("std", std, "a positive number, or one positive number per channel")

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardised inputs; a UsageError if their channels are not as many as the constants."""
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return inputs
        return (inputs - _broadcast("mean", self.mean, inputs)) / _broadcast("std", self.std, inputs)

    def extra_repr(self) -> str:
        """Show the constants where the module is printed."""
        return f"mean={self.mean}, std={self.std}"


class Normalized(nn.Module):
    """Wrap a network that expects standardised inputs into one that takes images in [0, 1]; logits unchanged.

    model gets (low + (high - low) * inputs - mean) / std, with bounds (low, high). mean and std, a number or
    one per channel, are in the units of `bounds`: the pixel range they were computed for, (0, 1) for
    torchvision's weights, (0, 255) for those trained on bytes. Radii of attacks stay in [0, 1] units.
    Raises UsageError for a std that is not positive, bounds that do not grow, or a wrong channel count.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: PerChannel,
        std: PerChannel,
        bounds: tuple[float, float] = (0.0, 1.0),
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
    """The constants in a form that combines with (N, C, ...) inputs; a lone number needs no tensor."""
    if len(numbers) == 1:
        return numbers[0]
    if inputs.ndim < 2 or inputs.shape[1] != len(numbers):
        # Broadcasting would turn one channel into three without a word.
        raise argument_error(
            "inputs", inputs, f"(N, {len(numbers)}, ...), as {name} has {len(numbers)} numbers"
        )
    return inputs.new_tensor(numbers).reshape(-1, *[1] * (inputs.ndim - 2))


def standardise_per_image(inputs: Tensor) -> Tensor:
    """(x - mean) / deviation for each image x of (N, C, H, W), over all its n = C H W numbers.

    The deviation is at least 1 / (255 sqrt(n)): TensorFlow's per_image_standardization, which the authors
    feed with 0..255, in [0, 1] units. So f(a x) = f(x) for every a > 0 that keeps the deviation above it.
    """
    centred = inputs - inputs.mean(dim=(1, 2, 3), keepdim=True)
    variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
    floor = variance.new_tensor(1 / (255**2 * inputs.shape[1:].numel()))
    # The floor goes under the root, where a black image has a gradient of zero instead of 0 / 0; and it is a
    # `maximum`, not a clamp, because what smooths piecewise-linear activations must leave this one alone.
    return centred / torch.maximum(variance, floor).sqrt()


def convolve_and_pool(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """max_pool2d(conv2d(inputs, weight, bias, padding=2), 2) for 5x5 kernels, (N, K, H / 2, W / 2).

    With one or three channels an ordinary convolution leaves vector units idle, worst in the gradient with
    respect to the inputs, and its output is the largest map of the network. Here each 2x2 block of pixels
    is one position with four times the channels, the four places of a pooling window are four output
    channels, and pooling is a maximum over them. Same numbers up to rounding, same tie rule (the first of
    the window).
    """
    kernels, channels = weight.shape[:2]
    batch, _, height, width = inputs.shape
    # pixel_unshuffle in plain steps, since it leaves an empty batch as it is.
    blocks = inputs.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    blocks = blocks.reshape(batch, 4 * channels, height // 2, width // 2)
    blocks = blocks.contiguous(memory_format=torch.channels_last)
    # Place (row, column) of a window sees the kernel shifted by as much, on 6x6 pixels, which are 3x3 blocks.
    shifted = torch.stack(
        [pad(weight, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    )
    folded = shifted.reshape(4, kernels, channels, 3, 2, 3, 2).permute(0, 1, 2, 4, 6, 3, 5)
    folded = folded.reshape(4 * kernels, 4 * channels, 3, 3).contiguous(memory_format=torch.channels_last)
    maps = conv2d(blocks, folded, None if bias is None else bias.repeat(4), padding=1)
    # In channels_last the four places of a kernel's window lie side by side: no map is copied.
    places = maps.permute(0, 2, 3, 1).unflatten(3, (4, kernels))
    pooled: Tensor = places.max(dim=3).values
    return pooled.permute(0, 3, 1, 2)
