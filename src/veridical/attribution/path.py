"""The one core of Integrated Gradients: rules of quadrature, and a path integral of gradients by one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from veridical.attribution.second_order import QuickSecondOrder, inputs_only
from veridical.runtime.checking import Size, check_value
from veridical.runtime.devices import rows_at_once
from veridical.runtime.errors import UsageError, unknown_name_error

# inputs (N, ...) -> one number per example (N,).
Scalar = Callable[[Tensor], Tensor]

# Most examples times nodes in one forward pass by default; fewer of large inputs (see `rows_of`).
ROWS_PER_CHUNK = 512

# Bytes that a gradient keeps for each byte of an input; 55 were measured on a ResNet-18 at 224x224.
_KEPT = 60


_Rule = Callable[[int], tuple[np.ndarray, np.ndarray]]


def _riemann(place: float) -> _Rule:
    """One node in each of n equal steps: at its start (0), in its middle (0.5) or at its end (1)."""
    return lambda nodes: ((np.arange(nodes) + place) / nodes, np.full(nodes, 1.0 / nodes))


def _trapezoid(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    if nodes < 2:
        raise UsageError(f"the trapezoid rule got nodes={nodes}; it needs at least 2 (both ends of the path)")
    weights = np.full(nodes, 1.0 / (nodes - 1))
    # Both ends lie on one interval each, all others on two.
    weights[[0, -1]] /= 2
    return np.linspace(0.0, 1.0, nodes), weights


def _gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    # NumPy has the rule for [-1, 1], which is twice as long as [0, 1].
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / 2


_RULES: dict[str, _Rule] = {
    "right": _riemann(1),
    "left": _riemann(0),
    "midpoint": _riemann(0.5),
    "trapezoid": _trapezoid,
    "gauss-legendre": _gauss_legendre,
}


@dataclass(frozen=True)
class Quadrature:
    """Where along the path from start (0) to end (1) gradients are taken, and with which weights.

    rule: "right" (the RAR authors' Riemann sum), "left", "midpoint", "trapezoid" or "gauss-legendre".
    nodes: number of gradients, at least 1 (2 for "trapezoid"). The weights of every rule sum to one, so a
    linear function is integrated exactly by all of them.
    """

    rule: str = "gauss-legendre"
    nodes: Size = 32

    def __post_init__(self) -> None:
        if self.rule not in _RULES:
            raise unknown_name_error("quadrature rule", self.rule, _RULES)
        object.__setattr__(self, "nodes", check_value("nodes", self.nodes, Size))
        _RULES[self.rule](self.nodes)

    def points(
        self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Positions t in [0, 1] and their weights, two tensors of shape (nodes,)."""
        both = _RULES[self.rule](self.nodes)
        positions, weights = (torch.as_tensor(values, dtype=dtype, device=device) for values in both)
        return positions, weights


def path_attribution(
    scalar: Scalar,
    start: Tensor,
    end: Tensor,
    quadrature: Quadrature,
    *,
    layer: nn.Module | None = None,
    create_graph: bool = False,
    rows: int = ROWS_PER_CHUNK,
) -> Tensor:
    """Integrated Gradients of `scalar` along the straight path from `start` to `end`; sums to the change.

    scalar: the function explained; it is called with many nodes at once, (M * N, ...), node by node.
    start, end: ends of the path, (N, ...) floating point, of one shape.
    quadrature: nodes and weights along the path.
    layer: attribute to the output of this module instead of the inputs: the integral of d scalar / d h_i
        times d h_i / d t (what Captum calls layer conductance). The map then has the layer's shape.
    create_graph: keep the graph so that the result can be differentiated in start, end and weights. All
        nodes' graphs are then alive at once; without it memory is that of `rows` examples.
    rows: bound on the examples times nodes of one forward pass; all examples of one node are taken together.

    Returns (N, ...) of the inputs' (or the layer's) shape and dtype. Source: Sundararajan, Taly, Yan (2017),
    section 3; Chen et al. (2019), section 2 (any start, hidden layers).
    """
    if start.shape != end.shape:
        raise UsageError(
            f"start has shape {tuple(start.shape)} and end {tuple(end.shape)}; a path needs two points "
            "of one shape (expand a baseline to the inputs' shape first)"
        )
    if not (start.is_floating_point() and end.is_floating_point()):
        raise UsageError(f"start is {start.dtype} and end {end.dtype}; a path needs floating-point tensors")
    positions, weights = quadrature.points(end.dtype, end.device)
    difference = end - start
    examples = end.shape[0]
    if examples == 0 and layer is None:
        return torch.zeros_like(end)
    # Several nodes in one batch: as many as `rows` holds.
    at_once = max(1, rows // max(examples, 1))
    # The path is straight: d x / d t is the same at every node and comes out of the sum, except at a layer.
    total: Tensor | None = None
    for first in range(0, quadrature.nodes, at_once):
        t, w = (values[first : first + at_once] for values in (positions, weights))
        if layer is None:
            points = points_on_path(start, difference, t)
            gradient = weighted_sum(w, input_gradient(scalar, points, create_graph=create_graph))
        else:
            gradient = _conductance(scalar, start, difference, t, w, layer, create_graph)
        total = gradient if total is None else total + gradient
    assert total is not None
    return total if layer is not None else difference * total


def rows_of(inputs: Tensor, rows: int | None) -> int:
    """The bound that was asked for, or the default one for inputs (N, ...) of this size."""
    return rows_at_once(inputs, ROWS_PER_CHUNK, _KEPT) if rows is None else rows


def points_on_path(start: Tensor, difference: Tensor, positions: Tensor) -> Tensor:
    """Points start + t * difference for every t (M,), node by node: (M * N, ...) from (N, ...)."""
    # Node by node, so that the targets of N examples repeat in blocks.
    t = positions.reshape(-1, *[1] * difference.ndim)
    return (start + t * difference).flatten(0, 1)


def weighted_sum(weights: Tensor, per_node: Tensor) -> Tensor:
    """Sum over nodes of weights (M,) times values (M * N, ...), node by node; (N, ...)."""
    total: Tensor = torch.tensordot(weights, per_node.unflatten(0, (weights.shape[0], -1)), dims=1)
    return total


def input_gradient(scalar: Scalar, inputs: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient of scalar_i in inputs_i, of the inputs' shape (N, ...) and dtype.

    With create_graph the result can be differentiated in the weights, and in the inputs if those require it;
    without, it is cut from the inputs' graph. No gradient of the weights is computed. Raises UsageError for a
    scalar that is not one differentiable number per example.
    """
    with torch.enable_grad():
        # A leaf of its own, unless derivatives go on into the inputs that were given.
        points = inputs if create_graph and inputs.requires_grad else inputs.detach().requires_grad_()
        with QuickSecondOrder() if create_graph else nullcontext():
            values = scalar(points)
        check_scalar(values, points)
        # Examples do not depend on each other: the gradient of the sum holds the gradient of each.
        with inputs_only():
            (gradients,) = torch.autograd.grad(values.sum(), points, create_graph=create_graph)
    return gradients


def _conductance(
    scalar: Scalar,
    start: Tensor,
    difference: Tensor,
    positions: Tensor,
    weights: Tensor,
    layer: nn.Module,
    create_graph: bool,
) -> Tensor:
    """Weighted sum over nodes of d scalar / d h times d h / d t for the output h of `layer`."""
    with torch.enable_grad(), forward_ad.dual_level():
        points = points_on_path(start, difference, positions)
        if not points.requires_grad or not create_graph:
            points = points.detach().requires_grad_(True)
        # Forward mode gives d h / d t along the path in the same pass: the tangent is d point / d t.
        velocity = difference.repeat(positions.shape[0], *[1] * (difference.ndim - 1))
        dual = forward_ad.make_dual(points, velocity if create_graph else velocity.detach())
        hidden, values, changed = _with_output_of(layer, scalar, dual)
        if changed:
            # What follows writes into the layer's output, as `out += identity` does: let it have a copy.
            plain = values
            hidden, values, changed = _with_output_of(layer, scalar, dual, copied=True)
            if changed or not torch.allclose(plain, values, equal_nan=True):
                raise UsageError(
                    f"the output of {type(layer).__name__} is changed in place through another name of it, "
                    "so it has no gradient of its own; write that out of place, or take another layer"
                )
        check_scalar(values, points)
        (gradients,) = torch.autograd.grad(values.sum(), hidden, create_graph=create_graph)
        # No tangent means no way from the inputs to the layer.
        speed = forward_ad.unpack_dual(hidden).tangent
        if speed is None:
            raise UsageError(f"the output of {type(layer).__name__} does not depend on the inputs")
        product = gradients * speed
    result = weighted_sum(weights, product)
    return result if create_graph else result.detach()


def _with_output_of(
    layer: nn.Module, scalar: Scalar, inputs: Tensor, *, copied: bool = False
) -> tuple[Tensor, Tensor, bool]:
    """The layer's output, the scalar (N,), and whether the former was changed in place after it was made.

    copied: what follows the layer gets a copy of its output.
    """
    captured: list[Tensor] = []
    # PyTorch counts the changes in place of a tensor.
    versions: list[int] = []

    def capture(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        captured.append(output)
        if not isinstance(output, Tensor):
            return None
        versions.append(output._version)
        return output.clone() if copied else None

    handle = layer.register_forward_hook(capture)
    try:
        values = forward_ad.unpack_dual(scalar(inputs)).primal
    finally:
        handle.remove()
    if len(captured) != 1 or not versions:
        raise UsageError(
            f"the layer {type(layer).__name__} ran {len(captured)} times in one forward pass or "
            "did not return a tensor; hidden-layer attribution needs a module that runs once and "
            "returns one"
        )
    return captured[0], values, captured[0]._version != versions[0]


def check_scalar(values: Tensor, points: Tensor) -> None:
    """Raise a UsageError unless there is one number per input, with a graph to differentiate."""
    if values.shape != points.shape[:1]:
        given, count = tuple(values.shape), len(points)
        expected = f"({count},), one number per example"
        raise UsageError(f"the scalar returned shape {given} for {count} inputs; expected {expected}")
    if not values.requires_grad:
        raise UsageError(
            "the scalar does not depend on its inputs through differentiable operations; check for "
            ".detach(), torch.no_grad() or integer operations in the model"
        )
