"""The tables of a finished leakage study: shares of the null block, and pairs with the digit moved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veridical.report.formats import level_text
from veridical.report.table import write_cell
from veridical.studies.finished import Finished, read_finished
from veridical.studies.leakage import KIND
from veridical.studies.leakage_plan import TITLES

SHOWN = (0.05, 0.1, 0.2)
"""Levels that stand in the table; the curves have all."""

PAIR_COLUMNS = (
    "training",
    "null share through other instances, points",
    "left at the digit's pixels",
    "left in the block",
    "cosine, same digit",
    "cosine, same class",
    "cosine, other class",
    "null mass at telling places",
)


SURE_COLUMNS = (
    "training, data",
    "test loss",
    "margin, logits",
    "sure",
    "attribution, digit's block",
    "attribution, null block",
)


def read_leakage(folder: str | Path) -> Finished:
    """Read what `veridical leakage` left; a RunError for a folder that is not a finished study."""
    return read_finished(Finished, folder, KIND, "leakage", part="results")


def columns(study: Finished) -> list[str]:
    """The heads of the table of `rows`."""
    # Of fewer images than the accuracy beside it.
    attacked = f"first {study.results['attacked']:,} attacked"
    balls = [f"{attacked}, {ball}" for ball in first_model(study)["under_attack"]]
    shares = [f"null share, top {level_text(level)}" for level in _shown(study)]
    return [
        "training, data",
        "accuracy",
        *balls,
        *shares,
        "null mass",
        "strongest in null",
        "AUC",
        "exact zeros",
    ]


def rows(study: Finished, attribution: str) -> list[list[str]]:
    """The cells of `columns` for each training on each data set."""
    levels = study.config["levels"]
    found = []
    for title, position, maps in maps_of(study, attribution):
        model, null = study.results["models"][title][position], maps["null"]
        found.append(
            [
                f"{title}, {TITLES[position]}",
                write_cell(model["accuracy"], "share"),
                *(write_cell(two, "share") for two in model["under_attack"].values()),
                *(write_cell(null["topk"][levels.index(level)], "share") for level in _shown(study)),
                write_cell(null["mass"], "share"),
                write_cell(null["pointing"], "share"),
                write_cell(null["auc"], "number"),
                write_cell(null["zero"], "share"),
            ]
        )
    return found


def brief(study: Finished, attribution: str) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for a terminal: accuracies, the null share at one level and its mass, no intervals."""
    heads = columns(study)
    level = f"top {level_text(_shown(study)[0])}"
    told = ("accuracy", "attacked", "mass", level)
    kept = [at for at, head in enumerate(heads) if not at or any(part in head for part in told)]
    cells = rows(study, attribution)
    return [heads[at] for at in kept], [
        [row[at].partition(" (")[0] if at else row[0] for at in kept] for row in cells
    ]


def pair_rows(study: Finished, attribution: str) -> list[list[str]]:
    """The cells of `PAIR_COLUMNS` for each training whose digits are moved."""
    leakage = study.results["leakage"].get(attribution, {})
    found = []
    for title, _, maps in maps_of(study, attribution):
        if "left_at_ink" in maps:
            found.append(
                [
                    title,
                    write_cell(leakage[title]["mass"], "points") if title in leakage else "-",
                    write_cell(maps["left_at_ink"], "share"),
                    write_cell(maps["left_in_block"], "share"),
                    write_cell(maps["same_digit"], "number"),
                    write_cell(maps["same_class"], "number"),
                    write_cell(maps["other_class"], "number"),
                    write_cell(maps["telling"], "share"),
                ]
            )
    return found


def maps_of(study: Finished, attribution: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(training, position, measures of its maps), in the order of the options."""
    return [
        (title, position, model["maps"][attribution])
        for title, by_position in study.results["models"].items()
        for position, model in by_position.items()
    ]


def sure_rows(study: Finished, attribution: str) -> list[list[str]]:
    """The cells of `SURE_COLUMNS` for each training on each data set."""
    found = []
    for title, position, maps in maps_of(study, attribution):
        model = study.results["models"][title][position]
        numbers = [model["loss"], model["margin"], maps["signal_level"], maps["null_level"]]
        loss, margin, signal, null = (write_cell(two, "number") for two in numbers)
        name = f"{title}, {TITLES[position]}"
        found.append([name, loss, margin, write_cell(model["sure"], "share"), signal, null])
    return found


def first_model(study: Finished) -> Mapping[str, Any]:
    """The results of the first training on the first data set."""
    first: Mapping[str, Any] = next(iter(next(iter(study.results["models"].values())).values()))
    return first


def _shown(study: Finished) -> list[float]:
    return [level for level in SHOWN if level in study.config["levels"]]
