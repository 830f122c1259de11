"""Whether the differences between top and bottom say anything: satisfied, violated or undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot, sqrt
from statistics import NormalDist
from typing import Any, Literal

from veridical.metrics.intervals import LEVEL, mean_interval
from veridical.runtime.errors import argument_error

Verdict = Literal["satisfied", "violated", "undecided"]
Pair = tuple[Sequence[float], Sequence[float]]


def measured(values: Sequence[float], least: float = 0.0) -> dict[str, Any]:
    """One number by its repeats: {"repeats", "value", "low", "high"}, the 95% interval by Student's t.

    It ends at `least`, 0 for an accuracy and -1 for a difference of two, and at 1. With one repeat there is
    no interval; low and high are None.
    """
    found = mean_interval(list(values), bounds=(least, 1.0))
    return {"repeats": list(values), "value": found["value"], "low": found["low"], "high": found["high"]}


def judge(
    top: Sequence[float],
    bottom: Sequence[float],
    examples: int,
    masks: Pair | None = None,
    baselines: Mapping[str, Pair] | None = None,
) -> dict[str, Any]:
    """The verdict of one level from paired accuracies (repeats,) on `examples` test images each.

    top, bottom: from what the ranking puts first, and last. masks: the accuracies of the control, that saw
    the masks of these two ends alone. baselines: the accuracies of the two ends of other orders, by name.

    "satisfied": what the ranking puts first carries more than what it puts last, by its values, and by more
    than any baseline's; "violated": less; "undecided": one repeat, an interval that holds zero, or a
    difference that something else explains as well, which `as_good` names:

    - "masks": the end that is ahead is not above its masks alone, or the two ends do not differ by more than
      their masks do. What is ahead may then be where coordinates were shown, not what they show.
    - a baseline (of "satisfied" alone): the difference is not above the baseline's, so that the attribution
      need not have found anything about the image.

    Two things vary, and every interval joins them as the root of the sum of squares: the repeats (Student's
    t, of the paired differences; nothing where a control has one repeat), and the test images, which all
    repeats share (the normal interval of a difference of two shares, as if they were of different images,
    which is wide rather than narrow). Without the second the seeds of a training alone would decide between
    orders that are equally good.
    Returns {"verdict", "value", "low", "high", "as_good"}; low and high, within -1 and 1, are None with one
    repeat.
    """
    if len(top) != len(bottom) or not top:
        raise argument_error(
            "repeats", f"{len(top)} and {len(bottom)}", "as many for top as for bottom, one or more"
        )
    if examples < 1:
        raise argument_error("examples", examples, "a number of at least 1")
    value = sum(top) / len(top) - sum(bottom) / len(bottom)
    if len(top) == 1:
        return {"verdict": "undecided", "value": value, "low": None, "high": None, "as_good": []}
    value, *halves = _difference(examples, top, bottom)
    half = hypot(*halves)
    found = {"value": value, "low": max(-1.0, value - half), "high": min(1.0, value + half)}
    if abs(value) <= half:
        return {"verdict": "undecided", **found, "as_good": []}
    ahead, behind, place = (top, bottom, 0) if value > 0 else (bottom, top, 1)
    as_good = []
    if masks is not None:
        own, others = masks[place], masks[1 - place]
        if not (_above(examples, (ahead, own)) and _above(examples, (ahead, behind), (own, others))):
            as_good.append("masks")
    if value > 0:
        rivals = (baselines or {}).items()
        as_good += [name for name, ends in rivals if not _above(examples, (top, bottom), ends)]
    verdict: Verdict = "undecided" if as_good else "satisfied" if value > 0 else "violated"
    return {"verdict": verdict, **found, "as_good": as_good}


def _above(examples: int, pair: Pair, other: Pair | None = None) -> bool:
    """Whether the difference of a pair is above zero, or above that of another pair, beyond its interval.

    Both pairs are of the same test images, which count once.
    """
    value, of_repeats, of_images = _difference(examples, *pair)
    theirs, their_repeats, _ = _difference(examples, *other) if other is not None else (0.0, 0.0, 0.0)
    return value - theirs > hypot(of_repeats, their_repeats, of_images)


def _difference(examples: int, one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """The mean difference of two accuracies, and half its 95% intervals over repeats and over test images."""
    means = [sum(values) / len(values) for values in (one, other)]
    if len(one) == len(other):
        of_repeats = _half([a - b for a, b in zip(one, other, strict=True)])
    else:
        of_repeats = hypot(_half(one), _half(other))
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    of_images = z * sqrt(sum(share * (1 - share) for share in means) / examples)
    return means[0] - means[1], of_repeats, of_images


def _half(values: Sequence[float]) -> float:
    """Half the interval of a mean by Student's t; 0 where one value tells of no spread."""
    found = mean_interval(list(values))
    return 0.0 if found["high"] is None or found["value"] is None else found["high"] - found["value"]
