"""DiffROAR sections -> chart panels: what is compared across outputs, and what belongs to one of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from veridical.report.charts import Series, line_chart
from veridical.report.diffroar_content import DiffRoarSection, Point
from veridical.report.drawing import extent
from veridical.report.formats import Interval
from veridical.report.panels import Panel

TOP, BOTTOM, RANDOM, ALL_ALIKE = "m1", "m2", "m0", "m3"
_BANDS = "Bands are 95% intervals of the mean over the repeats."
DIFFERENCE = {
    "keep": "Accuracy from the top minus accuracy from the bottom",
    "remove": "Accuracy without the bottom minus accuracy without the top",
}
_SHARE = {"keep": "share of the coordinates kept", "remove": "share of the coordinates removed"}
_NAMES = {"random": ("Random order", RANDOM), "input-agnostic": ("One order for all images", ALL_ALIKE)}


def styles(sections: Sequence[DiffRoarSection]) -> dict[str, str]:
    """The style class of every output by title: with several, m0 is the neutral one of the first."""
    first = 0 if len(sections) > 1 else 1
    return {section.title: f"m{(first + place) % 6}" for place, section in enumerate(sections)}


def difference_panel(sections: Sequence[DiffRoarSection]) -> Panel:
    """The difference against the level, a line for each output."""
    chosen, mode = styles(sections), sections[0].mode
    lines = [line(s.curve, "difference", s.title, chosen[s.title]) for s in sections]
    key = tuple(chosen.items()) if len(sections) > 1 else ()
    caption = f"{DIFFERENCE[mode]}. Above zero, the coordinates that are marked most tell more. {_BANDS}"
    return _differences("Difference of the two ends", lines, mode, caption, key)


def end_panels(sections: Sequence[DiffRoarSection]) -> list[Panel]:
    """The accuracies of both ends, a line for each output; empty for one, whose own panels show them."""
    if len(sections) == 1:
        return []
    chosen, panels = styles(sections), []
    mode = sections[0].mode
    done = {"keep": "kept", "remove": "removed"}[mode]
    for end, words in (("top", "most"), ("bottom", "least")):
        lines = [line(s.curve, end, s.title, chosen[s.title]) for s in sections]
        panels.append(_accuracies(f"Accuracy, {words} attributed {done}", lines, mode, _BANDS))
    return panels


def own_panels(section: DiffRoarSection) -> list[Panel]:
    """The charts of one output: both ends, baselines, the masks alone, ROAR beside KAR."""
    random = section.baselines.get("random", ())
    done = {"keep": "kept", "remove": "removed"}[section.mode]
    lines = [line(section.curve, "top", f"Top {done}", TOP)]
    lines.append(line(section.curve, "bottom", f"Bottom {done}", BOTTOM))
    lines += [line(random, "top", "Random order", RANDOM)] if random else []
    panels = [_accuracies("Accuracy after retraining", lines, section.mode, _BANDS, keyed=True)]
    if section.baselines:
        lines = [line(section.curve, "difference", "This attribution", TOP)]
        for place, (name, curve) in enumerate(section.baselines.items()):
            words, style = _NAMES.get(name, (name, f"m{4 + place % 2}"))
            lines.append(line(curve, "difference", words, style))
        panels.append(
            _differences("Difference beside the baselines", lines, section.mode, _BANDS, _key(lines))
        )
    if section.control:
        panels.append(_control(section))
    # Where there is one of the two alone, it is a line of the first chart.
    if min(len(section.roar), len(section.kar)) > 1:
        lines = [line(section.kar, "accuracy", "KAR: top kept", TOP)]
        lines.append(line(section.roar, "accuracy", "ROAR: top removed", BOTTOM))
        panels.append(_accuracies("ROAR and KAR", lines, "either", _BANDS, keyed=True))
    return panels


def _control(section: DiffRoarSection) -> Panel:
    lines = [
        line(section.control, "top", "Masks of the top", TOP),
        line(section.control, "bottom", "Masks of the bottom", BOTTOM),
    ]
    chance = None if section.chance is None else ("largest class", section.chance)
    caption = "Networks that saw which coordinates were chosen, and no value of them."
    return _accuracies("Accuracy from the masks alone", lines, section.mode, caption, chance, keyed=True)


def line(curve: Sequence[Point], name: str, label: str, style: str) -> Series:
    """One column of a curve over its levels, with the band where any level has an interval."""
    points = [Interval.read(_entry(point, name)) for point in curve]
    columns = [[getattr(point, part) for point in points] for part in ("value", "low", "high")]
    value, low, high = (np.array(column, dtype=float) for column in columns)
    # With two repeats an interval reaches far beyond what an accuracy can be; the axis should not.
    bound = (-1.0, 1.0) if name == "difference" else (0.0, 1.0)
    low, high = np.clip(low, *bound), np.clip(high, *bound)
    banded = bool(np.isfinite(low).any())
    levels = np.array([point["level"] for point in curve], dtype=float)
    return Series(label, style, levels, value, low if banded else None, high if banded else None)


def _entry(point: Point, name: str) -> Mapping[str, Any] | float | None:
    entry: Mapping[str, Any] | float | None = point.get(name)
    return entry


def _accuracies(
    heading: str,
    lines: Sequence[Series],
    mode: str,
    caption: str,
    reference: tuple[str, float] | None = None,
    *,
    keyed: bool = False,
) -> Panel:
    chart = line_chart(
        lines,
        x_label=_SHARE.get(mode, "share of the coordinates"),
        y_label="accuracy",
        share=True,
        x_share=True,
        reference=reference,
    )
    return Panel(heading, chart, caption, _key(lines) if keyed else ())


def _differences(
    heading: str, lines: Sequence[Series], mode: str, caption: str, key: tuple[tuple[str, str], ...]
) -> Panel:
    known = [part for one in lines for part in (one.y, one.low, one.high) if part is not None]
    low, high = extent([*known, np.zeros(1)])
    chart = line_chart(
        lines,
        x_label=_SHARE.get(mode, "share of the coordinates"),
        y_label="difference of accuracies",
        share=True,
        x_share=True,
        # Differences of a tenth of a point would fill the chart otherwise.
        y_range=(min(low, -0.02), max(high, 0.02)),
        reference=("", 0.0),
    )
    return Panel(heading, chart, caption, key)


def _key(lines: Sequence[Series]) -> tuple[tuple[str, str], ...]:
    return tuple((one.label, one.style) for one in lines)
