"""How good a model is while it is trained: accuracy on held-out images, clean and attacked."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from veridical.attacks.ball import Ball
from veridical.attacks.prediction import pgd
from veridical.attribution.classifier import parameter_like, predict
from veridical.data.dataset import Split
from veridical.metrics.intervals import proportion_interval
from veridical.runtime.seeds import stream

ATTACKED = 200
"""Images whose predictions are attacked: the first so many of the split."""

STEPS = 10
"""Steps of that attack, of 2.5 * radius / STEPS each, from one random start."""

ROWS = 500


def accuracies(
    model: nn.Module, split: Split, ball: Ball | None, *, seed: int, device: torch.device
) -> dict[str, Any]:
    """natural_accuracy on all images and adversarial_accuracy on the first `ATTACKED`, with 95% intervals.

    ball: where predictions are attacked; None leaves adversarial_accuracy None. The attack's noise depends on
    the seed alone, so that epochs can be compared. Float32 whatever the training computes in.
    """
    natural = sum(_correct(model, split, first, device) for first in range(0, len(split), ROWS))
    found: dict[str, Any] = {
        "natural_accuracy": proportion_interval(natural, len(split)),
        "adversarial_accuracy": None,
    }
    if ball is not None:
        attacked = min(ATTACKED, len(split))
        held = _correct_under_attack(model, split, attacked, ball, seed, device) if attacked else 0
        found["adversarial_accuracy"] = proportion_interval(held, attacked)
    return found


def attack_record(ball: Ball | None) -> dict[str, Any] | None:
    """Plain values that say how `accuracies` attacks."""
    if ball is None:
        return None
    return {
        "norm": type(ball).__name__.lower(),
        "radius": ball.radius,
        "steps": STEPS,
        "step_size": 2.5 * ball.radius / STEPS,
        "start": "random",
    }


def _correct(model: nn.Module, split: Split, first: int, device: torch.device) -> int:
    numbers = range(first, min(first + ROWS, len(split)))
    inputs, target = split.batch(numbers, parameter_like(model).dtype, device)
    return int((predict(model, inputs).argmax(1) == target).sum())


def _correct_under_attack(
    model: nn.Module, split: Split, count: int, ball: Ball, seed: int, device: torch.device
) -> int:
    inputs, target = split.batch(range(count), parameter_like(model).dtype, device)
    moved = pgd(model, inputs, target, ball, steps=STEPS, generator=stream(seed, "validation"))
    return int((predict(model, moved).argmax(1) == target).sum())
