"""What studies of maps share: measures over regions, regions of data sets, parts of pages."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from veridical.attribution.methods import StoredMaps
from veridical.attribution.registry import create_attribution, describe_attribution
from veridical.data import DATASETS, Dataset
from veridical.data.array_files import member_names, read_members
from veridical.data.arrays import corrupt_file_error
from veridical.data.dataset import MaskedDataset
from veridical.data.masked import THRESHOLD, load_masked, with_foreground
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
from veridical.report import (
    Colours,
    Curve,
    Illustration,
    Panel,
    PictureGallery,
    PictureRow,
    channels_last,
    curves_illustration,
    main_interval,
)
from veridical.report.formats import percent
from veridical.runtime.checking import as_path
from veridical.runtime.errors import RunError
from veridical.runtime.files import Arrays
from veridical.studies.study import Context, check_different
from veridical.training.loop import train
from veridical.training.run import Run

# Measures that are one number per map; `topk` is one for each level.
SINGLE = ("mass", "area", "auc", "pointing", "zero")


# Folder of a step that trains in which its run lies.
RUN = "run"


def check_data(data: Dataset, checksum: str) -> None:
    """Raise a RunError in a step whose machine has other images than the study was planned with."""
    if data.checksum != checksum:
        raise RunError(
            f"{data.source} holds other images than were planned with. Give all machines the same."
        )


def train_step(data: Dataset, values: Mapping[str, Any], context: Context) -> Run:
    """Train what a step's `training` and `seed` say; killed at any moment, it continues where it was."""
    return train(
        data=data,
        out=str(context.folder / RUN),
        seed=values["seed"],
        device=context.device,
        progress=False,
        **values["training"],
    )


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


def measures_over_seeds(runs: Sequence[Mapping[str, NDArray[Any]]], prefix: str = "") -> dict[str, Any]:
    """The two intervals of every measure, from each seed's `map_measures`; topk is a list by level.

    prefix: of the measures' names in `runs`. `excess` is mass - area: what lies in the region beyond what a
    map without knowledge would put there.
    """

    def each(name: str) -> list[NDArray[Any]]:
        return [run[f"{prefix}{name}"] for run in runs]

    found: dict[str, Any] = {name: two_intervals(each(name), SHARE) for name in SINGLE}
    pairs = zip(each("mass"), each("area"), strict=True)
    found["excess"] = two_intervals([mass - area for mass, area in pairs], (-1.0, 1.0))
    by_level = zip(*(topk.T for topk in each("topk")), strict=True)
    found["topk"] = [two_intervals(level, SHARE) for level in by_level]
    return found


_KINDS = {
    "gtsrb": ("box", "the sign's bounding box"),
    "fashion-mnist": ("foreground", "the garment"),
}
# What masks mark, by what made them, as an .npz file says itself.
_MASKS = {"block-mnist": "the block that carries the label", "shortcut": "the planted patch"}


@lru_cache(maxsize=2)
def regions_of(data: Dataset) -> Tensor:
    """The region of every test image, bool (N, H, W); a process keeps those of the last two data sets.

    Raises DataError for a data set whose regions are not known: it must have been loaded with masks, be gtsrb
    with boxes, fashion-mnist, or an .npz file with masks.
    """
    return _with_regions(data).test_mask


def has_regions(data: Dataset) -> bool:
    """Whether the data set is one whose regions are known; whether its masks are sound `regions_of` tells."""
    if isinstance(data, MaskedDataset) or data.name == "fashion-mnist":
        return True
    if data.name in DATASETS and data.name != "gtsrb":
        return False
    path, marks = Path(data.source), "box_test" if data.name == "gtsrb" else "mask_test"
    return path.suffix == ".npz" and path.is_file() and marks in member_names(path)


def _with_regions(data: Dataset) -> MaskedDataset:
    is_own = not isinstance(data, MaskedDataset) and data.name not in DATASETS
    return with_foreground(_masked(data.source) if is_own and data.source.endswith(".npz") else data)


def stored_maps(path: str | Path) -> StoredMaps:
    """The maps of test images in an .npz file, its member attribution_test; a DataError for one without."""
    name = "attribution_test"
    members = read_members(as_path(path), (name,))
    if name not in members:
        raise corrupt_file_error(path, f"no {name}", f"an array {name} with a map for every test image")
    if members[name].dtype.kind != "f" or members[name].ndim not in (3, 4):
        found = f"{members[name].dtype} {members[name].shape}"
        raise corrupt_file_error(f"{path}, {name}", found, "floating (M, C, H, W) or (M, H, W)")
    return StoredMaps(torch.from_numpy(members[name]))


def region_record(data: Dataset) -> dict[str, Any]:
    """What the regions are, as plain values: their kind, and the digest of all of them."""
    packed = np.packbits(regions_of(data).numpy())  # first: it says so where none are known
    kind, words = _KINDS.get(data.name, ("mask", ""))
    if kind == "mask":
        words = _MASKS.get(str(_with_regions(data).options.get("generator")), "what the masks mark")
    record = {"kind": kind, "words": words, "sha256": hashlib.sha256(packed.tobytes()).hexdigest()}
    return record | ({"threshold": THRESHOLD} if kind == "foreground" else {})


@lru_cache(maxsize=2)
def _masked(source: str) -> MaskedDataset:
    return load_masked(source)


def first_of_each_class(labels: Tensor, count: int) -> list[int]:
    """The first `count` examples when they come by class: each class's first, then each one's second.

    labels: int64 (N,). Returns their numbers in rising order.
    """
    seen: Counter[int] = Counter()
    ranks = []
    for label in labels.tolist():
        ranks.append(seen[label])
        seen[label] += 1
    # Of one rank in their order, since the sort is stable.
    return sorted(sorted(range(len(ranks)), key=ranks.__getitem__)[: max(0, count)])


def first_images(data: Dataset, examples: int, count: int) -> Arrays:
    """What a page shows of the first test images of each class, and the names of all classes.

    examples: how many were measured, of which `count` are shown. index and label (n,), image uint8 (n, C, H,
    W), classes.
    """
    index = first_of_each_class(data.test.labels[:examples], count)
    return {
        "index": np.asarray(index, dtype=np.int64),
        "label": data.test.labels[index].numpy(),
        "image": data.test.images[index].numpy(),
        "classes": np.asarray(data.classes, dtype=np.str_),
    }


def scaled_saliency(maps: Tensor) -> NDArray[Any]:
    """|maps| (n, C, H, W) summed over channels, each divided by its maximum, float16 (n, H, W)."""
    sizes = saliency(maps)
    peak = sizes.amax(dim=(1, 2), keepdim=True)
    scaled: NDArray[Any] = (sizes / torch.where(peak == 0, torch.ones_like(peak), peak)).half().numpy()
    return scaled


def make_topk_curve(
    name: str, levels: Sequence[float], topk: Sequence[Mapping[str, Any]], **look: Any
) -> Curve:
    """Shares of the top k over k, with their shown intervals as a band; look: as `Curve.through` takes it.

    Two seeds get none: their intervals are wider than all shares, and would hide every curve.
    """
    banded = topk[0]["seeds"]["n"] != 2
    entries = topk if banded else [main_interval(two)["value"] for two in topk]
    return Curve.through(name, levels, entries, **look)


def topk_panel(
    title: str, charts: Mapping[str, Sequence[Curve]], area: float, inside: str, text: Sequence[str] = ()
) -> Panel:
    """Curves of `make_topk_curve` in a chart for each title, all of one scale.

    area: the region's share of an image, drawn as a level. inside: where the values lie, in words.
    """
    heights = [y for curves in charts.values() for curve in curves for y in curve.y if y is not None]
    # Intervals over few seeds can be many times as wide as the range of a share.
    y_range = (0.0, min(1.0, 0.1 + max(area, *heights)))
    illustrations = [
        curves_illustration(
            curves,
            f"Share of the k% strongest values that lie {inside}. Bands: 95% intervals; two seeds have none.",
            title=name,
            x_label="k, share of the values",
            y_label=f"share of them {inside}",
            x_percent=True,
            y_percent=True,
            y_range=y_range,
            level_line=(area, "its share of the area"),
        )
        for name, curves in charts.items()
    ]
    return Panel(title, text, illustrations=illustrations)


def map_row(
    title: object,
    image: Any,
    maps: Sequence[Any],
    captions: Sequence[str] = (),
    region: Any = None,
    *,
    label: str = "",
    score: float | None = None,
) -> PictureRow:
    """An image (C, H, W) and its maps (H, W), with words below each map and a region outlined in all.

    label, score: by which an explorable gallery filters and orders its rows; higher is better.
    """
    below, outlines = ["", *captions] if captions else [], [region] * (1 + len(maps))
    pictures = [channels_last(image), *maps]
    return PictureRow(str(title), pictures, below, outlines, label=label, score=score)


def examples_panel(
    title: str,
    text: Sequence[str],
    rows: Sequence[PictureRow],
    maps: Sequence[str],
    *,
    explorable: bool = False,
    worst: str = "",
) -> Panel:
    """Rows that `map_row` makes, under the names of their maps; explorable: with controls, where scripts run.

    worst: which rows come first when the worst do, in words.
    """
    if not rows:
        return Panel(title, ["No images were asked for."])
    heat: list[Colours] = ["heat"] * len(maps)
    gallery = PictureGallery(rows, ["image", *maps], ["grey", *heat], explorable=explorable, worst=worst)
    alt = f"{len(rows)} rows of an image and its maps: {', '.join(maps)}."
    return Panel(title, text, illustrations=[Illustration(gallery, "", alt)])


def describe_methods(options: Any, data: Dataset | None = None) -> dict[str, dict[str, Any]]:
    """The attributions of a study's options as plain values, by name.

    data: whose training images are the background of those that need one. Raises UsageError for no
    attribution, one twice, and one that has no background.
    """
    check_different("attribution", options.attribution)
    trust, background = getattr(options, "trust_code", False), None if data is None else data.train
    return {
        name: describe_attribution(
            create_attribution(name, seed=options.seed, trust_code=trust, background=background)
        )
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
