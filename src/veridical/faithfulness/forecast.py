"""What a measurement will cost, from a few steps of the real training on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from veridical.data import Dataset
from veridical.faithfulness.baselines import linear_options, random_ranking, train_linear
from veridical.faithfulness.grouping import stack_size
from veridical.faithfulness.instances import rank_dataset
from veridical.faithfulness.measurement import Measurement
from veridical.faithfulness.retraining import trained
from veridical.faithfulness.stacked import Stack
from veridical.faithfulness.stacked_batches import stackable
from veridical.faithfulness.unmasking import Shown, kept_at, unmasked_dataset
from veridical.runtime.config import StackedName
from veridical.runtime.devices import resolve_device
from veridical.training.run import Run
from veridical.training.validation import accuracies

SECONDS = 2.0
"""How long steps are timed, about, after a few that are not counted."""

WARM_UP, LEAST, MOST = 3, 5, 400
"""Steps: not counted, and counted at least and at most."""

IMPORTING = 3.0
"""Seconds, about, until a fresh process has imported torch."""

TESTED = 500
"""Test images whose evaluation is timed."""


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
    measurement: Measurement, workers: int = 1, *, batch: int = 200, stacked: StackedName = "never"
) -> Forecast:
    """Time the first steps of each kind of retraining and a batch of attributions, and extrapolate.

    It takes some seconds, with the device of the measurement and the torch threads of the moment, and leaves
    no files. batch: images whose attributions are computed at a time. stacked: as in `diffroar`.
    """
    shown = [retraining.shown for retraining in measurement.retrainings]
    counts = {kind: shown.count(kind) for kind in dict.fromkeys(shown)}
    starting = measurement.loading_seconds + (IMPORTING if workers > 1 else 0.0)
    each = retraining_seconds(measurement, workers, stacked)
    ranking = ranking_seconds(measurement, batch)
    return Forecast(counts, each, ranking, starting, workers)


def retraining_seconds(
    measurement: Measurement, workers: int = 1, stacked: StackedName = "never"
) -> dict[Shown, float]:
    """Predicted seconds of one retraining by what it is shown; of one in a stack, its share."""
    together = _together(measurement, workers) if stacked == "auto" else 1
    if together > 1:
        share = _stacked_seconds(measurement, together)
        return {"images": share, "masks": share} if measurement.design.control else {"images": share}
    found: dict[Shown, float] = {"images": _retraining_seconds(measurement, "images")}
    if measurement.design.control:
        # To put in a constant costs next to nothing, imputation does not.
        constant = measurement.fill.describe()["kind"] == "constant"
        found["masks"] = found["images"] if constant else _retraining_seconds(measurement, "masks")
    return found


def ranking_seconds(measurement: Measurement, batch: int) -> float:
    """Predicted seconds of all rankings: the attribution's and the baselines'."""
    data, design = measurement.data, measurement.design
    images = len(data.train) + len(data.test)
    sample = _sample(data, batch, 1)
    share = images / (len(sample.train) + len(sample.test))
    seconds = 0.0
    attribution = measurement.attribution
    if not isinstance(attribution, Path):
        # The first call also sets things up.
        rank_dataset(measurement.model, sample, attribution, per=design.per, batch=batch)
        begun = time.perf_counter()
        rank_dataset(measurement.model, sample, attribution, per=design.per, batch=batch)
        seconds += share * (time.perf_counter() - begun)
    if isinstance(attribution, Path) or "random" in design.baselines:
        begun = time.perf_counter()
        random_ranking(sample, per=design.per)
        seconds += share * (time.perf_counter() - begun)
    if "input-agnostic" in design.baselines:
        options = linear_options(data)
        steps = round(options["epochs"] * (len(data.train) // options["batch_size"]))

        def start(part: Dataset, out: Path, steps: int) -> Run:
            return train_linear(
                part, out, {**options, "epochs": None, "steps": steps}, measurement.device_name
            )

        seconds += _extrapolated(start, data, steps, options["batch_size"], measurement.device_name)
    return seconds


def _retraining_seconds(measurement: Measurement, shown: Shown) -> float:
    design, coordinates = measurement.design, measurement.coordinates
    level = design.levels[len(design.levels) // 2]
    training = measurement.training
    where = {**measurement.where}

    def start(part: Dataset, out: Path, steps: int) -> Run:
        # Which order does not matter for the time, so the rankings need not be there.
        ranking = random_ranking(part, per=design.per)
        unmasked = unmasked_dataset(part, ranking, kept_at(level, coordinates), measurement.fill, shown=shown)
        settings = {**training, "steps": steps, "train_examples": len(part.train)}
        values = {"model": measurement.architecture, "seed": design.seed, "training": settings}
        return trained(values, unmasked, out, where)

    return _extrapolated(
        start, measurement.data, training["steps"], training["batch_size"], measurement.device_name
    )


def _together(measurement: Measurement, workers: int) -> int:
    """Members of the stacks; 1 if images are not retrained in stacks."""
    retrainings = measurement.retrainings
    values = measurement.values(retrainings[0], {})
    if not stackable(values):
        return 1
    return stack_size(values, len(retrainings), workers, measurement.device_name)


def _stacked_seconds(measurement: Measurement, together: int) -> float:
    """Seconds of one member of a stack: its share of the start, of some steps, and of the test."""
    training, steps = measurement.training, int(measurement.training["steps"])
    sample = _sample(measurement.data, WARM_UP * training["batch_size"], TESTED)
    ranking = random_ranking(sample, per=measurement.design.per)
    chosen = measurement.retrainings[:together]
    views = [unmasked_dataset(sample, ranking, one.kept, measurement.fill, shown=one.shown) for one in chosen]
    settings = {**training, "train_examples": len(sample.train)}
    members = [{**measurement.values(one, {}), "training": settings} for one in chosen]
    begun = time.perf_counter()
    stack = Stack(members, views, resolve_device(measurement.device_name))
    starting = time.perf_counter() - begun
    stack.advance()
    begun, counted = time.perf_counter(), 0
    while counted < LEAST or (time.perf_counter() - begun < SECONDS and counted < MOST):
        stack.advance()
        counted += 1
    training_seconds = steps * (time.perf_counter() - begun) / counted
    begun = time.perf_counter()
    stack.correct()
    testing = len(measurement.data.test) * (time.perf_counter() - begun) / len(sample.test)
    return (starting + training_seconds + testing) / together


def _extrapolated(
    start: Callable[[Dataset, Path, int], Run], data: Dataset, steps: int, batch_size: int, device: str
) -> float:
    """Seconds of a whole training, from one that is a little longer than its warm-up."""
    with TemporaryDirectory() as folder:
        warm = start(_sample(data, WARM_UP * batch_size, TESTED), Path(folder) / "warm", WARM_UP)
        guess = max(_training_seconds(warm) / WARM_UP, 1e-6)
        counted = min(max(LEAST, round(SECONDS / guess)), MOST, max(steps, WARM_UP))
        sample = _sample(data, counted * batch_size, TESTED)
        begun = time.perf_counter()
        run = start(sample, Path(folder) / "timed", counted)
        wall = time.perf_counter() - begun
        begun = time.perf_counter()
        accuracies(run.model, sample.test, None, seed=0, device=resolve_device(device))
        tested = time.perf_counter() - begun
    training = _training_seconds(run)
    rest = max(0.0, wall - training - tested)
    epochs = math.ceil(steps / max(1, len(data.train) // batch_size))
    # The rest is a start, a checkpoint and an end; every further epoch has a checkpoint too.
    whole = steps * training / counted + len(data.test) * tested / len(sample.test)
    return whole + rest * (1 + (epochs - 1) / 2)


def _training_seconds(run: Run) -> float:
    seconds: float = run.result["timing"]["training_seconds"]
    return seconds


def _sample(data: Dataset, train: int, test: int) -> Dataset:
    """The first so many images of each part."""
    return replace(
        data,
        train=data.train.subset(range(min(train, len(data.train)))),
        test=data.test.subset(range(min(test, len(data.test)))),
    )
