"""Attacks on the prediction: projected gradient descent (Madry et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from veridical.attacks.ascent import ascend
from veridical.attacks.ball import Ball, Noise, NoiseRows, check_examples
from veridical.attribution.classifier import all_finite, examining, out_of_inference
from veridical.attribution.method import TargetScalar
from veridical.runtime.checking import Count, Repeats, Seed, StepSize, checked
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.seeds import stream


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
    if not all_finite(moved.inputs):
        raise UsageError(
            "the loss has a gradient that is NaN; look for an infinite derivative (sqrt or log at 0)"
        )
    return moved.inputs
