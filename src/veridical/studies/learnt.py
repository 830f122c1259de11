"""Whether a model has learnt enough for its maps to mean anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.report.formats import main_interval, percent

LEARNT = 0.1
"""Share of the way from guessing to no error, below which a model has hardly learnt anything."""


def undertrained(accuracy: Mapping[str, Any], classes: int) -> str | None:
    """What is to be said of a model that has hardly come away from guessing; None for others.

    accuracy: its two intervals, and where it has them those of `each` training, one of which is enough to
    spoil the mean. classes: of the data; guessing is right once in so many.
    """
    guessing = 1 / classes
    each = [one["value"] for one in accuracy.get("each", [main_interval(accuracy)])]
    failed = [value for value in each if value < guessing + LEARNT * (1 - guessing)]
    if not failed:
        return None
    told = f"accuracy {percent(max(failed), 1)}, guessing {percent(guessing, 1)}"
    if len(each) > 1:
        told = f"{len(failed)} of {len(each)} trainings; {told}"
    return f"has hardly learnt anything ({told}), so nothing follows from its maps"
