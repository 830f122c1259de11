"""What a chart is drawn from: escaped SVG elements, a linear scale, round ticks and axes.

A chart is WIDTH units wide, the width of a phone, so that its text stays legible there. Colours come from the
page's style sheet by class, so that they follow light and dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from veridical.report.content import Array
from veridical.report.formats import percent
from veridical.runtime.errors import visible

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 380, 46, 20, 10, 40
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Scale:
    """Data in [low, high] to drawing units in [start, end], linear; the middle where low is high."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def extent(arrays: Sequence[Array]) -> tuple[float, float]:
    """The finite range of all values, widened where it is a single point; [0, 1] where there are none."""
    values = np.concatenate([np.zeros(0), *(np.ravel(array) for array in arrays)]).astype(float)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    # Half a unit, and more around a large constant, whose range would otherwise drown in its rounding.
    room = max(0.5, 1e-3 * abs(low))
    # Nor has a range near the least of numbers steps that could be told from zero.
    return (low, high) if high - low > 1e-300 else (low - room, high + room)


def rounded(low: float, high: float) -> tuple[float, float]:
    """The range grown to whole steps of its ticks, so that the axis ends at a labelled line."""
    low, high = extent([np.array([low, high])])
    while True:
        step = _step(low, high)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        # A wider range may have ticks farther apart, which its ends must meet as well.
        if _step(low, high) == step:
            return low, high


def nice_ticks(low: float, high: float) -> list[float]:
    """At most six round numbers (steps of 1, 2 or 5 times a power of ten) within [low, high]."""
    step = _step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def y_axis(upward: Scale, *, share: bool) -> Markup:
    """Level lines across the plot with their values on the left."""
    parts = []
    ticks = nice_ticks(upward.low, upward.high)
    for tick, text in zip(ticks, tick_texts(ticks, share), strict=True):
        y = upward(tick)
        parts.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y))
        parts.append(tag("text", text, class_="tick", x=LEFT - 7, y=y + 4, text_anchor="end"))
    return Markup("").join(parts)


def x_axis(
    across: Scale, base: float, label: str, *, share: bool = False, top: float | None = None
) -> Markup:
    """The axis at height `base` with ticks, values and label; upright lines from `top` down if given."""
    parts = [tag("line", class_="axis", x1=across.start, x2=across.end, y1=base, y2=base)]
    ticks = nice_ticks(across.low, across.high)
    for tick, text in zip(ticks, tick_texts(ticks, share), strict=True):
        x = across(tick)
        if top is not None:
            parts.append(tag("line", class_="grid", x1=x, x2=x, y1=top, y2=base))
        parts.append(tag("line", class_="axis", x1=x, x2=x, y1=base, y2=base + 4))
        parts.append(tag("text", text, class_="tick", x=x, y=base + 17, text_anchor="middle"))
    middle = (across.start + across.end) / 2
    parts.append(tag("text", label, class_="label", x=middle, y=base + 35, text_anchor="middle"))
    return Markup("").join(parts)


def tick_texts(ticks: Sequence[float], share: bool) -> list[str]:
    """The labels of an axis: as `tick_text` where that is exact, else with the digits that every tick needs.

    So no two ticks get one label, as .855 and .86 in whole percent would, and a label says where its line is.
    """
    texts: list[str] = []
    for digits in range(9):
        texts = [percent(tick, digits) if share else _significant(tick, 6 + digits) for tick in ticks]
        read = [float(text.removesuffix("%").replace(_MINUS, "-")) / (100 if share else 1) for text in texts]
        if all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(read, ticks, strict=True)):
            break
    return texts


def tick_text(number: float, share: bool) -> str:
    """A number as short as it can be, with a real minus sign; a share as whole percent."""
    return percent(number, 0) if share else _significant(number, 6)


def _significant(number: float, digits: int) -> str:
    return f"{number:.{digits}g}".replace("-", _MINUS)


def svg(height: float, label: str, parts: Sequence[Markup]) -> Markup:
    """A chart of its full width with `label` as its text for who cannot see it."""
    return tag("svg", *parts, class_="chart", viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=label)


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """One element; text that is not markup already and every attribute value are escaped."""
    written = "".join(
        f' {key if key == "viewBox" else key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
    )
    inner = "".join(_escaped(child) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")  # noqa: S704  # every part was escaped above


def _escaped(text: object) -> Markup:
    """Markup as it is; text with its characters visible and escaped."""
    return escape(text if isinstance(text, Markup) else visible(str(text)))


def _step(low: float, high: float) -> float:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
