"""Maps made with create_graph=True, differentiated in weights and inputs, against finite differences."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, softplus
from torch.testing import assert_close

from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.method import AttributionMethod
from veridical.attribution.methods import (
    GradientTimesInput,
    InputGradient,
    RandomAttribution,
    SmoothGrad,
)
from veridical.attribution.second_order import check_second_order
from veridical.models import build
from veridical.runtime.errors import UsageError

# PyTorch's forward mode, which hidden layers need, warns about PyTorch's own use of torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def _half_mirrored(inputs: Tensor) -> Tensor:
    return 0.5 * inputs.flip(3)


def _name(method: object) -> str:
    # The address of a function in a name would differ between test processes.
    return re.sub(r" at 0x[0-9a-f]+", "", str(method))


METHODS: list[AttributionMethod] = [
    InputGradient(),
    InputGradient(output="loss"),
    GradientTimesInput(output="log-probability"),
    SmoothGrad(samples=5, noise=0.2, rows=7),
    IntegratedGradients(6, "right"),
    IntegratedGradients(5, "gauss-legendre", baseline=0.3, output="loss", rows=7),
    IntegratedGradients("auto", tolerance=1e-2),
    IntegratedGradients(5, baseline=_half_mirrored),
    IntegratedGradients(4, layer="first"),
]


class SmoothNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3)
        self.last = nn.Linear(12, 3)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(softplus(self.first(inputs)).flatten(1))
        return logits


def images() -> Tensor:
    return torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


TARGET = torch.tensor([2, 0, 1])


def directional(
    value: Callable[[], Tensor], variables: list[Tensor], directions: list[Tensor], step: float = 1e-6
) -> Tensor:
    """Central difference of `value` along the directions; the variables are put back."""
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for variable, direction in zip(variables, directions, strict=True):
                variable.add_(direction, alpha=sign * step)
        ends.append(value().detach())
        with torch.no_grad():
            for variable, direction in zip(variables, directions, strict=True):
                variable.sub_(direction, alpha=sign * step)
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("method", METHODS, ids=_name)
@pytest.mark.parametrize("which", ["weights", "inputs"])
def test_derivatives_of_maps_match_finite_differences(method: AttributionMethod, which: str) -> None:
    model, inputs = SmoothNet(), images()
    generator = torch.Generator().manual_seed(1)
    variables: list[Tensor] = list(model.parameters()) if which == "weights" else [inputs.requires_grad_()]
    directions = [torch.randn(v.shape, generator=generator, dtype=v.dtype) for v in variables]

    def value() -> Tensor:
        maps = method(model, inputs, TARGET, create_graph=True)
        return (maps * torch.linspace(-1, 1, maps.numel(), dtype=maps.dtype).reshape(maps.shape)).sum()

    gradients = torch.autograd.grad(value(), variables, allow_unused=True, materialize_grads=True)
    exact = torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True)]).sum()
    assert float(exact.abs()) > 1e-3
    assert_close(exact, directional(value, variables, directions), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=_name)
def test_create_graph_changes_no_value_and_leaves_no_graph_when_off(method: AttributionMethod) -> None:
    model, inputs = SmoothNet(), images().requires_grad_()
    on = method(model, inputs, TARGET, create_graph=True)
    off = method(model, inputs, TARGET)
    assert_close(off, on.detach(), rtol=1e-12, atol=1e-13)
    assert on.requires_grad
    assert not off.requires_grad
    assert inputs.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", METHODS[:7], ids=_name)
@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("cnn", (1, 8, 8), {}),
        ("rar-resnet", (3, 8, 8), {"units": 1}),
        ("mlp", (1, 4, 4), {"width": 8}),
        ("resnet18", (3, 8, 8), {"width": 4}),
        ("resnet18", (3, 8, 8), {"width": 4, "norm": "batch"}),
    ],
)
@pytest.mark.filterwarnings("ignore::veridical.attribution.integrated_gradients.NotConvergedWarning")
def test_every_registered_network_gets_weight_gradients(
    method: AttributionMethod, name: str, shape: tuple[int, int, int], options: dict[str, Any]
) -> None:
    model = build(name, shape=shape, num_classes=3, seed=0, **options)
    inputs = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    maps = method(model, inputs, 1, create_graph=True)
    assert maps.shape == inputs.shape
    maps.abs().sum().backward()
    first = next(model.parameters())
    assert first.grad is not None
    assert bool(torch.isfinite(first.grad).all())
    assert bool(first.grad.any())


def test_with_diagnostics_carries_the_graph() -> None:
    model, inputs = SmoothNet(), images()
    result = IntegratedGradients().with_diagnostics(model, inputs, TARGET, create_graph=True)
    result.attribution.square().sum().backward()
    assert model.first.weight.grad is not None
    assert bool(model.first.weight.grad.any())
    assert not result.residual.requires_grad


def test_random_maps_have_no_graph() -> None:
    maps = RandomAttribution()(SmoothNet(), images().requires_grad_(), TARGET, create_graph=True)
    assert not maps.requires_grad


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.mix(inputs.flatten(0, 1))[:, None]
        seen = scaled_dot_product_attention(tokens, tokens, tokens)
        logits: Tensor = self.last(seen[:, 0].mean(dim=1))
        return logits


@pytest.mark.parametrize("method", [InputGradient(), SmoothGrad(2), IntegratedGradients(3)], ids=_name)
def test_fused_attention_runs_by_the_math_kernel_where_maps_are_differentiated(
    method: AttributionMethod,
) -> None:
    torch.manual_seed(0)
    model, inputs = Attention().double(), images()
    fused = method(model, inputs, TARGET)
    with pytest.warns(UserWarning, match="math kernel"):
        maps = method(model, inputs, TARGET, create_graph=True)
    assert_close(maps, fused)
    maps.square().sum().backward()
    assert model.mix.weight.grad is not None
    assert bool(model.mix.weight.grad.any())


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
