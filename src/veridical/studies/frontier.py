"""Does robust prediction go with robust attribution? Finished attacks as one table and one scatter.

python -m veridical.studies.frontier runs/*-attack --out docs/figures/frontier.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from veridical.studies.attacked import Attacked, read_attack
from veridical.studies.documents import deliver, markdown, script

COLUMNS = ("natural_accuracy", "adversarial_accuracy", "topk_intersection", "kendall_tau")
_SHORT = {
    "natural_accuracy": "NA %",
    "adversarial_accuracy": "AA %",
    "topk_intersection": "IN %",
    "kendall_tau": "CO",
}
# Nine, beside the ten colours of the cycle: marker and colour together repeat only after ninety.
_MARKERS = "osD^vP*Xp"


def label(attacked: Attacked) -> str:
    """The folder of the run and the protocol: what tells two rows of the table apart."""
    return f"{attacked.folder_of_run.name} ({attacked.config['protocol']['name']})"


def table(attacks: Mapping[str, Attacked]) -> str:
    """A Markdown table, a row per attack: values with their 95% intervals, and the images they are about."""
    rows = []
    for name, attacked in attacks.items():
        cells = [_cell(attacked.results.get(column), column != "kendall_tau") for column in COLUMNS]
        rows.append([name, *cells, str(attacked.results["examples"])])
    return markdown(["model (protocol)", *_SHORT.values(), "images"], rows)


def scatter(attacks: Mapping[str, Attacked]) -> Figure:
    """Adversarial accuracy against IN and against CO, a point with 95% intervals per attack."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, measure in zip(axes, ("topk_intersection", "kendall_tau"), strict=True):
        for number, (name, attacked) in enumerate(attacks.items()):
            across, up = attacked.results["adversarial_accuracy"], attacked.results[measure]
            if _missing(across) or _missing(up):
                continue
            axis.errorbar(
                across["value"],
                up["value"],
                xerr=_bars(across),
                yerr=_bars(up),
                fmt=_MARKERS[number % len(_MARKERS)],
                capsize=2,
                label=name,
            )
        axis.set_xlabel("adversarial accuracy (AA)")
        axis.set_ylabel("top-k intersection (IN)" if measure == "topk_intersection" else "Kendall's tau (CO)")
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def _missing(scalar: Mapping[str, Any] | None) -> bool:
    return scalar is None or scalar.get("value") is None


def _bars(scalar: Mapping[str, Any]) -> list[list[float]] | None:
    if scalar["low"] is None or scalar["high"] is None:
        return None
    return [[scalar["value"] - scalar["low"]], [scalar["high"] - scalar["value"]]]


def _cell(scalar: Mapping[str, Any] | None, percent: bool) -> str:
    if scalar is None or scalar.get("value") is None:
        return "not measured"
    unit, digits = (100, 1) if percent else (1, 3)
    text = f"{unit * scalar['value']:.{digits}f}"
    if scalar["low"] is None or scalar["high"] is None:
        return text
    return f"{text} ({unit * scalar['low']:.{digits}f} to {unit * scalar['high']:.{digits}f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the folders of `veridical attack`, print the table, write the figure."""
    parser = argparse.ArgumentParser(description="Finished attacks as one table and one scatter.")
    parser.add_argument("folders", nargs="+", type=Path, help="folders that `veridical attack` wrote")
    parser.add_argument("--out", type=Path, help="figure (.svg or .png); none is drawn without it")
    options = parser.parse_args(arguments)
    attacks: dict[str, Attacked] = {}
    for folder in options.folders:
        attacked = read_attack(folder)
        name = label(attacked)
        attacks[name if name not in attacks else f"{name}, {folder}"] = attacked
    deliver(table(attacks), options.out, partial(scatter, attacks))


if __name__ == "__main__":
    script(main)
