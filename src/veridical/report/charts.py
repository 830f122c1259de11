"""Numbers -> inline SVG charts: lines with bands, histograms, and the interval bars of tables.

A model is told by colour, by dash and, in words, by the chart's label; `style` is its class, m0 to m5.
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from veridical.report.content import Array
from veridical.report.drawing import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    extent,
    rounded,
    svg,
    tag,
    tick_text,
    x_axis,
    y_axis,
)
from veridical.report.formats import Interval, percent, signed
from veridical.runtime.record import record

_PLOT_HEIGHT = 210
_ROW_HEIGHT, _ROW_LABEL = 66, 24
_HISTOGRAM_LEFT = 18
_BINS = 20
# A line of more points than this is drawn without dots on them.
_MOST_MARKED = 12


@record
class Series:
    """A line: x and y of shape (P,), NaN where unknown, and optionally the band `low` to `high` around it."""

    label: str
    style: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None


@record
class Sample:
    """One number per example, for a histogram, NaN where unknown."""

    label: str
    style: str
    values: Array


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    share: bool = False,
    x_share: bool = False,
    y_range: tuple[float, float] | None = None,
    reference: tuple[str, float] | None = None,
) -> Markup:
    """Lines with bands over a common x axis; `share` writes the y axis as percent, `x_share` the x axis.

    `reference` is a level line with its name, or "" for one that the axis explains; give a y_range that holds
    it, or none.
    """
    y_values = [part for line in series for part in (line.y, line.low, line.high) if part is not None]
    if reference is not None:
        y_values.append(np.array([reference[1]]))
    base = TOP + _PLOT_HEIGHT
    across = Scale(*extent([line.x for line in series]), LEFT, WIDTH - RIGHT)
    upward = Scale(*rounded(*(y_range or extent(y_values))), base, TOP)
    parts = [y_axis(upward, share=share), x_axis(across, base, x_label, share=x_share)]
    parts += [_band(line, across, upward) for line in series]
    if reference is not None:
        parts.append(_reference(*reference, across, upward))
    parts += [_line(line, across, upward) for line in series]
    told = [_told(line, share, x_share) for line in series]
    if reference is not None and reference[0]:
        told.append(f"{reference[0]}: {_number(reference[1], share)}")
    return svg(base + BOTTOM, f"{y_label} against {x_label}. {'; '.join(told)}.", parts)


def histograms(
    samples: Sequence[Sample], *, x_label: str, x_range: tuple[float, float], share: bool = False
) -> Markup:
    """One histogram per model over a common axis, with its median; heights compare across the models."""
    x_range = extent([np.array(x_range)])
    across = Scale(*x_range, _HISTOGRAM_LEFT, WIDTH - RIGHT)
    edges = np.linspace(*x_range, _BINS + 1)
    known = [sample.values[np.isfinite(sample.values)] for sample in samples]
    heights = [np.histogram(values, edges)[0] / max(1, values.size) for values in known]
    tallest = max((float(row.max()) for row in heights), default=0.0) or 1.0
    bottom = TOP + len(samples) * (_ROW_HEIGHT + _ROW_LABEL)
    parts = [x_axis(across, bottom, x_label, share=share, top=TOP + _ROW_LABEL)]
    told = []
    for place, (sample, values, row) in enumerate(zip(samples, known, heights, strict=True), start=1):
        base = TOP + place * (_ROW_HEIGHT + _ROW_LABEL)
        parts.append(_columns(row / tallest, edges, across, base, sample.style))
        words = "no values"
        if values.size:
            middle = float(np.median(values))
            images = "image" if values.size == 1 else "images"
            words = f"median {percent(middle, 0) if share else signed(middle, 2)}, {values.size:,} {images}"
            parts.append(_median(across(middle), base))
        told.append(f"{sample.label}: {words}")
        name = tag("tspan", _shortened(sample.label, 46 - len(words)), class_="strong")
        parts.append(
            tag("text", name, f"  {words}", class_="label", x=_HISTOGRAM_LEFT, y=base - _ROW_HEIGHT - 6)
        )
    return svg(bottom + BOTTOM, f"Histograms of {x_label}. {'; '.join(told)}.", parts)


def interval_bar(interval: Interval, style: str, low: float, high: float) -> Markup:
    """A value and its 95% interval on a bare axis from `low` to `high`; the words stand in the same row."""
    across = Scale(low, high, 6, 194)
    parts = [tag("line", class_="rail", x1=6, x2=194, y1=10, y2=10)]
    ends = (across(end) for end in dict.fromkeys((low, 0.0, high)))
    parts += [tag("line", class_="rail", x1=x, x2=x, y1=6, y2=14) for x in ends]
    if interval.low is not None and interval.high is not None:
        left, right = across(interval.low), across(interval.high)
        parts.append(tag("line", class_=f"range {style}", x1=left, x2=right, y1=10, y2=10))
    if interval.value is not None:
        x = across(interval.value)
        parts.append(tag("line", class_=f"value {style}", x1=x, x2=x, y1=3, y2=17))
    return tag("svg", *parts, class_="bar", viewBox="0 0 200 20", aria_hidden="true")


def _band(line: Series, across: Scale, upward: Scale) -> Markup:
    if line.low is None or line.high is None:
        return Markup("")
    known = np.isfinite(line.x) & np.isfinite(line.low) & np.isfinite(line.high)
    there = [f"{across(x)},{upward(y)}" for x, y in zip(line.x[known], line.high[known], strict=True)]
    back = [f"{across(x)},{upward(y)}" for x, y in zip(line.x[known], line.low[known], strict=True)]
    return tag("polygon", class_=f"band {line.style}", points=" ".join(there + back[::-1]))


def _line(line: Series, across: Scale, upward: Scale) -> Markup:
    known = np.isfinite(line.x) & np.isfinite(line.y)
    points = [(across(x), upward(y)) for x, y in zip(line.x[known], line.y[known], strict=True)]
    drawn = [tag("polyline", class_=f"line {line.style}", points=" ".join(f"{x},{y}" for x, y in points))]
    if len(points) <= _MOST_MARKED:
        drawn += [tag("circle", class_=f"point {line.style}", cx=x, cy=y, r=3.5) for x, y in points]
    return Markup("").join(drawn)


def _reference(name: str, value: float, across: Scale, upward: Scale) -> Markup:
    """A level line, with its name above its right end, or below where there is no room."""
    y = upward(value)
    below = y - 16 < TOP
    line = tag("line", class_="reference", x1=across.start, x2=across.end, y1=y, y2=y)
    return line + tag(
        "text", name, class_="label", x=across.end, y=y + (15 if below else -5), text_anchor="end"
    )


def _told(line: Series, share: bool, x_share: bool) -> str:
    """A line in words: its first and last known point."""
    known = np.flatnonzero(np.isfinite(line.x) & np.isfinite(line.y))
    if known.size == 0:
        return f"{line.label}: no values"
    ends = []
    for x, y in ((line.x[at], line.y[at]) for at in (known[0], known[-1])):
        place = f"{100 * x:.6g}%" if x_share else tick_text(x, share=False)
        ends.append(f"{_number(y, share)} at {place}")
    return f"{line.label}: from {' to '.join(ends)}"


def _number(value: float, share: bool) -> str:
    return percent(value, 1) if share else signed(value, 2)


def _columns(heights: Array, edges: Array, across: Scale, base: float, style: str) -> Markup:
    """The bars of one model; `heights` in [0, 1], an occupied bin being at least one unit tall."""
    parts = []
    for height, start, end in zip(heights, edges[:-1], edges[1:], strict=True):
        if height > 0:
            tall = max(1.0, round(float(height) * (_ROW_HEIGHT - 4), 2))
            x = across(float(start)) + 0.5
            width = round(across(float(end)) - x - 0.5, 2)
            parts.append(tag("rect", class_=f"column {style}", x=x, y=base - tall, width=width, height=tall))
    parts.append(tag("line", class_="axis", x1=across.start, x2=across.end, y1=base, y2=base))
    return Markup("").join(parts)


def _median(x: float, base: float) -> Markup:
    return tag("line", class_="median", x1=x, x2=x, y1=base - _ROW_HEIGHT, y2=base)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
