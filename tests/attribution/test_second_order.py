"""Convolutions differentiated by convolutions as by PyTorch itself; networks whose maps have derivatives."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.methods import IntegratedGradients
from veridical.attribution.second_order import QuickSecondOrder, check_second_order, inputs_only
from veridical.runtime.errors import UsageError

from .conftest import TARGET, SmoothNet, images


def _network(**options: Any) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(4, 6, **options), nn.Softplus(), nn.Conv2d(6, 2, 3)).double()


def _second(network: nn.Module, inputs: Tensor, quick: bool) -> list[Tensor]:
    point = inputs.clone().requires_grad_(True)
    with QuickSecondOrder() if quick else nullcontext():
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
        assert_close(ours, native, rtol=1e-10, atol=1e-10)


def test_first_order_weight_gradients_are_complete_outside_inputs_only() -> None:
    network = _network(kernel_size=3)
    inputs = torch.randn(2, 4, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with QuickSecondOrder():
        value = network(inputs).square().sum()
    ours = torch.autograd.grad(value, list(network.parameters()))
    assert_close(ours, torch.autograd.grad(network(inputs).square().sum(), list(network.parameters())))


def test_with_diagnostics_carries_the_graph() -> None:
    model, inputs = SmoothNet(), images()
    result = IntegratedGradients().with_diagnostics(model, inputs, TARGET, create_graph=True)
    result.attribution.square().sum().backward()
    assert model.first.weight.grad is not None
    assert bool(model.first.weight.grad.any())
    assert not result.residual.requires_grad


def test_once_differentiable_functions_are_found() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: Tensor) -> Tensor:
            ctx.save_for_backward(inputs)
            return inputs.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (inputs,) = ctx.saved_tensors
            doubled: Tensor = 2 * inputs
            return doubled * gradient

    inputs = images().requires_grad_()
    squares: Tensor = Square.apply(inputs)
    (gradient,) = torch.autograd.grad(squares.pow(2).sum(), inputs, create_graph=True)
    with pytest.raises(UsageError, match="drop once_differentiable"):
        check_second_order(gradient)
    check_second_order(torch.zeros(2))
