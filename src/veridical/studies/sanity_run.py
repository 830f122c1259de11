"""A sanity check of a run's maps into a folder: trainings and comparisons as jobs, result.json, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from veridical.runtime.files import Arrays
from veridical.runtime.study_config import SanityOptions
from veridical.studies.frame import ProgressCallback, Study, begun
from veridical.studies.maps import first_of_each_class
from veridical.studies.sanity_job import TRAINED
from veridical.studies.sanity_plan import SanityPlan, planned
from veridical.studies.sanity_result import Compared, States, assembled

KIND = "sanity"


def sanity_run(options: SanityOptions, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Check as `options` say, write result.json and examples.npz into their `out`, return the former.

    Trainings and comparisons are kept as they come: interrupted at any moment, the same options continue.
    Raises UsageError for options that do not fit, RunError where a job failed.
    """
    plan = planned(options)
    with begun(options, KIND, plan.describe(), progress) as study:
        found, trained = _compared(plan, study)
    results = assembled(plan.examples, found, trained)
    return study.finish(results, _pictures(plan, found), surroundings={"run": str(options.run)})


def _compared(plan: SanityPlan, study: Study) -> tuple[dict[str, Compared], dict[Any, Any]]:
    """Run all jobs: the comparisons by attribution, and what the new trainings reached by kind."""
    names = plan.options.attribution
    trainings = {kind: plan.train_job(kind) for kind in plan.kinds}
    weights = {name: plan.weight_jobs(name) for name in names}
    references = {name: plan.explain_job(name, {"kind": "unrelated"}) for name in names}
    first = [*trainings.values(), *references.values()]
    first += [job for orders in weights.values() for jobs in orders.values() for job in jobs]
    after = {
        (name, kind): plan.explain_job(
            name, {"kind": "trained", "job": job.id}, study.store.folder(job) / TRAINED
        )
        for name in names
        for kind, job in trainings.items()
    }
    # What a training left must be there before it is explained.
    study.run("training and explaining", first)
    study.run("explaining", after.values())
    found = {
        name: Compared(
            States.read(study.store, references[name]),
            {order: [States.read(study.store, job) for job in jobs] for order, jobs in weights[name].items()},
            {kind: States.read(study.store, after[name, kind]) for kind in plan.kinds},
        )
        for name in names
    }
    return found, {kind: study.result(job) for kind, job in trainings.items()}


def _pictures(plan: SanityPlan, found: Mapping[str, Compared]) -> Arrays:
    """What the gallery shows: index and label (n,), image uint8 (n, C, H, W), classes, and maps by name.

    "ATTRIBUTION/own" is the run's own (n, H, W), "ATTRIBUTION/cascading" those of the first draw
    (states, n, H, W), "ATTRIBUTION/KIND" those after each new training. Maps are float16 from 0 to 1.
    """
    split = plan.data.test
    index = first_of_each_class(split.labels[: plan.examples], plan.options.gallery)
    arrays: Arrays = {
        "index": np.asarray(index, dtype=np.int64),
        "label": split.labels[index].numpy(),
        "image": split.images[index].numpy(),
        "classes": np.asarray(plan.data.classes, dtype=np.str_),
    }
    for name, compared in found.items():
        arrays[f"{name}/own"] = compared.unrelated.pictures[0]
        if "cascading" in compared.weights:
            arrays[f"{name}/cascading"] = compared.weights["cascading"][0].pictures
        arrays |= {f"{name}/{kind}": one.pictures[0] for kind, one in compared.trained.items()}
    return arrays
