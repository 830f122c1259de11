"""The gradient of a scalar per example, and the check that it can be differentiated once more."""

import torch
from torch import Tensor
from torch.autograd.graph import Node

from veridical.attribution.path import Scalar, input_gradients
from veridical.runtime.errors import UsageError

# What autograd calls the nodes that stand in for a derivative nobody has written.
_DEAD_ENDS = ("torch::autograd::NotImplemented", "torch::autograd::Error")


def input_gradient(scalar: Scalar, inputs: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient of scalar_i in inputs_i, of the inputs' shape (N, ...) and dtype.

    With create_graph the result can be differentiated in the weights, and in the inputs if those require it;
    without, it is cut from the inputs' graph. Raises UsageError for a scalar that is not one differentiable
    number per example.
    """
    with torch.enable_grad():
        points = inputs if create_graph and inputs.requires_grad else inputs.detach().requires_grad_()
        return input_gradients(scalar, points, create_graph)


def check_second_order(attribution: Tensor) -> None:
    """Raise a UsageError if a map's graph ends in an operation that has no second derivative.

    Fused attention kernels and autograd functions marked once_differentiable are such operations. PyTorch
    itself complains only in the backward pass, far from the attribution that caused it.
    """
    names = _operations(attribution)
    if names.isdisjoint(_DEAD_ENDS):
        return
    fused = sorted(name.partition("Backward")[0] for name in names if "Attention" in name)
    raise UsageError(
        "the attribution cannot be differentiated: an operation of the model has no second derivative"
        + (f" ({', '.join(fused)})" if fused else "")
        + ". If it is fused attention, run this call under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), "
        "which has one; if it is an autograd function of yours, drop once_differentiable; or ask for "
        "create_graph=False."
    )


def _operations(tensor: Tensor) -> set[str]:
    """Names of all nodes of the graph that made the tensor."""
    pending, seen = [tensor.grad_fn], set[Node]()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending.extend(next_node for next_node, _ in node.next_functions)
    return {node.name() for node in seen}
