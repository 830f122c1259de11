"""The derivative of a map: convolutions whose second derivative is quick, and the check that there is one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from veridical.runtime.errors import UsageError

_Pair = tuple[int, int]

# The second calls the first where no mode sees it; the third is what an exported program calls.
_ATTENTION = (
    F.scaled_dot_product_attention,
    F.multi_head_attention_forward,
    torch.ops.aten.scaled_dot_product_attention.default,
)
_CONVOLUTIONS = (torch.conv2d, torch.ops.aten.conv2d.default)
# What autograd calls the nodes that stand in for a derivative nobody has written.
_DEAD_ENDS = ("torch::autograd::NotImplemented", "torch::autograd::Error")


class QuickSecondOrder(TorchFunctionMode):
    """While active, 2-d convolutions of any network are differentiated by convolutions.

    PyTorch's own double backward of a convolution transposes batch and channels, copies the largest maps and
    computes weight gradients that nobody asked for. Writing the input gradient as a transposed convolution,
    which has an ordinary backward pass of its own, gives the same derivative without them.

    Attention runs by PyTorch's math kernel, as its fused ones have no second derivative; a warning says so.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS:
            return _conv2d(*args, **kwargs)
        if func in _ATTENTION:
            warnings.warn(
                "the model's attention is computed by PyTorch's math kernel where a map is differentiated: "
                "fused attention has no second derivative. Slower, and the same numbers but for rounding.",
                stacklevel=2,
            )
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def inputs_only() -> Iterator[None]:
    """In this block backward passes leave out weight gradients of the convolutions above.

    A Python autograd function is not told which of its gradients were asked for.
    """
    before, _Convolution.inputs_only = _Convolution.inputs_only, True
    try:
        yield
    finally:
        _Convolution.inputs_only = before


def check_second_order(attribution: Tensor) -> None:
    """Raise a UsageError if a map's graph ends in an operation that has no second derivative.

    Fused attention kernels and autograd functions marked once_differentiable are such operations. PyTorch
    itself complains only in the backward pass, far from the attribution that caused it.
    """
    # Without recursion: graphs of many nodes are deeper than Python's stack.
    pending, seen = [attribution.grad_fn], set[Node]()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending.extend(next_node for next_node, _ in node.next_functions)
    names = {node.name() for node in seen}
    if names.isdisjoint(_DEAD_ENDS):
        return
    # The name of the node is all that autograd tells about what the model called.
    fused = sorted(name.partition("Backward")[0] for name in names if "Attention" in name)
    raise UsageError(
        "the attribution cannot be differentiated: an operation of the model has no second derivative"
        + (f" ({', '.join(fused)})" if fused else "")
        + ". If it is fused attention, run this call under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), "
        "which has one; if it is an autograd function of yours, drop once_differentiable; or ask for "
        "create_graph=False."
    )


def _conv2d(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | _Pair = 1,
    padding: int | _Pair | str = 0,
    dilation: int | _Pair = 1,
    groups: int = 1,
) -> Tensor:
    # What is rare here is left to PyTorch, and so is all where nothing will be differentiated.
    if isinstance(padding, str) or inputs.ndim != 4 or not torch.is_grad_enabled():
        return torch.conv2d(inputs, weight, bias, stride, padding, dilation, groups)
    result: Tensor = _Convolution.apply(
        inputs, weight, bias, _pair(stride), _pair(padding), _pair(dilation), groups
    )
    return result


def _pair(value: int | _Pair) -> _Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _Convolution(torch.autograd.Function):
    # On the class, not in a context variable: on a GPU backward passes run in threads of their own.
    inputs_only = False

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: _Pair,
        padding: _Pair,
        dilation: _Pair,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.options = stride, padding, dilation, groups
        ctx.bias_size = None if bias is None else bias.shape[0]
        return torch.conv2d(inputs, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        input_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            # The rows and columns at the end that the stride left out: a transposed convolution alone would
            # give an image that is smaller by these.
            extra = [
                size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
                for size, out, s, p, d, k in zip(
                    inputs.shape[2:], grad.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
                )
            ]
            input_gradient = F.conv_transpose2d(
                grad, weight, None, stride, padding, tuple(extra), groups, dilation
            )
        # PyTorch's own kernels for weights and bias; the gradient of the inputs is there already.
        if not _Convolution.inputs_only and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            _, weight_gradient, bias_gradient = torch.ops.aten.convolution_backward(
                grad,
                inputs,
                weight,
                None if ctx.bias_size is None else [ctx.bias_size],
                stride,
                padding,
                dilation,
                False,
                (0, 0),
                groups,
                (False, ctx.needs_input_grad[1], ctx.needs_input_grad[2]),
            )
        return input_gradient, weight_gradient, bias_gradient, None, None, None, None
