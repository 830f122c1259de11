"""Numbers, intervals and settings as the words that tables, pages and terminals share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

DASH: Final = "\N{EM DASH}"
NOT_MEASURED: Final = "not measured"

# {"examples": interval, "seeds": interval}: over the images, and over trainings with other seeds.
Two = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Interval:
    """A mean over `n` examples or seeds with its 95% interval; None where not measured or not finite."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def read(cls, entry: object) -> "Interval":
        """From {"value", "low", "high", "n"}, two of them (`main_interval`), a bare number, or None."""
        if isinstance(entry, Interval):
            return entry
        if not isinstance(entry, Mapping):
            return cls(finite(entry))
        if "seeds" in entry:
            entry = main_interval(entry)
        count = finite(entry.get("n"))
        value, low, high = (finite(entry.get(name)) for name in ("value", "low", "high"))
        return cls(value, low, high, None if count is None else int(count))

    @property
    def sign(self) -> int:
        """1 where the interval lies above zero, -1 below, 0 where it holds zero or has no ends."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def against(self, other: "Interval") -> Literal["higher", "lower", "overlap", "unknown"]:
        """Where this lies to `other`: higher or lower only when the two 95% intervals are disjoint."""
        if None in (self.value, other.value):
            return "unknown"
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return "unknown"
        if self.low > other.high:
            return "higher"
        return "lower" if self.high < other.low else "overlap"


def main_interval(two: Two) -> Mapping[str, Any]:
    """The interval that is shown: over seeds where there are several, else over examples."""
    return two["seeds"] if two["seeds"]["n"] > 1 else two["examples"]


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


def plus_signed(number: float, digits: int) -> str:
    """A difference with its sign, a plus where it is above zero."""
    text = signed(number, digits)
    return text if text.startswith("\N{MINUS SIGN}") or float(text) == 0 else f"+{text}"


def points(share: float, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    return plus_signed(100 * share, digits)


def level_text(level: float) -> str:
    """A share of pixels as percent, as short as it can be."""
    return f"{100 * level:.6g}%"


def radius_text(radius: float) -> str:
    """A radius in input units as people write it: 0.1, or 8/255 where it is a number of grey levels."""
    levels = radius * 255
    plain = f"{radius:.6g}"
    if len(plain) > 5 and levels >= 0.5 and abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return plain


def quoted(title: str) -> str:
    """A title in typographic quotes, as running text needs it."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{title}\N{RIGHT DOUBLE QUOTATION MARK}"


def listed(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def notes_by_name(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Each note once, with the names that it is about where it is not about all."""
    about: dict[str, list[str]] = {}
    for name, own in notes.items():
        for note in own:
            about.setdefault(note, []).append(name)
    return [
        note if len(names) == len(notes) else f"{', '.join(names)}: {note}" for note, names in about.items()
    ]


def _setting_text(value: object) -> str:
    """A setting in words: None is a dash, a list its members."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_setting_text(part) for part in value) or DASH
    return str(value)


def flatten_settings(values: Mapping[str, object], place: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs; those of a list are numbered from 1."""
    pairs = []
    for key, value in values.items():
        if isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            pairs += flatten_settings({f"{key}.{n}": one for n, one in enumerate(value, 1)}, place)
        elif isinstance(value, Mapping) and value:
            pairs += flatten_settings(value, f"{place}{key}.")
        else:
            pairs.append((f"{place}{key}", _setting_text(value)))
    return pairs


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3 h 20 min."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
