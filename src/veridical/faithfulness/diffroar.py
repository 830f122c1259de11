"""`diffroar`: whether an attribution ranks first what carries the information, by retraining."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from veridical.attribution.method import Attribution
from veridical.data import Dataset
from veridical.faithfulness.diffroar_plan import (
    Design,
    Judged,
    Measurement,
    RankingName,
    Retraining,
    plan_diffroar,
)
from veridical.faithfulness.forecast import predict_retraining
from veridical.faithfulness.ranking import (
    LINEAR,
    Ranking,
    linear_options,
    rank_by_linear_model,
    rank_dataset,
    rank_maps,
    rank_randomly,
)
from veridical.faithfulness.result import DiffRoarResult, build_result
from veridical.faithfulness.retraining import RETRAIN, ranking_place
from veridical.faithfulness.stacked import train_stacks
from veridical.jobs import InProcess, Job, Outcome, ProcessPool, Progress, Store, check_outcomes, run_jobs
from veridical.runtime.checking import FilePath, Level, Repeats, Seed, Share, Width, checked, record
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError
from veridical.runtime.files import claim_folder
from veridical.runtime.options import (
    BaselineName,
    ModeName,
    OrderName,
    PerName,
    RetrainObjectiveName,
    StackedName,
    TargetName,
    TiesName,
)
from veridical.training.run import Run

# The claim of a folder of results, and what lies in it.
KIND, RANKINGS, JOBS = "diffroar", "rankings", "jobs"

# (what is done, how far it is): "ranking" counts images, the other stages count jobs.
ProgressCallback = Callable[[str, Progress], object]


@record
class Measuring:
    """A measurement under way in a folder that its caller has claimed; see `diffroar` for the rest.

    What folder and store hold already is not repeated. batch: images whose attributions are computed at a
    time.
    """

    measurement: Measurement
    folder: Path
    store: Store
    executor: Executor
    batch: int = 200
    stacked: StackedName = "never"
    progress: ProgressCallback | None = None

    def run(self) -> DiffRoarResult:
        """Rank, retrain, and put the accuracies together. Raises as `diffroar` does."""
        start = time.monotonic()
        rankings = self.make_rankings()
        ranked = time.monotonic()
        jobs = self.plan_jobs(rankings)
        together: Mapping[str, Outcome] = {}
        if self.stacked == "auto":
            device, tell = self.measurement.where["device"], self._stage("retraining together")
            together = train_stacks(jobs.values(), self.store, self.executor, device=device, tell=tell)
        outcomes = self._run_jobs("retraining", jobs.values())
        timing = _summarise_timing(jobs.values(), outcomes, together) | {
            "ranking_seconds": round(ranked - start, 3),
            "total_seconds": round(time.monotonic() - start, 3),
        }
        accuracies = {one: float((outcomes[job.id].result or {})["accuracy"]) for one, job in jobs.items()}
        records: dict[str, Any] = {name: ranking.describe() for name, ranking in rankings.items()}
        return build_result(self.measurement, records, accuracies, timing)

    def ranking_path(self, name: RankingName) -> Path:
        """The file of a ranking."""
        return self.folder / RANKINGS / f"{name}.npz"

    def make_rankings(self) -> dict[RankingName, Ranking]:
        """Those of the attribution and the baselines, from their files where they are there already."""
        (self.folder / RANKINGS).mkdir(exist_ok=True)
        paths = {name: self.ranking_path(name) for name in self.measurement.design.rankings}
        for name, path in paths.items():
            if not path.exists():
                self._rank(name).save(path)
        # Mapped from the files, as the jobs will have them.
        return {name: Ranking.load(path) for name, path in paths.items()}

    def _rank(self, name: RankingName) -> Ranking:
        plan, data, attribution = self.measurement, self.measurement.ranked, self.measurement.attribution
        per, seed = plan.design.per, plan.design.seed
        tell = self._stage("ranking")

        def images(done: int, total: int) -> None:
            tell(Progress(done, total, reused=0, failed=0, waiting=0, seconds_left=None))

        if name == "random":
            return rank_randomly(data, per=per, seed=seed)
        if name == "input-agnostic":
            options = linear_options(plan.data, seed)
            values = {"data": {"checksum": data.checksum}, "options": options}
            job = Job(LINEAR, values, plan.where, label="linear model")
            outcomes = self._run_jobs("linear model", [job])
            return rank_by_linear_model(data, outcomes[job.id].result or {}, per=per, seed=seed)
        if isinstance(attribution, Path):
            return rank_maps(attribution, plan.data, plan.design, train=len(data.train), progress=images)
        return rank_dataset(
            plan.model,
            data,
            attribution,
            plan.design,
            target=plan.design.target,
            batch=self.batch,
            record={"weights": plan.weights},
            progress=images,
        )

    def plan_jobs(self, rankings: Mapping[RankingName, Ranking]) -> dict[Retraining, Job]:
        """The jobs, with predicted costs if any of them is still to be done."""
        plan = self.measurement
        records = {name: ranking.describe() for name, ranking in rankings.items()}
        jobs: dict[Retraining, Job] = {}
        for one in plan.retrainings:
            path, record = self.ranking_path(one.ranking), records[one.ranking]
            where = {**plan.where, ranking_place(record["checksum"]): str(path.absolute())}
            kept = f"{one.kept.end} {one.kept.count} of {plan.coordinates}"
            label = f"{one.ranking}, {one.shown}, {kept}, seed {one.seed}"
            jobs[one] = Job(RETRAIN, plan.values(one, record), where, label)
        # A forecast takes seconds, which a finished measurement need not wait for.
        if all(self.store.record(job) is not None for job in jobs.values()):
            return jobs
        try:
            costs = predict_retraining(plan, self.executor, self.stacked)
        except RunError:  # a training that has to stop says so as a job, with its log
            return jobs
        return {one: replace(job, cost=costs[one.shown]) for one, job in jobs.items()}

    def _run_jobs(self, stage: str, jobs: Collection[Job]) -> dict[str, Outcome]:
        outcomes = run_jobs(jobs, self.store, self.executor, progress=self._stage(stage))
        check_outcomes(outcomes, jobs)
        return outcomes

    def _stage(self, what: str) -> Callable[[Progress], object]:
        return partial(self.progress or (lambda _what, _state: None), what)


def _make_executor(device: str) -> Executor:
    """One process for each core or GPU, of one thread each; this process for one GPU, or without POSIX."""
    if os.name != "posix" or device.startswith("cuda:"):
        return InProcess()
    return ProcessPool(gpus="all" if resolve_device(device).type == "cuda" else None)


def _summarise_timing(
    jobs: Iterable[Job], outcomes: Mapping[str, Outcome], together: Mapping[str, Outcome]
) -> dict[str, Any]:
    """What this call's retrainings took, and were predicted to take, and the bytes sent to workers."""
    # What was reused counts in neither number of seconds, so that the two compare.
    done = [outcome for outcome in outcomes.values() if outcome.status == "done"]
    trained = [*done, *(outcome for outcome in together.values() if outcome.status == "done")]
    predicted = sum(job.cost for job in jobs if outcomes[job.id].status == "done")
    return {
        "retrainings": len(outcomes),
        "reused": len(outcomes) - len(done),
        "stacks": len(together),
        "retraining_seconds": round(sum(outcome.seconds or 0.0 for outcome in trained), 3),
        "predicted_seconds": round(predicted, 3),
        "sent_bytes_per_job": max((outcome.sent_bytes for outcome in done), default=0),
    }


@checked("attribution")
def diffroar(
    run_or_model: Judged,
    data: Dataset | str | None = None,
    *,
    out: str | os.PathLike[str],
    attribution: str | os.PathLike[str] | Attribution = "input-gradient",
    levels: Sequence[Level] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
    repeats: Repeats = 5,
    mode: ModeName = "keep",
    roar: bool = False,
    fill: Share | str = "mean",
    order: OrderName = "absolute",
    per: PerName = "value",
    ties: TiesName = "random",
    target: TargetName = "predicted",
    baselines: Sequence[BaselineName] = ("random", "input-agnostic"),
    control: bool = True,
    control_repeats: Repeats = 1,
    retrain_model: FilePath | Run | None = None,
    retrain_model_options: Mapping[str, Any] | None = None,
    retrain_objective: RetrainObjectiveName = "natural",
    store: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    data_root: str | os.PathLike[str] | None = None,
    trust_code: bool = False,
    device: str = "auto",
    batch: Width = 200,
    stacked: StackedName = "never",
    seed: Seed = 0,
    progress: ProgressCallback | None = None,
    **overrides: Any,
) -> DiffRoarResult:
    """Measure DiffROAR, and ROAR and KAR beside it, with baselines and a control; see `DiffRoarResult`.

    run_or_model: What explains: a Run, its folder, or a module from images in [0, 1] to logits.
    data: A Dataset or its name; None is the run's.
    out, store: Folder of rankings and finished retrainings; the same call continues in it. Several
        measurements may share a `store`, and retrain what they have in common, such as the baselines, once.
    attribution: A name (see `attribution.registry`), an .npz file of maps, or a method.
    retrain_model: What is retrained where it is not the run's own architecture: a name, "module:callable", or
        a run, whose recipe is then taken too.
    executor: Where retrainings run: any of `veridical.jobs`; None is one process for each core or GPU.
    batch: Images whose attributions are computed at a time.
    progress: See `ProgressCallback`.
    overrides: Options of the retraining in place of the recipe's: epochs, steps, learning_rate, batch_size
        and the others of `OptimiserOptions`, train_examples, bf16.

    The other parameters are options of `veridical diffroar` and explained there.
    Raises UsageError for what does not fit together or an `out` of another measurement, and RunError, after
    all others were tried, if retrainings failed; what is finished stays.
    Source: Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021.
    """
    given = locals()
    design = Design(**{one.name: given[one.name] for one in fields(Design)})
    measurement = plan_diffroar(
        run_or_model,
        data,
        attribution=attribution,
        design=design,
        overrides=overrides,
        retrain_model=retrain_model,
        retrain_model_options=retrain_model_options,
        retrain_objective=retrain_objective,
        data_root=data_root,
        trust_code=trust_code,
        device=device,
    )
    named = None if store is None else Store(store)  # refused, it leaves no claim
    config = measurement.describe()
    folder = claim_folder(out, KIND, config)
    with ExitStack() as stack:
        # An executor of the caller's stays open; processes of our own end with us.
        runner = executor or stack.enter_context(_make_executor(measurement.where["device"]))
        placed, jobs = measurement.place_data(folder), named or Store(folder / JOBS)
        result = Measuring(placed, folder, jobs, runner, batch, stacked, progress).run()
    # That of the data as they were given: the numbers do not depend on where they were put.
    return replace(result, config=config)
