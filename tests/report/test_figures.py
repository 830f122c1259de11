"""What figures show, read back from matplotlib's own objects; and that anything can be drawn."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from veridical.report import (
    Curve,
    Interval,
    curves_figure,
    curves_illustration,
    histograms_figure,
    intervals_figure,
    scatter_figure,
    shares_grid,
)
from veridical.report.figures import inline_svg
from veridical.runtime.errors import UsageError


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    labels = [label for axes in figure.axes for label in axes.get_xticklabels() + axes.get_yticklabels()]
    return [label.get_text() for label in labels if label.get_text()]


def points(given: Any) -> list[Any]:
    """What matplotlib's stubs allow to be anything."""
    listed: list[Any] = np.asarray(given).tolist()
    return listed


def test_curves_show_their_numbers_and_intervals() -> None:
    nan = float("nan")
    curve = Curve("a", [1, 2, 3], [0.1, None, 0.3], [0.0, 0.1, nan], [0.2, 0.3, 0.4])
    figure = curves_figure([curve, Curve("b", [1, 3], [0.5, 0.6], dashed=True)], x_label="x", y_label="y")
    axes = figure.axes[0]
    first, second = axes.get_lines()
    assert points(first.get_xydata()) == [[1, 0.1], [3, 0.3]]
    assert points(second.get_xydata()) == [[1, 0.5], [3, 0.6]]
    assert first.get_linestyle() == "-"
    assert second.get_linestyle() == "--"
    bands = [one for one in axes.collections if isinstance(one, PolyCollection)]
    assert len(bands) == 1
    # The interval of the middle point has no value, the last one no lower end.
    assert {tuple(point) for point in points(bands[0].get_paths()[0].vertices)} == {(1.0, 0.0), (1.0, 0.2)}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    # Intervals end at what a value can be.
    for bounds, ends in ((None, (-3, 3)), ((0.0, 1.0), (0, 1))):
        wide = Curve("a", [0, 1], [0.2, 0.4], [-3.0, 0.1], [3.0, 0.5])
        limits = curves_figure([wide], x_label="", y_label="", y_bounds=bounds).axes[0].dataLim
        assert (limits.y0, limits.y1) == ends


def test_a_grid_of_shares_has_one_scale_and_names_each_kind_once() -> None:
    natural = Curve("natural", [0.1, 0.2], [0.3, 0.6], [-1.0, 0.5], [0.4, 2.0], colour=0)
    robust = Curve("robust", [0.1, 0.2], [0.0, 0.1], colour=1)
    panels = [("a", [natural]), ("b", [robust, natural]), ("c", [robust])]
    figure = shares_grid(panels, columns=2, x_label="k", y_label="share", level_line=(0.5, "chance"))
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == ["a", "b", "c"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["natural", "chance", "robust"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    # The level line comes last.
    assert figure.axes[0].lines[0].get_color() == figure.axes[1].lines[1].get_color()
    band = points(figure.axes[0].collections[0].get_paths()[0].vertices)
    assert {y for _, y in band} == {0.0, 0.4, 0.5, 1.0}  # no share is below 0 or above 1
    for wrong in ([], [("a", [natural]), ("b", [])]):
        with pytest.raises(UsageError, match="panels"):
            shares_grid(wrong, columns=2, x_label="", y_label="")


def test_kin_share_colour_and_marker_and_others_differ_in_both() -> None:
    def looks(*curves: Curve) -> list[Any]:
        lines = curves_figure(curves, x_label="", y_label="").axes[0].get_lines()
        return [(line.get_color(), line.get_marker()) for line in lines]

    kin = looks(*(Curve(str(n), [0, 1], [0, 1], dashed=bool(n % 2), colour=n // 2) for n in range(12)))
    assert kin[::2] == kin[1::2]
    assert len({colour for colour, _ in kin}) == len({marker for _, marker in kin}) == 6
    assert len(set(looks(*(Curve(str(n), [0], [0]) for n in range(10))))) == 10


def test_axes_are_written_as_asked() -> None:
    curve = Curve("a", [0.025, 0.05, 0.3], [0.1, 0.2, 0.3])
    shares: dict[str, Any] = {"x_percent": True, "y_percent": True, "y_range": (0, 0.5)}
    figure = curves_figure([curve], x_label="x", y_label="y", **shares, level_line=(0.5, "chance"))
    written = texts(figure)
    assert (written[:3], written[-1]) == (["2.5%", "5%", "30%"], "50%")
    assert figure.axes[0].get_ylim() == (0, 0.5)
    # Named below with the curves, where it hides none of them.
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "chance"]
    assert not figure.axes[0].texts
    wide = Curve("a", [10, 100, 10_000], [-1, 2, 3])
    logarithmic = curves_figure([wide], x_label="", y_label="", log_x=True, log_y=True)
    assert (logarithmic.axes[0].get_xscale(), logarithmic.axes[0].get_yscale()) == ("log", "log")
    assert texts(logarithmic)[:3] == ["10", "100", "10,000"]


def test_nothing_runs_out_of_a_figure() -> None:
    curves = [Curve(f"{n} {'a long name ' * 8}", [0, 1], [0, n]) for n in range(7)]
    figure = curves_figure(curves, x_label="x " * 20, y_label="y", title="title", level_line=(3, "level"))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    for box in (figure.legends[0].get_window_extent(renderer), figure.axes[0].get_tightbbox(renderer)):
        assert box is not None
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.width + 1
        assert box.y1 <= figure.bbox.height + 1
    assert figure.axes[0].get_window_extent().height > 100


def test_histograms_share_one_height_and_count_every_value() -> None:
    samples = {"a": np.full(10, 0.52), "b": np.array([0.02] * 5 + [0.96] * 5)}
    figure, told = histograms_figure(samples, x_label="tau", x_range=(0.0, 1.0))
    heights = [[bar.get_height() for bar in axes.patches if bar.get_height()] for axes in figure.axes]  # type: ignore[attr-defined]
    assert [pytest.approx(row) for row in ([1.0], [0.5, 0.5])] == heights
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert told == "Histograms of tau. a: median 0.52, 10 images; b: median 0.49, 10 images."
    _, told = histograms_figure({"a": np.array([0.25])}, x_label="kept", x_range=(0, 1), x_percent=True)
    assert "median 25%, 1 image." in told


def test_intervals_are_drawn_to_one_scale() -> None:
    rows = {"a": Interval(0.5, 0.25, 0.75), "b": Interval(None), "c": Interval(0.1)}
    axes = intervals_figure(rows, title="t", x_percent=True, x_range=(0.0, 1.0)).axes[0]
    drawn = [container.lines[0] for container in axes.containers]  # type: ignore[attr-defined]
    assert [float(np.ravel(line.get_xdata())[0]) for line in drawn] == [0.5, 0.1]
    bars = [line.get_segments() for container in axes.containers for line in container.lines[2]]  # type: ignore[attr-defined]
    assert points(bars[0][0])[0][0] == 0.25
    assert points(bars[0][0])[1][0] == 0.75
    assert len(bars) == 1
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]
    assert axes.get_xlim() == (0, 1)


def test_a_scatter_has_a_point_for_each_known_pair_and_looks_that_differ() -> None:
    known, unknown = Interval(0.5, 0.4, 0.6), Interval(None)
    chart = {"a": (known, Interval(0.2)), "b": (unknown, known), "c": (known, known)}
    figure = scatter_figure([("IN", True, chart), ("CO", False, {"a": (known, known)})], x_label="AA")
    first, second = ([c.lines[0].get_xydata().tolist() for c in axes.containers] for axes in figure.axes)  # type: ignore[attr-defined]
    assert first == [[[0.5, 0.2]], [[0.5, 0.5]]]
    assert second == [[[0.5, 0.5]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "c"]
    many = scatter_figure([("y", True, {str(n): (known, known) for n in range(30)})], x_label="x")
    lines = [container.lines[0] for container in many.axes[0].containers]  # type: ignore[attr-defined]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 30


def test_curves_are_told_in_words() -> None:
    curves = [Curve("a", [0.05, 0.2, 0.5], [None, 0.6, 0.8]), Curve("b", [1.0], [float("nan")])]
    axes: dict[str, Any] = {"x_label": "level", "y_label": "accuracy", "x_percent": True, "y_percent": True}
    drawn = curves_illustration(curves, **axes, level_line=(0.1, "chance"), title="t")
    assert drawn.alt == (
        "accuracy against level. a: from 60.0% at 20% to 80.0% at 50%; b: no values; chance: 10.0%."
    )


def test_figures_that_cannot_be_drawn_are_refused() -> None:
    refused = {
        "one curve or more": lambda: curves_figure([], x_label="", y_label=""),
        r"Curve\('a'\)\.y": lambda: Curve("a", [1, 2], [1]),
        "both ends": lambda: Curve("a", [1], [1], low=[0]),
    }
    for message, attempt in refused.items():
        with pytest.raises(UsageError, match=message):
            attempt()


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


def curves_of(values: Values, **options: Any) -> Figure:
    curves = [Curve(FORMULA, values, values, values, values), Curve("b", [1.0] * len(values), values)]
    return curves_figure(curves, x_label=FORMULA, y_label=FORMULA, **options)


def grid_of(values: Values) -> Figure:
    curves = [Curve(FORMULA, values, values, values, values, colour=0)]
    return shares_grid([(FORMULA, curves)], columns=2, x_label="x", y_label="y")


def interval_of(values: Values) -> Interval:
    ends = values or [NAN]
    return Interval.read({"value": ends[0], "low": ends[0], "high": ends[-1]})


FIGURES: dict[str, Callable[[Values], Figure]] = {
    "curves": curves_of,
    "curves of shares": lambda v: curves_of(v, x_percent=True, y_percent=True, y_bounds=(0.0, 1.0)),
    "curves over log": lambda values: curves_of(values, log_x=True),
    "curves of log": lambda values: curves_of(values, log_y=True, level_line=(0.0, FORMULA)),
    "grid": grid_of,
    "histogram": lambda values: histograms_figure(
        {FORMULA: np.array([v for v in values if np.isfinite(v)] or [0.0])},
        x_label=FORMULA,
        x_range=(0.0, 1.0),
    )[0],
    "intervals": lambda values: intervals_figure(
        {FORMULA: interval_of(values)}, title=FORMULA, x_range=(0, 1)
    ),
    "scatter": lambda values: scatter_figure(
        [(FORMULA, True, {FORMULA: (interval_of(values), interval_of(values))})], x_label=FORMULA
    ),
}


@pytest.mark.parametrize("values", ODD)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_of_anything(name: str, values: str) -> None:
    drawn = ET.fromstring(inline_svg(FIGURES[name](ODD[values]), "alt", "a")[0])
    for element in drawn.iter():
        placed = [text for key, text in element.attrib.items() if key not in ("aria-label", "class", "id")]
        assert not any("nan" in text or "inf" in text for text in placed)
