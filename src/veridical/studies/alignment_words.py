"""What a finished alignment study says: sentences and the cells of its tables, for page and terminal."""

from __future__ import annotations

from veridical.report.measures import percent
from veridical.studies.finished import Finished
from veridical.studies.interval_cells import clear, number_cell, points_cell, points_words, share_cell

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
        for name, maps in model["maps"].items():
            told = {1: "more than", -1: "less than", 0: "not shown to differ from"}[clear(maps["excess"])]
            sentence = (
                f"{title}, {name}: {share_cell(maps['mass'])} of the map lies inside, {told} its area's share"
            )
            difference = results["differences"].get(title, {}).get(name)
            if difference is not None:
                told = {1: "more than", -1: "less than", 0: "not shown to differ from"}[clear(difference)]
                sentence += f"; {told} {results['reference']}, a difference of {points_words(difference)}"
            found.append(f"{sentence}.")
    return found


def rows(study: Finished, attribution: str) -> list[list[str]]:
    """The cells of `COLUMNS` for each model."""
    found = []
    for title, model in study.results["models"].items():
        maps = model["maps"][attribution]
        found.append(
            [
                title,
                share_cell(model["accuracy"]),
                share_cell(maps["mass"]),
                percent(maps["area"]["examples"]["value"], 1),
                points_cell(maps["excess"]),
                points_cell(maps["beyond_one_map"]),
                share_cell(maps["pointing"]),
                number_cell(maps["auc"]),
                share_cell(maps["zero"]),
            ]
        )
    return found
