"""How much of an explanation lies in a known region: its top coordinates, its mass, its peak, its order.

A region is a boolean mask of each example, of the map's shape (N, ...), or (N, H, W) for maps (N, C, H, W),
where it holds for all channels. It may be what carries the label, or what does not (`~mask`): the share of
the top coordinates in the null block is `topk_share(maps, ~signal, level)`. All measure |attribution|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from veridical.metrics.descending import Ties, descending
from veridical.metrics.maps import as_maps, blank_undefined
from veridical.metrics.rank import centred_ranks
from veridical.runtime.errors import argument_error

LEVELS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
"""Shares of the coordinates at which Shah et al. (2021) look."""


def topk_share(
    attribution: Tensor,
    mask: Tensor,
    level: float,
    *,
    ties: Ties = "random",
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Share of the top coordinates by |attribution| that lie in the region, in [0, 1].

    `level` is the share of the coordinates that are taken; the rest is as for `topk_curve`. float64 (N,).
    """
    return topk_curve(attribution, mask, [level], ties=ties, seed=seed, indices=indices)[:, 0]


def topk_curve(
    attribution: Tensor,
    mask: Tensor,
    levels: Sequence[float] = LEVELS,
    *,
    ties: Ties = "random",
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """`topk_share` at several levels, sorted once: float64 (N, levels).

    Parameters
    ----------
    attribution
        Maps (N, ...), float32 or float64. Channels count as coordinates of their own.
    mask
        The region, bool: of the maps' shape, or (N, H, W) for maps (N, C, H, W).
    levels
        Shares of the coordinates, in (0, 1]; level * D is rounded to the nearest, halves up, at least 1.
    ties, seed, indices
        Order of equal values, see `descending`: random by the example's number, so that zeros say nothing.

    Returns
    -------
    Tensor
        float64 (N, levels) on the maps' device; NaN where a map is not finite. A map that says nothing scores
        the region's share of the coordinates, up to the chance of its ties.

    Source: Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021,
    section 5 (there of the null block: 0.5 does not tell the blocks apart, 0 is perfect).
    """
    values, region = _flat(attribution, mask)
    counts = [_count(level, values.shape[1]) for level in levels]
    order = descending(values, ties=ties, seed=seed, indices=indices)
    hits = region.gather(1, order).cumsum(dim=1).double()
    taken = torch.tensor(counts, device=values.device)
    return blank_undefined(hits[:, taken - 1] / taken, values)


def mass_share(attribution: Tensor, mask: Tensor) -> Tensor:
    """Share of the sum of |attribution| that lies in the region, in [0, 1].

    Arguments as for `topk_curve`. float64 (N,); NaN where a map is all zero or not finite.
    """
    values, region = _flat(attribution, mask)
    mass = values.double()
    # 0 / 0 of an empty map is the NaN that is promised.
    return blank_undefined((mass * region).sum(dim=1) / mass.sum(dim=1), values)


def pointing_game(attribution: Tensor, mask: Tensor) -> Tensor:
    """Whether the greatest |attribution| lies in the region, 1 or 0.

    Of several equal maxima the share that lies in it, which is the chance to hit it if one is drawn.
    Arguments as for `topk_curve`. float64 (N,); NaN where a map is not finite.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, section 4.1 (there
    with a tolerance of 15 pixels; here with none).
    """
    values, region = _flat(attribution, mask)
    peaks = values == values.amax(dim=1, keepdim=True)
    share = (peaks & region).sum(dim=1).double() / peaks.sum(dim=1)
    return blank_undefined(share, values)


def auc(attribution: Tensor, mask: Tensor) -> Tensor:
    """Area under the ROC curve of |attribution| as a score for lying in the region, in [0, 1].

    The chance that a coordinate of the region has a greater value than one outside; equal values count half,
    exactly. 0.5 says nothing, 1 puts the whole region first. Arguments as for `topk_curve`; the sorting is
    done on the CPU. float64 (N,); NaN where a map is not finite, and where the region is empty or everything.

    Source: Mann & Whitney, Annals of Mathematical Statistics 18 (1947); Fawcett, "An introduction to ROC
    analysis", Pattern Recognition Letters 27 (2006).
    """
    values, region = _flat(attribution, mask)
    result = torch.full((len(values),), torch.nan, dtype=torch.float64)
    inside = region.sum(dim=1).cpu()
    defined = (inside > 0) & (inside < values.shape[1]) & values.isfinite().all(dim=1).cpu()
    rows = defined.nonzero()[:, 0]
    if len(rows):
        kept = rows.to(values.device)
        ranks = torch.from_numpy(centred_ranks(values[kept].double().cpu().numpy()))
        inner = (ranks * region[kept].cpu()).sum(dim=1)
        pairs = inside[rows] * (values.shape[1] - inside[rows])
        # Ranks are doubled and have the mean 0: their sum over the region is 2 U - pairs (Mann-Whitney's U).
        result[rows] = 0.5 + inner / (2 * pairs)
    return result.to(values.device)


def area_share(mask: Tensor) -> Tensor:
    """Share of the coordinates that lie in the region, in [0, 1]: what a map without knowledge scores.

    mask bool (N, ...). float64 (N,). It stands beside every mass share.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim < 2:
        raise argument_error("mask", mask, "a bool tensor (N, ...)")
    return mask.flatten(1).double().mean(dim=1)


def zero_share(attribution: Tensor) -> Tensor:
    """Share of the values of each map that are exactly zero, in [0, 1]: these have no order of their own.

    Maps (N, ...), float32 or float64. float64 (N,); NaN where a map is not finite.
    """
    values = as_maps("attribution", attribution).flatten(1)
    return blank_undefined((values == 0).double().mean(dim=1), values)


def flat_region(maps: Tensor, mask: Tensor, name: str = "mask") -> Tensor:
    """The region of every coordinate of maps (N, ...), bool (N, D); UsageError for masks that do not fit."""
    shape = tuple(maps.shape)
    per_pixel = (shape[0], *shape[2:]) if maps.ndim == 4 else shape
    boolean = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not boolean or tuple(mask.shape) not in (shape, per_pixel):
        forms = f"{shape}" if per_pixel == shape else f"{shape} or {per_pixel}"
        raise argument_error(name, mask, f"a bool tensor of shape {forms}")
    if mask.device != maps.device:
        raise argument_error(name, mask.device, f"a mask on the maps' device {maps.device}")
    return (mask if tuple(mask.shape) == shape else mask[:, None].expand(shape)).flatten(1)


def _flat(attribution: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """|attribution| and the region of every coordinate, both (N, D)."""
    maps = as_maps("attribution", attribution)
    return maps.abs().flatten(1), flat_region(maps, mask)


def _count(level: float, coordinates: int) -> int:
    """How many coordinates a level takes, by the rule by which images are unmasked."""
    if not isinstance(level, Real) or not 0 < level <= 1:
        raise argument_error("level", level, "a share of the coordinates, in (0, 1]")
    return max(1, math.floor(level * coordinates + 0.5))
