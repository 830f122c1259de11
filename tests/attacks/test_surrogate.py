"""The softplus twin: every spelling of relu, in place or not, counted, smooth, and gone after the block."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from veridical.attacks.surrogate import SoftplusTwin
from veridical.attribution.second_order import QuickSecondOrder

INPUTS = torch.linspace(-3, 8, 12, dtype=torch.float64)
SLOPE = torch.tensor([0.3], dtype=torch.float64)


def soft(inputs: Tensor) -> Tensor:
    return F.softplus(inputs, beta=2.0)


def split(codes: str) -> list[str]:
    return [code.strip() for code in codes.split(";")]


RELU = split("""
    F.relu(x); F.relu(input=x); torch.relu(x); x.relu(); nn.ReLU()(x); x.clamp(min=0); torch.clamp(x, 0);
    x.clamp(min=torch.zeros(())); torch.clamp_min(x, 0); x.clamp_min(0.0); torch.clip(x, min=0); x.clip(0);
    F.relu_(x); torch.relu_(x); x.relu_(); nn.ReLU(inplace=True)(x); F.relu(x, True); F.relu(x, inplace=True);
    x.clamp_(min=0); torch.clamp_(x, 0); x.clamp_min_(0); x.clip_(min=0)
""")
LEAKY = split("""
    F.leaky_relu(x, 0.1); F.leaky_relu(x, negative_slope=0.1); F.leaky_relu(x, 0.1, True);
    F.leaky_relu_(x, 0.1); nn.LeakyReLU(0.1)(x); nn.LeakyReLU(0.1, inplace=True)(x)
""")
RELU6 = split("""
    F.relu6(x); F.relu6(x, True); nn.ReLU6()(x); nn.ReLU6(inplace=True)(x); F.hardtanh(x, 0.0, 6.0);
    F.hardtanh_(x, 0.0, 6.0)
""")
PIECEWISE = split("""
    F.prelu(x, SLOPE); torch.prelu(x, SLOPE); x.prelu(SLOPE); nn.PReLU(init=0.2).double()(x);
    F.prelu(x.reshape(3, 2, 2, 1), SLOPE * torch.tensor([1, 2])).flatten();
    F.prelu(x.reshape(6, 2), SLOPE * torch.tensor([1, 2])).flatten(); F.hardtanh(x);
    nn.Hardtanh(-2.0, 3.0)(x); nn.Hardtanh(0.5, 1.5, inplace=True)(x); F.hardtanh_(x);
    F.hardtanh(x, -1.0, 2.0, True); F.threshold(x, 0.0, 0.0); torch.threshold(x, 1.0, 1.0);
    nn.Threshold(0.5, 0.5)(x); F.threshold_(x, 0.0, 0.0); torch.threshold_(x, 0.0, 0.0);
    nn.Threshold(0.0, 0.0, inplace=True)(x); F.hardsigmoid(x); nn.Hardsigmoid(inplace=True)(x);
    F.hardswish(x); nn.Hardswish(inplace=True)(x)
""")
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(RELU, soft),
    **dict.fromkeys(LEAKY, lambda x: 0.1 * x + 0.9 * soft(x)),
    **dict.fromkeys(RELU6, lambda x: soft(x) - soft(x - 6)),
}
NO_RELU = split("""
    x.clamp(0, 1); x.clamp(max=0); x.clamp(min=0.5); x.clamp(min=torch.zeros(12)); F.threshold(x, 1.0, 0.0);
    torch.sigmoid(x); x.clamp_(0, 1)
""")


def run(code: str, inputs: Tensor) -> Tensor:
    x = inputs * 1.0  # not a leaf, as the output of a layer is not
    value: Tensor = eval(code, {"x": x, "F": F, "nn": nn, "torch": torch, "SLOPE": SLOPE})
    # Code may go on with the tensor it changed in place, not with what the call returned.
    if "_(" in code or "True)" in code:
        assert torch.equal(x, value)
    return value


def under_twin(code: str, inputs: Tensor, beta: float) -> tuple[Tensor, int]:
    with SoftplusTwin(beta) as twin:
        result = run(code, inputs)
    return result, twin.rewrites


@pytest.mark.parametrize("code", FORMS)
def test_every_spelling_takes_its_softplus_form(code: str) -> None:
    """One rewrite; value, first and second derivative are those of the form."""
    inputs = INPUTS.clone().requires_grad_(True)
    value, rewrites = under_twin(code, inputs, 2.0)
    assert rewrites == 1
    wanted = FORMS[code](inputs)
    assert_close(value, wanted)
    for _ in range(2):
        (value,) = torch.autograd.grad(value.sum(), inputs, create_graph=True)
        (wanted,) = torch.autograd.grad(wanted.sum(), inputs, create_graph=True)
        assert_close(value, wanted)


@pytest.mark.parametrize("code", NO_RELU)
def test_what_is_no_relu_stays(code: str) -> None:
    value, rewrites = under_twin(code, INPUTS, 1.0)
    assert rewrites == 0
    assert torch.equal(value, run(code, INPUTS))


@pytest.mark.parametrize("code", PIECEWISE)
def test_other_piecewise_functions_become_smooth(code: str) -> None:
    """Near the kinks, and far from them at a great beta: value and slope of the function itself."""
    inputs = (INPUTS + 0.05).requires_grad_(True)

    def slope(value: Tensor) -> Tensor:
        return torch.autograd.grad(value.sum(), inputs, create_graph=True)[0]

    real, (near, rewrites) = run(code, inputs), under_twin(code, inputs, 500.0)
    assert rewrites == 1
    assert_close(near, real, rtol=0, atol=1e-9)
    # PyTorch's slope of hardsigmoid is a sixth in float32.
    assert_close(slope(near), slope(real), rtol=0, atol=1e-7)
    value, _ = under_twin(code, inputs, 2.0)
    above, below = (under_twin(code, inputs.detach() + step, 2.0)[0] for step in (1e-5, -1e-5))
    assert_close(slope(value), (above - below) / 2e-5, rtol=1e-6, atol=1e-8)
    assert all(bool(slope(slope(one)).isfinite().all()) for one in (near, value))
    assert float(slope(slope(value)).detach().abs().max()) > 0.05


def test_impossible_sharpness_is_refused_and_nothing_leaks_after_an_exception() -> None:
    with pytest.raises(ValueError, match="beta: expected"):
        SoftplusTwin(0.0)
    with pytest.raises(RuntimeError, match="inside"), SoftplusTwin(1.0):
        raise RuntimeError("inside")
    assert torch.equal(F.relu(INPUTS), INPUTS.clamp_min(0))


def test_an_exported_program_is_smoothed_like_the_network_it_was_made_from() -> None:
    """Its operators are torch.ops.aten's; clamps from below and functions in place are among them."""

    class Rectified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kinds = (nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.PReLU())
            self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), *kinds, nn.Hardtanh(-0.5, 0.5))

        def forward(self, inputs: Tensor) -> Tensor:
            positive: Tensor = (self.layers(inputs) - 0.1).clamp(min=0)
            return positive.flatten(1).sub(0.05).relu_()

    torch.manual_seed(0)
    model, inputs = Rectified().double().eval(), torch.rand(2, 1, 5, 5, dtype=torch.float64)
    program = torch.export.export(model, (inputs,)).module()
    found = []
    for one in (model, program):
        with SoftplusTwin(2.0) as twin, QuickSecondOrder():
            found.append(one(inputs))
        assert twin.rewrites == 9
    assert_close(found[1], found[0])
    assert not torch.allclose(found[1], model(inputs))
