"""Integrated Gradients as a method: any output, start point, layer and rule, fixed or automatic nodes."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from veridical.attribution.automatic import PathProblem, PathResult, integrate, integrate_until_complete
from veridical.attribution.classifier import check_finite_map, check_inputs, out_of_inference
from veridical.attribution.gradients import check_second_order
from veridical.attribution.method import (
    AttributionMethod,
    AttributionRequest,
    OutputFunction,
    Target,
    question,
)
from veridical.attribution.path import rows_of
from veridical.attribution.quadrature import Quadrature
from veridical.attribution.scalars import Output
from veridical.runtime.errors import argument_error

Baseline = float | Tensor | Callable[[Tensor], Tensor] | None
"""Where the path starts: None is black (0); a tensor is one for all, (C, H, W), or one per example,
(N, C, H, W); a function gets the inputs."""


class NotConvergedWarning(UserWarning):
    """An automatic node count stopped at its bound before the map added up to the change of the output."""


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

    nodes: int | Literal["auto"] = "auto"
    rule: str = "gauss-legendre"
    baseline: Baseline = None
    output: Output | OutputFunction = "logit"
    layer: nn.Module | str | None = None
    tolerance: float = 0.01
    max_nodes: int = 256
    rows: int | None = None

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
        with question(model, inputs, target, create_graph=create_graph, indices=indices) as asked:
            result = self._solve(asked)
            check_finite_map(result.attribution)
            if create_graph:
                check_second_order(result.attribution)
            return result

    def _maps(self, asked: AttributionRequest) -> Tensor:
        if self.nodes != "auto":
            examples = torch.arange(asked.inputs.shape[0], device=asked.inputs.device)
            return self._problem(asked).maps(examples, self.nodes, create_graph=asked.create_graph)
        result = self._solve(asked)
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

    def _solve(self, asked: AttributionRequest) -> PathResult:
        problem = self._problem(asked)
        if self.nodes != "auto":
            return integrate(problem, self.nodes, tolerance=self.tolerance, create_graph=asked.create_graph)
        return integrate_until_complete(
            problem, tolerance=self.tolerance, max_nodes=self.max_nodes, create_graph=asked.create_graph
        )

    def _problem(self, asked: AttributionRequest) -> PathProblem:
        return PathProblem(
            scalar_of=lambda examples: asked.scalar(self.output, examples),
            start=_start(self.baseline, asked.inputs),
            end=asked.inputs,
            rule=self.rule,
            layer=_named_layer(asked.model, self.layer),
            rows=rows_of(asked.inputs, self.rows),
        )


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
    if start.ndim > inputs.ndim or any(
        have not in (1, want)
        for have, want in zip(reversed(start.shape), reversed(inputs.shape), strict=False)
    ):
        raise argument_error(
            "baseline", start, f"something that broadcasts to the inputs' shape {tuple(inputs.shape)}"
        )
    return start.expand_as(inputs)
