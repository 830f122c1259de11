"""Sentences of the DiffROAR page: each is what its numbers and verdicts say, also in the other mode."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from veridical.report import DiffRoarSection
from veridical.report.diffroar_panels import difference_panel, line, own_panels
from veridical.report.diffroar_words import (
    beside_baselines,
    beside_first,
    from_masks,
    headline,
    level_sentence,
)
from veridical.report.formats import level_text, points

from .conftest import curve_of, judged, measured

Build = Callable[..., DiffRoarSection]


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        (("satisfied", "satisfied"), "tells networks more at every level."),
        (("violated", "violated"), "tells networks less at every level."),
        (("undecided", "undecided"), "undecided at every level; no difference of the two ends is shown."),
        (("violated", "satisfied"), "tells networks more at 50% and less at 5%."),
        (("undecided", "satisfied"), "tells networks more at 50%; undecided at 5%."),
        (("violated", "undecided"), "tells networks less at 5%; undecided at 50%."),
        (
            (("undecided", "masks"), "satisfied"),
            "tells networks more at 50%; undecided at 5%, where it does not beat the masks alone.",
        ),
        (
            (("undecided", "masks"), ("undecided", "input-agnostic")),
            "undecided at 50%, where it does not beat one order for all images.",
        ),
        (
            (("undecided", "masks", "random"),) * 2,
            ": undecided at every level, where it does not beat the masks alone or a random order.",
        ),
        (
            (("undecided", "masks"), "undecided"),
            ": undecided at 5%, where it does not beat the masks alone; undecided at 50%.",
        ),
    ],
)
def test_the_headline_says_every_verdict(
    diffroar_section: Build, verdicts: tuple[str | tuple[str, ...], ...], told: str
) -> None:
    section = diffroar_section(verdicts=judged([0.0, 0.0], verdicts))
    assert headline(section).startswith("\u201cNatural\u201d: ")
    assert headline(section).endswith(told)


def test_a_level_is_told_with_its_counts_and_interval(diffroar_section: Build) -> None:
    # 5% of 36 coordinates are 1.8, so 2.
    assert level_sentence(diffroar_section(), 0) == (
        "Networks that see only the 2 most attributed coordinates reach 62.0%, those that see only the 2 "
        "least attributed 70.0%: \u22128.0 points, 95% interval \u22129.0 to \u22127.0 (5 repeats). "
        "Their masks alone give 25.0% and 11.0%."
    )
    removed = level_sentence(diffroar_section(mode="remove"), 1)
    assert removed.startswith("Networks that see all but the 18 most attributed coordinates reach 90.0%")
    wide = diffroar_section(verdicts=judged([-0.08, 0.05], ["undecided", "undecided"], half=0.1), control=())
    assert level_sentence(wide, 1).endswith("\u22125.0 to +15.0 (5 repeats), which holds zero.")
    explained = diffroar_section(verdicts=judged([0.08, 0.05], [("undecided", "masks"), "satisfied"]))
    assert level_sentence(explained, 0).endswith("Undecided: it does not beat the masks alone.")
    unknown = [{"level": 0.05, "verdict": "undecided", "value": None, "low": None, "high": None}]
    nothing = diffroar_section(
        curve=[{"level": 0.05, **{name: {"value": None} for name in ("top", "bottom", "difference")}}],
        verdicts=unknown,
    )
    assert level_sentence(nothing, 0) == "Not measured."


def test_baselines_are_told_and_other_outputs_apart_only_with_disjoint_intervals(
    diffroar_section: Build,
) -> None:
    assert beside_baselines(diffroar_section()) == [
        "A random order differs by 0.0 at 5% and 0.0 at 50% (points).",
        "One order for all images differs by +15.0 at 5% and +4.0 at 50% (points).",
    ]
    robust = diffroar_section("Robust", verdicts=judged([0.1, 0.06], ["satisfied", "satisfied"]))
    assert beside_first(diffroar_section(), robust) == (
        "The difference of \u201cRobust\u201d beside that of \u201cNatural\u201d: higher at 5%; the 95% "
        "intervals overlap at 50%."
    )
    single = diffroar_section("Single", verdicts=judged([0.1, 0.06], ["undecided"] * 2, half=None))
    assert beside_first(diffroar_section(), single) == ""


def test_a_leak_of_the_masks_is_named_only_where_there_is_one(diffroar_section: Build) -> None:
    leaking = [
        {"level": 0.5, "top": measured(0.12) | {"leaks": False}, "bottom": measured(0.34) | {"leaks": True}}
    ]
    told = from_masks(diffroar_section(control=leaking))
    assert "reach at most 34.0% (bottom, 50%); always naming the largest class gives 10.0%." in told
    assert "The shape of the masks tells about the class" in told
    quiet = [
        {"level": 0.5, "top": measured(0.12) | {"leaks": False}, "bottom": measured(0.1) | {"leaks": False}}
    ]
    assert "The shape of the masks" not in from_masks(diffroar_section(control=quiet))
    assert from_masks(diffroar_section(control=[])) == ""


def test_small_numbers() -> None:
    assert [points(share) for share in (0.0, -0.0, 0.0004, 0.012, -0.1)] == [
        "0.0", "0.0", "0.0", "+1.2", "\u221210.0",
    ]  # fmt: skip
    assert [level_text(level) for level in (0.05, 0.125, 1 / 3)] == ["5%", "12.5%", "33.3333%"]


def test_lines_run_where_the_numbers_are_and_bands_stay_possible() -> None:
    curve = curve_of((0.62, 0.98), (0.7, 0.85), half=0.3)
    drawn = line(curve, "top", "Top", "m1")
    np.testing.assert_allclose(drawn.x, [0.05, 0.5])
    np.testing.assert_allclose(drawn.y, [0.62, 0.98])
    assert drawn.low is not None
    assert drawn.high is not None
    np.testing.assert_allclose(drawn.low, [0.32, 0.68])
    np.testing.assert_allclose(drawn.high, [0.92, 1.0])
    single = line(curve_of((0.6, 0.7), (0.5, 0.6), half=None), "top", "Top", "m1")
    assert single.low is None
    assert single.high is None


def test_one_of_roar_and_kar_alone_has_no_chart_of_its_own(diffroar_section: Build) -> None:
    parts: dict[str, Any]
    for parts, headings in (
        ({}, 4),
        ({"roar": ()}, 3),
        ({"kar": ()}, 3),
        ({"roar": (), "control": ()}, 2),
        ({"roar": (), "control": (), "baselines": {}}, 1),
    ):
        assert len(own_panels(diffroar_section(**parts))) == headings


def test_zero_is_always_on_the_chart_of_differences(diffroar_section: Build) -> None:
    panel = difference_panel([diffroar_section(curve=curve_of((0.9, 0.9), (0.6, 0.6)))])
    assert 'class="reference"' in panel.chart
    assert ">0%<" in panel.chart
    assert "Accuracy from the top minus" in panel.caption
    removed = difference_panel([diffroar_section(mode="remove")])
    assert "Accuracy without the bottom minus accuracy without the top" in removed.caption
