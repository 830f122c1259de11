"""Measured intervals as the cells of a table: 12.3% (11.0 to 13.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from veridical.report.diffroar_words import points
from veridical.report.measures import DASH, Interval, percent, signed
from veridical.studies.over_seeds import main_interval

Two = Mapping[str, Mapping[str, Any]]
"""{"examples": interval, "seeds": interval}, of which the one over seeds is shown where there are several."""


def share_cell(two: Two) -> str:
    """A share in percent; an interval that reaches beyond 0% or 100%, as few seeds' do, ends there."""
    interval = dict(main_interval(two))
    for end in ("low", "high"):
        if interval[end] is not None:
            interval[end] = min(1.0, max(0.0, interval[end]))
    return _cell(interval, lambda number: percent(number, 1))


def points_cell(two: Two) -> str:
    """A difference of shares in percentage points, signed."""
    return _cell(main_interval(two), points)


def points_words(two: Two) -> str:
    """A difference in points as running text, without a plus: 12.3 points (+11.0 to +13.6)."""
    value, _, rest = points_cell(two).partition(" ")
    words = f"{value.removeprefix('+')} points"
    return f"{words} {rest}" if rest else words


def number_cell(two: Two) -> str:
    """A number with three decimals."""
    return _cell(main_interval(two), lambda number: signed(number, 3))


def _cell(entry: Mapping[str, Any], written: Callable[[float], str]) -> str:
    interval = Interval.read(entry)
    if interval.value is None:
        return DASH
    if interval.low is None or interval.high is None:
        return written(interval.value)
    low, high = (written(end).removesuffix("%") for end in (interval.low, interval.high))
    return f"{written(interval.value)} ({low} to {high})"


def clear(two: Two) -> int:
    """1 where the shown interval lies above zero, -1 below, 0 where it holds zero or has no ends."""
    interval = Interval.read(main_interval(two))
    if interval.low is None or interval.high is None:
        return 0
    return int(interval.low > 0) - int(interval.high < 0)
