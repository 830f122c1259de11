"""The measures a report knows: their names for a reader, their units, and how their numbers are written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

DASH = "\N{EM DASH}"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Measure:
    """One row of the results: `meaning` explains it once, with {k} for the number of pixels counted."""

    name: str
    label: str
    short: str
    meaning: str
    unit: Literal["share", "correlation", "pixels"] = "share"

    def write(self, value: object, digits: int | None = None) -> str:
        """Write one number: a share in percent (1 digit), a correlation (3), pixels (2); else a dash."""
        number = finite(value)
        if number is None:
            return DASH
        if self.unit == "share":
            return percent(number, 1 if digits is None else digits)
        if self.unit == "pixels":
            return f"{signed(number, 2 if digits is None else digits)} px"
        return signed(number, 3 if digits is None else digits)


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            "natural_accuracy",
            "Natural accuracy",
            "NA",
            "Share of all test images, left as they are, that the model classifies correctly. "
            "Higher is better.",
        ),
        Measure(
            "adversarial_accuracy",
            "Adversarial accuracy",
            "AA",
            "Share of all test images still classified correctly after each was changed, within the same "
            "bound, to mislead the classifier. Higher is better.",
        ),
        Measure(
            "topk_intersection",
            "Attribution intersection",
            "IN",
            "Share of an explanation\u2019s {k} most important pixels that are still among the {k} most "
            "important after the attack; mean over the correctly classified images. Higher is better.",
        ),
        Measure(
            "kendall_tau",
            "Attribution rank correlation",
            "CO",
            "Kendall\u2019s tau between the importance ranking of all pixels before and after the attack: 1 "
            "is the same order, 0 no relation, \N{MINUS SIGN}1 the reverse; mean over the correctly "
            "classified images. Higher is better.",
            "correlation",
        ),
        Measure(
            "spearman",
            "Spearman rank correlation",
            "",
            "The same comparison of rankings by Spearman\u2019s rho. Higher is better.",
            "correlation",
        ),
        Measure(
            "windowed_topk_intersection",
            "Windowed intersection",
            "",
            "As IN, but a pixel counts as kept when one of the {k} most important lies close to it, so that "
            "a small shift is forgiven. Higher is better.",
        ),
        Measure(
            "mass_centre_shift",
            "Shift of the centre of mass",
            "",
            "How far the explanation\u2019s centre of mass moved, in pixels. Lower is better.",
            "pixels",
        ),
    )
}


@dataclass(frozen=True)
class Interval:
    """A mean over `n` examples with its 95% interval; None where not measured or not finite."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def read(cls, entry: Mapping[str, Any] | float | None) -> "Interval":
        """From {"value", "low", "high", "n"}, a bare number, or None."""
        if not isinstance(entry, Mapping):
            return cls(finite(entry))
        count = finite(entry.get("n"))
        value, low, high = (finite(entry.get(name)) for name in ("value", "low", "high"))
        return cls(value, low, high, None if count is None else int(count))

    def against(self, other: "Interval") -> Literal["higher", "lower", "overlap", "unknown"]:
        """Where this lies to `other`: higher or lower only when the two 95% intervals are disjoint."""
        if self.value is None or other.value is None:
            return "unknown"
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return "unknown"
        if self.low > other.high:
            return "higher"
        return "lower" if self.high < other.low else "overlap"


def measure_named(name: str) -> Measure:
    """The measure with this name; an unknown one keeps its name and is written as a plain number."""
    known = MEASURES.get(name)
    return known or Measure(name, name.replace("_", " ").capitalize(), "", "", "correlation")


def finite(value: object) -> float | None:
    """A finite float, or None for None, NaN, infinities and anything that is not a number."""
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]  # numpy scalars and 0-d arrays convert too
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def signed(number: float, digits: int) -> str:
    """A decimal with a real minus sign, and never a negative zero."""
    text = f"{number:.{digits}f}"
    if text.startswith("-"):
        return text[1:] if float(text) == 0 else f"\N{MINUS SIGN}{text[1:]}"
    return text


def percent(number: float, digits: int) -> str:
    """A share as percent."""
    return f"{signed(100 * number, digits)}%"


def percents(numbers: list[float]) -> list[str]:
    """Shares as whole percent; with one decimal where rounding would hide a difference or reach 0 or 100."""
    whole = [percent(number, 0) for number in numbers]
    hidden = len(set(whole)) < len({round(number, 6) for number in numbers})
    edge = any(
        text in ("0%", "100%") and number not in (0.0, 1.0)
        for text, number in zip(whole, numbers, strict=True)
    )
    return [percent(number, 1) for number in numbers] if hidden or edge else whole


def radius_text(radius: float) -> str:
    """A radius in input units as people write it: 0.1, or 8/255 where it is a number of grey levels."""
    levels = radius * 255
    plain = f"{radius:.6g}"
    if len(plain) > 5 and levels >= 0.5 and abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return plain
