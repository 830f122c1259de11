"""How alike two maps of one image are, by three measures, and what unrelated maps reach by the same ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from veridical.attribution.maps import saliency
from veridical.metrics.rank import spearman
from veridical.metrics.ssim import GAUSSIAN, ssim
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_normal, stream

MEASURES: Mapping[str, str] = {
    "spearman_signed": "rank correlation of the values",
    "spearman_absolute": "rank correlation of the sizes",
    "ssim": "structural similarity of the pictures",
}
"""The measures and what they are, in words; 1 for two equal maps."""

TOP_QUANTILE = 0.995
"""Where a picture's scale ends: one extreme pixel must not turn the rest black. Reports show maps so."""


def similarities(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Similarity of each pair of maps (N, C, H, W) by every measure, float64 (N,); higher is more alike.

    Spearman's rank correlations are of all C * H * W values, as they are and by their size; SSIM is that of
    `pictures`. NaN where it is undefined: a rank correlation with a constant map, anything with a NaN.
    Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 3.
    """
    if a.ndim != 4 or a.shape != b.shape:
        raise argument_error("b", b, f"maps (N, C, H, W) like a, which has {tuple(a.shape)}")
    return {
        "spearman_signed": spearman(a, b),
        "spearman_absolute": spearman(a.abs(), b.abs()),
        "ssim": ssim(pictures(a), pictures(b), data_range=1.0, window=ssim_window(a.shape[2], a.shape[3])),
    }


def ssim_window(height: int, width: int) -> int:
    """Width of the SSIM window for pictures of a size: 11, or the widest odd number that fits."""
    side = min(height, width)
    return min(GAUSSIAN, side - 1 + side % 2)


def pictures(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) as people look at them: sizes summed over channels, from 0 to 1, float64 (N, H, W).

    1 stands for the quantile TOP_QUANTILE of each map, and for all above it; a map of zeros stays zero.
    """
    whole = saliency(maps.double())
    return (whole / _tops(whole.flatten(1))[:, None, None]).clamp(max=1.0) if len(whole) else whole


def _tops(values: Tensor) -> Tensor:
    """The quantile of each row (N, D), or its maximum where that is 0, or 1; NaN where a row has one."""
    # As torch.quantile, which sorts whole rows to interpolate between two values near their ends.
    place = TOP_QUANTILE * (values.shape[1] - 1)
    last = values.topk(values.shape[1] - int(place), dim=1).values
    most, top = last[:, 0], last[:, -1]
    if place > int(place):
        top = torch.lerp(top, last[:, -2], place - int(place))
    scale = torch.where(top == 0, torch.where(most == 0, torch.ones_like(most), most), top)
    return torch.where(most.isnan(), most, scale)


def unrelated(maps: Tensor, target: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Similarities that say nothing about a network, by name of the other map: "other image" and "noise".

    other image: the map (N, C, H, W) of another image by the same network, of another class as far as the
    explained classes (N,) allow it. noise: independent normal values. Raises UsageError for fewer than 2
    maps.
    """
    noise = per_example_normal(
        maps.shape[1:], seed, "unrelated map", range(len(maps)), dtype=maps.dtype, device=maps.device
    )
    return {
        "other image": similarities(maps, maps[partners(target, seed).to(maps.device)]),
        "noise": similarities(maps, noise),
    }


def partners(target: Tensor, seed: int) -> Tensor:
    """Another example for each (N,): each is taken once, none itself, of another class where that can be."""
    count = len(target)
    if count < 2:
        raise argument_error("target", target, "at least 2 examples")
    shuffled = torch.randperm(count, generator=stream(seed, "unrelated images"))
    order = shuffled[target.cpu()[shuffled].argsort(stable=True)]
    # Sorted by class and moved on by the largest class's size, nobody meets the own class, if that is
    # at most half.
    largest = int(target.cpu().bincount().max())
    found = torch.empty_like(order)
    found[order] = order.roll(-max(1, min(largest, count // 2)))
    return found
