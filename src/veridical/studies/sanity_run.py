"""A sanity check of a run's maps into a folder: trainings and comparisons as jobs, result.json, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from veridical.auditing.parts import Arrays, packed_arrays
from veridical.faithfulness.measuring import check
from veridical.jobs import Outcome, Progress, Store, run_jobs
from veridical.runtime.devices import resolve_device
from veridical.runtime.files import claim_folder, write_atomic, write_json
from veridical.runtime.provenance import environment, result_document
from veridical.runtime.study_config import SanityOptions
from veridical.studies.executors import executor_of, workers_of
from veridical.studies.finished import EXAMPLES, RESULT
from veridical.studies.sanity_job import TRAINED
from veridical.studies.sanity_plan import SanityPlan, planned
from veridical.studies.sanity_result import Compared, States, assembled
from veridical.studies.shown_examples import first_of_each_class

KIND, JOBS = "sanity", "jobs"

Tell = Callable[[str, Progress], object]
"""(what is done, how far it is)."""


def sanity_run(options: SanityOptions, progress: Tell | None = None) -> dict[str, Any]:
    """Check as `options` say, write result.json and examples.npz into their `out`, return the former.

    Trainings and comparisons are kept as they come: interrupted at any moment, the same options continue.
    Raises UsageError for options that do not fit, RunError where a job failed.
    """
    plan = planned(options)
    config = plan.describe()
    folder = claim_folder(options.out, KIND, config)
    store = Store(folder / JOBS if options.store is None else options.store)
    trainings = {kind: plan.train_job(kind) for kind in plan.kinds}
    weights = {name: plan.weight_jobs(name) for name in options.attribution}
    references = {name: plan.explain_job(name, {"kind": "unrelated"}) for name in options.attribution}
    first = [*trainings.values(), *references.values()]
    first += [job for orders in weights.values() for jobs in orders.values() for job in jobs]
    after = {
        (name, kind): plan.explain_job(name, {"kind": "trained", "job": job.id}, store.folder(job) / TRAINED)
        for name in options.attribution
        for kind, job in trainings.items()
    }
    tell = progress or (lambda _what, _progress: None)
    with executor_of(options) as executor:
        where = {"executor": type(executor).__name__, "workers": workers_of(executor)}
        outcomes: dict[str, Outcome] = {}
        # What a training left must be there before it is explained.
        for what, jobs in (("training and explaining", first), ("explaining", list(after.values()))):
            outcomes |= run_jobs(jobs, store, executor, progress=partial(tell, what))
            check({job.id: outcomes[job.id] for job in jobs}, {job: job for job in jobs})
    found = {
        name: Compared(
            States.read(store, references[name]),
            {order: [States.read(store, job) for job in jobs] for order, jobs in weights[name].items()},
            {kind: States.read(store, after[name, kind]) for kind in plan.kinds},
        )
        for name in options.attribution
    }
    results = assembled(
        plan.examples, found, {kind: outcomes[job.id].result or {} for kind, job in trainings.items()}
    )
    write_atomic(folder / EXAMPLES, packed_arrays(_pictures(plan, found)))
    surroundings = environment(resolve_device(options.device), torch.float32, seed=options.seed)
    surroundings |= {"run": str(options.run), **where}
    seconds = sum(outcome.seconds or 0.0 for outcome in outcomes.values())
    document = result_document(
        results, config, surroundings, {"jobs": len(outcomes), "seconds": round(seconds, 3)}
    )
    write_json(folder / RESULT, document)
    return document


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
