"""What a finished shortcut study says: sentences and the cells of its tables, for page and terminal."""

from __future__ import annotations

from veridical.report.formats import DASH, Interval, percent
from veridical.report.table import write_cell, write_points
from veridical.studies.finished import Finished
from veridical.studies.shortcut import LOST
from veridical.studies.shortcut_job import VARIANTS

RELIANCE = (
    "model",
    "agreeing",
    "moved",
    "gone",
    "lost, moved",
    "lost, gone",
    "follows the patch",
    "attacked",
)
MAPS = (
    "model",
    "mass on the patch",
    "its area",
    "beyond the area",
    "where it was, gone",
    "strongest value on it",
    "AUC",
    "exact zeros",
)


def headlines(study: Finished) -> list[str]:
    """What was found: a sentence for each kind of training, from the intervals alone."""
    found = []
    for title, arm in study.results["arms"].items():
        lost = arm["lost"]["moved"]
        told = "loses" if Interval.read(lost).sign > 0 else "is not shown to lose"
        sentence = f"{title} {told} accuracy when the patch moves, {write_points(lost)}"
        difference = study.results["differences"].get(title)
        if difference is not None:
            to = difference["lost_moved"]
            told = {1: "more than", -1: "less than", 0: "not shown to differ from"}[Interval.read(to).sign]
            sentence += f"; {told} {difference['reference']}, a difference of {write_points(to)}"
        found.append(f"{sentence}.")
    return found


def reliance_rows(study: Finished) -> list[list[str]]:
    """The cells of `RELIANCE` for each kind of training."""
    found = []
    for title, arm in study.results["arms"].items():
        attacked = arm["adversarial_accuracy"]
        found.append(
            [
                title,
                *(write_cell(arm["accuracy"][variant], "share") for variant in VARIANTS),
                *(write_cell(arm["lost"][to], "points") for to in LOST),
                write_cell(arm["follows"], "share"),
                DASH if attacked is None else write_cell(attacked, "share"),
            ]
        )
    return found


def map_rows(study: Finished, attribution: str) -> list[list[str]]:
    """The cells of `MAPS` for each kind of training; the patch is where it is in training unless said."""
    found = []
    for title, arm in study.results["arms"].items():
        maps = arm["maps"][attribution]
        there = maps["agreeing"]
        found.append(
            [
                title,
                write_cell(there["mass"], "share"),
                percent(there["area"]["examples"]["value"], 1),
                write_cell(there["excess"], "points"),
                write_cell(maps["gone"]["mass"], "share"),
                write_cell(there["pointing"], "share"),
                write_cell(there["auc"], "number"),
                write_cell(there["zero"], "share"),
            ]
        )
    return found
