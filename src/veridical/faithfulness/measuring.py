"""A measurement carried out: rankings once, retrainings as jobs, and what their accuracies come to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from veridical.faithfulness.baselines import LINEAR, input_agnostic_ranking, linear_options, random_ranking
from veridical.faithfulness.design import RankingName, Retraining
from veridical.faithfulness.forecast import retraining_seconds
from veridical.faithfulness.grouping import check_stacked, train_stacks
from veridical.faithfulness.instances import rank_dataset, rank_maps
from veridical.faithfulness.measurement import Measurement, placed
from veridical.faithfulness.ranking import Ranking
from veridical.faithfulness.result import Accuracies, DiffRoarResult, Point, notes, verdicts
from veridical.faithfulness.retraining import RETRAIN
from veridical.jobs import InProcess, Job, Outcome, ProcessPool, Progress, Store, run_jobs
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError
from veridical.runtime.files import claim_folder
from veridical.runtime.options import StackedName

KIND, RANKINGS, JOBS = "diffroar", "rankings", "jobs"
"""The claim of a folder of results, and what lies in it."""

ProgressCallback = Callable[[str, Progress], object]
"""(what is done, how far it is): "ranking" counts images, the other stages count jobs."""


def measure(
    measurement: Measurement,
    folder: Path,
    *,
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    batch: int = 200,
    stacked: StackedName = "never",
    progress: ProgressCallback | None = None,
) -> DiffRoarResult:
    """Rank, retrain, and put the accuracies together; what `folder` and `store` hold already is not repeated.

    The folder is claimed for the measurement. Raises as `diffroar` does.
    """
    check_stacked(stacked)
    begun = time.monotonic()
    tell = progress or (lambda _what, _progress: None)
    config = measurement.describe()
    named = None if store is None else Store(store)  # refused, it leaves no claim
    claim_folder(folder, KIND, config)
    measurement = placed(measurement, folder)
    kept = named or Store(folder / JOBS)
    with ExitStack() as stack:
        # An executor of the caller's stays open; processes of our own end with us.
        runner = executor or stack.enter_context(default_executor(measurement.device_name))
        rankings = make_rankings(measurement, folder / RANKINGS, kept, runner, batch, tell)
        ranked = time.monotonic()
        jobs = planned(measurement, rankings, folder / RANKINGS, kept, runner, stacked)
        together: Mapping[str, Outcome] = {}
        if stacked == "auto":
            together = train_stacks(
                jobs.values(),
                kept,
                runner,
                device=measurement.device_name,
                tell=lambda state: tell("retraining together", state),
            )
        outcomes = run_jobs(jobs.values(), kept, runner, progress=lambda state: tell("retraining", state))
    check(outcomes, jobs)
    timing = timing_of(jobs, outcomes, together) | {
        "ranking_seconds": round(ranked - begun, 3),
        "total_seconds": round(time.monotonic() - begun, 3),
    }
    return assemble(measurement, rankings, jobs, outcomes, config, timing)


def default_executor(device: str) -> Executor:
    """One process for each core or GPU, of one thread each; this process for one GPU, or without POSIX."""
    if os.name != "posix" or device.startswith("cuda:"):
        return InProcess()
    return ProcessPool(gpus="all" if resolve_device(device).type == "cuda" else None)


def ranking_path(folder: Path, name: RankingName) -> Path:
    """The file of a ranking in the folder of rankings."""
    return folder / f"{name}.npz"


def make_rankings(
    measurement: Measurement,
    folder: Path,
    store: Store,
    executor: Executor,
    batch: int,
    tell: ProgressCallback,
) -> dict[RankingName, Ranking]:
    """The rankings of the attribution and the baselines, from their files where they are there already."""
    folder.mkdir(exist_ok=True)
    found: dict[RankingName, Ranking] = {}
    names: list[RankingName] = ["judged", *measurement.design.baselines]
    for name in names:
        path = ranking_path(folder, name)
        if not path.exists():
            _ranking(name, measurement, store, executor, batch, tell).save(path)
        # Mapped from the file, as the jobs will have it.
        found[name] = Ranking.load(path)
    return found


def _ranking(
    name: RankingName,
    measurement: Measurement,
    store: Store,
    executor: Executor,
    batch: int,
    tell: ProgressCallback,
) -> Ranking:
    design, data = measurement.design, measurement.ranked

    def images(done: int, total: int) -> None:
        tell("ranking", Progress(done, total, reused=0, failed=0, waiting=0, seconds_left=None))

    if name == "random":
        return random_ranking(data, per=design.per, seed=design.seed)
    if name == "input-agnostic":
        options = linear_options(measurement.data, design.seed)
        values = {"data": {"checksum": data.checksum}, "options": options}
        job = Job(LINEAR, values, measurement.where, label="linear model")
        outcomes = run_jobs([job], store, executor, progress=lambda state: tell("linear model", state))
        check(outcomes, {job: job})
        return input_agnostic_ranking(data, outcomes[job.id].result or {}, per=design.per, seed=design.seed)
    attribution = measurement.attribution
    choices: dict[str, Any] = {
        "order": design.order,
        "per": design.per,
        "ties": design.ties,
        "seed": design.seed,
    }
    if isinstance(attribution, Path):
        return rank_maps(attribution, measurement.data, **choices, train=len(data.train), progress=images)
    return rank_dataset(
        measurement.model,
        data,
        attribution,
        **choices,
        target=design.target,
        batch=batch,
        record={"weights": measurement.weights},
        progress=images,
    )


def planned(
    measurement: Measurement,
    rankings: Mapping[RankingName, Ranking],
    folder: Path,
    store: Store,
    executor: Executor,
    stacked: StackedName = "never",
) -> dict[Retraining, Job]:
    """The jobs, with predicted costs if any of them is still to be done."""
    records = {name: ranking.describe() for name, ranking in rankings.items()}
    jobs = {
        one: Job(
            RETRAIN,
            measurement.values(one, records[one.ranking]),
            where={**measurement.where, "ranking": str(ranking_path(folder, one.ranking).absolute())},
            label=measurement.label(one),
        )
        for one in measurement.retrainings
    }
    if all(store.record(job) is not None for job in jobs.values()):
        return jobs
    try:
        costs = retraining_seconds(measurement, executor, stacked)
    except RunError:  # a training that has to stop says so as a job, with its log
        return jobs
    return {one: replace(job, cost=costs[one.shown]) for one, job in jobs.items()}


def check(outcomes: Mapping[str, Outcome], jobs: Mapping[Any, Job]) -> None:
    """Raise a RunError with the reasons and last lines of the log if any job failed."""
    failed = {job.id: job for job in jobs.values() if outcomes[job.id].status == "failed"}
    if not failed:
        return
    told: list[str] = []
    for name, job in list(failed.items())[:3]:
        lines = outcomes[name].log_tail.splitlines()[-5:]
        told.append(
            "\n".join([f"{job.label} ({name}): {outcomes[name].error}", *(f"    {line}" for line in lines)])
        )
    more = f"\nand {len(failed) - 3} more" if len(failed) > 3 else ""
    raise RunError(
        f"{len(failed)} of {len(outcomes)} jobs failed; the others are finished and kept, and the same "
        "command tries these again:\n" + "\n".join(told) + more
    )


def timing_of(
    jobs: Mapping[Retraining, Job], outcomes: Mapping[str, Outcome], together: Mapping[str, Outcome]
) -> dict[str, Any]:
    """What this call's retrainings took, and were predicted to take, and the bytes sent to workers.

    What was reused counts in neither number of seconds, so that the two compare.
    """
    ended, stacks = list(outcomes.values()), list(together.values())
    done = [outcome for outcome in ended if outcome.status == "done"]
    trained = [*done, *(outcome for outcome in stacks if outcome.status == "done")]
    return {
        "retrainings": len(ended),
        "reused": len(ended) - len(done),
        "stacks": len(stacks),
        "retraining_seconds": round(sum(outcome.seconds or 0.0 for outcome in trained), 3),
        "predicted_seconds": round(
            sum(job.cost for job in jobs.values() if outcomes[job.id].status == "done"), 3
        ),
        "sent_bytes_per_job": max((outcome.sent_bytes for outcome in done), default=0),
    }


def assemble(
    measurement: Measurement,
    rankings: Mapping[RankingName, Ranking],
    jobs: Mapping[Retraining, Job],
    outcomes: Mapping[str, Outcome],
    config: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> DiffRoarResult:
    """The result from the outcomes of all jobs."""
    values = {}
    for one, job in jobs.items():
        result = outcomes[job.id].result
        assert result is not None
        values[one] = float(result["accuracy"])
    design, examples = measurement.design, len(measurement.data.test)
    found = Accuracies(design, measurement.coordinates, examples, measurement.chance, values)
    curve, control = found.curve("judged"), found.control()
    baselines: dict[str, tuple[Point, ...]] = {name: found.curve(name) for name in design.baselines}
    judged = verdicts(curve, baselines, control, design.mode, examples)
    records: dict[str, Any] = {name: ranking.describe() for name, ranking in rankings.items()}
    return DiffRoarResult(
        curve=curve,
        verdicts=judged,
        baselines=baselines,
        control=control,
        roar=found.removed_or_kept("remove"),
        kar=found.removed_or_kept("keep"),
        rankings=records,
        examples=examples,
        notes=notes(found, judged, control, records["judged"]),
        config=config,
        timing=timing,
    )
