"""The objectives by name, built from a run's settings: each is one instance of Robust Attribution."""

from __future__ import annotations

from veridical.attacks.ball import Ball, ball
from veridical.attribution.quadrature import Quadrature
from veridical.runtime.config import OBJECTIVES
from veridical.runtime.errors import argument_error, unknown_name_error
from veridical.training.objectives import Inner, Natural, Objective, RobustAttribution
from veridical.training.penalties import (
    AttributionPenalty,
    absolute_sum,
    l1_norm,
    l1_power,
    signed_sum,
    sum_and_l1,
)
from veridical.training.settings import RobustSettings

DUAL = {"linf": 1.0, "l2": 2.0}
"""q of 1/p + 1/q = 1 for the l_p ball of each norm."""


def named_objective(
    name: str,
    robust: RobustSettings | None,
    *,
    progress: float = 1.0,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Objective:
    """The objective of that name at a point of the training (progress from 0 to 1), for inputs in `bounds`.

    Before `robust.beta_from` ig-sum-norm has no L1 term, and up to `robust.radius_warm_up` the ball, and the
    inner step with it, is smaller in proportion; nothing else depends on the progress. For input-gradient
    weight is lambda' of l(x) + lambda' ||grad l||_q^q, and the ball has no bounds: no image there is shown.
    Source: Chen et al. (2019), section 3.
    """
    if name == "natural":
        return Natural()
    if robust is None:
        raise argument_error("robust", robust, f"the settings of the objective {name}")
    if name == "input-gradient":
        return _input_gradient(robust)
    assert robust.inner_steps is not None
    assert robust.inner_step_size is not None
    assert robust.inner_start is not None
    grown = min(1.0, progress / robust.radius_warm_up) if robust.radius_warm_up else 1.0
    inner = Inner(
        steps=robust.inner_steps,
        step_size=grown * robust.inner_step_size,
        start=robust.inner_start,
        score=robust.inner_score or "size",
        quadrature=_quadrature(robust, robust.inner_nodes),
    )
    return RobustAttribution(
        _size(name, robust, progress),
        ball(robust.norm, grown * robust.ball_radius, bounds),
        weight=robust.weight,
        quadrature=_quadrature(robust, robust.nodes),
        inner=inner,
    )


def evaluation_ball(robust: RobustSettings) -> Ball:
    """The ball in which a run's predictions are attacked while it is validated."""
    return ball(robust.norm, robust.radius)


def _size(name: str, robust: RobustSettings, progress: float) -> AttributionPenalty:
    if name == "adversarial":
        return signed_sum()
    if name == "loss-change":
        return absolute_sum()
    if name == "ig-norm":
        return l1_norm()
    if name == "ig-sum-norm":
        assert robust.beta is not None
        return sum_and_l1(robust.beta if progress >= (robust.beta_from or 0.0) else 0.0)
    raise unknown_name_error("objective", name, OBJECTIVES)


def _input_gradient(robust: RobustSettings) -> RobustAttribution:
    """The one-node case: with the node at x, max ||d * grad l||_1 over the ball is radius * ||grad l||_q.

    It is attained at d = radius * (the dual direction of the gradient), where the start already lies.
    """
    if not robust.ball_radius > 0:
        raise argument_error("radius", robust.ball_radius, "a positive number")
    q = DUAL[robust.norm]
    return RobustAttribution(
        l1_power(q),
        ball(robust.norm, robust.ball_radius, None),
        weight=robust.weight / robust.ball_radius**q,
        quadrature=Quadrature("left", 1),
        inner=Inner(steps=0, start="gradient", quadrature=Quadrature("left", 1)),
    )


def _quadrature(robust: RobustSettings, nodes: int | None) -> Quadrature:
    return Quadrature(robust.rule or "midpoint", nodes or 1)
