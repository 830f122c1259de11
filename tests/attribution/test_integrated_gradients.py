"""Integrated Gradients: against Captum, baselines, hidden layers, automatic nodes, degenerate networks."""

import warnings
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerConductance
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.methods import GradientTimesInput, IntegratedGradients, NotConvergedWarning
from veridical.models import build
from veridical.runtime.errors import UsageError

# PyTorch's forward mode, which hidden layers need, warns about PyTorch's own use of torch.jit.script.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


class SmoothNet(nn.Module):
    """Convolution, tanh, convolution, softplus, linear; smooth, so quadrature converges quickly."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 3, 3, stride=2)
        self.last = nn.Linear(12, 3)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.softplus(self.second(torch.tanh(self.first(inputs))))
        logits: Tensor = self.last(hidden.flatten(1))
        return logits


def images(count: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TARGET = torch.tensor([0, 2, 1, 1])
CAPTUM_RULES = {
    "right": "riemann_right",
    "left": "riemann_left",
    "midpoint": "riemann_middle",
    "trapezoid": "riemann_trapezoid",
    "gauss-legendre": "gausslegendre",
}


@pytest.mark.parametrize("rule", CAPTUM_RULES)
@pytest.mark.parametrize("nodes", [2, 7, 30])
def test_equals_captum(rule: str, nodes: int) -> None:
    model, inputs, baseline = SmoothNet(), images(), images(seed=1)
    ours = IntegratedGradients(nodes, rule, baseline=baseline, rows=9)(model, inputs, TARGET)
    theirs = CaptumIntegratedGradients(model).attribute(
        inputs, baselines=baseline, target=TARGET, method=CAPTUM_RULES[rule], n_steps=nodes
    )
    # Captum's trapezoid weights sum to (n - 1) / n; ours to 1.
    scale = nodes / (nodes - 1) if rule == "trapezoid" else 1.0
    # Some of Captum's nodes and weights pass through float32.
    assert_close(ours, scale * theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "baseline",
    [
        0.25,
        torch.tensor(0.25),
        torch.full((2, 6, 6), 0.25),
        torch.full((4, 2, 6, 6), 0.25),
        lambda x: torch.full_like(x, 0.25),
    ],
)
def test_forms_of_one_baseline_agree_and_none_is_black(baseline: Any) -> None:
    model, inputs = SmoothNet(), images()
    expected = IntegratedGradients(8, baseline=torch.full_like(inputs, 0.25))(model, inputs, TARGET)
    assert torch.equal(IntegratedGradients(8, baseline=baseline)(model, inputs, TARGET), expected)
    black = (IntegratedGradients(8, baseline=start)(model, inputs, TARGET) for start in (None, 0.0))
    assert torch.equal(*black)


def test_layer_maps_tend_to_captums_conductance_where_the_layer_is_not_linear() -> None:
    model, inputs = SmoothNet(), images()
    ours = IntegratedGradients(40, layer=model.second)(model, inputs, TARGET)

    def distance(steps: int) -> float:
        theirs = LayerConductance(model, model.second).attribute(
            inputs, baselines=0.0, target=TARGET, method="riemann_left", n_steps=steps
        )
        return float((theirs.detach() - ours).abs().max() / ours.abs().max())

    coarse, fine = distance(100), distance(800)
    assert fine < 3e-3
    assert coarse / fine == pytest.approx(8, rel=0.1)  # Captum's error falls as 1 / steps


def test_layer_maps_are_complete_and_the_layer_may_be_named() -> None:
    model, inputs = SmoothNet(), images()
    named = IntegratedGradients(40, layer="second").with_diagnostics(model, inputs, TARGET)
    assert named.attribution.shape == (4, 3, 2, 2)
    assert_close(named.residual, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-11)
    given = IntegratedGradients(40, layer=model.second)(model, inputs, TARGET)
    assert_close(given, named.attribution, rtol=0, atol=0)
    with pytest.raises(UsageError, match=r"layer: expected the name of a module .*, but got 'third'"):
        IntegratedGradients(8, layer="third")(model, inputs, TARGET)


class Overwriting(nn.Module):
    """Writes into the output of one layer after another, in the ways that networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.added, self.kept = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.scaled, self.viewed, self.read = nn.AvgPool2d(1), nn.Flatten(), nn.Tanh()
        self.rectified, self.discarded, self.last = nn.Linear(72, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.added(inputs)
        hidden += inputs
        hidden = self.scaled(self.kept(hidden)).mul_(hidden)
        hidden = self.rectified(self.viewed(hidden).exp_())
        self.discarded(hidden)
        logits: Tensor = self.last(self.read(hidden))
        return logits


def by_differences(model: nn.Module, layer: str, inputs: Tensor, target: Tensor, nodes: int) -> Tensor:
    """Gradient at the layer's own output times the finite difference of it, by the right rule from black."""
    given: list[Tensor] = []
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().clone())
        # Where a layer works in place, its caller may go on with the argument.
        return output.copy_(given[0]) if given else output

    handle, total = model.get_submodule(layer).register_forward_hook(hook), torch.zeros(())
    for t in (torch.arange(nodes, dtype=inputs.dtype) + 1) / nodes:
        outputs = []
        for step in (1e-4, -1e-4, 0.0):
            model((t + step) * inputs)
            outputs.append(seen.pop())
        given.append(outputs[2].requires_grad_())
        values = model(t * inputs).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(values, given.pop())
        total = total + gradient * (outputs[0] - outputs[1]) / 2e-4 / nodes
    handle.remove()
    return total


@pytest.mark.parametrize("layer", ["added", "kept", "scaled", "viewed", "rectified", "discarded", "read"])
def test_layers_whose_output_is_written_over_are_explained_at_their_own_output(layer: str) -> None:
    model, inputs = Overwriting(), images()
    method = IntegratedGradients(4, "right", layer=layer)
    maps = method(model, inputs, TARGET)
    assert_close(maps, by_differences(model, layer, inputs, TARGET, 4), rtol=1e-6, atol=1e-8)
    assert_close(method(model, inputs, TARGET, create_graph=True).detach(), maps)
    assert not model.get_submodule(layer)._forward_hooks


def test_an_output_that_is_written_over_by_another_name_is_refused() -> None:
    class Renamed(Overwriting):
        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.rectified(self.viewed(self.kept(inputs)))
            self.discarded(hidden)
            hidden *= 2
            logits: Tensor = self.last(hidden)
            return logits

    with pytest.raises(UsageError, match="changed in place through another name"):
        IntegratedGradients(2, layer="discarded")(Renamed(), images(), TARGET)


class Steep(nn.Module):
    """tanh of a steep ramp: the first example is almost linear, the others need ever more nodes."""

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return torch.tanh(flat[:, :1] * flat[:, 1:] - 2)


def steep_inputs() -> Tensor:
    slopes = torch.tensor([0.1, 60.0, 900.0, 1e9], dtype=torch.float64)
    return torch.stack([torch.ones(4, dtype=torch.float64), slopes], dim=1)[:, None, None]


def test_automatic_nodes_grow_where_they_must_and_stop_where_they_may() -> None:
    inputs = steep_inputs()
    method = IntegratedGradients("auto", tolerance=1e-3, max_nodes=256)
    result = method.with_diagnostics(Steep(), inputs, 0)
    nodes = result.nodes.tolist()
    assert nodes[0] == 16
    assert 16 < nodes[1] < 256
    assert nodes[3] == 256
    assert result.converged.tolist()[:2] == [True, True]
    assert not bool(result.converged[3])
    for i, count in enumerate(nodes):
        alone = IntegratedGradients(count, tolerance=1e-3).with_diagnostics(Steep(), inputs[i : i + 1], 0)
        assert_close(alone.attribution[0], result.attribution[i])
        assert alone.converged[0] == result.converged[i]
        # The count before was not enough.
        if count > 16:
            before = IntegratedGradients(count // 2, tolerance=1e-3)
            assert not bool(before.with_diagnostics(Steep(), inputs[i : i + 1], 0).converged)
    bound = 1e-3 * result.change.abs()
    assert bool((result.residual.abs() <= bound)[result.converged].all())


def test_a_call_that_does_not_converge_says_so_and_a_fixed_count_is_taken_as_wanted() -> None:
    inputs = steep_inputs()
    with pytest.warns(NotConvergedWarning, match="of 4 examples did not converge in 32 nodes"):
        IntegratedGradients(max_nodes=32)(Steep(), inputs, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IntegratedGradients(32)(Steep(), inputs, 0)
        IntegratedGradients(max_nodes=32).with_diagnostics(Steep(), inputs, 0)


def test_a_bound_below_the_first_count_and_an_example_that_does_not_move() -> None:
    model, inputs = SmoothNet(), images()
    few = IntegratedGradients(max_nodes=3, tolerance=1e-9).with_diagnostics(model, inputs, TARGET)
    assert few.nodes.tolist() == [3, 3, 3, 3]
    assert not bool(few.converged.any())
    still = IntegratedGradients(baseline=lambda x: x).with_diagnostics(model, inputs, TARGET)
    assert still.nodes.tolist() == [16, 16, 16, 16]
    assert bool(still.converged.all())


def standardised_network(width: int) -> tuple[nn.Module, Tensor]:
    model = build("rar-resnet", shape=(3, width, width), num_classes=5, seed=0, units=1).double()
    inputs = torch.rand(3, 3, width, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, inputs


@pytest.mark.parametrize("nodes", [1, 10, 100])
def test_black_baseline_is_degenerate_on_a_standardising_network(nodes: int) -> None:
    """At t x the gradient is 1 / t of that at x: n right nodes give H_n gradient x input, whose sum is 0."""
    model, inputs = standardised_network(16)
    result = IntegratedGradients(nodes, "right").with_diagnostics(model, inputs, 1)
    harmonic = sum(1 / k for k in range(1, nodes + 1))
    expected = harmonic * GradientTimesInput()(model, inputs, 1)
    assert_close(result.attribution, expected, rtol=1e-9, atol=1e-12)
    assert_close(result.residual, -result.change, rtol=1e-9, atol=1e-9)
    assert not bool(result.converged.any())


def test_impossible_baselines_and_empty_batches() -> None:
    model, inputs = SmoothNet(), images()
    with pytest.raises(UsageError, match="at least 2"):
        IntegratedGradients(1, rule="trapezoid")
    with pytest.raises(UsageError, match="broadcasts to the inputs' shape"):
        IntegratedGradients(4, baseline=torch.zeros(3, 2, 6, 6))(model, inputs, TARGET)
    assert IntegratedGradients(4)(model, inputs[:0]).shape == (0, 2, 6, 6)
    with pytest.raises(UsageError, match="at least one example"):
        IntegratedGradients(4).with_diagnostics(model, inputs[:0])
