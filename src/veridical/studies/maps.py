"""What studies of maps share: measures over regions, regions of data sets, figures for pages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from veridical.attribution.registry import create_attribution, describe_attribution
from veridical.data import DATASETS, Dataset
from veridical.data.masked import THRESHOLD, MaskedDataset, load_masked, with_foreground
from veridical.metrics.intervals import SHARE, two_intervals
from veridical.metrics.localisation import (
    LEVELS,
    area_share,
    auc,
    mass_share,
    pointing_game,
    topk_curve,
    zero_share,
)
from veridical.metrics.maps import saliency
from veridical.report import Colours, Curve, curves_figure
from veridical.report.formats import main_interval, percent
from veridical.runtime.files import Arrays
from veridical.studies.study import check_different

# Measures that are one number per map; `topk` is one for each level.
SINGLE = ("mass", "area", "auc", "pointing", "zero")


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


_KINDS = {
    "gtsrb": ("box", "the sign's bounding box"),
    "fashion-mnist": ("foreground", "the garment"),
}


# What the masks of generated files mark.
_MASKS = {"block-mnist": "the block that carries the label", "shortcut": "the planted patch"}


@lru_cache(maxsize=2)
def regions_of(data: Dataset) -> Tensor:
    """The region of every test image, bool (N, H, W); a process keeps those of the last two data sets.

    Raises DataError for a data set whose regions are not known: it must be gtsrb with boxes, fashion-mnist,
    or an .npz file with masks.
    """
    own = data.name not in DATASETS and data.source.endswith(".npz")
    return with_foreground(_masked(data.source) if own else data).test_mask


def region_record(data: Dataset) -> dict[str, Any]:
    """What the regions are, as plain values: their kind, and the digest of all of them."""
    packed = np.packbits(regions_of(data).numpy())  # first: it says so where none are known
    kind, words = _KINDS.get(data.name) or (
        "mask",
        _MASKS.get(_generator(data), "what the file's masks mark"),
    )
    record: dict[str, Any] = {
        "kind": kind,
        "words": words,
        "sha256": hashlib.sha256(packed.tobytes()).hexdigest(),
    }
    return record | ({"threshold": THRESHOLD} if kind == "foreground" else {})


def _generator(data: Dataset) -> str:
    """What made an .npz file with masks, as it says itself."""
    return str(_masked(data.source).options.get("generator", ""))


@lru_cache(maxsize=2)
def _masked(source: str) -> MaskedDataset:
    return load_masked(source)


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


def make_topk_curve(
    name: str,
    levels: Sequence[float],
    topk: Sequence[Mapping[str, Any]],
    *,
    colour: int | None = None,
    dashed: bool = False,
) -> Curve:
    """Shares of the top k over k, with their shown intervals as a band.

    Two seeds get none: their intervals are wider than all shares, and would hide every curve.
    """
    banded = topk[0]["seeds"]["n"] != 2
    entries = topk if banded else [main_interval(two)["value"] for two in topk]
    return Curve.through(name, levels, entries, dashed=dashed, colour=colour)


def draw_topk(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    levels: Sequence[float],
    level_line: tuple[float, str],
    title: str = "",
) -> Figure:
    """Curves of the share of the top-k values inside over k, by name, as `make_topk_curve` draws them."""
    return curves_figure(
        [make_topk_curve(name, levels, topk) for name, topk in found.items()],
        x_label="k, share of the values",
        y_label="share of them inside",
        title=title,
        x_percent=True,
        y_percent=True,
        y_bounds=(0.0, 1.0),
        level_line=level_line,
    )


def image_and_maps(maps: int) -> list[Colours]:
    """How the columns of a gallery are coloured: the image as it is, and maps."""
    colours: list[Colours] = ["grey"]
    return colours + ["heat"] * maps


def channels_last(image: Any) -> Any:
    """Bytes (C, H, W) as numbers in [0, 1], (H, W) or (H, W, 3)."""
    values = image.astype(np.float64) / 255
    return values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)


def describe_methods(options: Any) -> dict[str, dict[str, Any]]:
    """The attributions of a study's options as plain values, by name; a UsageError for none, or one twice."""
    check_different("attribution", options.attribution)
    trust = getattr(options, "trust_code", False)
    return {
        name: describe_attribution(create_attribution(name, seed=options.seed, trust_code=trust))
        for name in options.attribution
    }


# Share of the way from guessing to no error, below which a model has hardly learnt anything.
_LEARNT = 0.1


def undertrained(accuracy: Mapping[str, Any], classes: int) -> str | None:
    """What is to be said of a model that has hardly come away from guessing; None for others.

    accuracy: its two intervals, and where it has them those of `each` training, one of which is enough to
    spoil the mean. classes: of the data; guessing is right once in so many.
    """
    guessing = 1 / classes
    each = [one["value"] for one in accuracy.get("each", [main_interval(accuracy)])]
    failed = [value for value in each if value < guessing + _LEARNT * (1 - guessing)]
    if not failed:
        return None
    reason = f"accuracy {percent(max(failed), 1)}, guessing {percent(guessing, 1)}"
    if len(each) > 1:
        reason = f"{len(failed)} of {len(each)} trainings; {reason}"
    return f"has hardly learnt anything ({reason}), so nothing follows from its maps"
