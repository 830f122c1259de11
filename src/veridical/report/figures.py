"""Numbers -> matplotlib figures in the page's look -> inline SVG with its fonts and colours, light and dark.

Figures are as wide as a phone, so that their text stays legible.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from veridical.report.formats import Interval, finite, percent, signed
from veridical.report.pictures import PictureGallery
from veridical.runtime.checking import record
from veridical.runtime.errors import argument_error, visible

Array = NDArray[Any]

# The light colours of report.css and matplotlib's defaults, by the names that the style sheet gives them:
# what is drawn in one of these follows light and dark, and every other colour stays as it is.
PALETTE: Final = {
    "#16191d": "ink",
    "#000000": "ink",
    "#555d68": "soft",
    "#262626": "soft",
    "#ffffff": "paper",
    "#d9dde3": "faint",
    "#cccccc": "faint",
    "#e6e9ee": "grid",
    "#b0b0b0": "grid",
    "#6a7280": "m0",
    "#0068a8": "m1",
    "#c75300": "m2",
    "#00805c": "m3",
    "#a8508a": "m4",
    "#8a6d00": "m5",
}
INK: Final = "#16191d"
SOFT: Final = "#555d68"
GRID: Final = "#e6e9ee"
SERIES_COLOURS: Final = ("#0068a8", "#c75300", "#00805c", "#a8508a", "#8a6d00", "#6a7280")

_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_COLOUR: Final = re.compile(r"#[0-9a-f]{6}")
# Matplotlib 3.9 writes the shorthand, "font: 700 12px FAMILIES", and later ones each property.
_FAMILY: Final = re.compile(r"(font:[^;]*?[\d.]+px|font-family:) [^;]*")
_REFERENCE: Final = re.compile(r"""(?<=url\(#)[^)]+|(?<=href="#)[^"]+""")

_WIDTH, _PLOT_HEIGHT, _LINE = 380, 236, 18  # in points, which are CSS pixels here
_NAME_LENGTH = 44
_GRID_WIDTH, _GRID_HEIGHT, _TITLE_LENGTH = 270, 200, 26
_ROW_HEIGHT, _BINS = 78, 20
_MARKED = 8
# So few measured places can all be named on their axis.
_MOST_NAMED = 6
# Shapes repeat the colours for readers who do not tell those apart.
_MARKERS: Final = "osD^vPX*<>"
_STYLE: Final = {
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
}
_in_style = mpl.rc_context(_STYLE)  # type: ignore[arg-type]  # the stub wants literal names of settings
_ELLIPSIS: Final = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Curve:
    """One line: y over x, with the 95% interval from `low` to `high` where both are given.

    All are of one length; a number that is not finite, or None, is left out. `dashed` sets a variant apart,
    and `colour` (0, 1, ...) gives it the colour and marker of its kin: by default every curve has its own.
    An empty name is left out of the list of names.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    dashed: bool = False
    colour: int | None = None

    @classmethod
    def through(
        cls,
        name: str,
        x: Sequence[float],
        entries: Sequence[object],
        *,
        dashed: bool = False,
        colour: int | None = None,
    ) -> "Curve":
        """The curve through values with their intervals, as `Interval.read` takes them."""
        shown = [Interval.read(entry) for entry in entries]
        low, high = ([getattr(one, end) for one in shown] for end in ("low", "high"))
        # Values without any interval have no band, which a legend would name.
        banded = any(end is not None for end in (*low, *high))
        y = [one.value for one in shown]
        return cls(name, x, y, low if banded else None, high if banded else None, dashed, colour)

    def __post_init__(self) -> None:
        for part in ("y", "low", "high"):
            values = getattr(self, part)
            if values is not None and len(values) != len(self.x):
                raise argument_error(
                    f"Curve({self.name!r}).{part}", len(values), f"{len(self.x)} numbers, as many as x has"
                )
        if (self.low is None) != (self.high is None):
            raise argument_error(
                f"Curve({self.name!r})", "one of low and high", "both ends of the intervals, or none"
            )


@_in_style
def curves_figure(
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    x_percent: bool = False,
    y_percent: bool = False,
    y_range: tuple[float, float] | None = None,
    y_bounds: tuple[float, float] | None = None,
    level_line: tuple[float, str] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Curves over a common axis with their intervals as bands, and their names below.

    `x_percent` and `y_percent` write the fractions of an axis as percent. `y_range` is that of the axis;
    `y_bounds` is what a value can be at all, where intervals are cut off: those of two seeds reach far beyond
    what a share can be. `level_line` is a value on the y axis and its name, such as the share that chance
    would give; its name stands below with the curves', where it hides none. Raises UsageError without a
    curve.
    """
    if not curves:
        raise argument_error("curves", list(curves), "one curve or more")
    names = [_words(curve.name, _NAME_LENGTH) for curve in curves]
    told = [name for name in (*names, "" if level_line is None else level_line[1]) if name]
    below = _LINE * sum(1 + name.count("\n") for name in told)
    height = _PLOT_HEIGHT + below + (24 if title else 0)
    figure, (axes,) = _figure(_WIDTH, height, grid="y")
    axes.set(title=_words(title), xlabel=_words(x_label), ylabel=_words(y_label))
    _fill(axes, curves, names, y_bounds, level_line)
    _format_x_axis(axes, curves, x_percent, log_x)
    _format_y_axis(axes, y_percent, log_y, y_range)
    if told:
        figure.legend(
            loc="outside lower left", frameon=False, borderpad=0, labelspacing=0.35, handlelength=2.6
        )
    return figure


@_in_style
def shares_grid(
    panels: Sequence[tuple[str, Sequence[Curve]]],
    *,
    columns: int,
    x_label: str,
    y_label: str,
    level_line: tuple[float, str] | None = None,
) -> Figure:
    """Shares over shares in several charts (title, curves) of one scale, `columns` side by side.

    Curves of one name are one kind: each needs its `colour`, and the name stands once, below all charts.
    Raises UsageError without a chart or for a chart without a curve.
    """
    if not panels or not all(curves for _, curves in panels):
        raise argument_error("panels", [title for title, _ in panels], "one chart or more, each with a curve")
    rows = -(-len(panels) // columns)
    kinds = {curve.name for _, curves in panels for curve in curves} | {level_line}
    height = _GRID_HEIGHT * rows + _LINE * (2 + -(-len(kinds) // columns))
    figure, every = _figure(_GRID_WIDTH * columns, height, rows, columns, grid="y")
    named: set[str] = set()
    for axes, (title, curves) in zip(every, panels, strict=False):
        axes.set_title(_words(title, _TITLE_LENGTH))
        names = ["" if curve.name in named else curve.name for curve in curves]
        named.update(names)
        names = [_words(name) for name in names]
        _fill(axes, curves, names, (0.0, 1.0), level_line)
        level_line = level_line and (level_line[0], "")
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    _format_x_axis(every[0], panels[0][1], True, False)
    _format_y_axis(every[0], True, False, None)
    for axes in every[-columns:]:
        axes.set_xlabel(_words(x_label))
    figure.supylabel(_words(y_label), color=SOFT, fontsize=12)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=2.6)
    return figure


@record
class Illustration:
    """A figure or gallery with the words below it, and in `alt` what it shows, in words."""

    figure: Figure | PictureGallery
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise argument_error("Illustration.alt", self.alt, "what the figure shows, in words")


def curves_illustration(
    curves: Sequence[Curve],
    caption: str = "",
    *,
    x_label: str,
    y_label: str,
    x_percent: bool = False,
    y_percent: bool = False,
    level_line: tuple[float, str] | None = None,
    **look: Any,
) -> Illustration:
    """What `curves_figure` draws, with every curve's first and last known point as `alt`."""
    axes: dict[str, Any] = {"x_label": x_label, "y_label": y_label, "level_line": level_line}
    axes |= {"x_percent": x_percent, "y_percent": y_percent}
    told = []
    for curve in curves:
        known = [(x, y) for x, y in zip(curve.x, map(finite, curve.y), strict=True) if y is not None]
        ends = [
            f"{_number(y, y_percent)} at {_tick_text(x_percent, x)}" for x, y in known[:1] + known[1:][-1:]
        ]
        told.append(f"{curve.name}: from {' to '.join(ends)}" if ends else f"{curve.name}: no values")
    if level_line is not None and level_line[1]:
        told.append(f"{level_line[1]}: {_number(level_line[0], y_percent)}")
    alt = f"{y_label} against {x_label}. {'; '.join(told)}."
    return Illustration(curves_figure(curves, **axes, **look), caption, alt)


@_in_style
def histograms_figure(
    samples: Mapping[str, Array], *, x_label: str, x_range: tuple[float, float], x_percent: bool = False
) -> tuple[Figure, str]:
    """One histogram per name over a common axis, with its median, and the same in words.

    samples: arrays (N,) by name, each with its own N, all finite. Heights are shares of N, so they compare.
    """
    edges, height = np.linspace(*x_range, _BINS + 1).tolist(), _ROW_HEIGHT * len(samples) + 50
    told = []
    figure, rows = _figure(_WIDTH, height, len(samples))
    for place, (axes, (name, values)) in enumerate(zip(rows, samples.items(), strict=True)):
        middle, images = float(np.median(values)), "image" if len(values) == 1 else "images"
        median = percent(middle, 0) if x_percent else signed(middle, 2)
        words = f"median {median}, {len(values):,} {images}"
        told.append(f"{name}: {words}")
        axes.hist(
            values,
            edges,
            weights=np.full(len(values), 1 / len(values)),
            color=SERIES_COLOURS[place % len(SERIES_COLOURS)],
        )
        axes.axvline(middle, color=INK, linewidth=1.6)
        short = textwrap.shorten(name, _NAME_LENGTH - len(words), placeholder=_ELLIPSIS)
        axes.set_title(_words(f"{short}  {words}"), fontsize=12, fontweight="normal")
        _lay_flat(axes, x_range, x_percent)
    rows[-1].set_xlabel(_words(x_label))
    return figure, f"Histograms of {x_label}. {'; '.join(told)}."


@_in_style
def intervals_figure(
    rows: Mapping[str, Interval], *, title: str = "", x_percent: bool = False, x_range: tuple[float, float]
) -> Figure:
    """Values with their 95% intervals to one scale, a line for each name; unknown ones have no mark."""
    figure, (axes,) = _figure(_WIDTH, 46 * len(rows) + 34 + (24 if title else 0), grid="x")
    axes.set_title(_words(title, _NAME_LENGTH))
    for place, (name, interval) in enumerate(rows.items()):
        colour = SERIES_COLOURS[place % len(SERIES_COLOURS)]
        if interval.value is not None:
            axes.errorbar(
                interval.value, -place, xerr=_bars(interval), color=colour, **_mark(place), elinewidth=6
            )
            axes.lines[-1].set_zorder(3)
        short = textwrap.shorten(name, _NAME_LENGTH, placeholder=_ELLIPSIS)
        axes.text(
            0, 0.28 - place, _words(short), transform=axes.get_yaxis_transform(), color=SOFT, fontsize=12
        )
    # Room above the first line for its name, below the last for half a line.
    axes.set_ylim(-len(rows) + 0.6, 0.8)
    _lay_flat(axes, x_range, x_percent)
    return figure


@_in_style
def scatter_figure(
    charts: Sequence[tuple[str, bool, Mapping[str, tuple[Interval, Interval]]]], *, x_label: str
) -> Figure:
    """Points with 95% intervals along both axes, in charts side by side that share their names.

    charts: (label of the y axis, whether it is a share, (x, y) by name); x is a share. Points of which a
    value is unknown are left out.
    """
    names = list(dict.fromkeys(name for _, _, points in charts for name in points))
    wrapped = {name: _words(name, _NAME_LENGTH) for name in names}
    below = _LINE * sum(1 + name.count("\n") for name in wrapped.values())
    size = (_WIDTH * len(charts), _PLOT_HEIGHT + below)
    figure, every = _figure(*size, columns=len(charts), grid="both", share=False)
    for axes, (y_label, share, points) in zip(every, charts, strict=True):
        axes.set(xlabel=_words(x_label), ylabel=_words(y_label))
        for name, (x, y) in points.items():
            if x.value is not None and y.value is not None:
                place = names.index(name)
                label = wrapped.pop(name, "_unnamed")
                look = {"color": SERIES_COLOURS[place % len(SERIES_COLOURS)], **_mark(place)}
                axes.errorbar(x.value, y.value, xerr=_bars(x), yerr=_bars(y), label=label, **look)
        axes.xaxis.set_major_formatter(partial(_tick_text, True))
        axes.yaxis.set_major_formatter(partial(_tick_text, share))
    if len(wrapped) < len(names):
        figure.legend(loc="outside lower left", frameon=False, borderpad=0, labelspacing=0.35)
    return figure


def _mark(place: int) -> dict[str, Any]:
    return {"marker": _MARKERS[place % len(_MARKERS)], "linestyle": "", "capsize": 0, "markersize": 6}


def _bars(interval: Interval) -> list[list[float]] | None:
    """The arms of an error bar."""
    value, low, high = interval.value, interval.low, interval.high
    if value is None or low is None or high is None:
        return None
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, grid: str = "", share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of this size in points, and its charts row by row, of one scale if they share that.

    grid: across which axes its lines are drawn, "x", "y" or "both"; none for an empty text.
    """
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    charts = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False).ravel().tolist()
    for axes in charts:
        if grid:
            axes.grid(axis=grid, color=GRID)
            axes.set_axisbelow(True)
        # Said here and not in the settings: ticks are made later, when they are first drawn.
        axes.tick_params(which="both", colors=SOFT, labelsize=12)
    return figure, charts


def _lay_flat(axes: Axes, x_range: tuple[float, float], x_percent: bool) -> None:
    """A chart of which only the horizontal axis is read."""
    axes.set_xlim(*x_range)
    axes.xaxis.set_major_formatter(partial(_tick_text, x_percent))
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)


def _number(value: float, share: bool) -> str:
    return percent(value, 1) if share else signed(value, 2)


def _fill(
    axes: Axes,
    curves: Sequence[Curve],
    names: Sequence[str],
    bounds: tuple[float, float] | None,
    level_line: tuple[float, str] | None,
) -> None:
    """The curves, with the level line above them."""
    for place, (curve, name) in enumerate(zip(curves, names, strict=True)):
        _draw(axes, curve, place if curve.colour is None else curve.colour, name, bounds)
    if level_line is not None:
        value, name = level_line
        axes.axhline(
            value, color=SOFT, linewidth=1.2, linestyle=(0, (1, 2)), label=_words(name) or "_unnamed"
        )


def _draw(axes: Axes, curve: Curve, place: int, name: str, bounds: tuple[float, float] | None) -> None:
    x, y = _numbers(curve.x), _numbers(curve.y)
    known = np.isfinite(x) & np.isfinite(y)
    colour = SERIES_COLOURS[place % len(SERIES_COLOURS)]
    axes.plot(
        x[known],
        y[known],
        color=colour,
        label=name or "_unnamed",
        linewidth=2,
        linestyle=(0, (4, 2)) if curve.dashed else "-",
        marker=_MARKERS[place % len(_MARKERS)],
        markersize=5.5,
        markevery=max(1, round(known.sum() / _MARKED)),
        markeredgecolor="white",
        markeredgewidth=0.6,
    )
    if curve.low is not None and curve.high is not None:
        low, high = (np.clip(_numbers(end), *(bounds or (None, None))) for end in (curve.low, curve.high))
        banded = known & np.isfinite(low) & np.isfinite(high)
        axes.fill_between(x[banded], low[banded], high[banded], color=colour, alpha=0.16, linewidth=0)


def _format_x_axis(axes: Axes, curves: Sequence[Curve], percent: bool, log: bool) -> None:
    places = sorted({float(x) for curve in curves for x in curve.x if np.isfinite(x)})
    if log and places and places[-1] > 0:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(partial(_tick_text, percent))
    if 0 < len(places) <= _MOST_NAMED:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(places)


def _format_y_axis(axes: Axes, percent: bool, log: bool, bounds: tuple[float, float] | None) -> None:
    if log and axes.dataLim.y1 > 0:
        axes.set_yscale("log")
    if percent:
        axes.yaxis.set_major_formatter(partial(_tick_text, True))
    if bounds is not None:
        axes.set_ylim(*bounds)


def _words(name: str, length: int | None = None) -> str:
    """A name for matplotlib, where a dollar sign begins no formula, in lines of `length`."""
    shown = visible(name).replace("$", r"\$")
    return textwrap.fill(shown, length) if length else shown


def _tick_text(share: bool, value: float, _place: float = 0.0) -> str:
    text = f"{100 * value if share else value:,.10g}".replace("-", "\N{MINUS SIGN}")
    return f"{text}%" if share else text


def _numbers(values: Sequence[float | None]) -> Array:
    known = [finite(value) for value in values]
    return np.array([np.nan if value is None else value for value in known], dtype=float)


def inline_svg(figure: Figure, alt: str, key: str) -> tuple[Markup, float]:
    """A figure as one <svg> element for a page, and its natural width in CSS pixels (72 to the inch).

    `alt` is its text for readers who cannot see it. `key`, unique in the page, keeps its ids apart from those
    of other figures. Text stays text. Equal figures give equal bytes.
    """
    written = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "veridical", "image.composite_image": False}
    with mpl.rc_context(settings):  # type: ignore[arg-type]  # the stub wants literal names of settings
        figure.savefig(written, format="svg", facecolor="none", edgecolor="none", metadata={"Date": None})
    content = written.getvalue()
    root = ET.fromstring(content)  # noqa: S314  # what matplotlib wrote a moment ago
    _adapt(root, set(_REFERENCE.findall(content)), key)
    width = float(root.attrib["viewBox"].split()[2])
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"class": "chart drawn", "role": "img", "aria-label": visible(alt)}
    return Markup(ET.tostring(root, encoding="unicode")), width  # noqa: S704  # escaped by its writer


def _adapt(element: ET.Element, referenced: set[str], key: str) -> None:
    """Turn an element of a standalone drawing, and all in it, into one of a page."""
    element.tag = element.tag.rpartition("}")[2]
    for child in list(element):
        # A style element would reach beyond its drawing: it holds for the whole page.
        if child.tag.rpartition("}")[2] in ("metadata", "style"):
            element.remove(child)
        else:
            _adapt(child, referenced, key)
    attributes = dict(element.attrib)
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "id":
            if value in referenced:
                element.attrib["id"] = f"{key}-{value}"
        elif name == _LINK:
            element.attrib["href"] = value.replace("#", f"#{key}-", 1) if value.startswith("#") else value
        else:
            element.attrib[name] = _styled(value, key) if name in ("style", "clip-path") else value


def _styled(style: str, key: str) -> str:
    """A style with the page's fonts and colours, and with the ids of this figure."""
    named = _COLOUR.sub(
        lambda found: f"var(--{PALETTE[found[0]]})" if found[0] in PALETTE else found[0], style
    )
    return _FAMILY.sub(r"\1 var(--font)", named).replace("url(#", f"url(#{key}-")
