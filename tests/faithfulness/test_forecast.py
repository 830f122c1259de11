"""Predicted costs: their arithmetic, and that they look at what will really run."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import nn

from veridical.data import Dataset
from veridical.faithfulness import forecast as module
from veridical.faithfulness.diffroar_plan import Design, Measurement, plan_diffroar
from veridical.faithfulness.forecast import Forecast, forecast, predict_retraining
from veridical.jobs import ProcessPool, WorkerLost
from veridical.runtime.errors import RunError
from veridical.runtime.options import StackedName


def measurement(network: nn.Module, data: Dataset, **design: Any) -> Measurement:
    return plan_diffroar(
        network,
        data,
        attribution="input-gradient",
        design=Design(levels=[0.25, 0.5], repeats=2, **design),
        overrides={"steps": 40, "batch_size": 30, "averaging": 0.0},
        retrain_model="mlp",
        retrain_model_options={"width": 8},
        device="cpu",
    )


def test_the_sum_counts_every_retraining_and_the_workers() -> None:
    result = Forecast({"images": 20, "masks": 4}, {"images": 10.0, "masks": 5.0}, 30.0, 4.0, workers=2)
    assert result.total_seconds == 34.0 + 12 * 220.0 / 24
    # Five at a time need five rounds for 24.
    five = dataclasses.replace(result, workers=5)
    assert five.total_seconds == 34.0 + 5 * 220.0 / 24


def test_a_forecast_counts_what_the_design_has_and_leaves_no_files(
    network: nn.Module,
    marked_data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "TemporaryDirectory", partial(TemporaryDirectory, dir=tmp_path))
    state = torch.get_rng_state()
    planned = measurement(network, marked_data)
    result = forecast(planned, batch=50)
    assert dict(result.retrainings) == {"images": 3 * 2 * 2 * 2, "masks": 2 * 2}
    assert sum(result.retrainings.values()) == len(planned.retrainings)
    assert result.seconds_each["images"] == result.seconds_each["masks"] > 0
    assert result.ranking_seconds > 0
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_a_longer_training_is_predicted_in_proportion(
    network: nn.Module, marked_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With clocks that are made up, the rest is arithmetic."""
    ran: list[tuple[int, int]] = []

    class Run:
        def __init__(self, steps: int) -> None:
            self.model = nn.Identity()
            # Three milliseconds a step.
            self.result = {"timing": {"training_seconds": 0.003 * steps}}

    def trained(values: Any, data: Dataset, out: Path, where: Any) -> Run:
        del out, where
        ran.append((values["training"]["steps"], len(data.train)))
        clock[0] += 0.003 * values["training"]["steps"] + 0.05
        return Run(values["training"]["steps"])

    def accuracies(_model: Any, split: Any, _ball: Any, **_: Any) -> None:
        clock[0] += 0.0001 * len(split)

    clock = [0.0]
    monkeypatch.setattr(module, "train_fresh", trained)
    monkeypatch.setattr(module, "measure_accuracies", accuracies)
    monkeypatch.setattr("veridical.faithfulness.forecast.time.perf_counter", lambda: clock[0])
    planned = measurement(network, marked_data, control=False)
    result = predict_retraining(planned)
    # 40 steps, 400 test images, and what a start takes beside them (0.05 s, of which testing was a part);
    # 40 steps are two epochs of 20, so there is one checkpoint more.
    rest = 0.05 - 0.0001 * 400
    assert result == {"images": pytest.approx(40 * 0.003 + 0.04 + 1.5 * rest)}
    assert ran == [(3, 90), (40, 600)]


def test_imputation_is_timed_for_itself(
    network: nn.Module, marked_data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def seconds(members: Sequence[Mapping[str, Any]], *_: Any) -> float:
        asked.extend(values["shown"] for values in members)
        return 1.0

    monkeypatch.setattr(module, "_time_retraining", seconds)
    predict_retraining(measurement(network, marked_data))
    assert asked == ["images"]
    predict_retraining(measurement(network, marked_data, fill="linear"))
    assert asked == ["images", "images", "masks"]


class Workers(Executor):
    """Three of them, of which each call finds another."""

    workers = 3

    def __init__(self, loss: BaseException | None = None) -> None:
        self.loss, self.calls = loss, 0
        self.given: list[Future[Any]] = []

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls += 1
        self.given.append(future)
        if self.loss is not None and self.calls == 2:
            raise self.loss
        if self.loss is None:
            # A fast worker, a slow one, and one between.
            future.set_result(float(self.calls))
        return future


def on_disk(network: nn.Module, data: Dataset, folder: Path, **design: Any) -> Measurement:
    return measurement(network, data, **design).place_data(folder)


def test_all_workers_are_timed_at_once_but_no_more_than_there_are_stacks(
    network: nn.Module, marked_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight retrainings; on five workers they are four stacks of two."""
    design: dict[str, Any] = {"baselines": [], "control": False}
    planned = on_disk(network, marked_data, tmp_path, **design)
    stacked: StackedName
    for workers, stacked, calls in ((3, "never", 3), (8, "never", 8), (5, "auto", 4)):
        executor = Workers()
        executor.workers = workers
        # Each counts the same.
        assert predict_retraining(planned, executor, stacked)["images"] == (calls + 1) / 2
        assert executor.calls == calls
    # Images that are in memory alone are timed here.
    monkeypatch.setattr(module, "_time_retraining", lambda *_: 5.0)
    executor = Workers()
    assert predict_retraining(measurement(network, marked_data), executor) == {"images": 5.0, "masks": 5.0}
    assert executor.calls == 0


@pytest.mark.parametrize("loss", [WorkerLost("killed"), BrokenExecutor("killed"), MemoryError("killed")])
def test_a_worker_that_cannot_time_is_told_and_leaves_no_call(
    network: nn.Module, marked_data: Dataset, tmp_path: Path, loss: BaseException
) -> None:
    executor = Workers(loss)
    kind = type(loss).__name__
    with pytest.raises(RunError, match=rf"no worker could time a retraining: {kind}: killed\. Repeat"):
        predict_retraining(on_disk(network, marked_data, tmp_path), executor)
    assert executor.given[0].cancelled()


@pytest.mark.parametrize("stacked", [pytest.param("never", marks=pytest.mark.slow), "auto"])
def test_processes_time_what_they_will_run(
    network: nn.Module,
    marked_data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stacked: StackedName,
) -> None:
    """Two real workers answer, where this process could not."""

    def here(*_: Any) -> float:
        raise AssertionError("timed in the process that asks")

    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "unmask_as_planned", here)
    planned = on_disk(network, marked_data, tmp_path)
    with ProcessPool(2) as pool:
        result = forecast(planned, pool, batch=50, stacked=stacked)
    assert result.workers == 2
    assert result.seconds_each["images"] == result.seconds_each["masks"] > 0
