"""The attribution methods: gradients, and their means over noise, a path, or paths from other images.

Integrated Gradients has any output, start point, layer and rule, and fixed or automatic nodes.
"""

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
from veridical.attribution.path import Quadrature, Scalar, input_gradient, path_attribution, rows_of
from veridical.attribution.second_order import check_second_order
from veridical.runtime.checking import Count, Factor, Limit, Pixel, Seed, Size, Width, record
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_normal, per_example_uniform


@dataclass(frozen=True)
class InputGradient(AttributionMethod):
    """The gradient of the output in the inputs (Simonyan, Vedaldi, Zisserman, ICLR workshop 2014), signed.

    output: "logit", "loss" or "log-probability" of the target, or a function (logits, target) -> (N,).
    """

    output: Output | OutputFunction = "logit"

    def _maps(self, request: AttributionRequest) -> Tensor:
        return request.by_parts(self._gradient, None)

    def _gradient(self, part: AttributionRequest) -> Tensor:
        return input_gradient(part.scalar(self.output), part.inputs, create_graph=part.create_graph)


@dataclass(frozen=True)
class GradientTimesInput(AttributionMethod):
    """Inputs times d output / d inputs (Shrikumar et al., 2016), signed.

    Integrated Gradients from black with one right node is the same; on a network that ignores the scale of
    its inputs so is every Riemann sum that leaves out black, up to a factor. output: as in InputGradient.
    """

    output: Output | OutputFunction = "logit"

    def _maps(self, request: AttributionRequest) -> Tensor:
        return request.inputs * InputGradient(self.output)._maps(request)


@dataclass(frozen=True)
class SmoothGrad(AttributionMethod):
    """Mean input gradient over normal noise around the inputs (Smilkov et al., 2017, section 2), signed.

    samples: gradients averaged. noise: standard deviation in input units; the noisy inputs are not clipped.
    seed: sample k of example i adds noise of the stream (seed, "smoothgrad sample k", i), so neither the
    batch size nor `rows` changes a result beyond rounding. rows: bound on examples x samples of one forward
    pass, without create_graph; None is 512, and fewer of large images or where memory is short. output: as in
    InputGradient.
    """

    samples: Width = 32
    noise: Factor = 0.15
    seed: Seed = 0
    output: Output | OutputFunction = "logit"
    rows: Count | None = None

    def _maps(self, request: AttributionRequest) -> Tensor:
        return request.by_parts(self._mean, self.rows)

    def _mean(self, request: AttributionRequest) -> Tensor:
        # Sample by sample for all examples, as the scalar repeats its targets.
        scalar = request.scalar(self.output)
        at_once = max(1, rows_of(request.inputs, self.rows) // request.inputs.shape[0])
        total = torch.zeros_like(request.inputs)
        for first in range(0, self.samples, at_once):
            samples = range(first, min(first + at_once, self.samples))
            noise = torch.stack([_draw(request, self.seed, f"smoothgrad sample {k}") for k in samples])
            noisy = noise.mul_(self.noise) + request.inputs
            gradients = input_gradient(scalar, noisy.flatten(0, 1), create_graph=request.create_graph)
            # One after another, so that memory does not grow with the number of samples.
            total = total + gradients.reshape(noisy.shape).sum(dim=0)
        return total / self.samples


@dataclass(frozen=True)
class RandomAttribution(AttributionMethod):
    """Standard normal noise that looks at neither model nor image: what any method should beat.

    Example i gets the stream (seed, "random attribution", i). With create_graph the map is a constant,
    without a graph.
    """

    seed: Seed = 0

    def _maps(self, request: AttributionRequest) -> Tensor:
        return _draw(request, self.seed, "random attribution")


@record
class StoredMaps(AttributionMethod):
    """Maps that were computed elsewhere: that of example i is row i of `maps`, whatever the model.

    maps: floating (M, C, H, W), signed, of all M examples of a data set; (M, H, W) gives every channel an
    equal share of a pixel's value. It answers for the examples of `indices` alone, whose number it has to
    know, and says nothing about other images or other models.
    """

    maps: Tensor

    def __post_init__(self) -> None:
        if (
            not isinstance(self.maps, Tensor)
            or self.maps.ndim not in (3, 4)
            or not self.maps.is_floating_point()
        ):
            raise argument_error("maps", self.maps, "floating-point maps (M, C, H, W) or (M, H, W)")

    def check(self, count: int, shape: Sequence[int], name: str) -> None:
        """Raise a UsageError unless there is a map for each of `count` examples of this shape."""
        channels, *plane = shape
        wanted = [(count, channels, *plane), (count, *plane)]
        if tuple(self.maps.shape) not in wanted:
            expected = f"maps of shape {wanted[0]} or {wanted[1]}, one for every test image"
            raise argument_error(name, f"maps of shape {tuple(self.maps.shape)}", expected)

    def _maps(self, request: AttributionRequest) -> Tensor:
        places = torch.as_tensor(request.indices)
        if len(places) and int(places.max()) >= len(self.maps):
            expected = f"an example of number below {len(self.maps)}, as many as there are maps"
            raise argument_error("indices", int(places.max()), expected)
        chosen = self.maps[places].to(request.inputs)
        if chosen.ndim == 3:
            chosen = chosen[:, None].expand_as(request.inputs) / request.inputs.shape[1]
        return chosen


@record
class ExpectedGradients(AttributionMethod):
    """Mean of (x - x') times the gradient at a random point between x' and x, over images x' of data, signed.

    The expectation of Integrated Gradients over its start: phi(x) = E[(x - x') dF(x' + a (x - x')) / dx], x'
    drawn from `baselines` and a uniform in [0, 1]. In expectation a map adds up to F(x) - E[F(x')].
    baselines: images (M, ...) of the inputs' shape, floating point, on any device; training images, not those
    explained. samples: gradients averaged. seed: example i draws from the stream (seed, "expected gradients",
    i), so neither the batch size nor `rows` changes a result beyond rounding. rows: as in SmoothGrad. output:
    as in InputGradient.
    Ours: an x' is drawn again only when all M were used, and one a in each of `samples` equal steps of
    [0, 1]; that changes no expectation and lowers the variance.
    Erion et al., "Improving performance of deep learning models with axiomatic attribution priors and
    expected gradients", Nature Machine Intelligence 2021. Captum's GradientShap without noise is the same up
    to the draws.
    """

    baselines: Tensor
    samples: Width = 64
    seed: Seed = 0
    output: Output | OutputFunction = "logit"
    rows: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.baselines
        if not isinstance(given, Tensor) or not given.is_floating_point() or given.ndim < 2 or not len(given):
            raise argument_error("baselines", given, "a floating-point tensor (M, ...) of at least one image")

    def with_baseline(self, baseline: Tensor) -> "ExpectedGradients":
        """The same method with other images (M, ...) to start from."""
        return replace(self, baselines=baseline)

    def _maps(self, request: AttributionRequest) -> Tensor:
        shape = tuple(request.inputs.shape[1:])
        if self.baselines.shape[1:] != shape:
            raise argument_error("baselines", self.baselines, f"images (M, ...) of the inputs' shape {shape}")
        return request.by_parts(self._mean, self.rows)

    def _mean(self, request: AttributionRequest) -> Tensor:
        inputs = request.inputs
        images, positions = self._draw(request)
        # From where the images lie, so that only those that are used travel.
        source = out_of_inference(self.baselines.detach())
        scalar = request.scalar(self.output)
        at_once = max(1, rows_of(inputs, self.rows) // len(inputs))
        total = torch.zeros_like(inputs)
        # Sample by sample for all examples, as the scalar repeats its targets.
        for first in range(0, self.samples, at_once):
            part = slice(first, first + at_once)
            start = source[images[part].to(source.device)].to(inputs.device, inputs.dtype)
            difference = inputs - start
            step = positions[part].reshape(*positions[part].shape, *[1] * (inputs.ndim - 1))
            points = start + step * difference
            gradients = input_gradient(scalar, points.flatten(0, 1), create_graph=request.create_graph)
            total = total + (difference * gradients.reshape(points.shape)).sum(dim=0)
        return total / self.samples

    def _draw(self, request: AttributionRequest) -> tuple[Tensor, Tensor]:
        """For each sample and example the number of an image and a place on the way, both (samples, N)."""
        count, inputs = len(self.baselines), request.inputs
        # In float64: in 16 bits many of them would be ties.
        uniform = per_example_uniform(
            [count + self.samples], self.seed, "expected gradients", request.indices, dtype=torch.float64
        ).T
        order = uniform[:count].argsort(dim=0)
        samples = torch.arange(self.samples)
        # One place in each of so many equal steps; the images come in an order that does not depend on them.
        positions = (samples[:, None] + uniform[count:]) / self.samples
        return order[samples % count], positions.to(inputs.device, inputs.dtype)


def _draw(request: AttributionRequest, seed: int, purpose: str) -> Tensor:
    """Standard normal noise of the inputs' shape from one stream for each example."""
    inputs = request.inputs
    return per_example_normal(
        inputs.shape[1:], seed, purpose, request.indices, dtype=inputs.dtype, device=inputs.device
    )


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
            path = _Path(self, request)
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
        path = _Path(self, request)
        change, allowance = path.change_and_allowance()
        if self.nodes == "auto":
            maps, nodes = path.integrate_until_complete(change, allowance)
        else:
            maps = path.maps(path.examples, self.nodes, create_graph=request.create_graph)
            nodes = torch.full_like(path.examples, self.nodes)
        residual = _sum(maps) - change
        return PathResult(maps, change, residual, nodes, residual.abs() <= allowance)


class _Path:
    """The integral of a request's N examples; `examples` are their numbers (N,)."""

    def __init__(self, method: IntegratedGradients, request: AttributionRequest) -> None:
        self.method, self.request, self.end = method, request, request.inputs
        self.start = _start(method.baseline, self.end)
        self.layer = _named_layer(request.model, method.layer)
        self.rows = rows_of(self.end, method.rows)
        self.examples = torch.arange(len(self.end), device=self.end.device)

    def scalar_of(self, examples: Tensor) -> Scalar:
        """The number explained of the examples of these numbers (M,)."""
        return self.request.scalar(self.method.output, examples)

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
            Quadrature(self.method.rule, nodes),
            layer=self.layer,
            create_graph=create_graph,
            rows=self.rows,
        )

    @torch.no_grad()
    def change_and_allowance(self) -> tuple[Tensor, Tensor]:
        """Change of the output along the path, (N,) float64, and the residual that counts as none."""
        parts = [(self.scalar_of(some), some) for some in self.examples.split(self.rows)]
        above, below = (
            torch.cat([scalar(ends[some]) for scalar, some in parts]) for ends in (self.end, self.start)
        )
        change = above.double() - below.double()
        # Where the output hardly changes, its own rounding is more than any share of the change.
        rounding = 4 * torch.finfo(above.dtype).eps * (above.abs() + below.abs()).double()
        return change, self.method.tolerance * change.abs() + rounding

    def integrate_until_complete(self, change: Tensor, allowance: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, ...) and node counts (N,): 16, 32, 64, ..., max_nodes until the residual is allowed.

        An example's count depends on no other example. All gradients together are about twice the final ones;
        the counts are found without a graph, so create_graph costs one more evaluation at the final counts.
        """
        nodes, max_nodes = torch.zeros_like(self.examples), self.method.max_nodes
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
        if self.request.create_graph:
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
