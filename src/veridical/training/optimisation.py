"""How the weights move: optimisers, learning rates as functions of the step, and the weights' average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from veridical.runtime.errors import argument_error
from veridical.runtime.guards import private_copy
from veridical.training.settings import OptimiserSettings

MOMENTUM = 0.9
MOMENTS = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}}
"""What each optimiser keeps of a parameter."""
PAPER_STEPS = ((0, 0.1), (500, 1.0), (60_000, 0.1))
"""From which step on which share of the greatest rate holds (Chen et al., 2019, code of GTSRB and Flower)."""


def make_optimiser(model: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, or SGD with momentum 0.9 and L2, over the trainable parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise argument_error("model", type(model).__name__, "a model with at least one trainable parameter")
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "adam":
        # One pass over the memory instead of a dozen: the paper's CNN has 3.3 million weights.
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM, weight_decay=decay)
    raise argument_error("optimiser", settings.optimiser, "adam or sgd")


def learning_rate(settings: OptimiserSettings, step: int) -> float:
    """The rate of one step, counted from 0; it depends on nothing else, so a resumed run needs no state.

    "one-cycle" rises linearly over the share `warm_up` of the steps and falls to zero by half a cosine;
    "steps" is the RAR authors' (`PAPER_STEPS`, in absolute steps).
    """
    greatest = settings.learning_rate
    if settings.schedule == "constant":
        return greatest
    if settings.schedule == "steps":
        return greatest * [share for first, share in PAPER_STEPS if step >= first][-1]
    if settings.schedule != "one-cycle":
        raise argument_error("schedule", settings.schedule, "one-cycle, steps or constant")
    # The middle of the step: neither the first nor the last step is wasted on a rate of zero.
    done = (step + 0.5) / settings.steps
    if done < settings.warm_up:
        return greatest * done / settings.warm_up
    return greatest * 0.5 * (1 + math.cos(math.pi * (done - settings.warm_up) / (1 - settings.warm_up)))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` for all parameters from now on."""
    for group in optimiser.param_groups:
        group["lr"] = rate


class WeightAverage:
    """An exponential average of a model's weights, usable as a model of its own (`module`).

    The decay of update t = 0, 1, ... is min(decay, (t + 1) / (t + 10)), so that the initial weights fade at
    once. Buffers, and parameters that are not floating point, are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = private_copy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        share = 1 - min(self.decay, (self.updates + 1) / (self.updates + 10))
        for mean, parameter in zip(self.module.parameters(), model.parameters(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(parameter, share)
            else:
                mean.copy_(parameter)
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The count of updates and the averaged weights (references, not copies)."""
        weights: dict[str, Tensor] = self.module.state_dict()
        return {"updates": self.updates, "weights": weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`'s state; the memory layout of the weights stays."""
        self.module.load_state_dict(state["weights"])
        self.updates = int(state["updates"])
