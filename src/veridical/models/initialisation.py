"""Layers whose weights come from a given generator only; the global random state is left alone."""

from math import erf, exp, pi, sqrt

import torch
from torch import nn

from veridical.runtime.seeds import stream

CUT_DEVIATION = sqrt(1 - 4 * exp(-2) / (sqrt(2 * pi) * erf(sqrt(2))))
"""Deviation, .8796, of a standard normal that is cut at two deviations."""


def weight_generator(seed: int) -> torch.Generator:
    """The generator that all weights of one network are drawn from; on the CPU, so that devices agree."""
    return stream(seed, "weights")


def blank_convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
) -> nn.Conv2d:
    """A convolution with unset weights: nn.Conv2d's own constructor would draw from the global generator."""
    layer = nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride=stride,
        padding=padding,
        bias=bias,
        device="meta",
        dtype=torch.float32,
    )
    _unset(layer)
    return layer


def blank_linear(features_in: int, features_out: int) -> nn.Linear:
    """A linear layer with unset weights, to be filled by one of the functions below."""
    layer = nn.Linear(features_in, features_out, device="meta", dtype=torch.float32)
    _unset(layer)
    return layer


def _unset(layer: nn.Module) -> None:
    """Give a layer on the device meta memory on the CPU; `to_empty` would import half a second of torch."""
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))


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
    area = layer.weight[0, 0].numel()
    return sqrt(2.0 / (area * (units_out if fan == "out" else units_in)))


@torch.no_grad()
def unit_variance_uniform(layer: nn.Linear, generator: torch.Generator) -> None:
    """Fill weights uniformly in +-sqrt(3 / fan in), which keeps the inputs' variance; biases with zero."""
    limit = sqrt(3.0 / layer.weight.shape[1])
    layer.weight.uniform_(-limit, limit, generator=generator)
    layer.bias.zero_()
