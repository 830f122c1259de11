"""The table and the scatter of several attacks say what the results say, and leave out what is missing."""

from pathlib import Path
from typing import Any

import numpy as np

from veridical.studies.attacked import Attacked
from veridical.studies.frontier import label, scatter, table


def _scalar(value: float | None, spread: float = 0.02) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "n": 0}
    return {"value": value, "low": value - spread, "high": value + spread, "n": 50}


def _attacked(run: str, adversarial: float | None, tau: float) -> Attacked:
    results = {
        "natural_accuracy": _scalar(0.9),
        "adversarial_accuracy": _scalar(adversarial),
        "topk_intersection": _scalar(0.5),
        "kendall_tau": _scalar(tau),
        "examples": 60,
    }
    document = {
        "results": results,
        "config": {"protocol": {"name": "strong"}},
        "environment": {"run": f"/runs/{run}"},
    }
    return Attacked(Path("somewhere"), document, {})


def test_the_table_has_values_intervals_and_gaps() -> None:
    attacks = {label(a): a for a in (_attacked("plain", 0.01, 0.4), _attacked("robust", None, 0.65))}
    lines = table(attacks).splitlines()
    assert lines[2] == (
        "| plain (strong) | 90.0 (88.0 to 92.0) | 1.0 (-1.0 to 3.0) | 50.0 (48.0 to 52.0) "
        "| 0.400 (0.380 to 0.420) | 60 |"
    )
    assert "| robust (strong) | 90.0 (88.0 to 92.0) | not measured |" in lines[3]


def test_the_scatter_has_a_point_for_each_measured_pair() -> None:
    attacks = {"a": _attacked("a", 0.2, 0.4), "b": _attacked("b", 0.7, 0.65), "c": _attacked("c", None, 0.5)}
    figure = scatter(attacks)
    for axis, height in zip(figure.axes, (0.5, 0.4), strict=True):
        first = np.asarray(axis.get_lines()[0].get_xydata())
        assert first.tolist() == [[0.2, height]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_thirty_points_differ_in_colour_or_marker() -> None:
    attacks = {str(number): _attacked(str(number), 0.2, 0.4) for number in range(30)}
    lines = [container[0] for container in scatter(attacks).axes[0].containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 30
