"""Noisy linear imputation: what is not shown becomes the weighted mean of its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

TOLERANCE = 1e-5
"""A plane is solved when its residual is this share of its right side; errors are then below a grey level."""

_SIDE, _CORNER = 1 / 6, 1 / 12


def impute(inputs: Tensor, kept: Tensor, fallback: Tensor) -> Tensor:
    """Replace what is not kept so that each value is the weighted mean of its up to eight neighbours.

    inputs (n, C, H, W) floating. kept: bool, (n, C, H, W) or (n, 1, H, W), True where the value stays.
    fallback (C,): the value of a plane of which nothing is kept. Neighbours at a side weigh 1/6, at a corner
    1/12; at the image's border the weights of those that exist are scaled to one. Every plane is a system of
    its own, so neither the batch nor the order of examples changes a result beyond rounding.
    Source: Rong et al., "A consistent and efficient evaluation strategy for attribution methods", ICML 2022,
    section 5; the noise of their method is added by the caller.
    """
    shape = inputs.shape
    work = inputs if inputs.dtype == torch.float64 else inputs.float()
    planes = work.reshape(-1, 1, *shape[2:])
    known = kept.expand(shape).reshape(planes.shape)
    values = torch.where(known, planes, 0)
    count = known.sum(dim=(1, 2, 3), keepdim=True)
    instead = fallback.to(work).expand(shape[:2]).reshape(-1, 1, 1, 1)
    start = torch.where(count > 0, values.sum(dim=(1, 2, 3), keepdim=True) / count.clamp(min=1), instead)
    filled = torch.where(count > 0, _solve(values, known, start), start)
    return torch.where(known, planes, filled).reshape(shape).to(inputs.dtype)


def _solve(values: Tensor, known: Tensor, start: Tensor) -> Tensor:
    """The unknown values of planes (P, 1, H, W), by conjugate gradients from the constant `start`.

    The matrix is the Laplacian of the grid's graph without the known nodes: symmetric, and positive definite
    where a plane has a known value. A plane stops moving when it is solved, whatever the others need.
    """
    unknown = ~known
    kernel = values.new_tensor(
        [[_CORNER, _SIDE, _CORNER], [_SIDE, 0.0, _SIDE], [_CORNER, _SIDE, _CORNER]]
    ).reshape(1, 1, 3, 3)

    def neighbours(planes: Tensor) -> Tensor:
        return conv2d(planes, kernel, padding=1)

    degree = neighbours(torch.ones_like(values[:1])) if len(values) else values
    right = neighbours(values) * unknown
    found = start * unknown
    residual = right - (degree * found - neighbours(found)) * unknown
    direction = residual.clone()
    size = _dot(residual, residual)
    target = TOLERANCE**2 * torch.maximum(size, _dot(right, right))
    solvable = known.flatten(1).any(1)[:, None, None, None]
    # Conjugate gradients need as many steps as there are unknowns at most; in practice a few image widths.
    for _ in range(values[0].numel() if len(values) else 0):
        active = (size > target) & solvable
        if not bool(active.any()):
            break
        image = (degree * direction - neighbours(direction)) * unknown
        length = torch.where(active, size / _dot(direction, image), 0)
        found = found + length * direction
        residual = residual - length * image
        before, size = size, torch.where(active, _dot(residual, residual), size)
        direction = torch.where(active, residual + size / before * direction, direction)
    return found


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(1, 2, 3), keepdim=True)
