"""The one core of Integrated Gradients: a path integral of gradients between two points."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from veridical.attribution.quadrature import Quadrature
from veridical.attribution.second_order import QuickSecondOrder, inputs_only
from veridical.runtime.devices import rows_at_once
from veridical.runtime.errors import UsageError

Scalar = Callable[[Tensor], Tensor]
"""inputs (N, ...) -> one number per example (N,)."""

ROWS_PER_CHUNK = 512
"""Most examples times nodes in one forward pass by default; fewer of large inputs (see `rows_of`)."""

_KEPT = 60
"""Bytes that a gradient keeps for each byte of an input; 55 were measured on a ResNet-18 at 224x224."""


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

    Parameters
    ----------
    scalar
        The function explained; `many_nodes = True` on it says that it takes (M * N, ...) inputs at once.
    start, end
        Ends of the path, (N, ...) floating point, of one shape.
    quadrature
        Nodes and weights along the path.
    layer
        Attribute to the output of this module instead of the inputs: the integral of d scalar / d h_i times
        d h_i / d t (what Captum calls layer conductance). The map then has the layer's shape.
    create_graph
        Keep the graph so that the result can be differentiated in start, end and weights. All nodes' graphs
        are then alive at once; without it memory is that of `rows` examples.
    rows
        Bound on the examples times nodes of one forward pass; all examples of one node are taken together.

    Returns
    -------
    Tensor
        (N, ...) of the inputs' (or the layer's) shape and dtype.

    Source: Sundararajan, Taly, Yan (2017), section 3; Chen et al. (2019), section 2 (any start, hidden
    layers).
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
    # Several nodes in one batch where the scalar allows it: as many as `rows` holds.
    at_once = max(1, rows // max(examples, 1)) if getattr(scalar, "many_nodes", False) else 1
    # The path is straight: d x / d t is the same at every node and comes out of the sum, except at a layer.
    total: Tensor | None = None
    for first in range(0, quadrature.nodes, at_once):
        part = slice(first, first + at_once)
        if layer is None:
            points = points_on_path(start, difference, positions[part])
            gradient = weighted_sum(weights[part], input_gradient(scalar, points, create_graph=create_graph))
        else:
            gradient = _conductance(
                scalar, start, difference, positions[part], weights[part], layer, create_graph
            )
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
        raise UsageError(
            f"the scalar returned shape {tuple(values.shape)} for {points.shape[0]} inputs; expected "
            f"({points.shape[0]},), one number per example"
        )
    if not values.requires_grad:
        raise UsageError(
            "the scalar does not depend on its inputs through differentiable operations; check for "
            ".detach(), torch.no_grad() or integer operations in the model"
        )
