"""The one projected-ascent loop: PGD, the inner maximum of training and attribution attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from veridical.attacks.ball import Ball, Noise
from veridical.attribution.path import check_scalar
from veridical.runtime.checking import check_count, check_positive
from veridical.runtime.errors import UsageError, unknown_name_error
from veridical.runtime.lengths import power_of_two
from veridical.runtime.record import record

Score = Callable[[Tensor], Tensor]
"""inputs (N, ...) -> the number to be raised for each example, (N,)."""

Start = Literal["origin", "random"] | Tensor
Keep = Literal["last", "best"] | Callable[[Tensor], Tensor]


@runtime_checkable
class GradientScore(Protocol):
    """A score that brings its own gradient (one that is cheaper, or has none)."""

    def value_and_gradient(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The score (N,) and the direction of ascent (N, ...) at `inputs`."""
        ...


@record
class Ascent:
    """What the loop kept.

    Attributes
    ----------
    inputs
        The kept iterates, (N, ...); the origin where no iterate was admissible.
    value
        (N,): what it was kept by; the score (higher is better) for "last" and "best", the callable's value
        (lower is better, +inf where none was admissible) otherwise. None for one single "last" climb, which
        needs no value and is spared the forward pass.
    gradients
        Number of gradient evaluations per example.
    """

    inputs: Tensor
    value: Tensor | None
    gradients: int


def ascend(
    score: Score | GradientScore,
    origin: Tensor,
    ball: Ball,
    *,
    steps: int,
    step_size: float,
    start: Start | Sequence[Start] = "origin",
    keep: Keep = "last",
    generator: Noise | None = None,
    restarts: int = 1,
    momentum: float = 0.0,
    decay: Literal["constant", "linear"] = "constant",
) -> Ascent:
    """Raise `score` within `ball` around `origin` by projected steps of `ball.step(gradient)`.

    Parameters
    ----------
    score
        Climbed per example; a callable, or an object with `value_and_gradient`.
    origin
        (N, ...) the unperturbed inputs; never changed.
    steps, step_size
        Number of steps and their length in input units.
    start
        "origin", "random" (uniform in the ball), a tensor, or one of these for each restart. A single
        "origin" with restarts > 1 is followed by random ones, since ascent is deterministic.
    keep
        "last" iterate; "best" by the score; or a callable inputs -> (N,), least value kept, with +inf for
        inadmissible iterates. A callable judges every iterate after a step, not the start.
    generator
        Source of random starts; one torch.Generator, or one per example.
    momentum
        Share of the previous direction that is added to the new gradient (normalised by its mean magnitude).
    decay
        "linear" shrinks the step from step_size to step_size / steps.
    """
    check_count("steps", steps, least=0)
    if step_size != 0:
        check_positive("step_size", step_size, "a finite length of at least 0, in input units")
    starts = _starts(start, restarts, generator)
    origin = origin.detach()

    def climb(start: Start) -> tuple[Tensor, Tensor]:
        begin = _begin(start, origin, ball, generator)
        return _climb(score, begin, origin, ball, steps, step_size, keep, momentum, decay)

    # The one climb that needs no value, as the inner maximum of training.
    if keep == "last" and len(starts) == 1:
        return Ascent(climb(starts[0])[0], None, steps)
    kept, value = origin, torch.full_like(origin.flatten(1)[:, 0], torch.inf)
    for one in starts:
        inputs, worth = climb(one)
        if keep == "last":
            worth = -_value(score, inputs).to(worth.dtype)
        # Restarts compete per example; the first of equals stays.
        kept, value = _keep_least(inputs, worth, kept, value)
    return Ascent(kept, value if callable(keep) else -value, steps * len(starts))


def _climb(
    score: Score | GradientScore,
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


def value_and_gradient(score: Score | GradientScore, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The score (N,) and its gradient in the inputs (N, ...), both detached; weights get no gradient."""
    if isinstance(score, GradientScore):
        return score.value_and_gradient(inputs)
    with torch.enable_grad():
        point = inputs.detach().requires_grad_(True)
        # Outside the caller's graph: neither weights nor inputs get a gradient.
        value = score(point)
        check_scalar(value, point)
        (gradient,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), gradient


def _value(score: Score | GradientScore, inputs: Tensor) -> Tensor:
    if callable(score):
        with torch.no_grad():
            return score(inputs).detach()
    return score.value_and_gradient(inputs)[0]


def _starts(start: Start | Sequence[Start], restarts: int, generator: Noise | None) -> tuple[Start, ...]:
    check_count("restarts", restarts)
    if isinstance(start, str | Tensor):
        # From one origin every climb would be the same.
        rest: Start = "random" if isinstance(start, str) else start
        starts: tuple[Start, ...] = (start, *[rest] * (restarts - 1))
    else:
        starts = tuple(start)
    for one in starts:
        if isinstance(one, str) and one not in ("origin", "random"):
            raise unknown_name_error("start", one, ("origin", "random"), more=", or a tensor")
        if isinstance(one, str) and one == "random" and generator is None:
            raise UsageError("a random start needs generator=: a torch.Generator, or one per example")
    return starts


def _begin(start: Start, origin: Tensor, ball: Ball, generator: Noise | None) -> Tensor:
    if isinstance(start, Tensor):
        return ball.project(start.detach(), origin)
    if start == "origin":
        return origin.clone()
    assert generator is not None
    return ball.random_start(origin, generator)
