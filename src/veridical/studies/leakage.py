"""Feature leakage on BlockMNIST into a folder: trainings and measurements as jobs, result.json, pictures."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from veridical.jobs import Job
from veridical.runtime.study_config import LeakageOptions
from veridical.studies.leakage_job import ARRAYS
from veridical.studies.leakage_plan import LeakagePlan, planned
from veridical.studies.leakage_results import Measured, pictures_of, results_of
from veridical.studies.study import ProgressCallback, Study, begun

KIND = "leakage"


def leakage_run(options: LeakageOptions, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Train and measure as `options` say, write result.json and examples.npz to `out`, return the former.

    Everything is kept as it comes: interrupted at any moment, the same options continue, and commands that
    share a store share trainings. Raises UsageError for options that do not fit, and RunError, when all
    others are finished, with the reasons and logs of what failed.
    """
    plan = planned(options)
    with begun(options, KIND, plan.describe(), progress) as study:
        work = _Work(plan, study)
        study.run("training", work.trainings.values())
        study.run("explaining", [*work.tests.values(), *work.explanations.values()])
    measured = work.read()
    timing = {"seconds_of_a_training": work.seconds_of_a_training()}
    return study.finish(results_of(plan, measured), pictures_of(plan, measured), timing=timing)


class _Work:
    """The jobs of a plan by (arm, seed), and of explanations by (arm, seed, attribution)."""

    def __init__(self, plan: LeakagePlan, study: Study) -> None:
        self.plan, self.study = plan, study
        runs = [(number, seed) for number in range(len(plan.arms)) for seed in plan.seeds]
        self.trainings = {(n, seed): plan.training(plan.arms[n], seed) for n, seed in runs}
        self.tests: dict[Any, Job] = {}
        self.explanations: dict[Any, Job] = {}
        for (number, seed), training in self.trainings.items():
            arm, folder = plan.arms[number], study.store.folder(training)
            self.tests[number, seed] = plan.test(arm, training, folder)
            for name in plan.options.attribution:
                job = plan.explanation(arm, training, folder, name)
                self.explanations[number, seed, name] = job

    def read(self) -> Measured:
        """What the jobs found."""
        plan, names, result = self.plan, self.plan.options.attribution, self.study.result
        arms = range(len(plan.arms))
        return Measured(
            {n: [result(self.trainings[n, seed]) for seed in plan.seeds] for n in arms},
            {n: [result(self.tests[n, seed]) for seed in plan.seeds] for n in arms},
            {
                (n, name): [
                    self.study.arrays(self.explanations[n, seed, name], ARRAYS) for seed in plan.seeds
                ]
                for n in arms
                for name in names
            },
        )

    def seconds_of_a_training(self) -> dict[str, float]:
        """Of every kind of training, the mean over data and seeds."""
        by_title: dict[str, list[float]] = {}
        for (number, _), job in self.trainings.items():
            seconds = float(self.study.result(job)["training_seconds"])
            by_title.setdefault(self.plan.arms[number].title, []).append(seconds)
        return {title: round(fmean(seconds), 3) for title, seconds in by_title.items()}
