"""Null shares of finished leakage studies at every level as a Markdown table and a figure, for a document.

python -m veridical.studies.leakage_levels runs/leakage-mlp runs/leakage-cnn --out docs/figures/leakage.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from veridical.report.curves import Curve, shares_grid
from veridical.report.formats import level_text, main_interval
from veridical.runtime.errors import argument_error
from veridical.studies.documents import deliver, markdown, script
from veridical.studies.finished import Finished
from veridical.studies.leakage_job import ball_name
from veridical.studies.leakage_plan import TITLES
from veridical.studies.leakage_tables import first_model, maps_of, read_leakage
from veridical.studies.map_figures import topk_curve


@dataclass(frozen=True)
class Trained:
    """One kind of training on one data set: ball is that it was trained in, null the measures of its maps."""

    study: str
    title: str
    position: str
    objective: str
    ball: str | None
    model: Mapping[str, Any]
    null: Mapping[str, Any]


def trainings(
    studies: Mapping[str, Finished], ball: str | None = None, attribution: str | None = None
) -> list[Trained]:
    """All trainings of studies by name; of the robust ones those in `ball`, as results name it ("linf 0.1").

    ball: None takes all. attribution: None takes the first of each study. Raises UsageError for studies of
    different levels, and for a ball or an attribution that a study does not have.
    """
    found = []
    levels = next(iter(studies.values())).config["levels"]
    for name, study in studies.items():
        if study.config["levels"] != levels:
            raise argument_error("studies", "studies of different levels", "the same levels in all")
        explanations, balls = list(study.config["attributions"]), list(first_model(study)["under_attack"])
        for given, what, known in ((ball, "ball", balls), (attribution, "attribution", explanations)):
            if given not in (None, *known):
                raise argument_error(what, given, f"one that {name} has: {', '.join(known)}")
        for title, position, maps in maps_of(study, attribution or explanations[0]):
            training = study.config["models"][title][position]
            own = ball_name(training["norm"], training["radius"]) if "radius" in training else None
            if ball is None or own in (None, ball):
                model = study.results["models"][title][position]
                objective = training["objective"]
                found.append(Trained(name, title, position, objective, own, model, maps["null"]))
    return found


def table(found: Sequence[Trained], levels: Sequence[float], shown: Sequence[float] | None = None) -> str:
    """A row for each training: accuracy, that under attack in its own ball, null shares, mass.

    In percent, with half the 95% interval over seeds (over images where there is one seed). levels: those of
    the studies; shown: those that stand in the table, None for all. Several studies have a column of names.
    """
    shown = levels if shown is None else shown
    if not set(shown) <= set(levels):
        raise argument_error("levels", list(shown), f"some of {', '.join(f'{level:g}' for level in levels)}")
    several = len({one.study for one in found}) > 1
    columns = ["network"] if several else []
    columns += ["training", "data", "accuracy", "under PGD", *map(level_text, shown), "mass"]
    rows = []
    for one in found:
        attacked = one.model["under_attack"].get(one.ball)
        shares = [one.null["topk"][levels.index(level)] for level in shown]
        cells = [one.study] if several else []
        cells += [one.title, TITLES[one.position], _cell(one.model["accuracy"])]
        cells += ["" if attacked is None else _cell(attacked), *map(_cell, shares), _cell(one.null["mass"])]
        rows.append(cells)
    return markdown(columns, rows)


def figure(found: Sequence[Trained], levels: Sequence[float]) -> Figure:
    """A chart for each study and data set: null shares over k, a curve for each training."""
    titles = list(dict.fromkeys(one.title for one in found))
    panels: dict[tuple[str, str], list[Curve]] = {}
    for one in found:
        # IG-SUM-NORM lies on adversarial training more often than not.
        dashed, colour = one.objective == "ig-sum-norm", titles.index(one.title)
        curve = topk_curve(one.title, levels, one.null["topk"], colour=colour, dashed=dashed)
        panels.setdefault((one.study, one.position), []).append(curve)
    return shares_grid(
        [(f"{study}, {TITLES[position]}", curves) for (study, position), curves in panels.items()],
        columns=len({one.position for one in found}),
        x_label="k, share of the coordinates",
        y_label="share of them in the null block",
        level_line=(found[0].null["area"]["examples"]["value"], "its share of the area"),
    )


def _cell(two: Mapping[str, Mapping[str, Any]]) -> str:
    """A share in percent, with half of its interval, as far as a share can be so far away."""
    interval = main_interval(two)
    value, low, high = (interval[end] for end in ("value", "low", "high"))
    if low is None or high is None:
        return f"{100 * value:.1f}"
    # Intervals of counts are not symmetric, and those of few seeds wider than all shares: the wider side that
    # can be stands for both.
    return f"{100 * value:.1f} ±{100 * max(min(high, 1.0) - value, value - max(low, 0.0)):.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the folders of `veridical leakage`, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description="Null shares of leakage studies as a table and a figure.")
    parser.add_argument("folders", nargs="+", type=Path, help="folders that `veridical leakage` wrote")
    parser.add_argument("--titles", nargs="+", help="a name for each; those of the folders by default")
    parser.add_argument("--attribution", help="which explanation; the first one of each study by default")
    parser.add_argument("--ball", help='robust trainings in this ball alone, for example "linf 0.1"')
    parser.add_argument("--levels", nargs="+", type=float, help="levels of the table; all by default")
    parser.add_argument("--out", type=Path, help="figure (.svg or .png); none is drawn without it")
    options = parser.parse_args(arguments)
    titles = options.titles or [folder.name for folder in options.folders]
    if len(titles) != len(options.folders) or len(set(titles)) < len(titles):
        expected = f"{len(options.folders)} different names, one for each folder"
        raise argument_error("titles", titles, expected)
    studies = {name: read_leakage(folder) for name, folder in zip(titles, options.folders, strict=True)}
    levels = next(iter(studies.values())).config["levels"]
    found = trainings(studies, options.ball, options.attribution)
    deliver(table(found, levels, options.levels), options.out, partial(figure, found, levels))


if __name__ == "__main__":
    script(main)
