"""The softplus twin: every spelling of relu, in place or not, counted, smooth, and gone after the block."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from veridical.attacks.surrogate import SoftplusTwin

from .conftest import Trained

Function = Callable[[Tensor], Tensor]
INPUTS = torch.linspace(-3, 8, 12, dtype=torch.float64)


def later(change: Function) -> Function:
    """Code that goes on with the tensor it changed in place, not with what the call returned."""

    def call(inputs: Tensor) -> Tensor:
        change(inputs)
        return inputs

    return call


RELU: dict[str, Function] = {
    "F.relu": F.relu,
    "F.relu by name": lambda x: F.relu(input=x),
    "torch.relu": torch.relu,
    "method": lambda x: x.relu(),
    "module": nn.ReLU(),
    "clamp min": lambda x: x.clamp(min=0),
    "clamp": lambda x: torch.clamp(x, 0),
    "clamp by tensor": lambda x: x.clamp(min=torch.zeros(())),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "method clamp_min": lambda x: x.clamp_min(0.0),
    "clip": lambda x: torch.clip(x, min=0),
    "method clip": lambda x: x.clip(0),
    "F.relu_": F.relu_,
    "torch.relu_": torch.relu_,
    "method relu_": lambda x: x.relu_(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu in place": lambda x: F.relu(x, True),
    "F.relu in place by name": lambda x: F.relu(x, inplace=True),
    "clamp_": lambda x: x.clamp_(min=0),
    "torch.clamp_": lambda x: torch.clamp_(x, 0),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "clip_": lambda x: x.clip_(min=0),
    "relu_, later": later(F.relu_),
    "method relu_, later": later(lambda x: x.relu_()),
    "module in place, later": later(nn.ReLU(inplace=True)),
    "F.relu in place, later": later(lambda x: F.relu(x, inplace=True)),
    "clamp_, later": later(lambda x: x.clamp_(min=0)),
    "clamp_min_, later": later(lambda x: x.clamp_min_(0)),
}
LEAKY: dict[str, Function] = {
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "by name": lambda x: F.leaky_relu(x, negative_slope=0.1),
    "module": nn.LeakyReLU(0.1),
    "module in place": nn.LeakyReLU(0.1, inplace=True),
    "F.leaky_relu_, later": later(lambda x: F.leaky_relu_(x, 0.1)),
    "in place by place, later": later(lambda x: F.leaky_relu(x, 0.1, True)),
}
RELU6: dict[str, Function] = {
    "F.relu6": F.relu6,
    "module": nn.ReLU6(),
    "module in place": nn.ReLU6(inplace=True),
    "F.relu6 in place, later": later(lambda x: F.relu6(x, True)),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
    "hardtanh_, later": later(lambda x: F.hardtanh_(x, 0.0, 6.0)),
}


SLOPE = torch.tensor([0.3], dtype=torch.float64)
PIECEWISE: dict[str, Function] = {
    "prelu": lambda x: F.prelu(x, SLOPE),
    "torch.prelu": lambda x: torch.prelu(x, SLOPE),
    "method prelu": lambda x: x.prelu(SLOPE),
    "prelu module": nn.PReLU(init=0.2).double(),
    "prelu of channels": lambda x: F.prelu(x.reshape(3, 2, 2, 1), SLOPE * torch.tensor([1, 2])).flatten(),
    "prelu of rows": lambda x: F.prelu(x.reshape(6, 2), SLOPE * torch.tensor([1, 2])).flatten(),
    "hardtanh": F.hardtanh,
    "hardtanh module": nn.Hardtanh(-2.0, 3.0),
    "hardtanh in place": nn.Hardtanh(0.5, 1.5, inplace=True),
    "hardtanh_, later": later(F.hardtanh_),
    "hardtanh in place by place, later": later(lambda x: F.hardtanh(x, -1.0, 2.0, True)),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "torch.threshold": lambda x: torch.threshold(x, 1.0, 1.0),
    "threshold module": nn.Threshold(0.5, 0.5),
    "F.threshold_, later": later(lambda x: F.threshold_(x, 0.0, 0.0)),  # type: ignore[attr-defined]
    "torch.threshold_, later": later(lambda x: torch.threshold_(x, 0.0, 0.0)),
    "threshold in place, later": later(nn.Threshold(0.0, 0.0, inplace=True)),
    "hardsigmoid": F.hardsigmoid,
    "hardsigmoid in place, later": later(nn.Hardsigmoid(inplace=True)),
    "hardswish": F.hardswish,
    "hardswish in place, later": later(nn.Hardswish(inplace=True)),
}


def under_twin(function: Function, inputs: Tensor, beta: float) -> tuple[Tensor, int]:
    with SoftplusTwin(beta) as twin:
        # Not a leaf, as the output of a layer is not.
        result = function(inputs * 1.0)
    return result, twin.rewrites


def check(function: Function, expected: Function) -> None:
    """One rewrite; value, first and second derivative are those of the softplus form."""
    inputs = INPUTS.clone().requires_grad_(True)
    value, rewrites = under_twin(function, inputs, 2.0)
    assert rewrites == 1
    wanted = expected(inputs)
    assert_close(value, wanted)
    for _ in range(2):
        (value,) = torch.autograd.grad(value.sum(), inputs, create_graph=True)
        (wanted,) = torch.autograd.grad(wanted.sum(), inputs, create_graph=True)
        assert_close(value, wanted)


@pytest.mark.parametrize("name", RELU)
def test_every_spelling_of_relu_becomes_softplus(name: str) -> None:
    check(RELU[name], lambda x: F.softplus(x, beta=2.0))


@pytest.mark.parametrize("name", LEAKY)
def test_every_spelling_of_leaky_relu(name: str) -> None:
    check(LEAKY[name], lambda x: 0.1 * x + 0.9 * F.softplus(x, beta=2.0))


@pytest.mark.parametrize("name", RELU6)
def test_every_spelling_of_relu6(name: str) -> None:
    check(RELU6[name], lambda x: F.softplus(x, beta=2.0) - F.softplus(x - 6, beta=2.0))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clamp(0, 1),
        lambda x: x.clamp(max=0),
        lambda x: x.clamp(min=0.5),
        lambda x: x.clamp(min=torch.zeros(12)),
        lambda x: F.threshold(x, 1.0, 0.0),
        torch.sigmoid,
        later(lambda x: x.clamp_(0, 1)),
    ],
)
def test_what_is_no_relu_stays(function: Function) -> None:
    value, rewrites = under_twin(function, INPUTS, 1.0)
    assert rewrites == 0
    assert torch.equal(value, function(INPUTS * 1.0))


@pytest.mark.parametrize("name", PIECEWISE)
def test_other_piecewise_functions_become_smooth(name: str) -> None:
    """Near the kinks, and far from them at a great beta: value and slope of the function itself."""
    function = PIECEWISE[name]
    inputs = (INPUTS + 0.05).requires_grad_(True)

    def slope(value: Tensor) -> Tensor:
        return torch.autograd.grad(value.sum(), inputs, create_graph=True)[0]

    real, (near, rewrites) = function(inputs * 1.0), under_twin(function, inputs, 500.0)
    assert rewrites == 1
    assert_close(near, real, rtol=0, atol=1e-9)
    # PyTorch's slope of hardsigmoid is a sixth in float32.
    assert_close(slope(near), slope(real), rtol=0, atol=1e-7)
    value, _ = under_twin(function, inputs, 2.0)
    above, below = (under_twin(function, inputs.detach() + step, 2.0)[0] for step in (1e-5, -1e-5))
    assert_close(slope(value), (above - below) / 2e-5, rtol=1e-6, atol=1e-8)
    assert all(bool(slope(slope(one)).isfinite().all()) for one in (near, value))
    assert float(slope(slope(value)).detach().abs().max()) > 0.05


@pytest.mark.parametrize("function", [*RELU.values(), *LEAKY.values(), *RELU6.values(), *PIECEWISE.values()])
def test_the_twin_tends_to_the_network_as_beta_grows(function: Function) -> None:
    real = function(INPUTS * 1.0)
    found = [under_twin(function, INPUTS, beta)[0] for beta in (1.0, 10.0, 1e4)]
    gaps = [float((one - real).detach().abs().max()) for one in found]
    assert gaps[0] > gaps[1] > gaps[2]
    # softplus exceeds relu by log(2) / beta at most, relu6 has two of them.
    assert gaps[2] <= 2e-4


def test_rewrites_are_counted_over_a_whole_network(trained: Trained) -> None:
    model, inputs, _ = trained
    with SoftplusTwin(1.0) as twin:
        model(inputs)
        assert twin.rewrites == 2
        model(inputs)
    assert twin.rewrites == 4


def test_second_derivative_of_a_twin_agrees_with_finite_differences(
    trained: Trained,
) -> None:
    model, inputs, target = trained
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)

    def slope(points: Tensor, create_graph: bool = False) -> Tensor:
        """Derivative of the target's logit of the twin along `direction`, summed over examples."""
        points = points if create_graph else points.detach().requires_grad_(True)
        with SoftplusTwin(3.0):
            logit = model(points).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(logit, points, create_graph=create_graph)
        return (gradient * direction).sum()

    point = inputs.clone().requires_grad_(True)
    (second,) = torch.autograd.grad(slope(point, create_graph=True), point)
    h = 1e-5
    for _ in range(3):
        along = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        difference = (slope(inputs + h * along) - slope(inputs - h * along)) / (2 * h)
        assert_close((second * along).sum(), difference, rtol=1e-6, atol=1e-9)
    assert float(second.abs().max()) > 1e-3


def test_nothing_leaks_after_an_exception() -> None:
    with pytest.raises(RuntimeError, match="inside"), SoftplusTwin(1.0):
        raise RuntimeError("inside")
    assert torch.equal(F.relu(INPUTS), INPUTS.clamp_min(0))
