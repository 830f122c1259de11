"""From the trainings of block-margin, and the theorem's checks, to its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veridical.metrics.intervals import Interval, mean_interval
from veridical.models.mean_field import PROVEN, closed_margin
from veridical.studies.block_margin_plan import KINDS, MLPS, BlockMarginPlan, Place
from veridical.studies.theorem import certified_radius, check_theorem

SCALARS = (
    "accuracy",
    "robust_accuracy",
    "margin",
    "normalised_margin",
    "signal",
    "other",
    "noise",
    "other_ratio",
    "noise_ratio",
    "evenness",
    "agnostic",
)
"""What is reported of a network, with intervals over seeds; `mean_field_job.run` says what it is."""
FOLLOWED = ("other_ratio", "noise_ratio", "normalised_margin")
"""Numbers whose course in training is kept."""

Runs = Sequence[Mapping[str, Any]]
"""What the trainings of a place returned, seed by seed."""


def block_margin_results(plan: BlockMarginPlan, found: Mapping[Place, Runs]) -> dict[str, Any]:
    """The theorem's checks, then the networks: at the main values, and by width, noise and radius.

    `theorem` has an entry with and one without offsets for each noise that the closed form is proven for;
    `certified_radius` and `max_margin` (at the main noise) are None where they are not known.
    """
    proven = [noise for noise in sorted(set(plan.noise)) if noise * plan.blocks <= PROVEN]
    certified = None
    if plan.block_size == 1 and plan.norm == "linf":
        certified = certified_radius(plan.world(plan.noise[0]))
    main = plan.noise[0]
    return {
        "theorem": [
            check_theorem(plan.world(noise), bias=bias) for noise in proven for bias in (True, False)
        ],
        "certified_radius": certified,
        "max_margin": closed_margin(plan.blocks, main) if main in proven else None,
        "networks": {kind: _network(found[plan.main(kind)]) for kind in KINDS},
        "by_width": {kind: _sweep(found, plan.by_width(kind), "width") for kind in MLPS},
        "by_noise": {kind: _sweep(found, plan.by_noise(kind), "noise") for kind in KINDS},
        "by_radius": {"adversarial": _sweep(found, plan.by_radius(), "radius")},
    }


def _network(runs: Runs) -> dict[str, Any]:
    """One kind of network over its seeds: its numbers, its gradients by carrying block, its course."""
    steps = [point["step"] for point in runs[0]["history"]]
    course = {
        name: [_over([run["history"][place] for run in runs], name) for place in range(len(steps))]
        for name in FOLLOWED
    }
    tables = [run["magnitudes"] for run in runs]
    magnitudes = [
        [sum(values) / len(tables) for values in zip(*rows, strict=True)]
        for rows in zip(*tables, strict=True)
    ]
    return {
        **_scalars(runs),
        "examples": runs[0]["examples"],
        "magnitudes": magnitudes,
        "history": {"step": steps, **course},
    }


def _sweep(found: Mapping[Place, Runs], line: Sequence[Place], name: str) -> list[dict[str, Any]]:
    """The numbers at each value of what varies, which stands as `at`."""
    return [{"at": getattr(place, name), **_scalars(found[place])} for place in line]


def _scalars(runs: Runs) -> dict[str, Any]:
    # Only attacked networks have a robust accuracy.
    attacked = runs[0]["robust_accuracy"] is not None
    return {name: _over(runs, name) if attacked or name != "robust_accuracy" else None for name in SCALARS}


def _over(runs: Runs, name: str) -> Interval:
    """Mean over the seeds; a number that is undefined for one of them, null in its file, is undefined."""
    return mean_interval([float("nan") if run[name] is None else run[name] for run in runs])
