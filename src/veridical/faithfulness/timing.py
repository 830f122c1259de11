"""How long retrainings take where this is called: some steps of real ones, extrapolated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from veridical.data import Dataset
from veridical.faithfulness.baselines import random_ranking
from veridical.faithfulness.retraining import trained, unmasked_as
from veridical.faithfulness.sources import load_source
from veridical.faithfulness.stacked import Stack
from veridical.faithfulness.unmasking import first_images
from veridical.runtime.devices import resolve_device
from veridical.runtime.options import PerName
from veridical.training.run import Run, measure_accuracies

WARM_UP, LEAST, MOST = 3, 5, 400
"""Steps: not counted, and counted at least and at most."""

TESTED = 500
"""Test images whose evaluation is timed."""

Values = Mapping[str, Any]
"""What `Measurement.values` makes of a retraining; which ranking it names does not matter here."""


def worker_seconds(
    members: Sequence[Values], where: Mapping[str, str], per: PerName, seconds: float
) -> float:
    """As `seconds_of`, in a process that has to load the data first; loading is not counted."""
    data = load_source(where, members[0]["data"]["checksum"])
    return seconds_of(members, data, where, per, seconds)


def seconds_of(
    members: Sequence[Values], data: Dataset, where: Mapping[str, str], per: PerName, seconds: float
) -> float:
    """Predicted seconds of one retraining; of several members, of each one's share of their stack.

    Steps are timed for about `seconds`, after a few that are not counted. No files are left.
    """
    return (
        _alone(members[0], data, where, per, seconds)
        if len(members) == 1
        else _together(members, data, where, per, seconds)
    )


def extrapolated(
    start: Callable[[Dataset, Path, int], Run],
    data: Dataset,
    steps: int,
    batch_size: int,
    device: str,
    seconds: float,
) -> float:
    """Seconds of a whole training, from one that is a little longer than its warm-up.

    start: trains on the given images, into the folder, for so many steps.
    """
    with TemporaryDirectory() as folder:
        warm = start(first_images(data, WARM_UP * batch_size, TESTED), Path(folder) / "warm", WARM_UP)
        guess = max(_training_seconds(warm) / WARM_UP, 1e-6)
        counted = min(max(LEAST, round(seconds / guess)), MOST, max(steps, WARM_UP))
        part = first_images(data, counted * batch_size, TESTED)
        begun = time.perf_counter()
        run = start(part, Path(folder) / "timed", counted)
        wall = time.perf_counter() - begun
        begun = time.perf_counter()
        measure_accuracies(run.model, part.test, None, seed=0, device=resolve_device(device))
        tested = time.perf_counter() - begun
    training = _training_seconds(run)
    rest = max(0.0, wall - training - tested)
    epochs = math.ceil(steps / max(1, len(data.train) // batch_size))
    # The rest is a start, a checkpoint and an end; every further epoch has a checkpoint too.
    whole = steps * training / counted + len(data.test) * tested / len(part.test)
    return whole + rest * (1 + (epochs - 1) / 2)


def _alone(values: Values, data: Dataset, where: Mapping[str, str], per: PerName, seconds: float) -> float:
    training = values["training"]

    def start(part: Dataset, out: Path, steps: int) -> Run:
        # Which order does not matter for the time, so the rankings need not be there.
        unmasked = unmasked_as(values, part, random_ranking(part, per=per))
        settings = {**training, "steps": steps, "train_examples": len(part.train)}
        return trained({**values, "training": settings}, unmasked, out, where)

    return extrapolated(start, data, training["steps"], training["batch_size"], where["device"], seconds)


def _together(
    members: Sequence[Values], data: Dataset, where: Mapping[str, str], per: PerName, seconds: float
) -> float:
    """Seconds of one member of a stack: its share of the start, of the steps, and of the test."""
    training = members[0]["training"]
    part = first_images(data, WARM_UP * training["batch_size"], TESTED)
    ranking = random_ranking(part, per=per)
    settings = {**training, "train_examples": len(part.train)}
    begun = time.perf_counter()
    stack = Stack(
        [{**values, "training": settings} for values in members],
        [unmasked_as(values, part, ranking) for values in members],
        resolve_device(where["device"]),
    )
    starting = time.perf_counter() - begun
    stack.advance()
    begun, counted = time.perf_counter(), 0
    while counted < LEAST or (time.perf_counter() - begun < seconds and counted < MOST):
        stack.advance()
        counted += 1
    steps = training["steps"] * (time.perf_counter() - begun) / counted
    begun = time.perf_counter()
    stack.correct()
    testing = len(data.test) * (time.perf_counter() - begun) / len(part.test)
    return float(starting + steps + testing) / len(members)


def _training_seconds(run: Run) -> float:
    seconds: float = run.result["timing"]["training_seconds"]
    return seconds
