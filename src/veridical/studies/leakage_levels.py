"""Null shares of finished leakage studies at every level as one Markdown table, for a document.

python -m veridical.studies.leakage_levels runs/leakage
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from veridical.report.diffroar_words import level_text
from veridical.runtime.errors import fail_argument
from veridical.studies.documents import markdown
from veridical.studies.finished import Finished
from veridical.studies.leakage_job import ball_name
from veridical.studies.leakage_plan import TITLES
from veridical.studies.leakage_tables import maps_of, read_leakage
from veridical.studies.over_seeds import main_interval


def table(studies: Sequence[Finished], attribution: str | None = None) -> str:
    """A row for each training and data set: accuracy, that under attack in its own ball, null shares, mass.

    In percent, with half the 95% interval over seeds (over images where there is one seed). The studies have
    the same levels; attribution: None takes the first of each.
    """
    levels = studies[0].config["levels"]
    if any(study.config["levels"] != levels for study in studies):
        raise fail_argument("studies", "studies of different levels", "the same levels in all")
    columns = ["training", "data", "accuracy", "under PGD", *map(level_text, levels), "mass"]
    rows: list[list[str]] = []
    for study in studies:
        name = next(iter(study.config["attributions"])) if attribution is None else attribution
        rows += _rows(study, name)
    return markdown(columns, rows)


def _rows(study: Finished, attribution: str) -> Iterator[list[str]]:
    for title, position, maps in maps_of(study, attribution):
        model, null = study.results["models"][title][position], maps["null"]
        training = study.config["models"][title][position]
        own = ball_name(training["norm"], training["radius"]) if "radius" in training else None
        attacked = model["under_attack"].get(own)
        yield [
            title,
            TITLES[position],
            _cell(model["accuracy"]),
            "" if attacked is None else _cell(attacked),
            *map(_cell, null["topk"]),
            _cell(null["mass"]),
        ]


def _cell(two: Mapping[str, Mapping[str, Any]]) -> str:
    """A share in percent, with half of its interval."""
    interval = main_interval(two)
    value, low, high = (interval[end] for end in ("value", "low", "high"))
    if low is None or high is None:
        return f"{100 * value:.1f}"
    # Intervals of counts are not symmetric: the wider side stands for both.
    return f"{100 * value:.1f} ±{100 * max(high - value, value - low):.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the folders of `veridical leakage` and print the table."""
    parser = argparse.ArgumentParser(description="Null shares of leakage studies at every level as a table.")
    parser.add_argument("folders", nargs="+", help="folders that `veridical leakage` wrote")
    parser.add_argument("--attribution", help="which explanation; the first one of each study by default")
    options = parser.parse_args(arguments)
    studies = [read_leakage(folder) for folder in options.folders]
    sys.stdout.write(table(studies, options.attribution) + "\n")


if __name__ == "__main__":
    main()
