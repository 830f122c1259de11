"""Columns write numbers in their unit; tables draw what is there, in Markdown, either way round."""

import math
from typing import Any

import pytest

from veridical.report import Column, Table
from veridical.report.formats import Interval
from veridical.report.table import explained, write_cell, write_points
from veridical.runtime.errors import UsageError

ABOVE: dict[str, dict[str, Any]] = {
    "examples": {"value": 0.1, "low": 0.05, "high": 0.15, "n": 9},
    "seeds": {"value": 0.1, "low": None, "high": None, "n": 1},
}
BELOW = {**ABOVE, "seeds": {"value": -0.1, "low": -0.3, "high": -0.01, "n": 2}}
SHARE = Column("mass", "null mass", "share", "lower", "How much lies where nothing tells.")


@pytest.mark.parametrize(
    ("unit", "text", "below"),
    [
        ("share", "10.0% (5.0 to 15.0)", "-10.0% (0.0 to 0.0)"),
        ("points", "+10.0 (+5.0 to +15.0)", "-10.0 (-30.0 to -1.0)"),
        ("number", "0.100 (0.050 to 0.150)", "-0.100 (-0.300 to -0.010)"),
        ("pixels", "0.10 px (0.05 to 0.15)", "-0.10 px (-0.30 to -0.01)"),
    ],
)
def test_an_interval_is_written_in_its_unit_over_seeds_where_there_are_several(
    unit: Any, text: str, below: str
) -> None:
    assert write_cell(ABOVE, unit) == text
    assert write_cell(BELOW, unit) == below.replace("-", "\N{MINUS SIGN}")
    assert write_cell(ABOVE["examples"], unit) == text


def test_differences_in_running_text_and_their_sign() -> None:
    assert write_points(ABOVE) == "10.0 points (+5.0 to +15.0)"
    assert write_points({**ABOVE["examples"], "low": None, "high": None}) == "10.0 points"
    unclear = {**ABOVE, "seeds": {"value": 0.1, "low": -0.3, "high": 0.5, "n": 2}}
    assert [Interval.read(two).sign for two in (ABOVE, BELOW, unclear, 0.3)] == [1, -1, 0, 0]


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, {"value": None, "low": 0, "high": 1, "n": 0}])
def test_what_is_not_there_is_a_dash(missing: Any) -> None:
    assert write_cell(missing, "share") == "\N{EM DASH}"


def test_rows_by_key_or_by_place_give_one_table() -> None:
    columns: list[Column | str] = ["model", SHARE, Column("n", "images", "count")]
    by_key = Table(columns, [{"model": "one", "mass": 0.25, "n": 1200}])
    by_place = Table(columns, [["one", "25.0%", 1200.0]])
    assert by_key.drawn() == by_place.drawn()
    assert (
        by_key.to_markdown() == "| model | null mass | images |\n| --- | --- | --- |\n| one | 25.0% | 1,200 |"
    )
    assert by_key.transposed().to_markdown().splitlines()[2:] == [
        "| null mass | 25.0% |",
        "| images | 1,200 |",
    ]
    assert Table(["a|b"], []).to_markdown().startswith(r"| a\|b |")


def test_columns_without_any_entry_are_not_drawn_and_not_explained() -> None:
    table = Table(["model", SHARE, "published"], [{"model": "", "mass": None}, {"model": "", "mass": 0.5}])
    assert [column.heading for column in table.drawn()[0]] == ["model", "null mass"]
    meaning = "How much lies where nothing tells. Lower is better."
    assert explained([table, table]) == [("null mass", meaning)]
    empty = Table(["model", SHARE], [["one", "not measured"]])
    assert explained([empty]) == []
    # A table without rows still says what would stand in it.
    assert len(Table(["model", SHARE], []).drawn()[0]) == 2


def test_a_table_without_columns_or_with_a_short_row_is_refused() -> None:
    with pytest.raises(UsageError, match="2 cells"):
        Table(["a", "b"], [["1", "2"], ["1"]])
    with pytest.raises(UsageError, match="one column or more"):
        Table([], [])
