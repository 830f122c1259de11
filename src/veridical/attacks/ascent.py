"""The one projected-ascent loop: PGD, the inner maximum of training and attribution attacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from veridical.attacks.ball import Ball, Noise
from veridical.attribution.path import check_scalar
from veridical.runtime.checking import check_count, check_positive
from veridical.runtime.errors import UsageError, unknown_name_error
from veridical.runtime.lengths import power_of_two

Start = Literal["origin", "random"] | Tensor
Keep = Literal["last", "best"] | Callable[[Tensor], Tensor]


# inputs (N, ...) -> the number to be raised for each example, (N,); or that and the direction of ascent.
Score = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]


class Ascent(NamedTuple):
    """The kept iterates (N, ...), the origin where none was admissible, and the (N,) values they have.

    value: the score (higher is better) for "last" and "best", the callable's value (lower is better, +inf
    where none was admissible) otherwise. None for one single "last" climb, which is spared that pass.
    """

    inputs: Tensor
    value: Tensor | None


def ascend(
    score: Score,
    origin: Tensor,
    ball: Ball,
    *,
    steps: int,
    step_size: float,
    start: Start = "origin",
    keep: Keep = "last",
    generator: Noise | None = None,
    restarts: int = 1,
    momentum: float = 0.0,
    decay: Literal["constant", "linear"] = "constant",
) -> Ascent:
    """Raise `score` within `ball` around `origin` by projected steps of `ball.step(gradient)`.

    score: climbed per example; see Score.
    origin: (N, ...) the unperturbed inputs; never changed.
    steps, step_size: number of steps and their length in input units.
    start: "origin", "random" (uniform in the ball) or a tensor. Restarts of "origin" after the first are
        random, since ascent is deterministic.
    keep: "last" iterate; "best" by the score; or a callable inputs -> (N,), least value kept, with +inf for
        inadmissible iterates. A callable judges every iterate after a step, not the start.
    generator: source of random starts; one torch.Generator, or one per example.
    momentum: share of the previous direction added to the new gradient (normalised by its mean magnitude).
    decay: "linear" shrinks the step from step_size to step_size / steps.
    """
    check_count("steps", steps, least=0)
    if step_size != 0:
        check_positive("step_size", step_size, "a finite length of at least 0, in input units")
    check_count("restarts", restarts)
    if isinstance(start, str) and start not in ("origin", "random"):
        raise unknown_name_error("start", start, ("origin", "random"), more=", or a tensor")
    # From one origin every climb would be the same.
    further: Start = "random" if isinstance(start, str) else start
    starts = [start, *[further] * (restarts - 1)]
    if generator is None and any(isinstance(one, str) and one == "random" for one in starts):
        raise UsageError("a random start needs generator=: a torch.Generator, or one per example")
    origin = origin.detach()

    def climb(start: Start) -> tuple[Tensor, Tensor]:
        if isinstance(start, Tensor):
            begin = ball.project(start.detach(), origin)
        elif generator is not None and start == "random":
            begin = ball.random_start(origin, generator)
        else:
            begin = origin.clone()
        return _climb(score, begin, origin, ball, steps, step_size, keep, momentum, decay)

    # The one climb that needs no value, as the inner maximum of training.
    if keep == "last" and len(starts) == 1:
        return Ascent(climb(start)[0], None)
    kept, value = origin, torch.full_like(origin.flatten(1)[:, 0], torch.inf)
    for one in starts:
        inputs, worth = climb(one)
        if keep == "last":
            worth = -_value(score, inputs).to(worth.dtype)
        # Restarts compete per example; the first of equals stays.
        kept, value = _keep_least(inputs, worth, kept, value)
    return Ascent(kept, value if callable(keep) else -value)


def _climb(
    score: Score,
    inputs: Tensor,
    origin: Tensor,
    ball: Ball,
    steps: int,
    step_size: float,
    keep: Keep,
    momentum: float,
    decay: str,
) -> tuple[Tensor, Tensor]:
    """One restart from `inputs`: what is kept and its worth (lower is better; not computed for "last")."""
    best, worth = origin, torch.full_like(origin.flatten(1)[:, 0], torch.inf)
    velocity = torch.zeros_like(origin)
    for k in range(steps):
        value, gradient = value_and_gradient(score, inputs)
        if keep == "best":
            best, worth = _keep_least(inputs, -value, best, worth)
        if momentum:
            # By a power of two first, which is exact: the mean of tiny gradients would be 0.
            unit = power_of_two(gradient.flatten(1))
            gradient = gradient / _spread(unit, gradient)
            scale = gradient.abs().flatten(1).mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
            velocity = momentum * velocity + gradient / _spread(scale, gradient)
            gradient = velocity
        # The last step is still step_size / steps long.
        size = step_size * (1 - k / steps) if decay == "linear" else step_size
        inputs = ball.project(inputs + size * ball.step(gradient), origin)
        if callable(keep):
            best, worth = _keep_least(inputs, keep(inputs), best, worth)
    if keep == "last":
        return inputs, worth
    if keep == "best":
        best, worth = _keep_least(inputs, -_value(score, inputs), best, worth)
    return best, worth


def _keep_least(inputs: Tensor, candidate: Tensor, best: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """Per example the better of two inputs (N, ...) and their worths (N,)."""
    candidate = candidate.to(worth.dtype)
    # NaN compares false, so an undefined value is never kept.
    better = candidate < worth
    return torch.where(_spread(better, inputs), inputs, best), torch.where(better, candidate, worth)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """A value per example, (N,) or (N, 1), as what broadcasts to (N, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def value_and_gradient(score: Score, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The score (N,) and its gradient in the inputs (N, ...), both detached; weights get no gradient."""
    with torch.enable_grad():
        point = inputs.detach().requires_grad_(True)
        # Outside the caller's graph: neither weights nor inputs get a gradient.
        value = score(point)
        if isinstance(value, tuple):
            return value
        check_scalar(value, point)
        (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient


def _value(score: Score, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        value = score(inputs)
    return value[0] if isinstance(value, tuple) else value.detach()
