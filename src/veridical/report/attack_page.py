"""Sections -> one self-contained HTML file: it loads nothing, runs no script, and escapes every text."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from veridical.report import gallery, panels, pictures
from veridical.report.charts import interval_bar
from veridical.report.content import ModelSection, Protocol, check_sections
from veridical.report.formats import NOT_MEASURED, Interval, flatten_settings, radius_text, setting_text
from veridical.report.measures import MEASURES, Measure, measure_named
from veridical.report.rendering import render
from veridical.report.verdict import verdict
from veridical.runtime.checking import as_path
from veridical.runtime.files import write_atomic

_ALWAYS = ("natural_accuracy", "adversarial_accuracy", "topk_intersection", "kendall_tau")


def write_report(
    path: str | os.PathLike[str],
    title: str,
    lead: str,
    sections: Sequence[ModelSection],
    *,
    protocol: Protocol | None = None,
    notes: Sequence[str] = (),
    config: Mapping[str, object] | None = None,
    environment: Mapping[str, object] | None = None,
    training: Mapping[str, panels.Log] | None = None,
    citation: str = "",
) -> Path:
    """Write the page atomically and return its path; the folder must exist.

    The first section is the one that the others are compared with. `notes` are deviations and cautions, a
    sentence each. `training` maps a section's title to its log records ({"epoch" or "step", "loss",
    "validation_accuracy", "parts": {name: number}}). `citation` names the source of the sections'
    published and recalled numbers. Raises UsageError when the sections cannot stand side by side (see
    `check_sections`).
    """
    check_sections(sections)
    content = render(
        "report.html",
        question="do explanations hold still?",
        title=title,
        lead=lead,
        verdict=verdict(sections, protocol, _pixels(sections)),
        sections=sections,
        styles=(chosen := panels.styles(sections)),
        lines=list(chosen.items()),
        k=sections[0].k,
        groups=(groups := _result_groups(sections)),
        glance=[group for group in groups if _at_a_glance(group)],
        examples=gallery.examples(sections),
        colours={"kept": pictures.KEPT, "lost": pictures.LOST, "gained": pictures.GAINED},
        colormap=pictures.COLORMAP,
        colour_bar=pictures.colour_bar_uri(),
        warnings=gallery.picture_warnings(sections),
        attack_panels=panels.trace_panels(sections) + panels.distribution_panels(sections),
        curve_panels=panels.curve_panels(sections),
        training_panels=panels.training_panels(training or {}, sections),
        protocol=_protocol_entries(protocol),
        notes=notes,
        tables={
            "Configuration": flatten_settings(config or {}),
            "Environment": flatten_settings(environment or {}),
        },
        citation=citation,
    )
    target = as_path(path)
    write_atomic(target, content)
    return target


def _result_groups(sections: Sequence[ModelSection]) -> list[dict[str, Any]]:
    """Table rows by measure, a row per model; the four main measures are there even when missing."""
    present = {name for section in sections for name in section.metrics}
    names = [name for name in MEASURES if name in present or name in _ALWAYS] + sorted(
        present - set(MEASURES)
    )
    chosen = panels.styles(sections)
    groups = []
    for name in names:
        measure = measure_named(name)
        intervals = [Interval.read(section.metrics.get(name)) for section in sections]
        low, high = _bar_range(measure, intervals)
        rows = [
            _result_row(measure, section, interval, interval_bar(interval, chosen[section.title], low, high))
            for section, interval in zip(sections, intervals, strict=True)
        ]
        meaning = measure.meaning.format(k=f"{sections[0].k:,}")
        groups.append({"measure": measure, "meaning": meaning, "rows": rows})
    return groups


def _at_a_glance(group: Mapping[str, Any]) -> bool:
    """The two measures of steadiness, where any model has them."""
    steadiness = group["measure"].name in ("topk_intersection", "kendall_tau")
    return steadiness and any(row["measured"] for row in group["rows"])


def _bar_range(measure: Measure, intervals: Sequence[Interval]) -> tuple[float, float]:
    known = [end for one in intervals for end in (one.value, one.low, one.high) if end is not None]
    if measure.unit == "share" or not known:
        return 0.0, 1.0
    return min(0.0, *known), max(known) * 1.1 if measure.unit == "pixels" else max(1.0, *known)


def _result_row(measure: Measure, section: ModelSection, interval: Interval, bar: Markup) -> dict[str, Any]:
    known = interval.low is not None and interval.high is not None
    # The literature's numbers keep the digits of their print, two more than the measured ones deserve.
    digits = {"share": 2, "correlation": 4, "pixels": 2}[measure.unit]
    return {
        "title": section.title,
        "value": NOT_MEASURED if interval.value is None else measure.write(interval.value),
        "measured": interval.value is not None,
        "interval": f"{measure.write(interval.low)} to {measure.write(interval.high)}" if known else "",
        "n": "" if interval.n is None else f"{interval.n:,}",
        "bar": bar,
        "published": measure.write(section.published.get(measure.name), digits),
        "recalled": measure.write(section.recalled.get(measure.name), digits),
    }


def _pixels(sections: Sequence[ModelSection]) -> int | None:
    return next((int(section.gallery[0].map.size) for section in sections if section.gallery), None)


def _protocol_entries(protocol: Protocol | None) -> list[tuple[str, str]]:
    if protocol is None:
        return []
    entries = [(str(name), setting_text(value)) for name, value in protocol.details.items()]
    if protocol.radius is not None:
        norm = {"linf": "No pixel changes by more than", "l2": "A Euclidean distance of at most"}[
            protocol.norm
        ]
        entries.insert(
            0, ("Bound on the change", f"{norm} {radius_text(protocol.radius)} (pixels run from 0 to 1)")
        )
    return entries
