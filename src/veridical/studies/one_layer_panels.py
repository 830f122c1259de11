"""The one-layer experiment in words, a table and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veridical.report import Curve, Illustration, Panel, Table, curves_figure
from veridical.studies.one_layer_job import EQUAL, REFERENCE

Results = Mapping[str, Any]

EQUAL_BELOW = 1e-6
"""Relative distance below which trajectories count as the same in float64."""
SHOWN_ZERO = 1e-17
"""What stands for an exact 0 on a logarithmic axis."""

_COMPARED = (
    "Soft max-margin: (1 - lambda) g(-y <w, x>) + lambda g(-y <w, x> + eps ||w||_1), g(z) = log(1 + exp z), "
    "the closed form. Adversarial and ig-norm are the objectives that `veridical train` minimises, in an "
    "l_inf ball without pixel bounds; the inner ascent starts at x + eps sign(grad l), and attributions use "
    "as many Gauss-Legendre nodes as make the integral exact (48 or more). "
    "For lambda other than 1, adversarial is l(x) + lambda max (l(x') - l(x))."
)
_BROKEN = (
    "Each other line breaks one condition: the attribution by one node, inner ascents from "
    "random starts, inputs kept to their range, or no perturbation at all (natural)."
)
COLUMNS = ("trained by", "radius", "lambda", "greatest distance")


def rows(results: Results) -> list[list[str]]:
    """For every case and objective the greatest distance to the soft max-margin over all steps and seeds."""
    return [
        [name, f"{case['radius']:g}", f"{case['weight']:g}", f"{distance:.2g}"]
        for case in results["cases"]
        for name, distance in case["greatest_of_seeds"].items()
    ]


def headlines(results: Results) -> list[str]:
    """What was found, case by case where the cases differ."""
    found = []
    for case in results["cases"]:
        greatest = max(case["greatest_of_seeds"][name] for name in EQUAL)
        verdict = "coincide" if greatest < EQUAL_BELOW else "do not coincide"
        seeds = case["accuracy"]["n"]
        found.append(
            f"Radius {case['radius']:g}, lambda {case['weight']:g}: the three weight trajectories {verdict}. "
            f"At no step of {seeds} {'seed' if seeds == 1 else 'seeds'} are they further apart than "
            f"{greatest:.1e} of the weights' length (the same means below {EQUAL_BELOW:g})."
        )
    case = results["cases"][0]
    others = [f"{name}: {d:.2g}" for name, d in case["greatest_of_seeds"].items() if name not in EQUAL]
    found.append(f"With one condition of the theorem broken they part ({'; '.join(others)}).")
    return found


def panels(results: Results) -> list[Panel]:
    """The weights of the first case, its distances, all distances as a table, and what they mean."""
    case = results["cases"][0]
    words = f"radius {case['radius']:g}, lambda {case['weight']:g}, first seed"
    return [
        Panel(
            "Three trajectories of the weights",
            text=["The curves of one weight lie on each other, so that only the last drawn is seen."],
            illustrations=[
                Illustration(
                    _paths(case),
                    f"The greatest, the least and the weight next to zero; {words}.",
                    "Weights against the training step, for the three objectives.",
                ),
                Illustration(
                    _distances(case),
                    f"Distance to the weights of the soft max-margin over their length; {words}. Exact zeros "
                    f"are drawn at {SHOWN_ZERO:g}.",
                    "Relative distance of the weights against the training step, on a logarithmic axis.",
                ),
            ],
        ),
        Panel(
            "Greatest distances",
            table=Table(
                COLUMNS, rows(results), "Over all steps and all seeds, relative to the weights' length."
            ),
        ),
        Panel(
            "What is compared",
            text=[_COMPARED, _BROKEN],
        ),
    ]


def _paths(case: Mapping[str, Any]) -> Any:
    curves = []
    for colour, name in enumerate((REFERENCE, *EQUAL)):
        for place in range(len(case["coordinates"])):
            values = [weights[place] for weights in case["paths"][name]]
            shown = name if place == 0 else ""
            curves.append(Curve(shown, case["steps"], values, dashed=name != REFERENCE, colour=colour))
    return curves_figure(curves, x_label="step", y_label="weight")


def _distances(case: Mapping[str, Any]) -> Any:
    curves = [
        Curve(name, case["steps"], _positive(values), dashed=name not in EQUAL)
        for name, values in case["distances"].items()
    ]
    return curves_figure(
        curves,
        x_label="step",
        y_label="relative distance",
        log_y=True,
        level_line=(EQUAL_BELOW, "the same below this"),
    )


def _positive(values: Sequence[float]) -> list[float]:
    return [max(value, SHOWN_ZERO) for value in values]
