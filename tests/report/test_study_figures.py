"""What the figures of a study show, read back from matplotlib's own objects."""

import itertools
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from veridical.report.curves import shares_grid
from veridical.report.page import Curve, PictureRow, curves_figure, pictures_figure
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


def test_intervals_end_at_what_a_value_can_be() -> None:
    curve = Curve("a", [0, 1], [0.2, 0.4], [-3.0, 0.1], [3.0, 0.5])
    whole, cut = (
        curves_figure([curve], x_label="", y_label="", y_bounds=bounds).axes[0].dataLim
        for bounds in (None, (0.0, 1.0))
    )
    assert (whole.y0, whole.y1) == (-3, 3)
    assert (cut.y0, cut.y1) == (0, 1)


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
    curves = [Curve(str(n), [0, 1], [0, 1], dashed=bool(n % 2), colour=n // 2) for n in range(12)]
    lines = curves_figure(curves, x_label="", y_label="").axes[0].get_lines()
    looks = [(line.get_color(), line.get_marker()) for line in lines]
    assert looks[::2] == looks[1::2]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 6
    own = (
        curves_figure([Curve(str(n), [0], [0]) for n in range(10)], x_label="", y_label="")
        .axes[0]
        .get_lines()
    )
    assert len({(line.get_color(), line.get_marker()) for line in own}) == 10


def test_axes_are_written_as_asked() -> None:
    shares = [0.025, 0.05, 0.3]
    curve = Curve("a", shares, [0.1, 0.2, 0.3])
    figure = curves_figure(
        [curve],
        x_label="x",
        y_label="y",
        x_percent=True,
        y_percent=True,
        y_range=(0, 0.5),
        level_line=(0.5, "chance"),
    )
    written = texts(figure)
    assert written[:3] == ["2.5%", "5%", "30%"]
    assert written[-1] == "50%"
    assert figure.axes[0].get_ylim() == (0, 0.5)
    # Named below with the curves, where it hides none of them.
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "chance"]
    assert not figure.axes[0].texts
    wide = curves_figure(
        [Curve("a", [10, 100, 10_000], [-1, 2, 3])], x_label="", y_label="", log_x=True, log_y=True
    )
    assert (wide.axes[0].get_xscale(), wide.axes[0].get_yscale()) == ("log", "log")
    assert texts(wide)[:3] == ["10", "100", "10,000"]


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


def test_pictures_are_drawn_to_the_pixel() -> None:
    rng = np.random.default_rng(0)
    image, colours, heat, signed = (
        rng.random((8, 4)),
        rng.random((6, 6, 3)),
        rng.random((5, 5)),
        np.zeros((3, 3)),
    )
    signed[0, 0], signed[0, 1] = 1.0, -1.0
    row = PictureRow("r", [image, colours, heat, signed])
    figure = pictures_figure([row], list("abcd"), ["grey", "grey", "heat", "signed"])
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert np.array_equal(shown[0], np.repeat(np.rint(255 * image)[..., None], 3, axis=-1))
    assert np.array_equal(shown[1], np.rint(255 * colours))
    order = np.argsort(heat, axis=None)
    assert (np.diff(shown[2].astype(int).sum(axis=-1).ravel()[order]) >= 0).all()
    red, blue, white = (colormaps["RdBu_r"](place, bytes=True)[:3] for place in (1.0, 0.0, 0.5))
    assert [tuple(shown[3][0, place]) for place in range(3)] == [tuple(red), tuple(blue), tuple(white)]
    assert all(axes.images[0].get_interpolation() == "none" for axes in figure.axes)
    sizes = [axes.get_window_extent().size for axes in figure.axes]
    assert sizes[0][0] * 2 == pytest.approx(sizes[0][1])


def test_captions_titles_and_pictures_do_not_run_into_one_another() -> None:
    image = np.zeros((6, 6))
    rows = [PictureRow(f"row {n} " * 12, [image] * 3, ["caption " * n] * 3) for n in (1, 6)]
    figure = pictures_figure(rows, ["a column's long title " * 2] * 3, ["grey"] * 3)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    boxes += [axes.get_window_extent() for axes in figure.axes]
    for one, other in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        upward = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(across, upward) <= 1
    assert all(box.x0 >= -1 and box.y0 >= -1 for box in boxes)
    assert all(box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1 for box in boxes)


def test_outlines_follow_the_borders_of_the_mask() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 0:2] = True
    figure = pictures_figure([PictureRow("r", [np.zeros((4, 5))], (), [mask])], ["a"], ["grey"])
    path = figure.axes[0].patches[0].get_path()
    strokes = {frozenset(map(tuple, pair)) for pair in np.reshape(points(path.vertices), (-1, 2, 2)).tolist()}
    corners = [
        (-0.5, 0.5),
        (0.5, 0.5),
        (1.5, 0.5),
        (1.5, 1.5),
        (1.5, 2.5),
        (0.5, 2.5),
        (-0.5, 2.5),
        (-0.5, 1.5),
    ]
    assert strokes == {frozenset(pair) for pair in itertools.pairwise([*corners, corners[0]])}
    assert points(path.codes) == [1, 2] * 8
    empty = pictures_figure([PictureRow("r", [np.zeros((4, 5))], (), [mask & False])], ["a"], ["grey"])
    assert points(empty.axes[0].patches[0].get_path().vertices) == []


def test_figures_that_cannot_be_drawn_are_refused() -> None:
    square = np.zeros((2, 2))
    refused = {
        "one curve or more": lambda: curves_figure([], x_label="", y_label=""),
        r"Curve\('a'\)\.y": lambda: Curve("a", [1, 2], [1]),
        "both ends": lambda: Curve("a", [1], [1], low=[0]),
        "captions": lambda: PictureRow("r", [square], ["a", "b"]),
        r"mask of the picture's \(2, 2\)": lambda: PictureRow(
            "r", [square], (), [np.zeros((3, 3), dtype=bool)]
        ),
        r"pictures \(H, W\)": lambda: PictureRow("r", [np.zeros(4)]),
        "one for each picture": lambda: pictures_figure([PictureRow("r", [square])], ["a", "b"], ["grey"]),
        "rows of": lambda: pictures_figure([], [], []),
        "grey or heat or signed": lambda: pictures_figure([PictureRow("r", [square])], ["a"], ["hot"]),  # type: ignore[list-item]
        "below zero": lambda: pictures_figure([PictureRow("r", [square - 1])], ["a"], ["heat"]),
        "Sum over channels": lambda: pictures_figure(
            [PictureRow("r", [np.zeros((2, 2, 3))])], ["a"], ["heat"]
        ),
    }
    for message, attempt in refused.items():
        with pytest.raises(UsageError, match=message):
            attempt()
