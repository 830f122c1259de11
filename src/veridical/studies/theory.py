"""The experiments on the theorems, into a folder: trainings as jobs, and a result.json of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from veridical.metrics.intervals import SHARE, mean_interval
from veridical.runtime.errors import argument_error
from veridical.runtime.study_config import TheoryOptions
from veridical.studies.block_margin_plan import BlockMarginPlan
from veridical.studies.block_margin_results import block_margin_results
from veridical.studies.frame import ProgressCallback, begun
from veridical.studies.one_layer_plan import OneLayerPlan

KIND = "theory"

FIRST = ("examples", "nodes", "steps", "distances", "coordinates", "paths")
"""What is kept of the first seed alone, for the figures."""


def theory_run(options: TheoryOptions, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Do the experiment that `options` name, write result.json into their `out`, return its content.

    Trainings are kept as they come: interrupted at any moment, the same options continue. Raises UsageError
    for options that do not fit, and RunError, when all others are finished, where a training failed.
    """
    plan = plan_of(options)
    jobs: Mapping[Any, Any] = plan.jobs()
    config = {"experiment": options.experiment[0], **plan.describe()}
    with begun(options, KIND, config, progress) as study:
        study.run("training", [job for group in jobs.values() for job in group])
    found = {place: [study.result(job) for job in group] for place, group in jobs.items()}
    if isinstance(plan, BlockMarginPlan):
        return study.finish(block_margin_results(plan, found), device="cpu")
    return study.finish(one_layer_results(found), device="cpu", dtype="float64")


def plan_of(options: TheoryOptions) -> BlockMarginPlan | OneLayerPlan:
    """What the one experiment that is named trains; UsageError for options that do not fit."""
    if len(options.experiment) != 1:
        hint = "Run the other one with a folder of its own."
        raise argument_error("experiment", options.experiment, "one-layer or block-margin", hint)
    return (
        BlockMarginPlan.of(options) if options.experiment[0] == "block-margin" else OneLayerPlan.of(options)
    )


def one_layer_results(found: Mapping[tuple[float, float], Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Per radius and weight how far the trajectories are apart, and the first seed's course.

    found: what the jobs of each (radius, weight) returned. `greatest` has the interval over seeds of each
    objective's greatest distance to the soft max-margin, `greatest_of_seeds` the worst seed's.
    """
    return {"cases": [_case(radius, weight, runs) for (radius, weight), runs in found.items()]}


def _case(radius: float, weight: float, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    greatest = {name: [run["greatest"][name] for run in runs] for name in runs[0]["greatest"]}
    return {
        "radius": radius,
        "weight": weight,
        "greatest": {name: mean_interval(values) for name, values in greatest.items()},
        "greatest_of_seeds": {name: max(values) for name, values in greatest.items()},
        "accuracy": mean_interval([run["accuracy"] for run in runs], bounds=SHARE),
        "l1_norm": mean_interval([run["l1_norm"] for run in runs]),
        **{name: runs[0][name] for name in FIRST},
    }
