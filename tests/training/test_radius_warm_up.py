"""The ball of a training can grow from nothing to its radius."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

import veridical
from veridical.data import Dataset, Split
from veridical.runtime.errors import UsageError
from veridical.runtime.options import TrainOptions
from veridical.training.log import read_log
from veridical.training.objectives import RobustAttribution, build_objective, evaluation_ball
from veridical.training.recipes import resolve
from veridical.training.run import read_settings
from veridical.training.settings import RobustSettings

DATA = {"name": "cifar10", "shape": [3, 32, 32], "num_classes": 10}
ROBUST: list[Any] = ["adversarial", "ig-norm", "ig-sum-norm", "loss-change"]


def settings(**given: Any) -> RobustSettings:
    options = TrainOptions(out="unused", **given)
    robust = resolve(options, data=DATA, model={"name": "mlp"}, train_size=1000).robust
    assert robust is not None
    return robust


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)])
def test_ball_and_step_grow_in_proportion(name: Any, progress: float, share: float) -> None:
    robust = settings(objective=name, radius=0.2, training_radius=0.3, radius_warm_up=0.4)
    then = build_objective(name, robust, progress=progress)
    assert isinstance(then, RobustAttribution)
    assert then.ball.radius == pytest.approx(0.3 * share)
    assert then.inner.step_size == pytest.approx(0.7 * 0.3 * share)
    assert evaluation_ball(robust).radius == 0.2


@pytest.mark.parametrize("given", [{}, {"radius_warm_up": 0.0}])
def test_without_it_the_ball_is_whole_from_the_start(given: dict[str, float]) -> None:
    first = build_objective("adversarial", settings(objective="adversarial", radius=0.2, **given), progress=0)
    assert isinstance(first, RobustAttribution)
    assert first.ball.radius == 0.2


@pytest.mark.parametrize("name", ["natural", "input-gradient"])
def test_objectives_without_an_ascent_refuse_it(name: Any) -> None:
    with pytest.raises(UsageError, match=f"radius_warm_up has no effect on the objective {name}"):
        resolve(
            TrainOptions(out="unused", objective=name, radius_warm_up=0.5),
            data=DATA,
            model={"name": "mlp"},
            train_size=1000,
        )


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match="radius_warm_up"):
        settings(objective="adversarial", radius_warm_up=share)


def test_a_run_begins_as_a_natural_one_and_keeps_the_share(tmp_path: Path) -> None:
    """In the first step the ball is a point, so the loss is the clean one; later it is not."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    data = Dataset("toy", Split(images, labels), Split(images, labels), ("a", "b"), "0" * 64, "made here")
    common: dict[str, Any] = {"model": "mlp", "data": data, "validation": 0, "batch_size": 40}
    common |= {"radius": 0.3, "learning_rate": 0.0, "progress": False}

    def loss(name: str, **given: Any) -> float:
        folder = tmp_path / name
        veridical.train(out=str(folder), objective="adversarial", **common, **given)
        return fmean(line["loss"] for line in read_log(folder) if line["kind"] == "steps")

    clean = loss("clean", training_radius=0.0, steps=1)
    assert loss("growing", radius_warm_up=1.0, steps=1) == pytest.approx(clean, rel=1e-6)
    # No weight moves, so the mean over four steps is that of balls of 0, 1/4, 2/4 and 3/4.
    assert clean < loss("grown", radius_warm_up=1.0, steps=4) < loss("whole", steps=4)
    assert read_settings(tmp_path / "grown").robust == settings(
        objective="adversarial", radius=0.3, radius_warm_up=1.0
    )
