"""Feature leakage on BlockMNIST into a folder: trainings and measurements as jobs, result.json, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from veridical.auditing.parts import Arrays, packed_arrays
from veridical.faithfulness.measuring import check
from veridical.jobs import Job, Outcome, Progress, Store, run_jobs
from veridical.runtime.devices import resolve_device
from veridical.runtime.files import claim_folder, write_atomic, write_json
from veridical.runtime.provenance import environment, result_document
from veridical.runtime.study_config import LeakageOptions
from veridical.studies.executors import executor_of, workers_of
from veridical.studies.finished import EXAMPLES, RESULT
from veridical.studies.leakage_job import ARRAYS
from veridical.studies.leakage_plan import Arm, LeakagePlan, planned
from veridical.studies.leakage_results import Measured, pictures_of, results_of

KIND, JOBS = "leakage", "jobs"

Tell = Callable[[str, Progress], object]
"""(what is done, how far it is)."""


def leakage_run(options: LeakageOptions, progress: Tell | None = None) -> dict[str, Any]:
    """Train and measure as `options` say, write result.json and examples.npz to `out`, return the former.

    Everything is kept as it comes: interrupted at any moment, the same options continue, and commands that
    share a store share trainings. Raises UsageError for options that do not fit, and RunError, when all
    others are finished, with the reasons and logs of what failed.
    """
    plan = planned(options)
    config = plan.describe()
    folder = claim_folder(options.out, KIND, config)
    store = Store(folder / JOBS if options.store is None else options.store)
    tell = progress or (lambda _what, _progress: None)
    with executor_of(options) as executor:
        work = _Work(plan, store)
        outcomes = run_jobs(
            work.trainings.values(), store, executor, progress=lambda state: tell("training", state)
        )
        check(outcomes, work.trainings)
        later = {**work.tests, **work.explanations}
        outcomes |= run_jobs(
            later.values(), store, executor, progress=lambda state: tell("explaining", state)
        )
        check(outcomes, later)
        where = {"executor": type(executor).__name__, "workers": workers_of(executor)}
    measured = work.read(outcomes)
    write_atomic(folder / EXAMPLES, packed_arrays(pictures_of(plan, measured)))
    surroundings = environment(resolve_device(options.device), torch.float32, seed=options.seed) | where
    document = result_document(results_of(plan, measured), config, surroundings, _timing(work, outcomes))
    write_json(folder / RESULT, document)
    return document


class _Work:
    """The jobs of a plan by (arm, seed), and of explanations by (arm, seed, attribution)."""

    def __init__(self, plan: LeakagePlan, store: Store) -> None:
        self.plan, self.store = plan, store
        runs = [(number, seed) for number in range(len(plan.arms)) for seed in plan.seeds]
        self.trainings = {(n, seed): plan.training(plan.arms[n], seed) for n, seed in runs}
        self.tests: dict[Any, Job] = {}
        self.explanations: dict[Any, Job] = {}
        for (number, seed), training in self.trainings.items():
            arm, folder = plan.arms[number], store.folder(training)
            self.tests[number, seed] = plan.test(arm, training, folder)
            for name in plan.options.attribution:
                job = plan.explanation(arm, training, folder, name)
                self.explanations[number, seed, name] = job

    def read(self, outcomes: Mapping[str, Outcome]) -> Measured:
        """What the jobs found; all of them must have ended well."""
        plan, names = self.plan, self.plan.options.attribution
        arms = range(len(plan.arms))
        return Measured(
            {n: [result_of(outcomes, self.trainings[n, seed]) for seed in plan.seeds] for n in arms},
            {n: [result_of(outcomes, self.tests[n, seed]) for seed in plan.seeds] for n in arms},
            {
                (n, name): [_arrays(self.store, self.explanations[n, seed, name]) for seed in plan.seeds]
                for n in arms
                for name in names
            },
        )


def result_of(outcomes: Mapping[str, Outcome], job: Job) -> Mapping[str, Any]:
    """What a job that ended well returned."""
    found = outcomes[job.id].result
    assert found is not None
    return found


def _arrays(store: Store, job: Job) -> Arrays:
    with np.load(store.folder(job) / ARRAYS, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _timing(work: _Work, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Seconds of the attempts that ended well; of every kind of training, those of one."""
    by_title: dict[str, list[float]] = {}
    for (number, _), job in work.trainings.items():
        arm: Arm = work.plan.arms[number]
        found = result_of(outcomes, job)
        by_title.setdefault(arm.title, []).append(float(found["training_seconds"]))
    return {
        "jobs": len(outcomes),
        "seconds": round(sum(outcome.seconds or 0.0 for outcome in outcomes.values()), 3),
        "seconds_of_a_training": {title: round(sum(s) / len(s), 3) for title, s in by_title.items()},
    }
