"""The theorem on input gradients of max-margin classifiers, checked number by number in float64."""

from __future__ import annotations

from typing import Any

import torch

from veridical.data.block_world import BlockWorld
from veridical.metrics.localisation import block_magnitudes
from veridical.models.mean_field import (
    MOST_ENUMERATED,
    MaxMargin,
    closed_margin,
    dual_bound,
    dual_value,
    enumerated_dual,
    max_margin,
)
from veridical.runtime.errors import argument_error

TIGHT = 1e-12
"""Relative gap between margin and bound up to which they count as equal in float64."""


def check_theorem(world: BlockWorld, *, bias: bool = True, draws: int = 1000) -> dict[str, Any]:
    """Construct the max-margin classifier of the world and check it, its dual and its gradients.

    Returns plain values: `margin` in closed form; `support_margin`, the least y f(x) found on the corners and
    `draws` random examples; `dual`, the proven bound; `enumerated_dual`, the maximum by enumeration (None for
    too many blocks); `gap`, the bound's relative distance; `unit_error`, how far units are from length 1;
    `dual_at_units`, the dual's value at the classifier's own units over the margin, 1 where they are optimal;
    `relevant_least`, `relevant_greatest` and `noise_greatest`, magnitudes of the gradient over all examples
    and both sides of a kink; `unevenness`, how much task-relevant blocks of one example differ; `kinked`, the
    share of examples on a kink. Source: Shah, Jain, Netrapalli (2021), theorem 1.
    """
    found = max_margin(world.blocks, world.signal, world.noise, bias=bias)
    corners, drawn = world.corners(), world.examples(draws, "theorem")
    inputs = torch.cat([corners.inputs, drawn.inputs])
    sign = torch.cat([corners.sign, drawn.sign])
    units = torch.cat([found.outer[:, None], found.offset[:, None], found.inner], 1)
    bound = dual_bound(found)
    enumerated = None
    if len(corners) <= MOST_ENUMERATED:
        enumerated = enumerated_dual(corners.inputs, corners.sign, bias=bias)
    return {
        "noise": world.noise,
        "bias": bias,
        "margin": found.margin,
        "support_margin": float((sign * found.score(inputs)).min()),
        "dual": bound,
        "enumerated_dual": enumerated,
        "gap": bound / found.margin - 1,
        "unit_error": float((units.norm(dim=1) - 1).abs().max()),
        "dual_at_units": float(dual_value(units, corners.inputs, corners.sign).min()) / found.margin,
        **_gradients(found, inputs, world),
    }


def _gradients(found: MaxMargin, inputs: torch.Tensor, world: BlockWorld) -> dict[str, float]:
    """What the theorem says of the gradient, over both one-sided choices at kinks."""
    sides = [found.gradient(inputs, at_kink=side) for side in (0.0, 1.0)]
    magnitudes = torch.stack([block_magnitudes(side, world.blocks) for side in sides])
    relevant, noise = magnitudes[..., : world.relevant], magnitudes[..., world.relevant :]
    greatest = relevant.amax(-1)
    return {
        "relevant_least": float(relevant.min()),
        "relevant_greatest": float(relevant.max()),
        "noise_greatest": float(noise.max()),
        "unevenness": float(((greatest - relevant.amin(-1)) / greatest).max()),
        "kinked": float((sides[0] != sides[1]).any(1).double().mean()),
    }


def certified_radius(world: BlockWorld, *, tolerance: float = 1e-4) -> float | None:
    """Greatest l_inf radius up to which the two atoms stay the classifier of greatest robust margin.

    With blocks of one number, an adversary of radius r is noise of size eta + r in the worst case, so the
    corners of that world bound the robust margin. The radius is where their dual leaves the closed form, by
    bisection to `tolerance`; above it nothing is said. None for too many blocks to enumerate, and for noise
    at which the closed form is not the greatest margin even without an adversary. Raises UsageError for
    blocks of several numbers, where the two are not the same.
    """
    if world.block_size != 1:
        raise argument_error("block_size", world.block_size, "1", "Larger blocks have another worst case.")
    if world.blocks > MOST_ENUMERATED:
        return None
    low, high = 0.0, 1 / world.relevant - world.noise
    if high <= 0 or not _greatest(world, low):
        return None
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (middle, high) if _greatest(world, middle) else (low, middle)
    return low


def _greatest(world: BlockWorld, radius: float) -> bool:
    """Whether the closed form is the greatest margin of the world with that much more noise."""
    noisy = BlockWorld(world.blocks, 1, world.noise + radius, world.direction)
    corners = noisy.corners()
    return enumerated_dual(corners.inputs, corners.sign) <= closed_margin(world.blocks, noisy.noise) * (
        1 + TIGHT
    )
