"""DiffROAR sections -> one self-contained HTML file: it loads nothing, runs no script, escapes every text."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical.report import diffroar_panels as panels
from veridical.report import diffroar_words as words
from veridical.report import pictures
from veridical.report.charts import interval_bar
from veridical.report.diffroar_content import DiffRoarSection, UnmaskedItem, at_level, check_diffroar_sections
from veridical.report.formats import (
    DASH,
    Interval,
    flatten_settings,
    level_text,
    percent,
    points,
    setting_text,
)
from veridical.report.rendering import render
from veridical.runtime.checking import as_path
from veridical.runtime.files import write_atomic

# Beyond this many pixels a side, an image is drawn smooth.
_LARGE = 64
_SHOWN_LEVELS = 4


def write_diffroar_report(
    path: str | os.PathLike[str],
    title: str,
    lead: str,
    sections: Sequence[DiffRoarSection],
    *,
    details: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
    config: Mapping[str, object] | None = None,
    environment: Mapping[str, object] | None = None,
) -> Path:
    """Write the page atomically and return its path; the folder must exist.

    The first section is the one that the others are compared with. `details` say how it was measured, as
    terms and values; `notes` are cautions, a sentence each. Raises UsageError when the sections cannot stand
    side by side (see `check_diffroar_sections`).
    """
    check_diffroar_sections(sections)
    first, *others = sections
    content = render(
        "diffroar.html",
        question="are explanations faithful?",
        title=title,
        lead=lead,
        sections=sections,
        styles=(chosen := panels.styles(sections)),
        lines=list(chosen.items()),
        mode=first.mode,
        done={"keep": "kept", "remove": "removed"}[first.mode],
        headlines=[words.headline(section) for section in sections],
        findings=_findings(first, others),
        main=panels.difference_panel(sections),
        end_panels=panels.end_panels(sections),
        groups=_groups(sections),
        baselines=_baseline_names(sections),
        outputs=[_output(section, alone=not others) for section in sections],
        examples=_examples(sections),
        colour_bar=pictures.colour_bar_uri(),
        details=[(name, setting_text(value)) for name, value in (details or {}).items()],
        notes=notes,
        numbers=[row for section in sections for row in _numbers(section)],
        tables={
            "Configuration": flatten_settings(config or {}),
            "Environment": flatten_settings(environment or {}),
        },
    )
    target = as_path(path)
    write_atomic(target, content)
    return target


def _findings(first: DiffRoarSection, others: Sequence[DiffRoarSection]) -> list[str]:
    """Under the headlines: how the others lie to the first, or what else is known of a single one."""
    told = [words.beside_first(first, other) for other in others] if others else _own_findings(first)
    return [sentence for sentence in told if sentence]


def _own_findings(section: DiffRoarSection) -> list[str]:
    """Against the baselines, and from the masks alone."""
    told = [*words.beside_baselines(section), words.from_masks(section)]
    return [sentence for sentence in told if sentence]


def _output(section: DiffRoarSection, *, alone: bool) -> dict[str, Any]:
    """What one output's own part of the page shows; what is on top of the page already is not repeated."""
    sentences = [
        (level_text(level), section.verdicts[place]["verdict"], words.level_sentence(section, place))
        for place, level in enumerate(section.levels)
    ]
    return {
        "title": section.title,
        "sentences": sentences,
        "findings": [] if alone else _own_findings(section),
        "panels": panels.own_panels(section),
    }


def _baseline_names(sections: Sequence[DiffRoarSection]) -> dict[str, str]:
    """The baselines that any output has, with their heads in the table."""
    heads = {"random": "random order", "input-agnostic": "one order for all"}
    return {name: heads.get(name, name) for section in sections for name in section.baselines}


def _groups(sections: Sequence[DiffRoarSection]) -> list[dict[str, Any]]:
    """Table rows by level, a row for each output that has the level."""
    levels = sorted({level for section in sections for level in section.levels})
    low, high = _bar_range(sections)
    groups = []
    for level in levels:
        present = [section for section in sections if at_level(section.curve, level) is not None]
        rows = [_row(section, level, sections, low, high) for section in present]
        counts = {f"{section.count(level):,} of {section.coordinates:,} coordinates" for section in present}
        same = counts.pop() if len(counts) == 1 else ""
        groups.append({"level": level_text(level), "coordinates": same, "rows": rows})
    return groups


def _row(
    section: DiffRoarSection, level: float, sections: Sequence[DiffRoarSection], low: float, high: float
) -> dict[str, Any]:
    place = section.levels.index(level)
    point, judged = section.curve[place], section.verdicts[place]
    difference, interval = words.difference_text(judged)
    style = panels.styles(sections)[section.title]
    beside = {}
    for name in _baseline_names(sections):
        other = at_level(section.baselines.get(name, ()), level)
        beside[name] = words.difference_text(None if other is None else other["difference"])
    return {
        "title": section.title,
        "top": words.accuracy_text(point["top"]),
        "bottom": words.accuracy_text(point["bottom"]),
        "difference": difference,
        "interval": interval,
        "bar": interval_bar(Interval.read(judged), style, low, high),
        "verdict": judged["verdict"],
        "since": words.as_good(judged),
        "baselines": beside,
    }


def _bar_range(sections: Sequence[DiffRoarSection]) -> tuple[float, float]:
    """A range for all bars, with zero in the middle."""
    read = [Interval.read(point) for section in sections for point in section.verdicts]
    ends = [abs(end) for one in read for end in (one.value, one.low, one.high) if end is not None]
    reach = min(1.0, max([0.02, *ends]))
    return -reach, reach


def _numbers(section: DiffRoarSection) -> list[list[str]]:
    """Every measured accuracy: output, order, level, end, mean, interval, the repeats one by one."""
    curves = {"this attribution": section.curve, **section.baselines, "masks alone": section.control}
    rows: list[list[str]] = []
    for order, curve in curves.items():
        for point in curve:
            ends = [end for end in ("top", "bottom", "difference") if point.get(end) is not None]
            level = float(point["level"])
            rows += [_number_row(section.title, order, level, end, point[end]) for end in ends]
    return rows


def _number_row(title: str, order: str, level: float, end: str, entry: Mapping[str, Any]) -> list[str]:
    interval = Interval.read(entry)
    write = points if end == "difference" else lambda share: percent(share, 2)
    known = interval.low is not None and interval.high is not None
    ends = f"{write(interval.low)} to {write(interval.high)}" if known else DASH  # type: ignore[arg-type]
    mean = DASH if interval.value is None else write(interval.value)
    repeats = ", ".join(write(value) for value in entry.get("repeats") or () if value is not None)
    return [title, order, level_text(level), end, mean, ends, repeats]


def _examples(sections: Sequence[DiffRoarSection]) -> list[dict[str, Any]]:
    """The gallery by example: each image once, with a panel for every output that has a gallery."""
    shown = [section for section in sections if section.gallery]
    return [
        {
            "number": number,
            "label": items[0].label,
            "panels": [_panel(section, item) for section, item in zip(shown, items, strict=True)],
        }
        for number, items in enumerate(zip(*(section.gallery for section in shown), strict=True), start=1)
    ]


def _panel(section: DiffRoarSection, item: UnmaskedItem) -> dict[str, Any]:
    """Two rows of pictures: the image and its top ends, the order and its bottom ends."""
    levels = _spread(sorted(item.unmasked))
    alt = f"image labelled {item.label}"
    done = {"keep": "left of the", "remove": "taken from the"}[section.mode]
    rows = [[("Image", pictures.image_uri(item.image), alt)]]
    rows += [[("Order", pictures.map_uri(item.order), f"order of importance by {section.title}")]]
    for row, (end, place) in zip(rows, (("top", 0), ("bottom", 1)), strict=True):
        for level in levels:
            name = f"{end.capitalize()} {level_text(level)}"
            picture = pictures.image_uri(item.unmasked[level][place])
            row.append((name, picture, f"{alt}, {name.lower()} {done} coordinates by {section.title}"))
    tiles = [tile for row in rows for tile in row]
    return {
        "title": section.title,
        "tiles": tiles,
        "columns": len(levels) + 1,
        "large": max(item.order.shape) > _LARGE,
    }


def _spread(levels: Sequence[float]) -> list[float]:
    """At most `_SHOWN_LEVELS` of the levels, the first and the last among them."""
    if len(levels) <= _SHOWN_LEVELS:
        return list(levels)
    steps = _SHOWN_LEVELS - 1
    return [levels[round(place * (len(levels) - 1) / steps)] for place in range(_SHOWN_LEVELS)]
