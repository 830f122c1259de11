"""Penalties: how large an attribution of the loss is, the `s` of Robust Attribution Regularization."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from veridical.runtime.errors import UsageError


@dataclass(frozen=True)
class AttributionPenalty:
    """sum_weight * sum(IG) + absolute_sum * |sum(IG)| + l1 * ||IG||_1 ** power, per example.

    sum(IG) is computed as the change of the loss, l(x') - l(x), which equals it (completeness) and needs no
    quadrature. Source: Chen et al. (2019), section 3 and table of special cases.
    """

    sum_weight: float = 0.0
    absolute_sum: float = 0.0
    l1: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.power < 1:
            raise UsageError(f"power={self.power!r}; a size needs a power of at least 1 (q of 1/p + 1/q = 1)")
        if not (self.sum_weight or self.absolute_sum or self.l1):
            raise UsageError(
                "a size with all weights 0 measures nothing; give sum_weight, absolute_sum or l1"
            )

    @property
    def needs_map(self) -> bool:
        """Whether the attribution itself is needed, not only the change of the loss."""
        return self.l1 != 0

    def __call__(self, attribution: Tensor | None, change: Tensor) -> Tensor:
        """The size, (N,); `attribution` (N, ...) may be None where `needs_map` is False; `change` (N,)."""
        size = self.sum_weight * change
        if self.absolute_sum:
            size = size + self.absolute_sum * change.abs()
        if self.needs_map:
            assert attribution is not None
            norm = attribution.flatten(1).abs().sum(1)
            size = size + self.l1 * (norm if self.power == 1 else norm**self.power)
        return size

    def derivatives(self, attribution: Tensor | None, change: Tensor) -> tuple[Tensor | None, Tensor]:
        """ds/dIG (N, ...) without the sums' share, and ds/dchange (N,), both constants."""
        slope = self.sum_weight + self.absolute_sum * change.detach().sign()
        if not self.needs_map:
            return None, slope
        assert attribution is not None
        fixed = attribution.detach()
        direction = self.l1 * fixed.sign()
        if self.power != 1:
            norm = fixed.flatten(1).abs().sum(1)
            factor = self.power * norm ** (self.power - 1)
            direction = direction * factor.reshape(-1, *[1] * (fixed.ndim - 1))
        return direction, slope


def l1_norm() -> AttributionPenalty:
    """IG-NORM: the L1 norm of the attribution."""
    return AttributionPenalty(l1=1.0)


def signed_sum() -> AttributionPenalty:
    """Adversarial training (with weight 1): the sum of the attribution, the change of the loss."""
    return AttributionPenalty(sum_weight=1.0)


def sum_and_l1(beta: float) -> AttributionPenalty:
    """IG-SUM-NORM: the sum plus beta times the L1 norm."""
    return AttributionPenalty(sum_weight=1.0, l1=beta) if beta else signed_sum()


def absolute_sum() -> AttributionPenalty:
    """Loss-change: the absolute change of the loss."""
    return AttributionPenalty(absolute_sum=1.0)


def l1_power(q: float) -> AttributionPenalty:
    """Input-gradient regularisation: the L1 norm to the power q, 1/p + 1/q = 1 for an l_p ball."""
    return AttributionPenalty(l1=1.0, power=q)
