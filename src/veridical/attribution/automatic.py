"""Node counts by example: ever more until the map adds up to the change of the output, or to a bound."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from veridical.attribution.path import Scalar, path_attribution
from veridical.attribution.quadrature import Quadrature
from veridical.runtime.record import record

FIRST_NODES = 16


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


@record
class PathProblem:
    """The integral of N examples that `integrate` and `integrate_until_complete` solve.

    scalar_of maps example numbers (M,) to the scalar of those examples; the rest as in path_attribution.
    """

    scalar_of: Callable[[Tensor], Scalar]
    start: Tensor
    end: Tensor
    rule: str
    layer: nn.Module | None
    rows: int

    def maps(self, examples: Tensor, nodes: int, *, create_graph: bool = False) -> Tensor:
        """Maps (M, ...) of the numbered examples with so many nodes, without a graph of `rows` at once."""
        if len(examples) > self.rows and not create_graph:
            return torch.cat([self.maps(some, nodes) for some in examples.split(self.rows)])
        start, end = self.start[examples], self.end[examples]
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
        examples = torch.arange(self.end.shape[0], device=self.end.device)
        parts = [(self.scalar_of(some), some) for some in examples.split(self.rows)]
        above, below = (
            torch.cat([scalar(ends[some]) for scalar, some in parts]) for ends in (self.end, self.start)
        )
        change = above.double() - below.double()
        rounding = 4 * torch.finfo(above.dtype).eps * (above.abs() + below.abs()).double()
        return change, tolerance * change.abs() + rounding


def integrate(problem: PathProblem, nodes: int, *, tolerance: float, create_graph: bool) -> PathResult:
    """Solve with one node count for all examples."""
    change, allowance = problem.change_and_allowance(tolerance)
    examples = torch.arange(change.shape[0], device=change.device)
    attribution = problem.maps(examples, nodes, create_graph=create_graph)
    residual = _sum(attribution) - change
    return PathResult(
        attribution, change, residual, torch.full_like(examples, nodes), residual.abs() <= allowance
    )


def integrate_until_complete(
    problem: PathProblem, *, tolerance: float, max_nodes: int, create_graph: bool
) -> PathResult:
    """Solve with 16, 32, 64, ... nodes, at most max_nodes, each example going on until its residual is small.

    An example's count depends on no other example. All gradients together are about twice the final ones; the
    counts are found without a graph, so create_graph costs one more evaluation at the final counts.
    """
    change, allowance = problem.change_and_allowance(tolerance)
    nodes = torch.zeros(change.shape, dtype=torch.int64, device=change.device)
    unsettled = torch.arange(change.shape[0], device=change.device)
    settled: list[tuple[Tensor, Tensor]] = []
    for count in _counts(max_nodes):
        maps = problem.maps(unsettled, count)
        nodes[unsettled] = count
        # A NaN is never complete, so it runs on to the bound.
        done = (_sum(maps) - change[unsettled]).abs() <= allowance[unsettled]
        if count == max_nodes:
            done = torch.ones_like(done)
        settled.append((unsettled[done], maps[done]))
        unsettled = unsettled[~done]
        if unsettled.numel() == 0:
            break
    settled = [(examples, maps) for examples, maps in settled if examples.numel()]
    if create_graph:
        settled = [(each, problem.maps(each, int(nodes[each[0]]), create_graph=True)) for each, _ in settled]
    order = torch.cat([examples for examples, _ in settled]).argsort()
    attribution = torch.cat([maps for _, maps in settled])[order]
    residual = _sum(attribution) - change
    return PathResult(attribution, change, residual, nodes, residual.abs() <= allowance)


def _sum(maps: Tensor) -> Tensor:
    return maps.detach().flatten(1).double().sum(dim=1)


def _counts(max_nodes: int) -> Iterator[int]:
    count = FIRST_NODES
    while count < max_nodes:
        yield count
        count *= 2
    yield max_nodes
