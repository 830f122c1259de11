"""Which examples of a data set a page shows, and how their maps are kept for it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from veridical.metrics.views import saliency


def first_of_each_class(labels: Tensor, count: int) -> list[int]:
    """The first `count` examples when they come by class: each class's first, then each one's second.

    labels: int64 (N,). Returns their numbers in rising order.
    """
    seen: dict[int, int] = {}
    ranked = []
    for place, label in enumerate(labels.tolist()):
        ranked.append((seen.get(label, 0), place))
        seen[label] = seen.get(label, 0) + 1
    return sorted(place for _, place in sorted(ranked)[: max(0, count)])


def scaled_saliency(maps: Tensor) -> NDArray[Any]:
    """|maps| (n, C, H, W) summed over channels, each divided by its maximum, float16 (n, H, W)."""
    sizes = saliency(maps)
    peak = sizes.amax(dim=(1, 2), keepdim=True)
    scaled: NDArray[Any] = (sizes / torch.where(peak == 0, torch.ones_like(peak), peak)).half().numpy()
    return scaled
