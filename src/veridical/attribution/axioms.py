"""The axioms of Integrated Gradients as checks that run: each returns a residual per example, 0 if it holds.

An axiom speaks of all functions and inputs; a check measures one case of it, for any method

    attribute(model, inputs, target) -> map of the inputs' shape.

So a residual clearly above rounding refutes the axiom, and one of 0 supports it for that case. Lower is
better, always. Residuals are float64 (N,), at least 0, in units of the output, and NaN where a map has a NaN.
Which residual is small is for the caller to say: a quadrature has an error of its own.

What an axiom presupposes of the function is tried at the given inputs, or near them, and a UsageError says
what does not hold. Models are evaluated in eval mode and left as they were.

Source: Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017, sections 2 to 4.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import check_inputs, check_map, examining, logits_of
from veridical.attribution.method import Output, OutputFunction, TargetScalar
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.seeds import stream

# (model, inputs (N, ...), target (N,)) -> map of the inputs' shape; every AttributionMethod is one.
_Function = Callable[[nn.Module, Tensor, Tensor], Tensor]


def implementation_invariance(
    attribute: _Function, model: nn.Module, twin: nn.Module, inputs: Tensor, target: Tensor
) -> Tensor:
    """Largest difference of the maps of two networks that compute the same function (section 2.2).

    `twin` must give `model`'s outputs whatever the input; that is tried at `inputs`. Gradients satisfy the
    axiom by the chain rule; LRP and DeepLIFT do not.
    """
    _require_equal("twin", _logits(model, inputs), _logits(twin, inputs), "the outputs of model")
    difference = _maps(attribute, model, inputs, target) - _maps(attribute, twin, inputs, target)
    return difference.abs().amax(dim=1)


def sensitivity_a(
    attribute: _Function,
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    variable: int | Tensor,
    *,
    baseline: float | Tensor = 0.0,
    output: Output | OutputFunction = "logit",
    threshold: float = 0.0,
) -> Tensor:
    """Change of the output that a single variable caused without getting attribution for it (section 2.1).

    x is the baseline with one variable, at the flattened position `variable` (one for all, or one per example
    (N,)), replaced by its value in `inputs`. Where the attribution of that variable is at most `threshold` in
    size, the residual is |f(x) - f(baseline)|; elsewhere, and where the output does not differ, it is 0.
    `baseline` and `output` must be the method's own. Gradients violate this axiom where a network is flat.
    """
    place = _positions("variable", variable, inputs)
    start = torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device).expand_as(inputs)
    # The baseline with that one variable of the inputs in it.
    changed = start.flatten(1).scatter(1, place, inputs.flatten(1).gather(1, place)).reshape(inputs.shape)
    change = _outputs(model, changed, target, output) - _outputs(model, start, target, output)
    received = _maps(attribute, model, changed, target).gather(1, place)[:, 0]
    # Times 0, not zeros: an attribution that is NaN must not pass.
    return torch.where(received.abs() <= threshold, change.abs(), received * 0)


def sensitivity_b(
    attribute: _Function, model: nn.Module, inputs: Tensor, target: Tensor, unused: Tensor
) -> Tensor:
    """Largest attribution to a variable that the network does not depend on (section 4.1, "dummy").

    `unused` marks those variables: bool, of one example's shape. That they do nothing is tried by adding
    noise to them.
    """
    if unused.dtype != torch.bool or unused.shape != inputs.shape[1:] or not bool(unused.any()):
        expected = f"a bool tensor of one example's shape {tuple(inputs.shape[1:])}, some of it true"
        raise argument_error("unused", unused, expected)
    unused = unused.to(inputs.device)
    # Noise in the unused variables alone: the outputs must not notice.
    probe = torch.where(unused, inputs + _noise(inputs), inputs)
    _require_equal("unused", _logits(model, inputs), _logits(model, probe), "variables that change no output")
    return _maps(attribute, model, inputs, target)[:, unused.flatten()].abs().amax(dim=1)


def linearity(
    attribute: _Function,
    models: Sequence[nn.Module],
    coefficients: Sequence[float],
    inputs: Tensor,
    target: Tensor,
) -> Tensor:
    """Largest difference of the map of sum_j c_j f_j from the sum of c_j times f_j's map (section 4.1).

    The combination is made of logits, so the method has to explain a logit, not the loss.
    """
    if not models or len(models) != len(coefficients):
        raise argument_error("coefficients", coefficients, f"one number for each of the {len(models)} models")
    combined = _maps(attribute, _Combination(models, coefficients), inputs, target)
    maps = [_maps(attribute, model, inputs, target) for model in models]
    parts = [c * map_ for c, map_ in zip(coefficients, maps, strict=True)]
    return (combined - torch.stack(parts).sum(dim=0)).abs().amax(dim=1)


def completeness(
    attribute: _Function,
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    baseline: float | Tensor = 0.0,
    output: Output | OutputFunction = "logit",
) -> Tensor:
    """Distance of the sum of the map from the change of the output since the baseline (section 3, Prop. 1).

    |sum(map) - (f(x) - f(baseline))|, with the method's own `baseline` (broadcast to the inputs' shape) and
    `output`. For Integrated Gradients it is the error of the quadrature.
    """
    total = _maps(attribute, model, inputs, target).sum(dim=1)
    start = torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device).expand_as(inputs)
    change = _outputs(model, inputs, target, output) - _outputs(model, start, target, output)
    return (total - change).abs()


def symmetry(
    attribute: _Function, model: nn.Module, inputs: Tensor, target: Tensor, pair: tuple[int, int]
) -> Tensor:
    """Difference of the attributions of two variables that can be exchanged (section 4.2).

    `pair` are their flattened positions. The axiom presupposes that exchanging them changes no output, which
    is tried at noisy inputs, and that their values are equal in `inputs` (and in the method's baseline). Of
    all path methods Integrated Gradients alone satisfies it (Theorem 1).
    """
    first, second = (_positions("pair", place, inputs) for place in pair)
    values, noisy = inputs.flatten(1), (inputs + _noise(inputs)).flatten(1)
    # At the given inputs the values have to be equal, so that the attributions have to be.
    if not torch.equal(values.gather(1, first), values.gather(1, second)):
        expected = f"equal values at positions {pair[0]} and {pair[1]} of each example"
        raise argument_error("inputs", inputs, expected)
    # At noisy inputs the two differ, or any network would pass.
    swapped = noisy.scatter(1, first, noisy.gather(1, second)).scatter(1, second, noisy.gather(1, first))
    before, after = (_logits(model, points.reshape(inputs.shape)) for points in (noisy, swapped))
    _require_equal("pair", before, after, "variables whose exchange changes no output")
    maps = _maps(attribute, model, inputs, target)
    return (maps.gather(1, first) - maps.gather(1, second))[:, 0].abs()


class Rewritten(nn.Module):
    """The same function in other words: x = relu(x + 1) - relu(-x - 1) - 1 before the model.

    A gradient passes it unchanged; rules that treat each ReLU in a way of their own do not.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.above, self.below, self.model = nn.ReLU(), nn.ReLU(), model
        self.train(model.training)

    def forward(self, inputs: Tensor) -> Any:
        """What the model returns."""
        shifted = inputs + 1
        return self.model(self.above(shifted) - self.below(-shifted) - 1)


def relative_residuals(
    attribute: _Function | None,
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    maps: Tensor,
    *,
    batch: int = 8,
) -> dict[str, Tensor]:
    """How far maps miss three axioms, each relative to its own scale; float64 (N,) on the CPU by name.

    maps: those of `inputs` (N, C, H, W) for the classes `target` (N,). attribute: what makes them, `batch`
    images at a time; None where they cannot be made again, so that only the first is known.

    complete: `completeness` from black, over the output's change. sensitive: `sensitivity_a` of the greatest
    value of each image alone on black, over the change that it causes: 1 where it gets nothing. invariant:
    `implementation_invariance` to `Rewritten`, over the map's greatest value. NaN where an axiom says
    nothing: no change, a map of zeros, a method that does not know the rewritten model.
    """
    _require_examples(inputs)
    given = maps.double().to(inputs.device)
    nothing = torch.full((len(inputs),), torch.nan, dtype=torch.float64)

    def known(_model: nn.Module, chosen: Tensor, _target: Tensor) -> Tensor:
        return given.to(chosen)

    change = _change(model, inputs, torch.zeros_like(inputs), target)
    residuals = {"complete": completeness(known, model, inputs, target).cpu() / change}
    place = inputs.flatten(1).argmax(dim=1, keepdim=True)
    alone = torch.zeros_like(inputs).flatten(1).scatter(1, place, inputs.flatten(1).gather(1, place))
    caused = _change(model, alone.reshape(inputs.shape), torch.zeros_like(inputs), target)
    size = given.abs().flatten(1).amax(1).cpu()
    size = size.masked_fill(size == 0, torch.nan)

    def measure(name: str, scale: Tensor, residual: Callable[[slice], Tensor]) -> None:
        rows = [slice(first, first + batch) for first in range(0, len(inputs), batch)]
        try:
            residuals[name] = torch.cat([residual(one).cpu() for one in rows]) / scale
        except UsageError:  # a layer is named that the twin has under another name, say
            residuals[name] = nothing

    if attribute is None:
        return {**residuals, "sensitive": nothing, "invariant": nothing}
    measure(
        "sensitive",
        caused,
        lambda rows: sensitivity_a(attribute, model, inputs[rows], target[rows], place[rows, 0]),
    )
    twin = Rewritten(model)
    measure(
        "invariant",
        size,
        lambda rows: implementation_invariance(attribute, model, twin, inputs[rows], target[rows]),
    )
    return residuals


def _change(model: nn.Module, inputs: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """|change of the target's logit|, float64 (N,) on the CPU; NaN where there is none beyond rounding."""
    ends = [_logits(model, points).double() for points in (inputs, start)]
    change = (ends[0] - ends[1]).gather(1, target[:, None])[:, 0].abs().cpu()
    rounding = 1e3 * torch.finfo(inputs.dtype).eps * (1.0 + float(ends[0].abs().amax()))
    return change.masked_fill(change <= rounding, torch.nan)


class _Combination(nn.Module):
    """sum_j c_j model_j(inputs)."""

    def __init__(self, models: Sequence[nn.Module], coefficients: Sequence[float]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.coefficients = tuple(coefficients)

    def forward(self, inputs: Tensor) -> Tensor:
        parts = [c * model(inputs) for model, c in zip(self.models, self.coefficients, strict=True)]
        return torch.stack(parts).sum(dim=0)


def _maps(attribute: _Function, model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """The method's maps as float64 (N, D)."""
    _require_examples(inputs)
    maps = attribute(model, inputs, target)
    return check_map(maps, inputs, finite=False).detach().double().flatten(1)


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    _require_examples(inputs)
    with examining(model), torch.no_grad():
        return logits_of(model, inputs)


def _outputs(model: nn.Module, inputs: Tensor, target: Tensor, output: Output | OutputFunction) -> Tensor:
    """The explained number of each example, float64 (N,)."""
    return TargetScalar(model, target, output).of_logits(_logits(model, inputs)).double()


def _require_equal(name: str, one: Tensor, other: Tensor, expected: str) -> None:
    """Raise unless two results agree but for rounding."""
    # A thousand roundings at the size of the outputs.
    allowed = 1e3 * torch.finfo(one.dtype).eps * (1.0 + float(one.abs().amax()))
    gap = float((one - other).abs().amax()) if one.shape == other.shape else float("inf")
    # Not `gap > allowed`: NaN must not pass.
    if not gap <= allowed:
        raise UsageError(
            f"{name}: expected {expected}, but outputs differ by {gap:.3g} (rounding allows {allowed:.3g}). "
            "The axiom says nothing about this case."
        )


def _positions(name: str, place: int | Tensor, inputs: Tensor) -> Tensor:
    """Flattened positions as int64 (N, 1)."""
    _require_examples(inputs)
    positions = torch.as_tensor(place, device=inputs.device).expand(len(inputs))
    size = inputs[0].numel()
    if positions.is_floating_point() or bool(((positions < 0) | (positions >= size)).any()):
        raise argument_error(name, place, f"a flattened position from 0 to {size - 1}")
    return positions[:, None]


def _require_examples(inputs: Tensor) -> None:
    if len(check_inputs(inputs)) == 0:
        raise argument_error("inputs", inputs, "floating-point inputs (N, ...) of at least one example")


def _noise(inputs: Tensor) -> Tensor:
    """Noise in [0, 1) at which conditions are tried: the same in every call."""
    unit = torch.rand(inputs.shape, generator=stream(0, "axioms"), dtype=torch.float64)
    return unit.to(inputs.device, inputs.dtype)
