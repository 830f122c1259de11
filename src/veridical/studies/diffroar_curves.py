"""Finished DiffROAR measurements as one Markdown table and one figure, for a document.

python -m veridical.studies.diffroar_curves runs/dr-natural runs/dr-linf --out docs/figures/diffroar.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from veridical.report import Curve, curves_figure
from veridical.report.diffroar_words import verdict_lines
from veridical.studies.diffroar_report import Measured, named, read_measured
from veridical.studies.documents import deliver, markdown, script

COLUMNS = ("model", "level", "top %", "bottom %", "difference", "verdict", "masks top %", "masks bottom %")


def table(found: Mapping[str, Measured]) -> str:
    """A row for each measurement and level: accuracies, their difference, its verdict, the masks alone."""
    rows = []
    for name, measured in found.items():
        results = measured.results
        for place, (point, verdict) in enumerate(zip(results["curve"], results["verdicts"], strict=True)):
            difference = f"{100 * verdict['value']:+.1f}"
            if verdict["low"] is not None:  # one repeat has no interval
                difference += f" ({100 * verdict['low']:+.1f} to {100 * verdict['high']:+.1f})"
            cells = [
                name if place == 0 else "",
                f"{100 * point['level']:g}%",
                *(f"{100 * point[end]['value']:.1f}" for end in ("top", "bottom")),
                difference,
                verdict_lines(verdict).replace("\n", " "),
                *_masks(results["control"], point["level"]),
            ]
            rows.append(cells)
    return markdown(COLUMNS, rows)


def _masks(control: Mapping[str, Any] | None, level: float) -> list[str]:
    """Accuracies from the masks of a level alone, top and bottom."""
    for point in control["curve"] if control else ():
        if point["level"] == level:
            return [f"{100 * point[end]['value']:.1f}" for end in ("top", "bottom")]
    return ["", ""]


def figure(found: Mapping[str, Measured]) -> Figure:
    """The difference over the level for each measurement, with the verdicts' intervals."""
    curves = []
    for name, measured in found.items():
        verdicts = measured.results["verdicts"]
        value, low, high = ([one[key] for one in verdicts] for key in ("value", "low", "high"))
        curves.append(Curve(name, [one["level"] for one in verdicts], value, low, high))
    return curves_figure(
        curves,
        x_label="level, share of the coordinates that is kept",
        y_label="accuracy, top less bottom",
        x_percent=True,
        y_percent=True,
        y_bounds=(-1.0, 1.0),
        level_line=(0.0, "no difference"),
        log_x=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the folders of `veridical diffroar`, print the table, write the figure."""
    parser = argparse.ArgumentParser(description="Finished DiffROAR measurements as a table and a figure.")
    parser.add_argument("folders", nargs="+", type=Path, help="folders that `veridical diffroar` wrote")
    parser.add_argument("--titles", nargs="+", help="a name for each of them")
    parser.add_argument("--out", type=Path, help="figure (.svg or .png); none is drawn without it")
    options = parser.parse_args(arguments)
    found = named([read_measured(folder) for folder in options.folders], options.titles)
    deliver(table(found), options.out, partial(figure, found))


if __name__ == "__main__":
    script(main)
