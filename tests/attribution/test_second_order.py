"""Convolutions differentiated by convolutions: the numbers of PyTorch's own double backward."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.attribution.second_order import QuickSecondOrder, inputs_only


def _network(**options: Any) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(4, 6, **options), nn.Softplus(), nn.Conv2d(6, 2, 3)).double()


def _second(network: nn.Module, inputs: Tensor, quick: bool) -> list[Tensor]:
    point = inputs.clone().requires_grad_(True)
    if quick:
        with QuickSecondOrder():
            value = (network(point) ** 2).sum()
    else:
        value = (network(point) ** 2).sum()
    with inputs_only():
        (gradient,) = torch.autograd.grad(value, point, create_graph=True)
    return [gradient.detach(), *torch.autograd.grad(gradient.abs().sum(), [point, *network.parameters()])]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": (3, 5), "padding": (1, 2), "stride": (2, 1)},
        {"kernel_size": 3, "dilation": 2, "padding": 2},
        {"kernel_size": 3, "groups": 2, "bias": False},
        {"kernel_size": 3, "padding": "same"},
    ],
)
def test_equals_native_double_backward(options: dict[str, Any]) -> None:
    network = _network(**options)
    inputs = torch.randn(2, 4, 11, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for ours, native in zip(_second(network, inputs, True), _second(network, inputs, False), strict=True):
        torch.testing.assert_close(ours, native, rtol=1e-10, atol=1e-10)


def test_first_order_weight_gradients_are_complete_outside_inputs_only() -> None:
    network = _network(kernel_size=3)
    inputs = torch.randn(2, 4, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with QuickSecondOrder():
        value = network(inputs).square().sum()
    ours = torch.autograd.grad(value, list(network.parameters()))
    native = torch.autograd.grad(network(inputs).square().sum(), list(network.parameters()))
    for got, expected in zip(ours, native, strict=True):
        torch.testing.assert_close(got, expected)
