"""What a measurement will cost, from a few steps of real retrainings on this machine, extrapolated."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from veridical.data import Dataset
from veridical.data.dataset import load_source, take_first
from veridical.faithfulness.diffroar_plan import Measurement, Retraining
from veridical.faithfulness.ranking import linear_options, rank_dataset, rank_randomly, train_linear
from veridical.faithfulness.retraining import train_fresh, unmask_as_planned
from veridical.faithfulness.stacked import Stack, is_stackable, stack_size
from veridical.faithfulness.unmasking import Shown
from veridical.jobs import InProcess, workers_of
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.options import PerName, StackedName
from veridical.training.run import Run, measure_accuracies

# Steps: not counted, and counted at least and at most.
WARM_UP, LEAST, MOST = 3, 5, 400

# How long steps are timed, about, after those that are not counted.
SECONDS = 2.0

# Test images whose evaluation is timed.
TESTED = 500

# Seconds, about, until a fresh process has imported torch.
IMPORTING = 3.0

# What `Measurement.values` makes of a retraining; which ranking it names does not matter here.
Values = Mapping[str, Any]


def _time_retraining(
    members: Sequence[Values], data: Dataset | None, where: Mapping[str, str], per: PerName, seconds: float
) -> float:
    """Predicted seconds of one retraining; of several members, of each one's share of their stack.

    Steps are timed for about `seconds`, after a few that are not counted. No files are left. data: None in a
    process of its own, which loads them first; that is not counted.
    """
    data = load_source(where, members[0]["data"]["checksum"]) if data is None else data
    if len(members) > 1:
        return _time_together(members, data, where, per, seconds)
    (values,) = members
    training = values["training"]

    def start(part: Dataset, out: Path, steps: int) -> Run:
        # Which order does not matter for the time, so the rankings need not be there.
        unmasked = unmask_as_planned(values, part, rank_randomly(part, per=per), where)
        settings = {**training, "steps": steps, "train_examples": len(part.train)}
        return train_fresh({**values, "training": settings}, unmasked, out, where)

    return _extrapolate(start, data, training["steps"], training["batch_size"], seconds)


def _extrapolate(
    start: Callable[[Dataset, Path, int], Run], data: Dataset, steps: int, batch_size: int, seconds: float
) -> float:
    """Seconds of a whole training, from one that is a little longer than its warm-up.

    start: trains on the given images, into the folder, for so many steps.
    """
    with TemporaryDirectory() as folder:
        warm = start(take_first(data, WARM_UP * batch_size, TESTED), Path(folder) / "warm", WARM_UP)
        # As many steps as take about `seconds`, by what the warm-up took.
        guess = max(warm.result["timing"]["training_seconds"] / WARM_UP, 1e-6)
        counted: int = min(max(LEAST, round(seconds / guess)), MOST, max(steps, WARM_UP))
        part = take_first(data, counted * batch_size, TESTED)
        started = time.perf_counter()
        run = start(part, Path(folder) / "timed", counted)
        wall = time.perf_counter() - started
        started = time.perf_counter()
        measure_accuracies(run.model, part.test, None, seed=0)
        tested = time.perf_counter() - started
    training = float(run.result["timing"]["training_seconds"])
    rest = max(0.0, wall - training - tested)
    epochs = math.ceil(steps / max(1, len(data.train) // batch_size))
    # The rest is a start, a checkpoint and an end; every further epoch has a checkpoint too.
    whole = steps * training / counted + len(data.test) * tested / len(part.test)
    return whole + rest * (1 + (epochs - 1) / 2)


def _time_together(
    members: Sequence[Values], data: Dataset, where: Mapping[str, str], per: PerName, seconds: float
) -> float:
    """Seconds of one member of a stack: its share of the start, of the steps, and of the test."""
    training = members[0]["training"]
    part = take_first(data, WARM_UP * training["batch_size"], TESTED)
    ranking = rank_randomly(part, per=per)
    settings = {**training, "train_examples": len(part.train)}
    start = time.perf_counter()
    stack = Stack(
        [{**values, "training": settings} for values in members],
        [unmask_as_planned(values, part, ranking, where) for values in members],
        resolve_device(where["device"]),
    )
    starting = time.perf_counter() - start
    stack.advance()
    start, counted = time.perf_counter(), 0
    while counted < LEAST or (time.perf_counter() - start < seconds and counted < MOST):
        stack.advance()
        counted += 1
    steps = training["steps"] * (time.perf_counter() - start) / counted
    start = time.perf_counter()
    stack.correct()
    testing = len(data.test) * (time.perf_counter() - start) / len(part.test)
    return float(starting + steps + testing) / len(members)


@dataclass(frozen=True)
class Forecast:
    """Predicted seconds of a measurement, on a machine like this one.

    retrainings: how many there are, by what they are shown. seconds_each: of one of them. ranking_seconds: of
    all rankings, which come first, in one process. starting_seconds: until a worker is ready. workers: how
    many retrainings run at a time.
    """

    retrainings: Mapping[Shown, int]
    seconds_each: Mapping[Shown, float]
    ranking_seconds: float
    starting_seconds: float
    workers: int

    @property
    def total_seconds(self) -> float:
        """From the start to the end."""
        count = sum(self.retrainings.values())
        in_turn = sum(number * self.seconds_each[shown] for shown, number in self.retrainings.items())
        # The last round takes as long as a full one, however few retrainings are left for it.
        rounds = math.ceil(count / self.workers)
        return self.ranking_seconds + self.starting_seconds + rounds * in_turn / count


def forecast(
    measurement: Measurement,
    executor: Executor | None = None,
    *,
    batch: int = 200,
    stacked: StackedName = "never",
) -> Forecast:
    """Time the first steps of each kind of retraining and a batch of attributions, and extrapolate.

    It takes some seconds, with the device of the measurement and the torch threads of the moment, and leaves
    no files. executor: where the retrainings will run; None is this process, and one that does not say how
    many `workers` it has counts as one. batch: images whose attributions are computed at a time. stacked: as
    in `diffroar`.
    """
    workers = workers_of(executor)
    return Forecast(
        retrainings=Counter(retraining.shown for retraining in measurement.retrainings),
        seconds_each=predict_retraining(measurement, executor, stacked),
        ranking_seconds=_predict_ranking(measurement, batch),
        # This process has the data and torch already; workers load and import them.
        starting_seconds=measurement.loading_seconds + (IMPORTING if workers > 1 else 0.0),
        workers=workers,
    )


def predict_retraining(
    measurement: Measurement, executor: Executor | None = None, stacked: StackedName = "never"
) -> dict[Shown, float]:
    """Predicted seconds of one retraining by what it is shown; of one in a stack, its share.

    All workers of `executor` are timed at once, since they slow each other down, and the mean is taken.
    Images that are in memory alone, which workers cannot load, are timed here. Raises RunError where a worker
    is lost or cannot train.
    """
    retrainings = measurement.retrainings
    values = measurement.values(retrainings[0], {})
    kinds: tuple[Shown, ...] = ("images", "masks") if measurement.design.control else ("images",)
    if stacked == "auto" and is_stackable(values):
        workers, device = workers_of(executor), measurement.where["device"]
        together = stack_size(values, len(retrainings), workers, device)
        if together > 1:
            return dict.fromkeys(kinds, _timed(measurement, retrainings[:together], executor))
    result: dict[Shown, float] = {}
    for kind in kinds:
        alike = sorted((one for one in retrainings if one.shown == kind), key=lambda one: one.kept.count)
        # To put in a constant costs next to nothing, imputation does not: masks are timed for themselves.
        if not result or measurement.fill.describe()["kind"] != "constant":
            result[kind] = _timed(measurement, [alike[len(alike) // 2]], executor)
        else:
            result[kind] = result["images"]
    return result


def _predict_ranking(measurement: Measurement, batch: int) -> float:
    """Predicted seconds of all rankings: the attribution's and the baselines'."""
    data, design, attribution = measurement.ranked, measurement.design, measurement.attribution
    part = take_first(data, batch, 1)
    share = (len(data.train) + len(data.test)) / (len(part.train) + len(part.test))
    seconds = 0.0
    if not isinstance(attribution, Path):
        # The first call also sets things up.
        rank_dataset(measurement.model, part, attribution, design, batch=batch)
        started = time.perf_counter()
        rank_dataset(measurement.model, part, attribution, design, batch=batch)
        seconds += share * (time.perf_counter() - started)
    if isinstance(attribution, Path) or "random" in design.baselines:
        started = time.perf_counter()
        rank_randomly(part, per=design.per)
        seconds += share * (time.perf_counter() - started)
    if "input-agnostic" in design.baselines:
        data, device = measurement.data, measurement.where["device"]
        options = linear_options(data)
        batch_size = options["batch_size"]
        steps = round(options["epochs"] * (len(data.train) // batch_size))

        def start(part: Dataset, out: Path, steps: int) -> Run:
            return train_linear(part, out, {**options, "epochs": None, "steps": steps}, device)

        seconds += _extrapolate(start, data, steps, batch_size, SECONDS)
    return seconds


def _timed(measurement: Measurement, members: Sequence[Retraining], executor: Executor | None) -> float:
    """Seconds of one of the members, which train together if there are several."""
    values = [measurement.values(one, {}) for one in members]
    per, where = measurement.design.per, dict(measurement.where)
    if executor is None or isinstance(executor, InProcess) or "data" not in where:
        return _time_retraining(values, measurement.data, where, per, SECONDS)
    jobs = math.ceil(len(measurement.retrainings) / len(members))
    calls: list[Future[float]] = []
    try:
        times = range(min(workers_of(executor), jobs))
        calls.extend(executor.submit(_time_retraining, values, None, where, per, SECONDS) for _ in times)
        return fmean(call.result() for call in calls)
    except UsageError:
        raise
    except Exception as error:  # workers that die or lack a file end in many ways
        what = f"{type(error).__name__}: {error}"
        raise RunError(f"no worker could time a retraining: {what}. Repeat the command.") from error
    finally:
        for call in calls:
            call.cancel()
