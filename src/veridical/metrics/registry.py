"""The measures of two maps that studies report, by name: what each computes, and the facts about it.

A study asks for its measures once and loops; nothing else in it knows a measure's name:

    for name, measure in measures("attack").items():      # its columns: measure.label, .help, .unit, .bounds
        ...
    numbers = compare_maps(clean, changed, "attack", k=100)     # {name: float64 (N,)}

To add a measure, write its function and a `Measure` in `_ENTRIES`; tests/metrics/test_measures.py then asks
for an independent answer to compare it with, and checks its facts. A package of your own adds one by an entry
point of the group `veridical.measures`. Arrays, results, pages and tables of the studies follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from veridical.metrics.intervals import SHARE
from veridical.metrics.maps import VIEWS, View, as_images
from veridical.metrics.rank import kendall_tau, kendall_tau_nonzero, spearman
from veridical.metrics.spatial import (
    GAUSSIAN,
    mass_centre_shift,
    ssim,
    topk_intersection,
    windowed_topk_intersection,
)
from veridical.runtime.errors import argument_error
from veridical.runtime.registry import Registry

Study = Literal["attack", "sanity"]
Invariance = Literal["scale", "sign", "order", "exchange", "permutation"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of two maps and what its users must know.

    name: key of results and of arrays.
    compare: (a, b, **options) -> float64 (N,) of two batches of maps, as `view` makes them from attributions
        (N, C, H, W). NaN where a map is not finite, or the measure is undefined.
    label, short: heading of a column, and an abbreviation that the literature uses ("" if none).
    help: what it is, a phrase for tables and pages; {k} stands for the number of pixels compared.
    view: what of an attribution is compared, a name of `maps.VIEWS`.
    options: which of k (pixels compared) and window (pixels of shift forgiven) `compare` takes.
    alike: the direction in which two maps are more alike: for an attack, the one that is better.
    identical, bounds: the value for two equal maps, and the range; an interval ends there.
    unit: how numbers are written: shares in percent, correlations with three decimals, pixels.
    undefined: "exclude" leaves NaN out of means; "propagate" makes the mean undefined.
    invariances: what may be done to one map without a change: "scale" (a positive factor), "sign", "order"
        (an increasing function of what is compared); to both: "exchange", the same "permutation" of pixels.
    studies: which studies report it.
    """

    name: str
    compare: Callable[..., Tensor]
    label: str
    help: str
    short: str = ""
    view: View = "saliency"
    options: tuple[Literal["k", "window"], ...] = ()
    alike: Literal["higher", "lower"] = "higher"
    identical: float = 1.0
    bounds: tuple[float, float] = (-1.0, 1.0)
    unit: Literal["share", "correlation", "pixels"] = "correlation"
    undefined: Literal["propagate", "exclude"] = "propagate"
    invariances: tuple[Invariance, ...] = ()
    studies: tuple[Study, ...] = ("attack", "sanity")


def measures(study: Study | None = None) -> dict[str, Measure]:
    """The measures that a study reports, in the order of its columns; None gives all."""
    return {one.name: one for one in MEASURES.entries() if study is None or study in one.studies}


def compare_maps(
    a: Tensor,
    b: Tensor,
    study: Study | None = None,
    *,
    k: int | None = None,
    window: int = 1,
    skip: Collection[str] = (),
) -> dict[str, Tensor]:
    """Compare attributions (N, C, H, W) pair by pair by every measure of a study: float64 (N,) by name.

    k: pixels compared by measures of the top k, by default an eighth of the pixels; window: pixels of shift
    forgiven. skip: names of measures that the caller has already. Raises UsageError for other shapes.
    """
    if a.ndim != 4 or a.shape != b.shape:
        raise argument_error("b", b, f"maps (N, C, H, W) like a, which has {tuple(a.shape)}")
    wanted = [one for name, one in measures(study).items() if name not in skip]
    given = {"k": max(1, a[0, 0].numel() // 8) if k is None and len(a) else k or 1, "window": window}
    # Each view is made once, however many measures look at it.
    views = {view: (VIEWS[view](a), VIEWS[view](b)) for view in dict.fromkeys(one.view for one in wanted)}
    return {
        one.name: one.compare(*views[one.view], **{option: given[option] for option in one.options})
        for one in wanted
    }


def ssim_window(height: int, width: int) -> int:
    """Width of the SSIM window for pictures of a size: 11, or the widest odd number that fits."""
    side = min(height, width)
    return min(GAUSSIAN, side - 1 + side % 2)


def _picture_ssim(a: Tensor, b: Tensor) -> Tensor:
    _, height, width = as_images("a", a).shape
    return ssim(a, b, data_range=1.0, window=ssim_window(height, width))


_ORDER_ONLY: tuple[Invariance, ...] = ("scale", "sign", "order", "exchange", "permutation")

_of_attack = partial(Measure, studies=("attack",))
# A constant map has no order: such pairs are left out of means.
_of_sanity = partial(Measure, studies=("sanity",), undefined="exclude")

_ENTRIES = (
    _of_attack(
        name="topk_intersection",
        compare=topk_intersection,
        label="Attribution intersection",
        short="IN",
        help="share of a map's {k} most important pixels that are among the other's too",
        options=("k",),
        bounds=SHARE,
        unit="share",
        invariances=_ORDER_ONLY,
    ),
    _of_attack(
        name="kendall_tau",
        compare=kendall_tau,
        label="Attribution rank correlation",
        short="CO",
        help="Kendall's tau between the importance rankings of all pixels: 1 is the same order, "
        "0 no relation, \N{MINUS SIGN}1 the reverse",
        invariances=_ORDER_ONLY,
    ),
    _of_attack(
        name="kendall_tau_nonzero",
        compare=kendall_tau_nonzero,
        label="Rank correlation, nonzero pixels",
        help="Kendall's tau over the pixels where the first map, that of the unchanged image, is not zero",
        undefined="exclude",  # a map of fewer than two such pixels has no order
        # Not "order": a function that lifts zeros would change which pixels count.
        invariances=("scale", "sign", "permutation"),
    ),
    _of_attack(
        name="spearman",
        compare=spearman,
        label="Spearman rank correlation",
        help="Spearman's rho between the importance rankings of all pixels",
        invariances=_ORDER_ONLY,
    ),
    _of_attack(
        name="windowed_topk_intersection",
        compare=windowed_topk_intersection,
        label="Windowed intersection",
        help="share of the {k} most important pixels that have one of the other map's close by, so that "
        "a small shift is forgiven; mean of both directions",
        options=("k", "window"),
        bounds=SHARE,
        unit="share",
        invariances=("scale", "sign", "order", "exchange"),
    ),
    _of_attack(
        name="mass_centre_shift",
        compare=mass_centre_shift,
        label="Shift of the centre of mass",
        help="distance between the two maps' centres of mass, in pixels",
        alike="lower",
        identical=0.0,
        bounds=(0.0, math.inf),
        unit="pixels",
        undefined="exclude",  # a map that is zero everywhere has no centre
        invariances=("scale", "sign", "exchange"),
    ),
    _of_sanity(
        name="spearman_signed",
        compare=spearman,
        label="signed ranks",
        help="rank correlation of the values",
        view="values",
        invariances=("scale", "order", "exchange", "permutation"),
    ),
    _of_sanity(
        name="spearman_absolute",
        compare=spearman,
        label="ranks of sizes",
        help="rank correlation of the sizes",
        view="sizes",
        invariances=_ORDER_ONLY,
    ),
    _of_sanity(
        name="ssim",
        compare=_picture_ssim,
        label="SSIM",
        help="structural similarity of the pictures",
        view="picture",
        invariances=("scale", "sign", "exchange"),
    ),
)

MEASURES = Registry("measure", "veridical.measures", Measure, _ENTRIES)
