"""The experiments on the theorems, into a folder: trainings as jobs, and a result.json of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from veridical.faithfulness.measuring import check
from veridical.jobs import Outcome, Progress, Store, run_jobs
from veridical.metrics.intervals import mean_interval
from veridical.runtime.errors import fail_argument
from veridical.runtime.files import claim_folder, write_json
from veridical.runtime.provenance import environment, result_document
from veridical.runtime.study_config import TheoryOptions
from veridical.studies.block_margin_plan import BlockMarginPlan
from veridical.studies.block_margin_results import block_margin_results
from veridical.studies.executors import executor_of, workers_of
from veridical.studies.one_layer_plan import OneLayerPlan

KIND, RESULT, JOBS = "theory", "result.json", "jobs"

FIRST = ("examples", "steps", "distances", "coordinates", "paths")
"""What is kept of the first seed alone, for the figures."""

Tell = Callable[[str, Progress], object]
"""(what is done, how far it is)."""


def theory_run(options: TheoryOptions, progress: Tell | None = None) -> dict[str, Any]:
    """Do the experiment that `options` name, write result.json into their `out`, return its content.

    Trainings are kept as they come: interrupted at any moment, the same options continue. Raises UsageError
    for options that do not fit, and RunError, when all others are finished, where a training failed.
    """
    plan = plan_of(options)
    jobs: Mapping[Any, Any] = plan.jobs()
    every = [job for group in jobs.values() for job in group]
    config = {"experiment": options.experiment[0], **plan.describe()}
    folder = claim_folder(options.out, KIND, config)
    store = Store(folder / JOBS if options.store is None else options.store)
    tell = progress or (lambda _what, _progress: None)
    with executor_of(options) as executor:
        outcomes = run_jobs(every, store, executor, progress=lambda state: tell("training", state))
        where = {"executor": type(executor).__name__, "workers": workers_of(executor)}
    check(outcomes, {job: job for job in every})
    found = {place: [outcomes[job.id].result or {} for job in group] for place, group in jobs.items()}
    if isinstance(plan, BlockMarginPlan):
        results, dtype = block_margin_results(plan, found), "float32"
    else:
        results, dtype = one_layer_results(found), "float64"
    surroundings = environment("cpu", dtype, options.threads or 1, options.seed) | where
    document = result_document(results, config, surroundings, _timing(outcomes))
    write_json(folder / RESULT, document)
    return document


def plan_of(options: TheoryOptions) -> BlockMarginPlan | OneLayerPlan:
    """What the one experiment that is named trains; UsageError for options that do not fit."""
    if len(options.experiment) != 1:
        hint = "Run the other one with a folder of its own."
        raise fail_argument("experiment", options.experiment, "one-layer or block-margin", hint)
    return (
        BlockMarginPlan.of(options) if options.experiment[0] == "block-margin" else OneLayerPlan.of(options)
    )


def _timing(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    seconds = sum(outcome.seconds or 0.0 for outcome in outcomes.values())
    return {"trainings": len(outcomes), "training_seconds": round(seconds, 3)}


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
        "accuracy": mean_interval([run["accuracy"] for run in runs]),
        "l1_norm": mean_interval([run["l1_norm"] for run in runs]),
        **{name: runs[0][name] for name in FIRST},
    }
