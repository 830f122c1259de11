"""Two attacks of the same images: how their measures differ, image by image.

python -m veridical.studies.paired runs/igsum-paper runs/igsum-paper-fast

The attacks may differ in the protocol, or in the model. Differences are second minus first, over the images
that both have and both classify correctly; paired, their intervals are narrower than those of the two means.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from veridical.metrics.intervals import Interval, mean_interval
from veridical.runtime.errors import UsageError, VeridicalError
from veridical.studies.attacked import Attacked, read_attack

MEASURES: Mapping[str, str] = {
    "topk_intersection": "IN",
    "kendall_tau": "CO",
    "spearman": "Spearman",
    "windowed_topk_intersection": "windowed IN",
}


def differences(first: Attacked, second: Attacked) -> dict[str, Interval]:
    """Mean difference of each measure, second minus first, with its 95% interval over the shared images.

    Raises UsageError for attacks of other images, of several radii, or without an image in common.
    """
    for attacked in (first, second):
        if len(attacked.config["radii"]) != 1:
            raise UsageError(
                f"{attacked.folder} has the radii {attacked.config['radii']}: give attacks of one radius."
            )
    for key in ("data", "radii", "norm"):
        if first.config[key] != second.config[key]:
            raise UsageError(
                f"{first.folder} and {second.folder} do not pair: their {key} differs, "
                f"{first.config[key]} and {second.config[key]}."
            )
    one, other = _rows(first), _rows(second)
    shared = sorted(one.keys() & other.keys())
    if not shared:
        raise UsageError(f"{first.folder} and {second.folder} classify no image of both correctly.")
    here, there = ([rows[index] for index in shared] for rows in (one, other))
    return {
        name: mean_interval(
            (second.arrays[name][there] - first.arrays[name][here]).tolist(), undefined="exclude"
        )
        for name in MEASURES
    }


def table(first: Attacked, second: Attacked) -> str:
    """A Markdown table: a row per measure, both means over the shared images and their difference."""
    shared = sorted(_rows(first).keys() & _rows(second).keys())
    names = [f"{a.folder_of_run.name} ({a.config['protocol']['name']})" for a in (first, second)]
    lines = [
        f"| measure | {names[0]} | {names[1]} | difference | images |",
        "|---|---|---|---|---|",
    ]
    for name, found in differences(first, second).items():
        means = [np.nanmean(a.arrays[name][[_rows(a)[i] for i in shared]]) for a in (first, second)]
        text = "undefined" if found["value"] is None else f"{found['value']:+.4f}"
        if found["low"] is not None and found["high"] is not None:
            text += f" ({found['low']:+.4f} to {found['high']:+.4f})"
        lines.append(f"| {MEASURES[name]} | {means[0]:.4f} | {means[1]:.4f} | {text} | {found['n']} |")
    return "\n".join(lines)


def _rows(attacked: Attacked) -> dict[int, int]:
    """Row in the arrays by number in the data set, of the images that are classified correctly."""
    rows = np.flatnonzero(attacked.correct)
    return {int(attacked.arrays["index"][row]): int(row) for row in rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the two folders of `veridical attack`, print the table; 2 for folders that do not pair."""
    parser = argparse.ArgumentParser(description="Two attacks of the same images, image by image.")
    parser.add_argument("first", type=Path, help="folder that `veridical attack` wrote")
    parser.add_argument("second", type=Path, help="another one, of the same images")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(table(read_attack(options.first), read_attack(options.second)) + "\n")
    except VeridicalError as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, UsageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
