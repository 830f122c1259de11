"""How much of a map lies in a known region: its top coordinates, its mass, its peak, its order.

Maps are float32 or float64 (N, ...), with channels as coordinates of their own. A region is a boolean mask of
each example, of the maps' shape, or (N, H, W) for maps (N, C, H, W), where it holds for all channels. It may
be what carries the label, or what does not (`~mask`): the share of the top coordinates in the null block is
`topk_share(maps, ~signal, level)`. All but `cosine_within` measure |attribution|. Results are float64 (N,) on
the maps' device, NaN where a map is not finite.

Feature leakage (an explanation marks places that tell the class in other images, and not in this one) is
measured on the maps of a pair of images that differ in one thing: a digit stands in the region in one of
them, `moved`, and elsewhere in the other, `attribution`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from veridical.metrics.maps import as_maps, blank_undefined, flat_pair
from veridical.metrics.rank import Ties, centred_ranks, descending
from veridical.runtime.errors import argument_error
from veridical.runtime.lengths import length, power_of_two

# Shares of the coordinates at which Shah et al. (2021) look.
LEVELS = (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)


def topk_share(
    attribution: Tensor,
    mask: Tensor,
    level: float,
    *,
    ties: Ties = "random",
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
) -> Tensor:
    """Share of the top coordinates by |attribution| that lie in the region, in [0, 1], float64 (N,).

    level: the share of the coordinates that are taken; the rest is as for `topk_curve`.
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

    levels: shares of the coordinates, in (0, 1]; level * D is rounded to the nearest, halves up, at least 1.
    ties, seed, indices: the order of equal values, see `descending`: random by the example's number, so that
    zeros say nothing. A map that says nothing scores the region's share of the coordinates, up to the chance
    of its ties.

    Source: Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021,
    section 5 (there of the null block: 0.5 does not tell the blocks apart, 0 is perfect).
    """
    values, region = _flat(attribution, mask)
    counts = [_count(level, values.shape[1]) for level in levels]
    order = descending(values, ties=ties, seed=seed, indices=indices)
    # How many of the first k lie in the region, for every k at once.
    hits = region.gather(1, order).cumsum(dim=1).double()
    taken = torch.tensor(counts, device=values.device)
    return blank_undefined(hits[:, taken - 1] / taken, values)


def mass_share(attribution: Tensor, mask: Tensor) -> Tensor:
    """Share of the sum of |attribution| that lies in the region, in [0, 1]; NaN where a map is all zero."""
    values, region = _flat(attribution, mask)
    mass = values.double()
    # 0 / 0 of an empty map is the NaN that is promised.
    return blank_undefined((mass * region).sum(dim=1) / mass.sum(dim=1), values)


def pointing_game(attribution: Tensor, mask: Tensor) -> Tensor:
    """Whether the greatest |attribution| lies in the region, 1 or 0.

    Of several equal maxima the share that lies in it, which is the chance to hit it if one is drawn.
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
    exactly. 0.5 says nothing, 1 puts the whole region first. NaN where the region is empty or everything. The
    sorting is done on the CPU.

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
    """Share of the coordinates in the region (N, ...), in [0, 1]: what a map without knowledge scores."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim < 2:
        raise argument_error("mask", mask, "a bool tensor (N, ...)")
    return mask.flatten(1).double().mean(dim=1)


def zero_share(attribution: Tensor) -> Tensor:
    """Share of the values of each map that are exactly zero, in [0, 1]: these have no order of their own."""
    values = as_maps("attribution", attribution).flatten(1)
    return blank_undefined((values == 0).double().mean(dim=1), values)


def _flat_region(maps: Tensor, mask: Tensor, name: str = "mask") -> Tensor:
    """The region of every coordinate of maps (N, ...), bool (N, D); UsageError for masks that do not fit."""
    shape = tuple(maps.shape)
    # One shape, or two for maps with channels.
    shapes = dict.fromkeys([shape, (shape[0], *shape[2:]) if maps.ndim == 4 else shape])
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) not in shapes:
        raise argument_error(name, mask, f"a bool tensor of shape {' or '.join(map(str, shapes))}")
    if mask.device != maps.device:
        raise argument_error(name, mask.device, f"a mask on the maps' device {maps.device}")
    return (mask if tuple(mask.shape) == shape else mask[:, None].expand(shape)).flatten(1)


def _flat(attribution: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """|attribution| and the region of every coordinate, both (N, D)."""
    maps = as_maps("attribution", attribution)
    return maps.abs().flatten(1), _flat_region(maps, mask)


def _count(level: float, coordinates: int) -> int:
    if not isinstance(level, Real) or not 0 < level <= 1:
        raise argument_error("level", level, "a share of the coordinates, in (0, 1]")
    # The rule by which images are unmasked.
    return max(1, math.floor(level * coordinates + 0.5))


def left_behind(attribution: Tensor, moved: Tensor, region: Tensor) -> Tensor:
    """How much a region is marked without its digit, beside how much it is with it; lower is less leakage.

    sum |attribution| / (sum |attribution| + sum |moved|), both over the region: 0 if the region is marked
    only where the digit stands in it, 0.5 if it is marked as strongly without it, more if more strongly.

    attribution: maps of the images whose digit is elsewhere. moved: those of the same images with the digit
    in the region, of the same class's output. NaN where neither map marks the region.
    """
    without, given = flat_pair(attribution, moved)
    inside = _flat_region(attribution, region, "region")
    sums = [(values.double().abs() * inside).sum(dim=1) for values in (without, given)]
    return blank_undefined(sums[0] / (sums[0] + sums[1]), without, given)


def cosine_within(a: Tensor, b: Tensor, region: Tensor) -> Tensor:
    """Cosine of the angle between two signed maps within a region, in [-1, 1]; higher is more alike.

    NaN where a map is zero in the region.
    """
    first, second = flat_pair(a, b)
    inside = _flat_region(a, region, "region")
    x, y = first.double() * inside, second.double() * inside
    x, y = x / power_of_two(x), y / power_of_two(y)
    product = (x * y).sum(dim=1)
    cosine = product / (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    return blank_undefined(cosine.clamp(-1.0, 1.0), first, second)


def discriminative_pixels(images: Tensor, labels: Tensor, share: float = 0.25) -> Tensor:
    """Mark the pixels that tell the classes apart most, by the variance of their class means.

    images (N, H, W), floating, labels int64 (N,). The round(share * H * W) pixels of the greatest variance of
    the mean over each class, classes counting alike; equal ones in the order of their place. bool (H, W).
    """
    if images.ndim != 3 or not images.is_floating_point() or not len(images):
        raise argument_error("images", images, "floating-point images (N, H, W), at least one")
    if labels.shape != images.shape[:1]:
        raise argument_error("labels", labels, f"{len(images)} integers, one for each image")
    if not 0 < share <= 1:
        raise argument_error("share", share, "a share of the pixels, in (0, 1]")
    means = torch.stack([images[labels == label].double().mean(dim=0) for label in labels.unique()])
    variance = means.var(dim=0, correction=0).flatten()
    marked = torch.zeros(len(variance), dtype=torch.bool, device=images.device)
    marked[variance.argsort(descending=True, stable=True)[: max(1, round(share * len(variance)))]] = True
    return marked.reshape(images.shape[1:])


class RoleMagnitudes(NamedTuple):
    """Magnitudes per example, (N,) each, at least 0.

    signal: on the block that carries this example's label. other: mean over the other task-relevant blocks,
    noise: mean over those that never carry a label; NaN where there are none. evenness: least over greatest
    magnitude on the task-relevant blocks, from 0 to 1; NaN where all are 0.
    """

    signal: Tensor
    other: Tensor
    noise: Tensor
    evenness: Tensor


def block_magnitudes(attribution: Tensor, blocks: int) -> Tensor:
    """Euclidean length of the map on each of `blocks` equal stretches of an example, (N, blocks)."""
    flat = attribution.flatten(1)
    if blocks < 1 or flat.shape[1] % blocks:
        raise argument_error("blocks", blocks, f"a number of equal blocks in {flat.shape[1]} values")
    return length(flat.unflatten(1, (blocks, -1)))


def by_role(magnitudes: Tensor, block: Tensor, relevant: int) -> RoleMagnitudes:
    """Magnitudes (N, blocks) by what the blocks are to each example; higher is more marked.

    block: int64 (N,), the block that carries each label, below `relevant`. The first `relevant` blocks can
    carry a label. Source: Shah, Jain, Netrapalli (2021), section 5.
    """
    if not 1 <= relevant <= magnitudes.shape[1]:
        raise argument_error("relevant", relevant, f"a number of blocks from 1 to {magnitudes.shape[1]}")
    if block.shape != magnitudes.shape[:1] or bool(((block < 0) | (block >= relevant)).any()):
        raise argument_error("block", block, f"one number from 0 to {relevant - 1} per example")
    could = magnitudes[:, :relevant]
    signal = could.gather(1, block[:, None])[:, 0]
    own = torch.zeros_like(could, dtype=torch.bool).scatter_(1, block[:, None], True)
    # Left out rather than subtracted: a difference of large numbers would round what is near 0.
    other = could.masked_fill(own, 0.0).sum(1) / (relevant - 1) if relevant > 1 else signal * float("nan")
    return RoleMagnitudes(signal, other, magnitudes[:, relevant:].mean(1), could.amin(1) / could.amax(1))
