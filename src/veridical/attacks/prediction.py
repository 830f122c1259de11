"""Attacks on the prediction: projected gradient descent (Madry et al. 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from veridical.attacks.ascent import ascend
from veridical.attacks.ball import Ball, Noise
from veridical.attribution.scalars import TargetScalar
from veridical.runtime.guards import evaluating


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
    with evaluating(model):
        found = ascend(
            TargetScalar(model, target, "loss"),
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


def predict(model: nn.Module, inputs: Tensor, *, rows: int = 1000) -> Tensor:
    """Logits in eval mode without a graph, (N, K), in batches of `rows`; the model's mode is restored."""
    with evaluating(model), torch.no_grad():
        parts = [model(inputs[first : first + rows]) for first in range(0, max(len(inputs), 1), rows)]
    return torch.cat(parts)
