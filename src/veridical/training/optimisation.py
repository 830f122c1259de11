"""How the weights move, and in which arithmetic: optimisers, learning rates, weight average, bfloat16."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from veridical.runtime.devices import supports_bf16
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.guards import private_copy
from veridical.training.recipes import OptimiserSettings

# What each optimiser keeps of a parameter.
MOMENTS = {"AdamW": {"step", "exp_avg", "exp_avg_sq"}, "SGD": {"momentum_buffer"}}
_MOMENTUM = 0.9
# From which step on which share of the greatest rate holds (Chen et al., 2019, code of GTSRB and Flower).
_PAPER_STEPS = ((0, 0.1), (500, 1.0), (60_000, 0.1))


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
    return torch.optim.SGD(parameters, lr=rate, momentum=_MOMENTUM, weight_decay=decay)


def learning_rate(settings: OptimiserSettings, step: int) -> float:
    """The rate of one step, counted from 0; it depends on nothing else, so a resumed run needs no state.

    "one-cycle" rises linearly over the share `warm_up` of the steps and falls to zero by half a cosine;
    "steps" is the RAR authors' (`_PAPER_STEPS`, in absolute steps).
    """
    greatest = settings.learning_rate
    if settings.schedule == "constant":
        return greatest
    if settings.schedule == "steps":
        return greatest * [share for first, share in _PAPER_STEPS if step >= first][-1]
    # The middle of the step: neither the first nor the last step is wasted on a rate of zero.
    done = (step + 0.5) / settings.steps
    if done < settings.warm_up:
        return greatest * done / settings.warm_up
    return greatest * 0.5 * (1 + math.cos(math.pi * (done - settings.warm_up) / (1 - settings.warm_up)))


class WeightAverage:
    """An exponential average of a model's weights, usable as a model of its own (`module`).

    The decay of update t = 0, 1, ... is min(decay, (t + 1) / (t + 10)), so that the initial weights fade at
    once. Buffers, and parameters that are not floating point, are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.module = private_copy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        share = 1 - min(self.decay, (self.updates + 1) / (self.updates + 10))
        for mean, parameter in zip(self.module.parameters(), model.parameters(), strict=True):
            mean.lerp_(parameter, share) if mean.is_floating_point() else mean.copy_(parameter)
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.updates += 1


@contextmanager
def arithmetic(*, bf16: bool = False) -> Iterator[None]:
    """Compute float32 products and convolutions exactly, or in bfloat16; deterministically on CUDA.

    Weights, sums and everything else stay float32. Whether bf16 has an effect is for `check_bf16`.
    """
    with _oneDNN("bf16" if bf16 else "ieee"):
        # Autotuned convolutions of cuDNN differ from run to run; a resumed run must not.
        cudnn = torch.backends.cudnn
        before = cudnn.deterministic, cudnn.benchmark
        try:
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before


def check_bf16(device: torch.device) -> None:
    """Raise a UsageError that says what to do, unless bf16 changes how this device computes.

    The instructions alone do not tell: oneDNN rounds float32 operands to bfloat16 only where it gains by it
    (AMX), and silently computes in float32 elsewhere. So a small product is computed both ways and compared.
    """
    if device.type != "cpu":
        raise UsageError(f"bf16: this option is for CPUs, but the device is {device}. Leave bf16 out.")
    if not supports_bf16(device) or not _takes_effect():
        raise UsageError(
            "bf16: on this CPU PyTorch computes float32 networks in float32 anyway, since it has no bfloat16 "
            "matrix units (AMX) that oneDNN would use. Leave bf16 out."
        )


@functools.cache
def _takes_effect() -> bool:
    """Whether a product of float32 matrices gets bfloat16's error, about 1/256, rather than float32's."""
    left = torch.linspace(0.1, 1.3, 256 * 256).reshape(256, 256)
    with _oneDNN("ieee"):
        exact = left @ left
    with _oneDNN("bf16"):
        rounded = left @ left
    return bool(((rounded - exact).abs() / exact).max() > 1e-5)


@contextmanager
def _oneDNN(precision: str) -> Iterator[None]:  # noqa: N802 - the library's name
    """Set what oneDNN may do with float32 operands: "ieee" or "bf16"."""
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision
    try:
        mkldnn.conv.fp32_precision = mkldnn.matmul.fp32_precision = precision
        yield
    finally:
        mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision = before
