"""A run may be trained in a wider ball than the one it is evaluated at."""

from __future__ import annotations

from typing import Any

import pytest

from veridical.attacks.ball import Linf
from veridical.runtime.errors import UsageError
from veridical.runtime.options import TrainOptions
from veridical.training.objectives import RobustAttribution, build_objective, evaluation_ball
from veridical.training.recipes import resolve
from veridical.training.settings import RobustSettings

DATA = {"name": "cifar10", "shape": [3, 32, 32], "num_classes": 10}


def settings(**given: Any) -> RobustSettings:
    options = TrainOptions(out="unused", **given)
    robust = resolve(options, data=DATA, model={"name": "mlp"}, train_size=1000).robust
    assert robust is not None
    return robust


@pytest.mark.parametrize("name", ["adversarial", "ig-norm", "ig-sum-norm", "loss-change"])
def test_the_ball_of_training_and_that_of_evaluation(name: Any) -> None:
    robust = settings(objective=name, radius=0.1, training_radius=0.25)
    trained = build_objective(name, robust)
    assert isinstance(trained, RobustAttribution)
    assert isinstance(trained.ball, Linf)
    assert trained.ball.radius == 0.25
    assert evaluation_ball(robust).radius == 0.1
    # The recipe's step is a share of the ball that is climbed in.
    assert trained.inner.step_size == pytest.approx(0.7 * 0.25)


def test_the_penalty_s_weight_is_that_of_the_wider_ball() -> None:
    wider = settings(objective="input-gradient", radius=0.1, training_radius=0.25)
    assert wider == settings(objective="input-gradient", radius=0.1, training_radius=0.25, weight=0.25)


def test_without_it_both_are_the_radius() -> None:
    robust = settings(objective="adversarial", radius=0.1)
    assert robust.training_radius is None
    assert robust.ball_radius == 0.1


def test_impossible_training_radii_are_refused() -> None:
    with pytest.raises(UsageError, match="training_radius"):
        settings(objective="adversarial", training_radius=-1.0)
    with pytest.raises(UsageError, match="training_radius has no effect on the objective natural"):
        resolve(
            TrainOptions(out="unused", objective="natural", training_radius=0.1),
            data=DATA,
            model={"name": "mlp"},
            train_size=1000,
        )
