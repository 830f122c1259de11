"""Rules that turn the path integral of Integrated Gradients into a weighted sum of gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from veridical.runtime.checking import Size, check_value
from veridical.runtime.errors import UsageError, unknown_name_error

_Rule = Callable[[int], tuple[np.ndarray, np.ndarray]]


def _riemann(place: float) -> _Rule:
    """One node in each of n equal steps: at its start (0), in its middle (0.5) or at its end (1)."""
    return lambda nodes: ((np.arange(nodes) + place) / nodes, np.full(nodes, 1.0 / nodes))


def _trapezoid(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    if nodes < 2:
        raise UsageError(f"the trapezoid rule got nodes={nodes}; it needs at least 2 (both ends of the path)")
    weights = np.full(nodes, 1.0 / (nodes - 1))
    # Both ends lie on one interval each, all others on two.
    weights[[0, -1]] /= 2
    return np.linspace(0.0, 1.0, nodes), weights


def _gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    # NumPy has the rule for [-1, 1], which is twice as long as [0, 1].
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return (points + 1) / 2, weights / 2


RULES: dict[str, _Rule] = {
    "right": _riemann(1),
    "left": _riemann(0),
    "midpoint": _riemann(0.5),
    "trapezoid": _trapezoid,
    "gauss-legendre": _gauss_legendre,
}


@dataclass(frozen=True)
class Quadrature:
    """Where along the path from start (0) to end (1) gradients are taken, and with which weights.

    Parameters
    ----------
    rule
        "right" (the RAR authors' Riemann sum), "left", "midpoint", "trapezoid" or "gauss-legendre".
    nodes
        Number of gradients, at least 1 (2 for "trapezoid").

    The weights of every rule sum to one, so a linear function is integrated exactly by all of them.
    """

    rule: str = "gauss-legendre"
    nodes: Size = 32

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown_name_error("quadrature rule", self.rule, RULES)
        object.__setattr__(self, "nodes", check_value("nodes", self.nodes, Size))
        RULES[self.rule](self.nodes)

    def points(
        self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Positions t in [0, 1] and their weights, two tensors of shape (nodes,)."""
        positions, weights = RULES[self.rule](self.nodes)
        return (
            torch.as_tensor(positions, dtype=dtype, device=device),
            torch.as_tensor(weights, dtype=dtype, device=device),
        )
