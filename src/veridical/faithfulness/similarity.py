"""How alike maps are that have nothing to do with each other, by the measures of a sanity check."""

from __future__ import annotations

import torch
from torch import Tensor

from veridical.metrics.registry import compare_maps
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_normal, stream


def unrelated(maps: Tensor, target: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Similarities that say nothing about a network, by name of the other map: "other image" and "noise".

    other image: the map (N, C, H, W) of another image by the same network, of another class as far as the
    explained classes (N,) allow it. noise: independent normal values. Raises UsageError for fewer than 2
    maps.
    """
    noise = per_example_normal(
        maps.shape[1:], seed, "unrelated map", range(len(maps)), dtype=maps.dtype, device=maps.device
    )
    others = maps[partners(target, seed).to(maps.device)]
    return {
        "other image": compare_maps(maps, others, "sanity"),
        "noise": compare_maps(maps, noise, "sanity"),
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
    result = torch.empty_like(order)
    result[order] = order.roll(-max(1, min(largest, count // 2)))
    return result
