"""What a measurement will cost, from a few steps of the real training on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from veridical.data import Dataset
from veridical.faithfulness.baselines import linear_options, random_ranking, train_linear
from veridical.faithfulness.design import Retraining
from veridical.faithfulness.grouping import stack_size
from veridical.faithfulness.instances import rank_dataset
from veridical.faithfulness.measurement import Measurement
from veridical.faithfulness.stacked_batches import stackable
from veridical.faithfulness.timing import extrapolated, seconds_of, worker_seconds
from veridical.faithfulness.unmasking import Shown, first_images
from veridical.jobs import InProcess, workers_of
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.options import StackedName
from veridical.training.run import Run

SECONDS = 2.0
"""How long steps are timed, about, after a few that are not counted."""

IMPORTING = 3.0
"""Seconds, about, until a fresh process has imported torch."""


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
    def retraining_seconds(self) -> float:
        """Of all retrainings together, as if they came one after the other."""
        return sum(count * self.seconds_each[shown] for shown, count in self.retrainings.items())

    @property
    def total_seconds(self) -> float:
        """From the start to the end."""
        count = sum(self.retrainings.values())
        rounds = math.ceil(count / self.workers)
        return self.ranking_seconds + self.starting_seconds + rounds * self.retraining_seconds / count

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "retrainings": dict(self.retrainings),
            "seconds_each": {name: round(value, 3) for name, value in self.seconds_each.items()},
            "retraining_seconds": round(self.retraining_seconds, 3),
            "ranking_seconds": round(self.ranking_seconds, 3),
            "starting_seconds": round(self.starting_seconds, 3),
            "workers": self.workers,
            "total_seconds": round(self.total_seconds, 3),
        }


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
    shown = [retraining.shown for retraining in measurement.retrainings]
    counts = {kind: shown.count(kind) for kind in dict.fromkeys(shown)}
    workers = workers_of(executor)
    starting = measurement.loading_seconds + (IMPORTING if workers > 1 else 0.0)
    each = retraining_seconds(measurement, executor, stacked)
    ranking = ranking_seconds(measurement, batch)
    return Forecast(counts, each, ranking, starting, workers)


def retraining_seconds(
    measurement: Measurement, executor: Executor | None = None, stacked: StackedName = "never"
) -> dict[Shown, float]:
    """Predicted seconds of one retraining by what it is shown; of one in a stack, its share.

    All workers of `executor` are timed at once, since they slow each other down, and the mean is taken.
    Images that are in memory alone, which workers cannot load, are timed here. Raises RunError where a worker
    is lost or cannot train.
    """
    together = _together(measurement, workers_of(executor)) if stacked == "auto" else 1
    if together > 1:
        share = _timed(measurement, measurement.retrainings[:together], executor)
        return {"images": share, "masks": share} if measurement.design.control else {"images": share}
    found: dict[Shown, float] = {"images": _timed(measurement, [_typical(measurement, "images")], executor)}
    if measurement.design.control:
        # To put in a constant costs next to nothing, imputation does not.
        constant = measurement.fill.describe()["kind"] == "constant"
        masks = [_typical(measurement, "masks")]
        found["masks"] = found["images"] if constant else _timed(measurement, masks, executor)
    return found


def ranking_seconds(measurement: Measurement, batch: int) -> float:
    """Predicted seconds of all rankings: the attribution's and the baselines'."""
    data, design = measurement.ranked, measurement.design
    images = len(data.train) + len(data.test)
    part = first_images(data, batch, 1)
    share = images / (len(part.train) + len(part.test))
    seconds = 0.0
    attribution = measurement.attribution
    if not isinstance(attribution, Path):
        # The first call also sets things up.
        rank_dataset(measurement.model, part, attribution, per=design.per, batch=batch)
        begun = time.perf_counter()
        rank_dataset(measurement.model, part, attribution, per=design.per, batch=batch)
        seconds += share * (time.perf_counter() - begun)
    if isinstance(attribution, Path) or "random" in design.baselines:
        begun = time.perf_counter()
        random_ranking(part, per=design.per)
        seconds += share * (time.perf_counter() - begun)
    if "input-agnostic" in design.baselines:
        data = measurement.data
        options = linear_options(data)
        steps = round(options["epochs"] * (len(data.train) // options["batch_size"]))

        def start(part: Dataset, out: Path, steps: int) -> Run:
            return train_linear(
                part, out, {**options, "epochs": None, "steps": steps}, measurement.device_name
            )

        batch_size, device = options["batch_size"], measurement.device_name
        seconds += extrapolated(start, data, steps, batch_size, device, SECONDS)
    return seconds


def _typical(measurement: Measurement, shown: Shown) -> Retraining:
    """A retraining at the level in the middle."""
    alike = [one for one in measurement.retrainings if one.shown == shown]
    return sorted(alike, key=lambda one: one.kept.count)[len(alike) // 2]


def _timed(measurement: Measurement, members: Sequence[Retraining], executor: Executor | None) -> float:
    """Seconds of one of the members, which train together if there are several."""
    values = [measurement.values(one, {}) for one in members]
    per, where = measurement.design.per, dict(measurement.where)
    if executor is None or isinstance(executor, InProcess) or "data" not in where:
        return seconds_of(values, measurement.data, where, per, SECONDS)
    jobs = math.ceil(len(measurement.retrainings) / len(members))
    calls: list[Future[float]] = []
    try:
        times = range(min(workers_of(executor), jobs))
        calls.extend(executor.submit(worker_seconds, values, where, per, SECONDS) for _ in times)
        return fmean(call.result() for call in calls)
    except UsageError:
        raise
    except Exception as error:  # workers that die or lack a file end in many ways
        what = f"{type(error).__name__}: {error}"
        raise RunError(f"no worker could time a retraining: {what}. Repeat the command.") from error
    finally:
        for call in calls:
            call.cancel()


def _together(measurement: Measurement, workers: int) -> int:
    """Members of the stacks; 1 if images are not retrained in stacks."""
    retrainings = measurement.retrainings
    values = measurement.values(retrainings[0], {})
    if not stackable(values):
        return 1
    return stack_size(values, len(retrainings), workers, measurement.device_name)
