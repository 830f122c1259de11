"""Whether the differences between top and bottom say anything: satisfied, violated or undecided."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal

from veridical.metrics.intervals import LEVEL, mean_interval
from veridical.runtime.errors import fail_argument

Verdict = Literal["satisfied", "violated", "undecided"]


def measured(values: Sequence[float]) -> dict[str, Any]:
    """One number by its repeats: {"repeats", "value", "low", "high"}, the 95% interval by Student's t.

    With one repeat there is no interval; low and high are None.
    """
    found = mean_interval(list(values))
    return {"repeats": list(values), "value": found["value"], "low": found["low"], "high": found["high"]}


def judge(top: Sequence[float], bottom: Sequence[float], examples: int) -> dict[str, Any]:
    """The verdict of one level from paired accuracies (repeats,) on `examples` test images each.

    "satisfied": what the ranking puts first carries more than what it puts last; "violated": less;
    "undecided": one repeat, or an interval that holds zero. Two things vary, and the interval joins them as
    the root of the sum of squares: the repeats (Student's t of the paired differences), and the test images,
    which all repeats share (the normal interval of a difference of two shares, as if they were of different
    images, which is wide rather than narrow). Without the second the seeds of a training alone would decide
    between orders that are equally good.
    Returns {"verdict", "value", "low", "high"}; low and high are None with one repeat.
    """
    if len(top) != len(bottom) or not top:
        raise fail_argument(
            "repeats", f"{len(top)} and {len(bottom)}", "as many for top as for bottom, one or more"
        )
    if examples < 1:
        raise fail_argument("examples", examples, "a number of at least 1")
    found = mean_interval([one - other for one, other in zip(top, bottom, strict=True)])
    value = found["value"]
    assert value is not None
    if found["high"] is None:
        return {"verdict": "undecided", "value": value, "low": None, "high": None}
    half = sqrt((found["high"] - value) ** 2 + _of_images(top, bottom, examples) ** 2)
    low, high = value - half, value + half
    verdict: Verdict = "satisfied" if low > 0 else "violated" if high < 0 else "undecided"
    return {"verdict": verdict, "value": value, "low": low, "high": high}


def _of_images(top: Sequence[float], bottom: Sequence[float], examples: int) -> float:
    """Half the 95% interval that the choice of the test images leaves to a difference of accuracies."""
    shares = [sum(values) / len(values) for values in (top, bottom)]
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return z * sqrt(sum(share * (1 - share) for share in shares) / examples)
