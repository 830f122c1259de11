"""What a finished alignment study says: sentences and the cells of its tables, for page and terminal."""

from __future__ import annotations

from veridical.report.formats import Interval, Two, percent
from veridical.report.table import write_cell, write_points
from veridical.studies.finished import Finished
from veridical.studies.training import undertrained

COLUMNS = (
    "model",
    "accuracy",
    "mass inside",
    "its area",
    "beyond the area",
    "beyond one map",
    "strongest value inside",
    "AUC",
    "exact zeros",
)


def headlines(study: Finished) -> list[str]:
    """What was found: one sentence for each model and attribution, from the intervals alone."""
    results = study.results
    found = []
    for title, model in results["models"].items():
        warning = undertrained(model["accuracy"], study.config["data"]["num_classes"])
        for name, maps in model["maps"].items():
            sentence = (
                f"{title}, {name}: {write_cell(maps['mass'], 'share')} of the map lies inside, "
                f"{_against(maps['excess'], 'its area')}"
            )
            difference = results["differences"].get(title, {}).get(name)
            if difference is not None:
                sentence += f"; {_against(difference, results['reference'])}"
            found.append(f"{sentence}." + (f" The model {warning}." if warning else ""))
    return found


def _against(difference: Two, reference: str) -> str:
    told = {1: "more than", -1: "less than", 0: "not shown to differ from"}[Interval.read(difference).sign]
    return f"{told} {reference}, a difference of {write_points(difference)}"


def rows(study: Finished, attribution: str) -> list[list[str]]:
    """The cells of `COLUMNS` for each model."""
    found = []
    for title, model in study.results["models"].items():
        maps = model["maps"][attribution]
        found.append(
            [
                title,
                write_cell(model["accuracy"], "share"),
                write_cell(maps["mass"], "share"),
                percent(maps["area"]["examples"]["value"], 1),
                write_cell(maps["excess"], "points"),
                write_cell(maps["beyond_one_map"], "points"),
                write_cell(maps["pointing"], "share"),
                write_cell(maps["auc"], "number"),
                write_cell(maps["zero"], "share"),
            ]
        )
    return found
