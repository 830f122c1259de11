"""Null shares of finished leakage studies at every level as a Markdown table and a figure, for a document.

python -m veridical.studies.leakage_levels runs/leakage-mlp runs/leakage-cnn --out docs/figures/leakage.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from veridical.report.curves import Curve, shares_grid
from veridical.report.diffroar_words import level_text
from veridical.runtime.errors import fail_argument
from veridical.studies.documents import deliver, markdown
from veridical.studies.finished import Finished
from veridical.studies.leakage_job import ball_name
from veridical.studies.leakage_plan import TITLES
from veridical.studies.leakage_tables import first_model, maps_of, read_leakage
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
        rows += _rows(study, _explanation(study, attribution))
    return markdown(columns, rows)


def _explanation(study: Finished, attribution: str | None) -> str:
    return next(iter(study.config["attributions"])) if attribution is None else attribution


def _rows(study: Finished, attribution: str) -> Iterator[list[str]]:
    for title, position, maps in maps_of(study, attribution):
        model, null = study.results["models"][title][position], maps["null"]
        attacked = model["under_attack"].get(_own_ball(study, title, position))
        yield [
            title,
            TITLES[position],
            _cell(model["accuracy"]),
            "" if attacked is None else _cell(attacked),
            *map(_cell, null["topk"]),
            _cell(null["mass"]),
        ]


def _own_ball(study: Finished, title: str, position: str) -> str | None:
    """The ball that a training took, as results name it; None for natural training."""
    training = study.config["models"][title][position]
    return ball_name(training["norm"], training["radius"]) if "radius" in training else None


def figure(
    studies: Mapping[str, Finished], ball: str | None = None, attribution: str | None = None
) -> Figure:
    """A chart for each study and data set: null shares over k by natural training and by those in one ball.

    studies: by the name that stands over their charts. ball: as results name it ("linf 0.1"); None takes the
    first. Bands are 95% intervals over seeds, where there are more than two: those of two are wider than
    any share.
    """
    kept: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for name, study in studies.items():
        balls = list(first_model(study)["under_attack"])
        if ball not in (None, *balls):
            raise fail_argument("ball", ball, "one of " + ", ".join(balls))
        allowed = (None, ball or balls[0])
        kept[name] = {
            (title, position): maps["null"]
            for title, position, maps in maps_of(study, _explanation(study, attribution))
            if _own_ball(study, title, position) in allowed
        }
    titles = list(dict.fromkeys(title for found in kept.values() for title, _ in found))
    panels = []
    for name, found in kept.items():
        for position in studies[name].config["data"]:
            curves = [
                _curve(title, studies[name].config["levels"], null["topk"], titles.index(title))
                for (title, at), null in found.items()
                if at == position
            ]
            panels.append((f"{name}, {TITLES[position]}", curves))
    area = next(iter(next(iter(kept.values())).values()))["area"]["examples"]["value"]
    return shares_grid(
        panels,
        columns=len(next(iter(studies.values())).config["data"]),
        x_label="k, share of the coordinates",
        y_label="share of them in the null block",
        level_line=(area, "its share of the area"),
    )


def _curve(
    title: str, levels: Sequence[float], shares: Sequence[Mapping[str, Mapping[str, Any]]], colour: int
) -> Curve:
    intervals = [main_interval(two) for two in shares]
    value, low, high = ([one[end] for one in intervals] for end in ("value", "low", "high"))
    if shares[0]["seeds"]["n"] == 2:
        return Curve(title, levels, value, colour=colour)
    return Curve(title, levels, value, low, high, colour=colour)


def _cell(two: Mapping[str, Mapping[str, Any]]) -> str:
    """A share in percent, with half of its interval."""
    interval = main_interval(two)
    value, low, high = (interval[end] for end in ("value", "low", "high"))
    if low is None or high is None:
        return f"{100 * value:.1f}"
    # Intervals of counts are not symmetric: the wider side stands for both.
    return f"{100 * value:.1f} ±{100 * max(high - value, value - low):.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the folders of `veridical leakage`, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description="Null shares of leakage studies at every level as a table.")
    parser.add_argument("folders", nargs="+", type=Path, help="folders that `veridical leakage` wrote")
    parser.add_argument("--attribution", help="which explanation; the first one of each study by default")
    parser.add_argument("--out", type=Path, help="figure (.svg or .png); none is drawn without it")
    parser.add_argument("--titles", nargs="+", help="a name for each folder, for the figure")
    parser.add_argument("--ball", help='trainings in this ball are drawn; "linf 0.1"; the first by default')
    options = parser.parse_args(arguments)
    studies = [read_leakage(folder) for folder in options.folders]
    titles = options.titles or [folder.name for folder in options.folders]
    if len(titles) != len(studies) or len(set(titles)) < len(titles):
        raise fail_argument("titles", titles, f"{len(studies)} different names, one for each folder")
    drawn = partial(figure, dict(zip(titles, studies, strict=True)), options.ball, options.attribution)
    deliver(table(studies, options.attribution), options.out, drawn)


if __name__ == "__main__":
    main()
