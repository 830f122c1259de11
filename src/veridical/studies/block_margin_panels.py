"""The block-margin experiment in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from veridical.report import (
    Curve,
    Illustration,
    Panel,
    PictureGallery,
    PictureRow,
    Table,
    curves_figure,
)
from veridical.report.formats import DASH, Interval

Results = Mapping[str, Any]

NAMES: Mapping[str, str] = {
    "natural": "natural network",
    "adversarial": "adversarially trained network",
    "linear": "linear model",
}
COLUMNS = ("network", "accuracy", "other / signal", "noise / signal", "margin", "gradient varies by")
_HOW_TO_SEE = (
    "Each row is an input whose label is told by that block, each column a block of its gradient. A gradient "
    "that marks what tells has a bright diagonal in the left half and is dark elsewhere."
)
_CERTIFICATE = (
    "The margin is that of two atoms in closed form; the bound is the proven maximum of the dual, and by "
    "enumeration its maximum over every pattern of active inputs. Where all three are equal, no network "
    "of any width has a greater margin."
)
_KINKS = (
    "Gradients are over the corners of the support and 1,000 random examples. With offsets some inputs lie "
    "on a kink, where both one-sided gradients count: they differ, but each is the same on all "
    "task-relevant blocks."
)
_TELLS = "Gradient on other task-relevant blocks over that on the block that tells"


def rows(results: Results) -> list[list[str]]:
    """A row for each kind of network at the main values; intervals are over seeds."""
    return [
        [
            NAMES[kind],
            _cell(found["accuracy"], "{:.2%}"),
            _cell(found["other_ratio"]),
            _cell(found["noise_ratio"]),
            _cell(found["margin"]),
            _cell(found["agnostic"], "{:.2g}"),
        ]
        for kind, found in results["networks"].items()
    ]


def headlines(results: Results) -> list[str]:
    """What was found about the theorem, then about the trained networks."""
    return [*_on_theorem(results), *_on_networks(results)]


def _on_theorem(results: Results) -> list[str]:
    checks = results["theorem"]
    if not checks:
        return ["The closed form of the max-margin is proven for none of these lengths of noise."]
    gap = max(abs(check["gap"]) for check in checks)
    uneven = max(check["unevenness"] for check in checks)
    noise = max(check["noise_greatest"] for check in checks)
    certificates = (
        f"The max-margin classifier in closed form is certified {len(checks)} times: its margin and the "
        f"dual's bound differ by at most {gap:.2g} of it. Its gradient differs between the task-relevant "
        f"blocks of an input by at most {uneven:.2g} of itself, and on noise blocks it is at most "
        f"{noise:.2g}."
    )
    found = [certificates]
    if results["certified_radius"] is not None:
        found.append(
            f"Up to an l_inf radius of {results['certified_radius']:.3f} it also has the greatest robust "
            "margin: so small a radius gives adversarial training no reason to mark one block."
        )
    return found


def _on_networks(results: Results) -> list[str]:
    found = []
    for kind in ("natural", "adversarial"):
        network = results["networks"][kind]
        found.append(
            f"The {NAMES[kind]} marks the other task-relevant blocks {_cell(network['other_ratio'])} times "
            f"as much as the block that tells, and noise blocks {_cell(network['noise_ratio'])} times as "
            f"much; its test accuracy is {_cell(network['accuracy'], '{:.2%}')}."
        )
    linear = results["networks"]["linear"]
    found.append(
        f"The gradient of the linear model changes from input to input by at most "
        f"{linear['agnostic']['value']:.2g} of itself."
    )
    return found


def panels(results: Results) -> list[Panel]:
    """Gradients by block, the table, the sweeps, the course of training, and the theorem's numbers."""
    return [
        Panel(
            "What the gradients mark",
            text=[_HOW_TO_SEE],
            illustrations=[
                Illustration(
                    _pictures(results),
                    "Magnitude of the gradient on each block, over the greatest of the picture; mean over "
                    "y = +1 and -1 and over seeds.",
                    "Three pictures of magnitudes: blocks that tell against blocks of the gradient.",
                )
            ],
            table=Table(COLUMNS, rows(results), "Mean over seeds, with 95% intervals over seeds."),
        ),
        Panel("Width, noise and radius", illustrations=_sweeps(results)),
        Panel("In training", illustrations=_courses(results)),
        _theorem(results),
    ]


def _pictures(results: Results) -> Any:
    pictures = [np.asarray(network["magnitudes"]) for network in results["networks"].values()]
    row = PictureRow("", [picture / (picture.max() or 1.0) for picture in pictures])
    return PictureGallery([row], [NAMES[kind] for kind in results["networks"]], ["heat"] * len(pictures))


def _sweeps(results: Results) -> list[Illustration]:
    told = (
        ("by_width", "hidden units", True, "With more units it comes nearer to the theorem."),
        ("by_noise", "noise eta", False, "With noise on every block; the linear model beside."),
        ("by_radius", "radius of adversarial training", False, _radius_words(results)),
    )
    return [
        Illustration(
            curves_figure(
                [
                    _curve(NAMES[kind], line, "other_ratio", place)
                    for place, (kind, line) in enumerate(results[key].items())
                ],
                x_label=label,
                y_label="other / signal",
                log_x=log,
                level_line=(1.0, "all task-relevant blocks the same"),
            ),
            f"{_TELLS}. {words}",
            f"Ratio of gradient magnitudes against {label}.",
        )
        for key, label, log, words in told
    ]


def _radius_words(results: Results) -> str:
    certified = results["certified_radius"]
    if certified is None:
        return "Radius 0 is the natural network."
    return (
        f"Radius 0 is the natural network. Up to {certified:.3f} a classifier of greatest robust margin "
        "marks all task-relevant blocks the same; above, the proof says nothing."
    )


def _courses(results: Results) -> list[Illustration]:
    told = (
        ("other_ratio", "other / signal", f"{_TELLS}, on the test examples.", None),
        (
            "normalised_margin",
            "normalised margin",
            "Least y f(x) over the mean squared length of the units; no network can exceed the max-margin.",
            results["max_margin"],
        ),
    )
    found = []
    for name, label, words, level in told:
        line = None if level is None else (level, "max-margin")
        curves = []
        for place, kind in enumerate(("natural", "adversarial")):
            history = results["networks"][kind]["history"]
            # The first step's gradient is that of random weights: its ratio means nothing.
            course = zip(history["step"], history[name], strict=True)
            points = [{"at": step, name: interval} for step, interval in course]
            curves.append(_curve(NAMES[kind], points[1:], name, place))
        figure = curves_figure(curves, x_label="step", y_label=label, level_line=line)
        found.append(Illustration(figure, words, f"{label} against the training step."))
    return found


def _theorem(results: Results) -> Panel:
    columns = ("noise", "offsets", "margin", "bound", "by enumeration", "gradient on relevant", "on noise")
    cells = [
        [
            f"{check['noise']:g}",
            "yes" if check["bias"] else "no",
            f"{check['margin']:.12f}",
            f"{check['dual']:.12f}",
            DASH if check["enumerated_dual"] is None else f"{check['enumerated_dual']:.12f}",
            f"{check['relevant_least']:.6f} to {check['relevant_greatest']:.6f}",
            f"{check['noise_greatest']:g}",
        ]
        for check in results["theorem"]
    ]
    return Panel(
        "The max-margin classifier",
        text=[_CERTIFICATE, _KINKS],
        table=Table(columns, cells) if cells else None,
    )


def _curve(title: str, line: Sequence[Mapping[str, Any]], name: str, colour: int) -> Curve:
    intervals = [Interval.read(point[name]) for point in line]
    return Curve(
        title,
        [float(point["at"]) for point in line],
        [interval.value for interval in intervals],
        [interval.low for interval in intervals],
        [interval.high for interval in intervals],
        colour=colour,
    )


def _cell(entry: Mapping[str, Any], form: str = "{:.4f}") -> str:
    interval = Interval.read(entry)
    if interval.value is None:
        return DASH
    value = form.format(interval.value)
    if interval.low is None or interval.high is None:
        return value
    low, high = (form.format(end) for end in (interval.low, interval.high))
    return f"{value} ({low} to {high})" if low != high else value
