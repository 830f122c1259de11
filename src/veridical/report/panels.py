"""Sections -> the chart panels of a page: the attack's trace, distributions, curves over radii, training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from veridical.report.charts import Sample, Series, histograms, line_chart
from veridical.report.content import Array, ModelSection
from veridical.report.drawing import extent
from veridical.report.formats import Interval, finite
from veridical.report.measures import MEASURES, measure_named

Log = Sequence[Mapping[str, Any]]
# Logs of single steps are averaged down to this many points; more than that no reader can tell apart.
_LOG_POINTS = 100


@dataclass(frozen=True)
class Panel:
    """A chart with what a reader needs beside it; `key` names its lines, as (name, style) pairs."""

    heading: str
    chart: Markup
    caption: str
    key: tuple[tuple[str, str], ...] = ()


def styles(sections: Sequence[ModelSection]) -> dict[str, str]:
    """The style class of every model by title: with several, m0 is the neutral one of the reference model."""
    first = 0 if len(sections) > 1 else 1
    return {section.title: f"m{(first + place) % 6}" for place, section in enumerate(sections)}


def trace_panels(sections: Sequence[ModelSection]) -> list[Panel]:
    """Median and quartiles of tau over the examples after each attack iteration; empty without a trace."""
    chosen = styles(sections)
    lines = [
        _quartiles(section.title, chosen[section.title], section.trace)
        for section in sections
        if section.trace is not None and np.isfinite(section.trace).any()
    ]
    if not lines:
        return []
    lowest = min(float(np.nanmin(line.low)) for line in lines if line.low is not None)
    chart = line_chart(
        lines, x_label="attack iteration", y_label="Kendall\u2019s tau", y_range=(min(0.0, lowest), 1.0)
    )
    caption = (
        "Kendall\u2019s tau between the explanation before the attack and after each of its iterations: the "
        "line is the median over the images, the band holds the middle half of them."
    )
    return [Panel("How fast the explanations give way", chart, caption)]


def distribution_panels(sections: Sequence[ModelSection]) -> list[Panel]:
    """How tau and the top-k intersection spread over the images, where any model has values."""
    chosen = styles(sections)
    panels = []
    for name, heading in (
        ("kendall_tau", "Rank correlation, image by image"),
        ("topk_intersection", "Top pixels kept, image by image"),
    ):
        samples = []
        for section in sections:
            values = np.ravel(np.asarray(section.distributions.get(name, ()), dtype=float))
            values = values[np.isfinite(values)]
            if values.size:
                samples.append(Sample(section.title, chosen[section.title], values))
        if not samples:
            continue
        share = MEASURES[name].unit == "share"
        least = 0.0 if share else min(0.0, *(float(sample.values.min()) for sample in samples))
        label = f"share of the {sections[0].k:,} top pixels kept" if share else "Kendall\u2019s tau"
        chart = histograms(samples, x_label=label, x_range=(np.floor(least * 10) / 10, 1.0), share=share)
        panels.append(Panel(heading, chart, "Further right is steadier. The upright line marks the median."))
    return panels


def curve_panels(sections: Sequence[ModelSection]) -> list[Panel]:
    """Each measure against the attack radius with its 95% band; natural accuracy has no radius."""
    chosen = styles(sections)
    present = {name for section in sections for row in section.curve or () for name in row} - {"radius"}
    ordered = [name for name in MEASURES if name in present] + sorted(present - set(MEASURES))
    panels = []
    for name in ordered:
        lines = [
            _over_radii(section.title, chosen[section.title], name, section.curve)
            for section in sections
            if section.curve
        ]
        lines = [line for line in lines if np.isfinite(line.y).any()]
        if name == "natural_accuracy" or not lines:
            continue
        measure = measure_named(name)
        lowest = min(
            float(np.nanmin(part)) for line in lines for part in (line.y, line.low) if part is not None
        )
        chart = line_chart(
            lines,
            x_label="attack radius",
            y_label=measure.label,
            share=measure.unit == "share",
            y_range=None if measure.unit == "pixels" else (min(0.0, lowest), 1.0),
        )
        heading = f"{measure.label} ({measure.short})" if measure.short else measure.label
        panels.append(Panel(heading, chart, "The band is the 95% interval of the mean."))
    return panels


def training_panels(training: Mapping[str, Log], sections: Sequence[ModelSection]) -> list[Panel]:
    """Loss, validation accuracy and the parts of the loss over training, with a line for each model."""
    chosen = styles(sections)
    spare = iter(f"m{place}" for place in range(len(chosen), 6))
    style = {name: chosen.get(name) or next(spare, "m5") for name in training}
    flat = {name: [_flattened(record) for record in log] for name, log in training.items()}
    axis = _log_axis(flat)
    keys = dict.fromkeys(key for log in flat.values() for record in log for key in record)
    parts = [key for key in keys if key.startswith("parts.")]
    panels = []
    for key in ("loss", "validation_accuracy", *parts):
        lines = [_over_training(name, style[name], log, axis, key) for name, log in flat.items()]
        lines = [line for line in lines if line.y.size]
        if not lines:
            continue
        share = key == "validation_accuracy"
        low, high = extent([line.y for line in lines])
        words = key.replace("parts.", "part of the loss: ").replace("_", " ")
        chart = line_chart(
            lines, x_label=axis, y_label=words, share=share, y_range=(low if share else min(0.0, low), high)
        )
        caption = "Each objective has a loss of its own; only its course compares." if key == "loss" else ""
        panels.append(Panel(words[0].upper() + words[1:], chart, caption))
    return panels


def _quartiles(title: str, style: str, trace: Array) -> Series:
    """Quartiles over the examples (rows) of each iteration; an iteration that nobody has is NaN."""
    known = np.isfinite(trace).any(axis=0)
    low, middle, high = (np.full(trace.shape[1], np.nan) for _ in range(3))
    low[known], middle[known], high[known] = np.nanquantile(
        np.where(np.isfinite(trace), trace, np.nan)[:, known], (0.25, 0.5, 0.75), axis=0
    )
    return Series(title, style, np.arange(1, trace.shape[1] + 1), middle, low, high)


def _over_radii(title: str, style: str, name: str, curve: Sequence[Mapping[str, Any]]) -> Series:
    rows = sorted(curve, key=lambda row: float(row["radius"]))
    points = [Interval.read(row.get(name)) for row in rows]
    columns = [[getattr(point, part) for point in points] for part in ("value", "low", "high")]
    value, low, high = (np.array(column, dtype=float) for column in columns)
    banded = np.isfinite(low).any() and np.isfinite(high).any()
    radii = np.array([row["radius"] for row in rows], dtype=float)
    return Series(title, style, radii, value, low if banded else None, high if banded else None)


def _flattened(record: Mapping[str, Any]) -> dict[str, float]:
    """A log record's finite numbers; those of a nested "parts" under "parts.NAME"."""
    entries = [(key, value) for key, value in record.items() if key != "parts"]
    parts = record.get("parts")
    if isinstance(parts, Mapping):
        entries += [(f"parts.{key}", value) for key, value in parts.items()]
    numbers = ((key, finite(value)) for key, value in entries)
    return {key: number for key, number in numbers if number is not None}


def _log_axis(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Epoch when every log has one record for each epoch, else step."""
    for log in logs.values():
        epochs = [record["epoch"] for record in log if "epoch" in record]
        if len(epochs) < len(log) or len(set(epochs)) < len(epochs):
            return "step"
    return "epoch"


def _over_training(title: str, style: str, log: Sequence[Mapping[str, float]], axis: str, key: str) -> Series:
    """One logged number over training; a record without the axis counts by its place."""
    points = [(record.get(axis, place), record[key]) for place, record in enumerate(log) if key in record]
    values = np.array(points, dtype=float).reshape(-1, 2)
    if len(values) > _LOG_POINTS:
        values = np.stack([part.mean(axis=0) for part in np.array_split(values, _LOG_POINTS)])
    return Series(title, style, values[:, 0], values[:, 1])
