"""Lengths of vectors whose squares would vanish or overflow in their own dtype."""

import torch
from torch import Tensor

NARROW = (torch.bfloat16, torch.float16)


def widened(values: Tensor) -> Tensor:
    """16-bit numbers as float32, others as they are."""
    return values.float() if values.dtype in NARROW else values


def power_of_two(values: Tensor) -> Tensor:
    """The power of two next to the largest entry of each row, (..., 1) for (..., D); 1 for a row of zeros.

    What is divided by it keeps all its digits, so results of an ordinary scale stay as they are to the last
    bit. Without a graph.
    """
    largest = torch.linalg.vector_norm(values.detach(), ord=torch.inf, dim=-1, keepdim=True)
    # Half of what frexp counts by, since 2^128 is no float32.
    scale = (largest / (2 * torch.frexp(widened(largest)).mantissa)).to(values.dtype)
    return torch.where((largest > 0) & largest.isfinite(), scale, torch.ones_like(scale))


def length(values: Tensor, order: float = 2.0) -> Tensor:
    """The norm of each row, (...,) for (..., D), right at every scale of the row's numbers."""
    scale = power_of_two(values)
    norms: Tensor = torch.linalg.vector_norm(values / scale, ord=order, dim=-1)
    # Order 0 counts what is not 0, at any scale.
    return norms * scale[..., 0] if order else norms
