"""Attacks on the prediction: projected gradient descent (Madry et al. 2018)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from veridical.attacks.ascent import ascend
from veridical.attacks.ball import Ball, Noise
from veridical.attribution.classifier import check_inputs, examining, out_of_inference
from veridical.attribution.scalars import TargetScalar


def pgd(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    ball: Ball,
    *,
    steps: int = 20,
    step_size: float | None = None,
    start: Literal["origin", "random"] = "random",
    restarts: int = 1,
    keep: Literal["last", "best"] = "last",
    generator: Noise | None = None,
) -> Tensor:
    """Inputs in the ball that raise the cross-entropy of `target`; (N, ...) like `inputs`.

    The RAR paper's adversarial accuracy is one random start, the last iterate, steps and step size of
    training. `step_size=None` is 2.5 radius / steps (Madry et al. 2018). The model is evaluated in eval mode.
    """
    size = 2.5 * ball.radius / max(steps, 1) if step_size is None else step_size
    if len(check_inputs(inputs)) == 0:
        return inputs.detach()
    with examining(model):
        inputs = out_of_inference(inputs)
        found = ascend(
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
    return found.inputs
