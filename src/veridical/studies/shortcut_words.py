"""What a finished shortcut study says: sentences and the cells of its tables, for page and terminal."""

from __future__ import annotations

from veridical.report.measures import DASH, percent
from veridical.studies.finished import Finished
from veridical.studies.interval_cells import clear, number_cell, points_cell, points_words, share_cell
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
        told = "loses" if clear(lost) > 0 else "is not shown to lose"
        sentence = f"{title} {told} accuracy when the patch moves, {points_words(lost)}"
        difference = study.results["differences"].get(title)
        if difference is not None:
            to = difference["lost_moved"]
            told = {1: "more than", -1: "less than", 0: "not shown to differ from"}[clear(to)]
            sentence += f"; {told} {difference['reference']}, a difference of {points_words(to)}"
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
                *(share_cell(arm["accuracy"][variant]) for variant in VARIANTS),
                *(points_cell(arm["lost"][to]) for to in LOST),
                share_cell(arm["follows"]),
                DASH if attacked is None else share_cell(attacked),
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
                share_cell(there["mass"]),
                percent(there["area"]["examples"]["value"], 1),
                points_cell(there["excess"]),
                share_cell(maps["gone"]["mass"]),
                share_cell(there["pointing"]),
                number_cell(there["auc"]),
                share_cell(there["zero"]),
            ]
        )
    return found
