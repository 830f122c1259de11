"""The axioms: Integrated Gradients satisfies all; for each some method fails by a known amount."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.attribution import axioms
from veridical.attribution.method import OUTPUTS, Attribution
from veridical.attribution.methods import (
    GradientTimesInput,
    InputGradient,
    IntegratedGradients,
    RandomAttribution,
)
from veridical.runtime.errors import UsageError

FEATURES = 6
TARGET = torch.tensor([0, 1, 2, 1])
INTEGRATED = IntegratedGradients(nodes=64)


def network(seed: int = 0, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 8), activation(), nn.Linear(8, 3)).double()


def linear(model: nn.Module, place: int) -> nn.Linear:
    layer = model.get_submodule(str(place))
    assert isinstance(layer, nn.Linear)
    return layer


def batch() -> Tensor:
    return torch.rand(4, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


class OneOutput(nn.Module):
    """A function (N, D) -> (N,) as a classifier with one class."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)[:, None]


def minimum(inputs: Tensor) -> Tensor:
    return torch.minimum(inputs[:, 0], inputs[:, 1])


def flat_after_1(inputs: Tensor) -> Tensor:
    """1 - relu(1 - x), the source's example in section 2.1."""
    return 1 - torch.relu(1 - inputs[:, 0])


def one_after_another(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """The path method whose path changes one variable at a time; its integral is a difference of outputs."""
    point, columns = torch.zeros_like(inputs), []
    before = model(point).gather(1, target[:, None])[:, 0]
    for place in range(inputs.shape[1]):
        point = point.clone()
        point[:, place] = inputs[:, place]
        after = model(point).gather(1, target[:, None])[:, 0]
        columns.append(after - before)
        before = after
    return torch.stack(columns, dim=1).detach()


def first_weights(model: nn.Module, inputs: Tensor, _target: Tensor) -> Tensor:
    """Looks at how a function is written, not at what it is."""
    return inputs * linear(model, 0).weight.detach().sum(dim=0)


def absolute_gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return InputGradient()(model, inputs, target).abs()


def test_residuals_are_zero_for_the_same_function_and_not_for_what_reads_the_weights() -> None:
    model = network(activation=nn.ReLU)
    # relu is homogeneous: twice the hidden units and half the weights behind them are the same function.
    twin = network(activation=nn.ReLU)
    with torch.no_grad():
        linear(twin, 0).weight.mul_(2)
        linear(twin, 0).bias.mul_(2)
        linear(twin, 2).weight.div_(2)
    for method in (INTEGRATED, GradientTimesInput()):
        assert float(axioms.implementation_invariance(method, model, twin, batch(), TARGET).max()) < 1e-12
    residual = axioms.implementation_invariance(first_weights, model, twin, batch(), TARGET)
    expected = first_weights(model, batch(), TARGET).abs().amax(dim=1)
    torch.testing.assert_close(residual, expected)


def test_sensitivity_a_fails_for_gradients_where_the_network_is_flat() -> None:
    model = OneOutput(flat_after_1)
    inputs = torch.tensor([[2.0], [0.5], [0.0]], dtype=torch.float64)
    target = torch.zeros(3, dtype=torch.int64)
    for method in (InputGradient(), GradientTimesInput()):
        # At 2 the output has changed by 1 and the gradient is 0; at 0.5 it is not; at 0 nothing has changed.
        assert axioms.sensitivity_a(method, model, inputs, target, 0).tolist() == [1.0, 0.0, 0.0]
    assert axioms.sensitivity_a(INTEGRATED, model, inputs, target, 0).tolist() == [0.0, 0.0, 0.0]


def test_sensitivity_a_changes_one_variable_of_the_baseline() -> None:
    seen: list[Tensor] = []

    def record(_model: nn.Module, inputs: Tensor, _target: Tensor) -> Tensor:
        seen.append(inputs)
        return torch.full_like(inputs, 1e-3)

    places = torch.tensor([0, 3, 5, 3])
    options = {"baseline": 0.25, "threshold": 1e-2}
    model, inputs = network(), batch()
    residual = axioms.sensitivity_a(record, model, inputs, TARGET, places, **options)  # type: ignore[arg-type]
    expected = torch.full_like(inputs, 0.25)
    expected[range(4), places] = inputs[range(4), places]
    assert torch.equal(seen[0], expected)
    rows = torch.arange(4)
    change = model(expected)[rows, TARGET] - model(torch.full_like(inputs, 0.25))[rows, TARGET]
    torch.testing.assert_close(residual, change.abs().detach())
    assert bool((residual > 0).all())
    # The attribution 1e-3 is above a threshold of 0.
    assert axioms.sensitivity_a(record, model, inputs, TARGET, places, baseline=0.25).tolist() == [0.0] * 4


def test_sensitivity_b_finds_attribution_to_unused_variables() -> None:
    model, unused = network(), _marked(1, 4)
    with torch.no_grad():
        linear(model, 0).weight[:, unused] = 0
    assert axioms.sensitivity_b(INTEGRATED, model, batch(), TARGET, unused).tolist() == [0.0] * 4
    random = RandomAttribution(seed=3)
    expected = random(model, batch(), TARGET)[:, unused].abs().amax(dim=1)
    torch.testing.assert_close(axioms.sensitivity_b(random, model, batch(), TARGET, unused), expected)


def test_linearity_fails_for_an_absolute_value() -> None:
    models, coefficients = [network(0), network(1, nn.Softplus)], [2.0, -0.5]
    for method in (INTEGRATED, GradientTimesInput(), InputGradient()):
        assert float(axioms.linearity(method, models, coefficients, batch(), TARGET).max()) < 1e-12
    residual = axioms.linearity(absolute_gradient, models, coefficients, batch(), TARGET)
    assert float(residual.min()) > 0.01
    # f - 3 f has the map |-2 f'|; the maps' combination is |f'| - 3 |f'|.
    residual = axioms.linearity(absolute_gradient, [models[0]] * 2, [1.0, -3.0], batch(), TARGET)
    torch.testing.assert_close(residual, 4 * absolute_gradient(models[0], batch(), TARGET).amax(dim=1))


def margin(logits: Tensor, target: Tensor) -> Tensor:
    return logits.gather(1, target[:, None])[:, 0] - logits.mean(dim=1)


@pytest.mark.parametrize("output", [*OUTPUTS, margin])
@pytest.mark.parametrize("baseline", [0.0, 0.7, batch().flip(0)], ids=["black", "grey", "per example"])
def test_completeness_holds_for_integrated_gradients_of_any_output_from_any_baseline(
    output: Any, baseline: float | Tensor
) -> None:
    method = IntegratedGradients(nodes=64, baseline=baseline, output=output)
    residual = axioms.completeness(method, network(), batch(), TARGET, baseline=baseline, output=output)
    assert residual.dtype == torch.float64
    assert float(residual.max()) < 1e-12
    if isinstance(baseline, Tensor):
        assert float(axioms.completeness(method, network(), batch(), TARGET).min()) > 1e-3


def test_completeness_residual_is_the_error_of_the_quadrature() -> None:
    methods = [IntegratedGradients(nodes=nodes, rule="right") for nodes in (4, 8)]
    errors = [float(axioms.completeness(one, network(), batch(), TARGET).max()) for one in methods]
    # The right Riemann sum has an error of order 1 / nodes.
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("method", [GradientTimesInput(), InputGradient()], ids=["times-input", "gradient"])
def test_completeness_fails_for_gradients(method: Attribution) -> None:
    model, inputs = network(), batch()
    rows = torch.arange(4)
    change = model(inputs)[rows, TARGET] - model(torch.zeros_like(inputs))[rows, TARGET]
    expected = (method(model, inputs, TARGET).sum(dim=1) - change).abs().detach()
    residual = axioms.completeness(method, model, inputs, TARGET)
    torch.testing.assert_close(residual, expected)
    assert float(residual.min()) > 1e-3


def test_symmetry_fails_for_a_path_along_the_axes() -> None:
    model, inputs = OneOutput(minimum), torch.tensor([[1.0, 1.0, 0.3], [0.4, 0.4, 0.9]], dtype=torch.float64)
    target = torch.zeros(2, dtype=torch.int64)
    # min(x1, x2) stays 0 until the second variable moves, which then gets everything.
    along_axes = axioms.symmetry(one_after_another, model, inputs, target, (0, 1))
    torch.testing.assert_close(along_axes, inputs[:, 0])
    assert axioms.symmetry(INTEGRATED, model, inputs, target, (0, 1)).tolist() == [0.0, 0.0]
    # Both are complete, so completeness cannot tell them apart.
    for method in (one_after_another, INTEGRATED):
        assert float(axioms.completeness(method, model, inputs, target).max()) < 1e-12


def test_symmetry_of_integrated_gradients_on_a_network() -> None:
    model, inputs = network(activation=nn.ReLU), batch()
    with torch.no_grad():
        weight = linear(model, 0).weight
        weight[:, 4] = weight[:, 1]
    inputs[:, 4] = inputs[:, 1]
    assert float(axioms.symmetry(INTEGRATED, model, inputs, TARGET, (1, 4)).max()) < 1e-14


def test_maps_that_are_nan_do_not_pass() -> None:
    model, inputs, unused = network(), batch(), _marked(1)
    with torch.no_grad():
        linear(model, 0).weight[:, unused] = 0

    def undefined(_model: nn.Module, inputs: Tensor, _target: Tensor) -> Tensor:
        return torch.full_like(inputs, torch.nan)

    for residual in (
        axioms.implementation_invariance(undefined, model, model, inputs, TARGET),
        axioms.sensitivity_a(undefined, model, inputs, TARGET, 0),
        axioms.sensitivity_b(undefined, model, inputs, TARGET, unused),
        axioms.linearity(undefined, [model], [1.0], inputs, TARGET),
        axioms.completeness(undefined, model, inputs, TARGET),
        axioms.symmetry(undefined, model, inputs, TARGET, (2, 2)),
    ):
        assert residual.shape == (4,)
        assert bool(residual.isnan().all())


def test_images_are_flattened_in_order() -> None:
    inputs = batch().reshape(4, 1, 2, 3)
    model = nn.Sequential(nn.Flatten(), *network())
    assert float(axioms.completeness(INTEGRATED, model, inputs, TARGET).max()) < 1e-12
    flat, plain = (
        axioms.sensitivity_a(lambda _model, x, _target: torch.zeros_like(x), one, given, TARGET, 4)
        for one, given in ((model, inputs), (network(), batch()))
    )
    torch.testing.assert_close(flat, plain)
    assert bool((flat > 0).all())


def _marked(*places: int) -> Tensor:
    return torch.isin(torch.arange(FEATURES), torch.tensor(places))


def _symmetry(pair: tuple[int, int], **changes: Tensor) -> Tensor:
    inputs = batch()
    inputs[:, 1] = changes.get("second", inputs[:, 0])
    return axioms.symmetry(INTEGRATED, network(), inputs, TARGET, pair)


REFUSED: dict[str, Callable[[], Tensor]] = {
    "twin: expected the outputs of model": lambda: axioms.implementation_invariance(
        INTEGRATED, network(0), network(1), batch(), TARGET
    ),
    "unused: expected a bool": lambda: axioms.sensitivity_b(
        INTEGRATED, network(), batch(), TARGET, _marked(FEATURES)
    ),
    "variables that change no output": lambda: axioms.sensitivity_b(
        INTEGRATED, network(), batch(), TARGET, _marked(2)
    ),
    "coefficients: expected one number": lambda: axioms.linearity(
        INTEGRATED, [network()], [1.0, 2.0], batch(), TARGET
    ),
    "coefficients: .* of the 0": lambda: axioms.linearity(INTEGRATED, [], [1.0, 2.0], batch(), TARGET),
    "equal values at positions 0 and 1": lambda: _symmetry((0, 1), second=torch.ones(4).double()),
    "exchange changes no output": lambda: _symmetry((0, 1)),
    "from 0 to 5": lambda: _symmetry((0, 6)),
    "at least one example": lambda: axioms.completeness(INTEGRATED, network(), batch()[:0], TARGET[:0]),
    "expected a floating-point map of that shape": lambda: axioms.completeness(
        lambda _model, inputs, _target: inputs.sum(dim=1), network(), batch(), TARGET
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_cases_that_an_axiom_says_nothing_about_are_refused(message: str) -> None:
    with pytest.raises(UsageError, match=message):
        REFUSED[message]()


def test_residuals_of_three_axioms_are_relative_and_say_nothing_where_nothing_is_to_be_said() -> None:
    """f(x) = 1 - relu(1 - 3 x0) + x1: flat in x0 beyond a third, where the gradient gives it nothing."""

    class Flat(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            x = inputs.flatten(1)
            return torch.stack([1 - torch.relu(1 - 3 * x[:, 0]) + x[:, 1], 0 * x[:, 0]], dim=1)

    inputs = torch.tensor([[0.9, 0.2], [0.2, 0.9], [0.0, 0.0]], dtype=torch.float64).reshape(3, 1, 1, 2)
    target, model = torch.zeros(3, dtype=torch.int64), Flat()
    found = {}
    for name, method in {"gradient": InputGradient(), "integrated": INTEGRATED}.items():
        maps = method(model, inputs, target)
        found[name] = axioms.relative_residuals(method, model, inputs, target, maps, batch=2)
    nan = float("nan")
    # Alone on black x0 = 0.9 moves the output by 1 and gets no gradient; x1 = 0.9 gets 1. Black is no change.
    sensitive = torch.tensor([1.0, 0.0, nan], dtype=torch.float64)
    torch.testing.assert_close(found["gradient"]["sensitive"], sensitive, equal_nan=True)
    torch.testing.assert_close(found["integrated"]["sensitive"][:2], torch.zeros(2).double())
    # The output rises by 1.2 and by 1.5 from black; the gradient sums to 1 and to 4.
    complete = torch.tensor([0.2 / 1.2, 2.5 / 1.5, nan], dtype=torch.float64)
    torch.testing.assert_close(found["gradient"]["complete"], complete, equal_nan=True)
    assert float(found["integrated"]["complete"][:2].max()) < 0.03  # of 64 nodes
    torch.testing.assert_close(found["gradient"]["invariant"][:2], torch.zeros(2).double())
    # Maps that cannot be made again are asked about their sum alone.
    maps = INTEGRATED(model, inputs, target)
    known = axioms.relative_residuals(None, model, inputs, target, maps)
    torch.testing.assert_close(known["complete"], found["integrated"]["complete"], equal_nan=True)
    assert bool(known["sensitive"].isnan().all() & known["invariant"].isnan().all())
