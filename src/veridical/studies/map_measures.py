"""All measures of a batch of maps against its regions at once, as arrays that jobs keep and join."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from veridical.metrics.intervals import SHARE
from veridical.metrics.localisation import (
    LEVELS,
    area_share,
    auc,
    mass_share,
    pointing_game,
    topk_curve,
    zero_share,
)
from veridical.runtime.files import Arrays
from veridical.studies.over_seeds import two_intervals

SINGLE = ("mass", "area", "auc", "pointing", "zero")
"""Measures that are one number per map; `topk` is one for each level."""


def map_measures(
    maps: Tensor, regions: Tensor, *, seed: int, indices: Sequence[int], levels: Sequence[float] = LEVELS
) -> Arrays:
    """Measure maps (n, C, H, W) against regions bool (n, H, W): arrays by the names of SINGLE, and topk.

    float64: mass, area, auc, pointing and zero (n,), topk (n, levels). Ties are random by (seed, the
    example's number in `indices`). Where a region is empty nothing can lie in it: all but zero are NaN.
    """
    found = {
        "mass": mass_share(maps, regions),
        "area": area_share(regions),
        "auc": auc(maps, regions),
        "pointing": pointing_game(maps, regions),
        "topk": topk_curve(maps, regions, levels, seed=seed, indices=indices),
    }
    empty = ~regions.flatten(1).any(dim=1).cpu().numpy()
    arrays = {name: values.cpu().numpy() for name, values in found.items()}
    for values in arrays.values():
        values[empty] = np.nan
    return arrays | {"zero": zero_share(maps).cpu().numpy()}


def joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    """The arrays of several batches as one, in their order."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measures_over_seeds(runs: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Any]:
    """The two intervals of every measure, from each seed's `map_measures`; topk is a list by level.

    `excess` is mass - area: what lies in the region beyond what a map without knowledge would put there.
    """
    found: dict[str, Any] = {name: two_intervals([run[name] for run in runs], SHARE) for name in SINGLE}
    found["excess"] = two_intervals([run["mass"] - run["area"] for run in runs], (-1.0, 1.0))
    levels = runs[0]["topk"].shape[1]
    found["topk"] = [two_intervals([run["topk"][:, place] for run in runs], SHARE) for place in range(levels)]
    return found
