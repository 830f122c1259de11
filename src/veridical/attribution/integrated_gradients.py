"""Integrated Gradients as a method: any output, start point, layer and rule, fixed or automatic nodes."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import check_finite_map, check_inputs, out_of_inference
from veridical.attribution.method import (
    AttributionMethod,
    AttributionRequest,
    Output,
    OutputFunction,
    Target,
    prepare_request,
)
from veridical.attribution.path import Quadrature, Scalar, path_attribution, rows_of
from veridical.attribution.second_order import check_second_order
from veridical.runtime.checking import Count, Limit, Pixel, Size, record
from veridical.runtime.errors import argument_error

_FIRST_NODES = 16

# Where the path starts: None is black (0); a tensor is one for all, (C, H, W), or one per example, (N, C,
# H, W); a function gets the inputs.
Baseline = Pixel | Tensor | Callable[[Tensor], Tensor] | None


class NotConvergedWarning(UserWarning):
    """An automatic node count stopped at its bound before the map added up to the change of the output."""


@record
class PathResult:
    """Integrated Gradients of N examples and how far to trust them.

    attribution: (N, ...). change: output at the inputs minus output at the baseline, (N,). residual: sum of
    the attribution minus the change, (N,) float64, 0 for the exact integral. nodes: gradients used, (N,)
    int64. converged: (N,) bool, |residual| <= tolerance x |change|, with an allowance for rounding of the
    outputs.
    """

    attribution: Tensor
    change: Tensor
    residual: Tensor
    nodes: Tensor
    converged: Tensor


@dataclass(frozen=True)
class IntegratedGradients(AttributionMethod):
    """(x - baseline) times the mean gradient on the straight path from the baseline to x, signed.

    nodes: gradients on the path, or "auto": 16, 32, 64, ... per example until the completeness residual is at
    most `tolerance` x the change of the output; it stops at max_nodes with a NotConvergedWarning.
    rule: "gauss-legendre", "right" (the RAR authors'), "left", "midpoint" or "trapezoid".
    baseline: see Baseline. output: "logit", "loss" or "log-probability" of the target, or a function
    (logits, target) -> (N,). layer: a module of the model, or its dotted name; the map then has the shape of
    that layer's output (Captum's LayerConductance). rows: bound on examples x nodes of one forward pass,
    without create_graph; None is 512, and fewer of large images or where memory is short.
    Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017, sections 3 and 5.
    """

    nodes: Size | Literal["auto"] = "auto"
    rule: str = "gauss-legendre"
    baseline: Baseline = None
    output: Output | OutputFunction = "logit"
    layer: nn.Module | str | None = None
    tolerance: Annotated[float, Limit(0, 1e6, above=True)] = 0.01
    max_nodes: Size = 256
    rows: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        Quadrature(self.rule, self.max_nodes if self.nodes == "auto" else self.nodes)

    def with_nodes(self, nodes: int | Literal["auto"]) -> "IntegratedGradients":
        """The same method with another node count."""
        return replace(self, nodes=nodes)

    def with_quadrature(self, quadrature: Quadrature) -> "IntegratedGradients":
        """The same method with another rule and node count."""
        return replace(self, rule=quadrature.rule, nodes=quadrature.nodes)

    def with_baseline(self, baseline: Baseline) -> "IntegratedGradients":
        """The same method with another start of the path."""
        return replace(self, baseline=baseline)

    def with_diagnostics(
        self,
        model: nn.Module,
        inputs: Tensor,
        target: Target = None,
        *,
        create_graph: bool = False,
        indices: Tensor | Sequence[int] | None = None,
    ) -> PathResult:
        """The map with its completeness residual, node counts and convergence per example; no warning.

        Arguments and errors as in a call; with a fixed node count `converged` judges that count. An empty
        batch is refused.
        """
        if len(check_inputs(inputs)) == 0:
            raise argument_error("inputs", inputs, "at least one example")
        with prepare_request(model, inputs, target, create_graph=create_graph, indices=indices) as request:
            result = self._solve(request)
            check_finite_map(result.attribution)
            if create_graph:
                check_second_order(result.attribution)
            return result

    def _maps(self, request: AttributionRequest) -> Tensor:
        if self.nodes != "auto":
            path = self._path(request)
            return path.maps(path.examples, self.nodes, create_graph=request.create_graph)
        result = self._solve(request)
        check_finite_map(result.attribution)
        failed = ~result.converged
        if bool(failed.any()):
            share = (result.residual / result.change).abs()[failed]
            warnings.warn(
                f"Integrated Gradients of {int(failed.sum())} of {failed.numel()} examples did not converge "
                f"in {self.max_nodes} nodes: the map misses up to {float(share.max()):.0%} of the output's "
                "change. Raise max_nodes, or look at with_diagnostics(). A network that standardises each "
                "image inside hardly converges from a black baseline: take GradientTimesInput or another "
                "baseline.",
                NotConvergedWarning,
                stacklevel=3,
            )
        return result.attribution

    def _solve(self, request: AttributionRequest) -> PathResult:
        path, create_graph = self._path(request), request.create_graph
        change, allowance = path.change_and_allowance(self.tolerance)
        if self.nodes == "auto":
            maps, nodes = path.integrate_until_complete(change, allowance, self.max_nodes, create_graph)
        else:
            maps = path.maps(path.examples, self.nodes, create_graph=create_graph)
            nodes = torch.full_like(path.examples, self.nodes)
        residual = _sum(maps) - change
        return PathResult(maps, change, residual, nodes, residual.abs() <= allowance)

    def _path(self, request: AttributionRequest) -> "_Path":
        return _Path(
            scalar_of=lambda examples: request.scalar(self.output, examples),
            start=_start(self.baseline, request.inputs),
            end=request.inputs,
            examples=torch.arange(request.inputs.shape[0], device=request.inputs.device),
            rule=self.rule,
            layer=_named_layer(request.model, self.layer),
            rows=rows_of(request.inputs, self.rows),
        )


@record
class _Path:
    """The integral of N examples; scalar_of maps their numbers (M,) to the scalar of those examples."""

    scalar_of: Callable[[Tensor], Scalar]
    start: Tensor
    end: Tensor
    examples: Tensor
    rule: str
    layer: nn.Module | None
    rows: int

    def maps(self, examples: Tensor, nodes: int, *, create_graph: bool = False) -> Tensor:
        """Maps (M, ...) of the numbered examples with so many nodes, without a graph of `rows` at once."""
        if len(examples) > self.rows and not create_graph:
            return torch.cat([self.maps(some, nodes) for some in examples.split(self.rows)])
        start, end = self.start[examples], self.end[examples]
        # Without a graph nothing may hang on the caller's tensors.
        if not create_graph:
            start, end = start.detach(), end.detach()
        return path_attribution(
            self.scalar_of(examples),
            start,
            end,
            Quadrature(self.rule, nodes),
            layer=self.layer,
            create_graph=create_graph,
            rows=self.rows,
        )

    @torch.no_grad()
    def change_and_allowance(self, tolerance: float) -> tuple[Tensor, Tensor]:
        """Change of the output along the path, (N,) float64, and the residual that counts as none."""
        parts = [(self.scalar_of(some), some) for some in self.examples.split(self.rows)]
        above, below = (
            torch.cat([scalar(ends[some]) for scalar, some in parts]) for ends in (self.end, self.start)
        )
        change = above.double() - below.double()
        # Where the output hardly changes, its own rounding is more than any share of the change.
        rounding = 4 * torch.finfo(above.dtype).eps * (above.abs() + below.abs()).double()
        return change, tolerance * change.abs() + rounding

    def integrate_until_complete(
        self, change: Tensor, allowance: Tensor, max_nodes: int, create_graph: bool
    ) -> tuple[Tensor, Tensor]:
        """Maps (N, ...) and node counts (N,): 16, 32, 64, ..., max_nodes until the residual is allowed.

        An example's count depends on no other example. All gradients together are about twice the final ones;
        the counts are found without a graph, so create_graph costs one more evaluation at the final counts.
        """
        nodes = torch.zeros_like(self.examples)
        settled: list[tuple[Tensor, Tensor]] = []
        unsettled, count = self.examples, min(_FIRST_NODES, max_nodes)
        while unsettled.numel():
            maps = self.maps(unsettled, count)
            nodes[unsettled] = count
            # A NaN is never complete, so it runs on to the bound.
            done = (_sum(maps) - change[unsettled]).abs() <= allowance[unsettled]
            if count == max_nodes:
                done = torch.ones_like(done)
            if bool(done.any()):
                settled.append((unsettled[done], maps[done]))
            unsettled, count = unsettled[~done], min(2 * count, max_nodes)
        # Now that the counts are known, once more with a graph.
        if create_graph:
            settled = [(each, self.maps(each, int(nodes[each[0]]), create_graph=True)) for each, _ in settled]
        # Examples settled in groups: back to the order in which they came.
        order = torch.cat([examples for examples, _ in settled]).argsort()
        return torch.cat([maps for _, maps in settled])[order], nodes


def _sum(maps: Tensor) -> Tensor:
    return maps.detach().flatten(1).double().sum(dim=1)


def _named_layer(model: nn.Module, layer: nn.Module | str | None) -> nn.Module | None:
    if not isinstance(layer, str):
        return layer
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if layer not in modules:
        raise argument_error("layer", layer, "the name of a module of the model: " + ", ".join(modules)[2:])
    return modules[layer]


def _start(baseline: Baseline, inputs: Tensor) -> Tensor:
    """The baseline as a tensor of the inputs' shape, dtype and device."""
    if baseline is None:
        return torch.zeros_like(inputs)
    if not isinstance(baseline, Tensor) and callable(baseline):
        baseline = baseline(inputs)
    start = out_of_inference(torch.as_tensor(baseline, dtype=inputs.dtype, device=inputs.device))
    try:
        return start.expand_as(inputs)
    except RuntimeError:
        expected = f"something that broadcasts to the inputs' shape {tuple(inputs.shape)}"
        raise argument_error("baseline", start, expected) from None
