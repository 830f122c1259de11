"""The one projected-ascent loop, and the attack on predictions made of it (PGD, Madry et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from veridical.attacks.ball import Ball, Noise, NoiseRows, check_examples
from veridical.attribution.classifier import all_finite, class_logits, examining, out_of_inference
from veridical.attribution.method import TargetScalar
from veridical.attribution.path import check_scalar
from veridical.runtime.checking import Count, Repeats, Seed, StepSize, check_count, check_positive, checked
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error
from veridical.runtime.lengths import power_of_two
from veridical.runtime.seeds import per_example_uniform, stream

Start = Literal["origin", "random"] | Tensor

# inputs (N, ...) -> the number to be raised for each example, (N,); or that and the direction of ascent.
Score = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]


def ascend(
    score: Score,
    origin: Tensor,
    ball: Ball,
    *,
    steps: int,
    step_size: float,
    start: Start = "origin",
    keep: Literal["last", "best"] = "last",
    generator: Noise | None = None,
    restarts: int = 1,
    momentum: float = 0.0,
    decay: Literal["constant", "linear"] = "constant",
    observe: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """Raise `score` within `ball` around `origin` by projected steps of `ball.step(gradient)`; (N, ...).

    score: climbed per example; see Score.
    origin: (N, ...) the unperturbed inputs; never changed.
    steps, step_size: number of steps and their length in input units.
    start: "origin", "random" (uniform in the ball) or a tensor. Restarts of "origin" after the first are
        random, since ascent is deterministic.
    keep: of each restart the "last" iterate, or the "best" by the score, the start among them; of several
        restarts the best. The origin where the score is NaN everywhere.
    generator: source of random starts; one torch.Generator, or one per example.
    momentum: share of the previous direction added to the new gradient (normalised by its mean magnitude).
    decay: "linear" shrinks the step from step_size to step_size / steps.
    observe: called with every iterate after a step, not with the start.
    """
    check_count("steps", steps, least=0)
    if step_size != 0:
        check_positive("step_size", step_size, "a finite length of at least 0, in input units")
    check_count("restarts", restarts)
    origin = origin.detach()
    best, most = origin, torch.full_like(origin.flatten(1)[:, 0], -torch.inf)
    for number in range(restarts):
        inputs = _begin("random" if number and isinstance(start, str) else start, origin, ball, generator)
        velocity = torch.zeros_like(origin)
        for k in range(steps):
            value, gradient = value_and_gradient(score, inputs)
            if keep == "best":
                best, most = _keep_greatest(inputs, value, best, most)
            if momentum:
                velocity = gradient = momentum * velocity + _normalise(gradient)
            # The last step is still step_size / steps long.
            size = step_size * (1 - k / steps) if decay == "linear" else step_size
            inputs = ball.project(inputs + size * ball.step(gradient), origin)
            if observe is not None:
                observe(inputs)
        # The one climb that needs no value, as the inner maximum of training.
        if keep == "last" and restarts == 1:
            return inputs
        # Restarts compete per example; the first of equals stays.
        with torch.no_grad():
            final = score(inputs)
        best, most = _keep_greatest(inputs, final[0] if isinstance(final, tuple) else final, best, most)
    return best


def _begin(start: Start, origin: Tensor, ball: Ball, generator: Noise | None) -> Tensor:
    """Where a climb starts, (N, ...): a tensor of its own, in the ball."""
    if isinstance(start, Tensor):
        return ball.project(start.detach(), origin)
    if start not in ("origin", "random"):
        raise unknown_name_error("start", start, ("origin", "random"), more=", or a tensor")
    if start == "origin":
        return origin.clone()
    if generator is None:
        raise UsageError("a random start needs generator=: a torch.Generator, or one per example")
    return ball.random_start(origin, generator)


def _normalise(gradient: Tensor) -> Tensor:
    """The gradient over its mean magnitude, per example."""
    # By a power of two first, which is exact: the mean of tiny gradients would be 0.
    gradient = gradient / _spread(power_of_two(gradient.flatten(1)), gradient)
    scale = gradient.abs().flatten(1).mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / _spread(scale, gradient)


def _keep_greatest(inputs: Tensor, value: Tensor, best: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Per example the better of two inputs (N, ...) and their values (N,)."""
    value = value.to(most.dtype)
    # NaN compares false, so an undefined value is never kept.
    better = value > most
    return torch.where(_spread(better, inputs), inputs, best), torch.where(better, value, most)


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


@checked("ball", "indices")
def pgd(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    ball: Ball,
    *,
    steps: Count = 20,
    step_size: StepSize | None = None,
    start: Literal["origin", "random"] = "random",
    restarts: Repeats = 1,
    keep: Literal["last", "best"] = "last",
    seed: Seed = 0,
    indices: Sequence[int] | Tensor | None = None,
    generator: Noise | None = None,
) -> Tensor:
    """Inputs in the ball that raise the cross-entropy of `target`; (N, ...) like `inputs`.

    The RAR paper's adversarial accuracy is one random start, the last iterate, steps and step size of
    training. `step_size=None` is 2.5 radius / steps (Madry et al. 2018). The model is evaluated in eval mode.
    Random starts of example i come from the stream (seed, "pgd", indices[i]), None numbering the examples
    from 0, or from `generator`. Raises UsageError for inputs outside the ball's bounds and for arguments that
    do not fit.
    """
    numbers = check_examples(inputs, target, ball, indices)
    # Together 2.5 radii: from any start the far side of the ball can be reached.
    size = 2.5 * ball.radius / steps if step_size is None else step_size
    if not numbers:
        return inputs.detach()
    each = generator if isinstance(generator, Sequence) else [generator]
    if not all(isinstance(one, torch.Generator | NoiseRows | None) for one in each):
        raise argument_error("generator", generator, "a torch.Generator, one per example, or None")
    if generator is None:
        generator = [stream(seed, "pgd", number) for number in numbers]
    with examining(model):
        inputs = out_of_inference(inputs)
        moved = ascend(
            TargetScalar(model, out_of_inference(target), "loss", climbed=True),
            inputs,
            ball,
            steps=steps,
            step_size=size,
            start=start,
            keep=keep,
            generator=generator,
            restarts=restarts,
        )
    # A NaN in the gradient spreads through every later step.
    if not all_finite(moved):
        raise UsageError(
            "the loss has a gradient that is NaN; look for an infinite derivative (sqrt or log at 0)"
        )
    return moved


@checked("ball", "indices")
def random_search(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    ball: Ball,
    *,
    queries: Count = 200,
    seed: Seed = 0,
    indices: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Inputs (N, C, H, W) in the ball that lower the margin of `target`, sought without a gradient.

    From random stripes at the ball's edge, squares of one sign are tried, smaller and smaller ones, and those
    that help stay. Where it misleads a model that `pgd` does not, gradients are masked. What is drawn for
    example i depends on (seed, indices[i]) alone. In the manner of Andriushchenko et al., "Square attack",
    ECCV 2020; sizes and schedule are ours.
    """
    numbers = check_examples(inputs, target, ball, indices)
    if not numbers:
        return inputs.detach()
    channels, height, width = inputs.shape[1:]
    inputs = inputs.detach()
    stripes = per_example_uniform((channels, 1, width), seed, "random stripes", numbers)
    signs = (stripes.to(inputs).sub(0.5).sign()).expand(inputs.shape).clone()
    draws = per_example_uniform((queries, 2 + channels), seed, "random search", numbers)
    rows, columns = torch.arange(height), torch.arange(width)

    def margin(points: Tensor) -> Tensor:
        logits = class_logits(model, points)
        own = logits.gather(1, target[:, None])[:, 0]
        return own - logits.scatter(1, target[:, None], -torch.inf).amax(1)

    def at(signs: Tensor) -> Tensor:
        return ball.project(inputs + ball.radius * signs, inputs)

    with examining(model):
        best, least = inputs, margin(inputs)
        for query in range(-1, queries):
            trial = signs
            if query >= 0:
                side = max(1, round(min(height, width) * 0.5 * (1 - query / queries) ** 2))
                top = (draws[:, query, :1] * (height - side + 1)).long()
                left = (draws[:, query, 1:2] * (width - side + 1)).long()
                down, across = (
                    (rows >= top) & (rows < top + side),
                    (columns >= left) & (columns < left + side),
                )
                square = (down[:, None, :, None] & across[:, None, None, :]).to(inputs.device)
                colour = draws[:, query, 2:].sub(0.5).sign().to(inputs)[:, :, None, None]
                trial = torch.where(square, colour, signs)
            moved = at(trial)
            value = margin(moved)
            better = value < least
            spread = better.reshape(-1, 1, 1, 1)
            best, least = torch.where(spread, moved, best), torch.where(better, value, least)
            signs = torch.where(spread, trial, signs) if query >= 0 else signs
    return best
