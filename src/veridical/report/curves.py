"""Numbers -> a figure of curves with intervals, as wide as a phone so that its text stays legible there."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from veridical.report.content import Array
from veridical.report.embedding import GRID, INK, LINES, SOFT
from veridical.report.formats import finite
from veridical.runtime.errors import argument_error, visible

_WIDTH, _PLOT_HEIGHT, _LINE = 380, 236, 18
_NAME_LENGTH = 44
_GRID_WIDTH, _GRID_HEIGHT, _TITLE_LENGTH = 270, 200, 26
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
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
}


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
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # the stub wants literal names of settings
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        axes = figure.subplots()
        axes.set(title=_words(title), xlabel=x_label, ylabel=y_label)
        _fill(axes, curves, names, y_bounds, level_line)
        _across(axes, curves, x_percent, log_x)
        _upward(axes, y_percent, log_y, y_range)
        if told:
            figure.legend(
                loc="outside lower left", frameon=False, borderpad=0, labelspacing=0.35, handlelength=2.6
            )
    return figure


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
    size = (_GRID_WIDTH * columns / 72, (_GRID_HEIGHT * rows + _LINE * (2 + -(-len(kinds) // columns))) / 72)
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # the stub wants literal names of settings
        figure = Figure(figsize=size, layout="constrained")
        every = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
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
        _across(every[0], panels[0][1], True, False)
        _upward(every[0], True, False, None)
        for axes in every[-columns:]:
            axes.set_xlabel(x_label)
        figure.supylabel(y_label, color=SOFT, fontsize=12)
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, handlelength=2.6)
    return figure


def _fill(
    axes: Axes,
    curves: Sequence[Curve],
    names: Sequence[str],
    bounds: tuple[float, float] | None,
    level_line: tuple[float, str] | None,
) -> None:
    """The curves on their ground, with the level line above them."""
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    # Said here and not in the settings: ticks are made later, when they are first drawn.
    axes.tick_params(which="both", colors=SOFT, labelsize=12)
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
    colour = LINES[place % len(LINES)]
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


def _across(axes: Axes, curves: Sequence[Curve], percent: bool, log: bool) -> None:
    places = sorted({float(x) for curve in curves for x in curve.x if np.isfinite(x)})
    if log and places and places[-1] > 0:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_percent_text if percent else _plain_text))
    if 0 < len(places) <= _MOST_NAMED:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(places)


def _upward(axes: Axes, percent: bool, log: bool, bounds: tuple[float, float] | None) -> None:
    if log and axes.dataLim.y1 > 0:
        axes.set_yscale("log")
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(_percent_text))
    if bounds is not None:
        axes.set_ylim(*bounds)


def _words(name: str, length: int | None = None) -> str:
    """A name for matplotlib, where a dollar sign begins no formula, in lines of `length`."""
    shown = visible(name).replace("$", r"\$")
    return textwrap.fill(shown, length) if length else shown


def _plain_text(value: float, _: int | None = None) -> str:
    return f"{value:,.10g}".replace("-", "\N{MINUS SIGN}")


def _percent_text(value: float, _: int | None = None) -> str:
    return f"{_plain_text(100 * value)}%"


def _numbers(values: Sequence[float | None]) -> Array:
    known = [finite(value) for value in values]
    return np.array([np.nan if value is None else value for value in known], dtype=float)
