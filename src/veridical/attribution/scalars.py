"""Scalar outputs of a classifier that an explanation can be about: logit, loss, log-probability."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import check_climbable, check_greatest, logits_of
from veridical.runtime.errors import UsageError, unknown_name_error
from veridical.runtime.record import record

Output = Literal["logit", "loss", "log-probability"]
OUTPUTS: tuple[Output, ...] = ("logit", "loss", "log-probability")


@record
class TargetScalar:
    """One number per input: the logit, the cross-entropy loss or the log-probability of its target.

    Parameters
    ----------
    model
        Maps inputs (N, ...) to logits (N, K).
    target
        Class of each example, (N,) int64.
    output
        "logit", "loss" (natural logarithm) or "log-probability" (minus the loss).
    finite
        Refuse logits that are NaN or infinite. Training does not: its loop can name the images.
    climbed
        Refuse probabilities in place of logits.

    Called with (M * N, ...) inputs, node by node in blocks of N, it repeats the targets, so that many
    points of a path can be evaluated in one batch (`many_nodes`).
    """

    model: nn.Module
    target: Tensor
    output: Output = "logit"
    finite: bool = True
    climbed: bool = False
    many_nodes: bool = True

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise unknown_name_error("output", self.output, OUTPUTS)

    @cached_property
    def _greatest_target(self) -> int:
        # Once, since on a GPU each look at a value waits for it.
        return int(self.target.max()) if len(self.target) else 0

    def __call__(self, inputs: Tensor) -> Tensor:
        """The scalar of inputs (M * N, ...), (M * N,)."""
        logits = logits_of(self.model, inputs, finite=self.finite)
        if self.climbed:
            check_climbable(logits)
        return self.of_logits(logits)

    def of_logits(self, logits: Tensor) -> Tensor:
        """The scalar from logits (M * N, K); returns (M * N,)."""
        examples = self.target.shape[0]
        if examples == 0 or logits.shape[0] % examples:
            raise UsageError(
                f"the model returned {logits.shape[0]} rows for {examples} targets; "
                "expected one row per input"
            )
        check_greatest(self._greatest_target, logits)
        if logits.shape[1] == 1 and self.output != "logit":
            raise UsageError(
                f"output={self.output!r} of a model with one logit (N, 1) is the same everywhere; "
                "models of one logit are not supported yet"
            )
        target = self.target
        if logits.shape[0] > examples:
            target = target.repeat(logits.shape[0] // examples)
        if self.output == "logit":
            return logits.gather(1, target[:, None])[:, 0]
        # bf16 logits would round the loss to two digits; float64 must stay float64.
        wide = logits if logits.dtype == torch.float64 else logits.float()
        log_probability = torch.log_softmax(wide, dim=1).gather(1, target[:, None])[:, 0]
        return -log_probability if self.output == "loss" else log_probability
