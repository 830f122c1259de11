"""Charts: positions agree with the numbers, gaps stay gaps, and labels are escaped."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from veridical.report import ModelSection, pictures
from veridical.report.charts import Sample, Series, histograms, interval_bar, line_chart
from veridical.report.curves import Curve, curves_figure, shares_grid
from veridical.report.drawing import Scale, extent, nice_ticks, rounded, tick_texts
from veridical.report.embedding import inline_svg
from veridical.report.formats import Interval
from veridical.report.panels import curve_panels, distribution_panels, styles, trace_panels, training_panels
from veridical.report.picture_rows import PictureRow, pictures_figure

Build = Callable[..., ModelSection]


def parts(chart: str, tag: str, style: str = "") -> list[ET.Element]:
    return [element for element in ET.fromstring(chart).iter(tag) if style in (element.get("class") or "")]


def points(element: ET.Element) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in (element.get("points") or "").split()]
    return [(float(x), float(y)) for x, y in pairs]


def label(chart: str) -> str:
    return ET.fromstring(chart).get("aria-label") or ""


def test_a_line_runs_where_its_numbers_are() -> None:
    series = Series("Model", "m1", np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.5, 0.0]))
    chart = line_chart([series], x_label="step", y_label="tau", y_range=(0.0, 1.0))
    (first, middle, last) = points(parts(chart, "polyline")[0])
    assert first[0] < middle[0] < last[0]
    assert first[1] < middle[1] < last[1]
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2)
    assert len(parts(chart, "circle")) == 3
    assert label(chart) == "tau against step. Model: from 1.00 at 0 to 0.00 at 2."


def test_a_reference_is_drawn_named_and_inside_the_axis() -> None:
    series = Series("Model", "m1", np.array([0.05, 0.5]), np.array([0.6, 0.8]))
    chart = line_chart(
        [series], x_label="level", y_label="accuracy", share=True, x_share=True, reference=("chance", 0.1)
    )
    (line,) = parts(chart, "line", "reference")
    (curve,) = parts(chart, "polyline")
    assert line.get("y1") == line.get("y2")
    assert max(y for _, y in points(curve)) < float(line.get("y1", "nan")) <= 220
    assert label(chart) == "accuracy against level. Model: from 60.0% at 5% to 80.0% at 50%; chance: 10.0%."
    assert [text.text for text in parts(chart, "text") if text.text and "chance" in text.text] == ["chance"]
    unnamed = line_chart([series], x_label="level", y_label="accuracy", reference=("", 0.1))
    assert "0.10" not in label(unnamed)
    assert len(parts(unnamed, "line", "reference")) == 1


@pytest.mark.parametrize(("low", "high"), [(-0.065, 0.0212), (0.0, 1.0), (0.31, 0.94), (-3.0, 41.0)])
def test_an_axis_ends_at_ticks(low: float, high: float) -> None:
    ends = rounded(low, high)
    ticks = nice_ticks(*ends)
    assert (ticks[0], ticks[-1]) == pytest.approx(ends)
    assert ends[0] <= low + 1e-9
    assert high <= ends[1] + 1e-9


def test_unknown_points_are_left_out_and_never_zero() -> None:
    y = np.array([0.9, np.nan, 0.7])
    series = Series("Model", "m1", np.arange(3.0), y, y - 0.1, y + 0.1)
    chart = line_chart([series], x_label="step", y_label="tau")
    assert len(points(parts(chart, "polyline")[0])) == 2
    (top_left, top_right, bottom_right, bottom_left) = points(parts(chart, "polygon")[0])
    assert (top_left[0], top_right[0]) == (bottom_left[0], bottom_right[0])
    assert top_left[1] < bottom_left[1]
    assert top_right[1] < bottom_right[1]
    assert "nan" not in chart


def test_labels_are_escaped() -> None:
    series = Series('<script>"&', "m1", np.arange(2.0), np.arange(2.0))
    chart = line_chart([series], x_label="a<b", y_label="c&d")
    assert "<script" not in chart
    assert '<script>"&' in label(chart)
    drawn = histograms([Sample("<i>", "m0", np.ones(3))], x_label="tau", x_range=(0.0, 1.0))
    assert "<i>" not in drawn


def test_histograms_share_one_height_and_count_every_value() -> None:
    narrow, wide = np.full(10, 0.52), np.array([0.02] * 5 + [0.96] * 5)
    chart = histograms(
        [Sample("a", "m0", narrow), Sample("b", "m1", wide)], x_label="tau", x_range=(0.0, 1.0)
    )
    heights = {
        style: [float(bar.get("height", 0)) for bar in parts(chart, "rect", style)] for style in ("m0", "m1")
    }
    assert len(heights["m0"]) == 1
    assert heights["m1"] == pytest.approx([heights["m0"][0] / 2] * 2)
    assert "a: median 0.52, 10 images; b: median 0.49, 10 images" in label(chart)


def test_the_interval_bar_covers_the_interval() -> None:
    bar = interval_bar(Interval(0.5, 0.25, 0.75, 10), "m1", 0.0, 1.0)
    (covered,) = parts(bar, "line", "range")
    (value,) = parts(bar, "line", "value")
    low, high = (Scale(0.0, 1.0, 6, 194)(share) for share in (0.25, 0.75))
    assert (float(covered.get("x1", 0)), float(covered.get("x2", 0))) == (low, high)
    assert float(value.get("x1", 0)) == 100.0
    assert not parts(interval_bar(Interval(None), "m1", 0.0, 1.0), "line", "value")


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.2, 1), (0, 100), (1, 50), (0.025, 0.2), (1e-5, 3e-5), (-4e6, 7)]
)
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 * (high - low) <= tick <= high + 1e-9 * (high - low) for tick in ticks)
    start, end = rounded(low, high)
    assert start <= low + 1e-9 * (high - low)
    assert end >= high - 1e-9 * (high - low)


def test_close_accuracies_get_ticks_of_different_names(section: Build) -> None:
    epochs = [{"epoch": e, "step": e, "validation_accuracy": 0.848 + 0.002 * e} for e in range(1, 7)]
    (panel,) = training_panels({"Natural": epochs}, [section()])
    texts = [tick.text or "" for tick in parts(panel.chart, "text", "tick") if "%" in (tick.text or "")]
    lines = [float(line.get("y1", 0)) for line in parts(panel.chart, "line", "grid")]
    assert len(set(texts)) == len(texts) == len(lines) >= 4
    # Equal steps of the numbers that are written are equal steps of the lines.
    assert len({round(float(b[:-1]) - float(a[:-1]), 6) for a, b in pairwise(texts)}) == 1
    assert np.diff(lines) == pytest.approx(np.full(len(lines) - 1, lines[1] - lines[0]), abs=0.02)


@pytest.mark.parametrize(
    ("low", "high", "share", "expected"),
    [
        (0.85, 0.86, True, ["85.0%", "85.2%", "85.4%", "85.6%", "85.8%", "86.0%"]),
        (-0.002, 0.002, True, ["\N{MINUS SIGN}0.2%", "\N{MINUS SIGN}0.1%", "0.0%", "0.1%", "0.2%"]),
        (0, 1, True, ["0%", "20%", "40%", "60%", "80%", "100%"]),
        (0, 1, False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (1234567, 1234568, False, ["1234567", *(f"1234567.{d}" for d in "2468"), "1234568"]),
    ],
)
def test_an_axis_has_the_digits_that_its_ticks_need(
    low: float, high: float, share: bool, expected: list[str]
) -> None:
    assert tick_texts(nice_ticks(low, high), share) == expected


def test_a_range_is_never_empty() -> None:
    for values in ([], [np.nan], [0.3], [5e9]):
        low, high = extent([np.array(values, dtype=float)])
        assert high > low


def test_the_trace_shows_median_and_quartiles(section: Build) -> None:
    trace = np.stack([np.linspace(1, end, 20) for end in (0.0, 0.2, 0.4, 0.6, 0.8)])
    trace[0, 5:] = np.nan
    (panel,) = trace_panels([section(trace=trace)])
    line = points(parts(panel.chart, "polyline")[0])
    scale = Scale(0.0, 1.0, 220, 10)
    assert line[0][1] == scale(1.0)
    assert line[-1][1] == scale(float(np.median([0.2, 0.4, 0.6, 0.8])))
    assert len(points(parts(panel.chart, "polygon")[0])) == 40


def test_no_panels_without_numbers(section: Build) -> None:
    nothing = section(
        trace=np.full((3, 4), np.nan), distributions={"kendall_tau": np.array([np.nan])}, curve=None
    )
    empty = section("Empty", trace=np.zeros((0, 4)), distributions={}, curve=[])
    assert trace_panels([nothing, empty]) == []
    assert distribution_panels([nothing, empty]) == []
    assert curve_panels([nothing, empty]) == []
    assert training_panels({}, [nothing]) == []


def test_curves_are_sorted_by_radius_and_leave_out_what_has_none(section: Build) -> None:
    curve = [
        {"radius": 0.2, "natural_accuracy": 0.9, "topk_intersection": 0.3, "kendall_tau": None},
        {
            "radius": 0.1,
            "natural_accuracy": 0.9,
            "topk_intersection": {"value": 0.6, "low": 0.5, "high": 0.7},
        },
    ]
    (panel,) = curve_panels([section(curve=curve)])
    assert panel.heading == "Attribution intersection (IN)"
    assert "from 60.0% at 0.1 to 30.0% at 0.2" in label(panel.chart)


def test_training_by_epoch_or_by_step(section: Build) -> None:
    epochs = [{"epoch": e, "step": 10 * e, "loss": 1.0 / e, "parts": {"l1_size": 0.5}} for e in (1, 2, 3)]
    panels = training_panels({"Natural": epochs}, [section()])
    assert [panel.heading for panel in panels] == ["Loss", "Part of the loss: l1 size"]
    assert "loss against epoch. Natural: from 1.00 at 1 to 0.33 at 3." in label(panels[0].chart)
    steps = [{"epoch": 1 + s // 500, "step": s, "loss": float("nan") if s == 7 else 1.0} for s in range(1000)]
    (panel,) = training_panels({"Natural": steps}, [section()])
    assert "against step" in label(panel.chart)
    assert len(points(parts(panel.chart, "polyline")[0])) == 100
    assert "nan" not in panel.chart


def test_the_reference_is_grey_only_beside_others(section: Build) -> None:
    assert styles([section("a")]) == {"a": "m1"}
    assert styles([section("a"), section("b")]) == {"a": "m0", "b": "m1"}


NAN, INF = float("nan"), float("inf")
ODD = {
    "none": [],
    "zero": [0.0],
    "one": [0.3],
    "tiny": [1e-12],
    "least": [5e-324],
    "equal": [0.3, 0.3],
    "hardly wider": [1.0, 1.0 + 2**-52],
    "from zero": [0.0, 1e-12],
    "huge": [-3e38, 3e38],
    "nan": [NAN, NAN],
    "infinite": [-INF, INF],
    "some": [NAN, 0.4, INF],
}
Values = list[float]
FORMULA = "$\\x1b \x1b[31m $<\u202e"


def figure_of(values: Values, **options: Any) -> str:
    curves = [Curve(FORMULA, values, values, values, values), Curve("b", [1.0] * len(values), values)]
    return inline_svg(curves_figure(curves, x_label="x", y_label="y", **options), "", "a")[0]


def grid_of(values: Values) -> str:
    curves = [Curve(FORMULA, values, values, values, values, colour=0)]
    return inline_svg(shares_grid([(FORMULA, curves)], columns=2, x_label="x", y_label="y"), "", "a")[0]


def rows_of(values: Values, colours: Any) -> str:
    picture = np.abs(np.resize(values or [0.0], (2, 3)))
    return inline_svg(pictures_figure([PictureRow(FORMULA, [picture])], [FORMULA], [colours]), "", "a")[0]


def line_of(values: Values, **options: Any) -> str:
    across = Series(FORMULA, "m1", np.array(values), np.zeros(len(values)))
    up = Series("b", "m1", np.arange(len(values)), *[np.array(values)] * 3)
    return line_chart([across, up], x_label="x", y_label="y", **options)


def bar_of(values: Values, low: float, high: float) -> str:
    ends = values or [NAN]
    read = Interval.read({"value": ends[0], "low": ends[0], "high": ends[-1]})
    return interval_bar(read, "m1", low, high)


def uri_of(values: Values) -> str:
    picture = np.resize(values or [0.0], (2, 3))
    uris = pictures.map_uri(picture), pictures.image_uri(picture)
    assert all(uri.startswith("data:image/png") for uri in uris)
    return "<svg>" + pictures.overlap_uri(picture, picture, picture, 1)[:22] + "</svg>"


CHARTS: dict[str, Callable[[Values], str]] = {
    "line": line_of,
    "line of shares": lambda values: line_of(values, share=True, x_share=True, reference=("chance", 0.1)),
    "line of no range": lambda values: line_of(values, y_range=(0.0, 0.0)),
    "no line": lambda values: line_chart([], x_label=str(values), y_label="y"),
    "histogram": lambda v: histograms([Sample("a", "m1", np.array(v))], x_label="x", x_range=(0.0, 1.0)),
    "histogram of no range": lambda v: histograms(
        [Sample(FORMULA, "m1", np.array(v))], x_label="x", x_range=(1.0, 1.0)
    ),
    "no histogram": lambda values: histograms([], x_label=str(len(values)), x_range=(0.0, 1.0)),
    "bar": lambda values: bar_of(values, 0.0, 1.0),
    "bar of no range": lambda values: bar_of(values, 0.0, 0.0),
    "curves": figure_of,
    "curves of shares": lambda v: figure_of(v, x_percent=True, y_percent=True, y_bounds=(0.0, 1.0)),
    "curves over log": lambda values: figure_of(values, log_x=True),
    "curves of log": lambda values: figure_of(values, log_y=True, level_line=(0.0, FORMULA)),
    "grid": grid_of,
    "image": lambda values: rows_of(values, "grey"),
    "map": lambda values: rows_of(values, "heat"),
    "signed map": lambda values: rows_of(values, "signed"),
    "uri": uri_of,
}


@pytest.mark.parametrize("values", ODD)
@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_is_drawn_of_anything(chart: str, values: str) -> None:
    drawn = ET.fromstring(CHARTS[chart](ODD[values]))
    for element in drawn.iter():
        placed = [text for name, text in element.attrib.items() if name not in ("aria-label", "class", "id")]
        assert not any("nan" in text or "inf" in text for text in placed)
