"""Whether a model has learnt enough for its maps to mean anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.report.measures import percent
from veridical.studies.over_seeds import main_interval

LEARNT = 0.1
"""Share of the way from guessing to no error, below which a model has hardly learnt anything."""


def hardly_learnt(accuracy: Mapping[str, Mapping[str, Any]], classes: int) -> str | None:
    """What is to be said of a model that has hardly come away from guessing; None for others.

    accuracy: its two intervals, of which the shown one counts. classes: of the data; guessing is right once
    in so many.
    """
    guessing, value = 1 / classes, main_interval(accuracy)["value"]
    if value >= guessing + LEARNT * (1 - guessing):
        return None
    return (
        f"has hardly learnt anything (accuracy {percent(value, 1)}, guessing {percent(guessing, 1)}), so "
        "nothing follows from its maps"
    )
