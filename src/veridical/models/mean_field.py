"""Networks of the theorems, linear and in mean-field scaling, and the max-margin one in closed form.

Their cross-entropy is the logistic loss: logits (-s/2, s/2) of a score s give log(1 + exp(-y s)).
"""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from veridical.runtime.checking import record
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import stream

# noise * blocks up to which the closed form is proven to be the max-margin.
PROVEN = 0.5
# Inputs up to which `enumerated_dual` takes seconds.
MOST_ENUMERATED = 14


class _TwoClasses(nn.Module):
    """A network of one score s, (N,), whose sign is the prediction of inputs (N, size)."""

    def score(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, 2): class 1 stands for y = +1, class 0 for y = -1."""
        half = self.score(inputs) / 2
        return torch.stack([-half, half], dim=1)


class LinearScore(_TwoClasses):
    """s = <w, x> with w from a normal of deviation `deviation`; no offset, as in the one-layer theorem."""

    def __init__(
        self, size: int, *, seed: int, deviation: float = 1.0, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        drawn = torch.randn(size, generator=stream(seed, "weights"), dtype=dtype)
        self.weight = nn.Parameter(deviation * drawn)

    def score(self, inputs: Tensor) -> Tensor:
        """<w, x>, (N,)."""
        return inputs.flatten(1) @ self.weight

    @torch.no_grad()
    def squared_length(self) -> float:
        """|w|^2."""
        return float(self.weight.double().square().sum())


class MeanFieldMLP(_TwoClasses):
    """s = (1/m) sum_k a_k relu(<w_k, x> + b_k) over m = `width` units.

    size: numbers in an input. deviation: of the normal that all weights are drawn from; it does not depend on
    the width, so a gradient step moves a unit by O(1) only with a learning rate in proportion to the width.
    bias: without it all b_k are 0 and stay so.
    Source: Shah, Jain, Netrapalli (2021), section 5; Chizat and Bach (2020).
    """

    def __init__(
        self,
        size: int,
        width: int = 10_000,
        *,
        seed: int,
        deviation: float = 1.0,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if width < 1:
            raise argument_error("width", width, "a number of units of at least 1")
        # Offsets are drawn in any case, so that the other weights do not depend on `bias`.
        drawn = deviation * torch.randn(width, size + 2, generator=stream(seed, "weights"), dtype=dtype)
        self.outer = nn.Parameter(drawn[:, 0].clone())
        self.inner = nn.Parameter(drawn[:, 2:].clone())
        self.offset = nn.Parameter(drawn[:, 1].clone() * bias, requires_grad=bias)

    @property
    def width(self) -> int:
        """m, the number of hidden units."""
        return len(self.outer)

    def score(self, inputs: Tensor) -> Tensor:
        """The mean over units of a_k relu(<w_k, x> + b_k), (N,)."""
        return torch.addmm(self.offset, inputs.flatten(1), self.inner.T).relu() @ self.outer / self.width

    @torch.no_grad()
    def squared_length(self) -> float:
        """Mean over units of a_k^2 + |w_k|^2 + b_k^2: the score over it is what the max-margin bounds."""
        total = self.outer.double().square() + self.offset.double().square()
        return float((total + self.inner.double().square().sum(1)).mean())


@record
class MaxMargin:
    """A network in mean-field scaling with finitely many units, of greatest margin, in float64.

    f(x) = sum_k mass_k outer_k relu(<inner_k, x> + offset_k) with masses that sum to 1 and units
    (outer_k, inner_k, offset_k) of length 1. mass, outer, offset: (units,); inner: (units, blocks *
    block_size). margin: min y f(x) over the whole support, see `closed_margin`. slope: lambda of the dual's
    proof, see `dual_bound`; None without offsets, where it needs none.
    """

    mass: Tensor
    outer: Tensor
    inner: Tensor
    offset: Tensor
    margin: float
    blocks: int
    noise: float
    slope: float | None

    def score(self, inputs: Tensor) -> Tensor:
        """f, (N,), of inputs (N, size) in float64."""
        hidden = (inputs.flatten(1) @ self.inner.T + self.offset).relu()
        return hidden @ (self.mass * self.outer)

    def gradient(self, inputs: Tensor, *, at_kink: float = 0.0) -> Tensor:
        """The gradient of f in the inputs, (N, size).

        at_kink: what stands for relu'(0), from 0 (PyTorch's choice) to 1, where a unit is within rounding of
        its kink; without noise every input of the support is on one.
        """
        reached = inputs.flatten(1) @ self.inner.T + self.offset
        # Sums that are 0 in exact arithmetic come out a few units of the last place away from it.
        kink = reached.abs() <= 16 * torch.finfo(torch.float64).eps
        open_share = torch.where(kink, at_kink, (reached > 0).double())
        return (open_share * (self.mass * self.outer)) @ self.inner


def max_margin(blocks: int, direction: Tensor, noise: float = 0.0, *, bias: bool = True) -> MaxMargin:
    """The max-margin classifier of the block world, for every noise up to 1 / (2 blocks).

    blocks: d, even. direction: u*, float64 (block_size,), of length 1. noise: eta. bias: with offsets.
    With kappa = 1 - eta d/2, half of the mass is on (alpha, r, beta) and half on (-alpha, -r, beta), where
    alpha = 1/sqrt 2, r = c u* on the first d/2 blocks and 0 on the others, beta = kappa c and
    c = 1/sqrt(d + 2 kappa^2). Without offsets c = 1/sqrt d, and the function is linear. Derived for this
    project, see docs/theory.md; Shah et al. (2021), theorem 1, asks for noise below 1 / (10 blocks).
    """
    if blocks < 2 or blocks % 2:
        raise argument_error("blocks", blocks, "an even number of at least 2")
    unit = direction.double()
    if abs(float(unit.norm()) - 1) > 1e-12:
        expected = "a vector u* of length 1"
        raise argument_error("direction", float(unit.norm()), expected, "Divide it by its length.")
    if not 0 <= noise * blocks <= PROVEN:
        expected = f"from 0 to {PROVEN:g} / blocks = {PROVEN / blocks:g}"
        raise argument_error("noise", noise, expected, "For more noise this closed form is not proven.")
    relevant = blocks // 2
    # What is left of the signal where all noise of the relevant blocks points against it.
    kappa = 1 - noise * relevant
    square = kappa**2 if bias else 0.0
    scale = 1 / sqrt(2 * (relevant + square))
    row = torch.cat([scale * unit.repeat(relevant), torch.zeros(relevant * len(unit)).double()])
    side = torch.tensor([1.0, -1.0], dtype=torch.float64)
    return MaxMargin(
        mass=torch.full((2,), 0.5, dtype=torch.float64),
        outer=side * sqrt(0.5),
        inner=side[:, None] * row,
        offset=torch.full((2,), kappa * scale if bias else 0.0, dtype=torch.float64),
        margin=closed_margin(blocks, noise, bias=bias),
        blocks=blocks,
        noise=noise,
        slope=(relevant - square) / (relevant + square) if bias else None,
    )


def closed_margin(blocks: int, noise: float, *, bias: bool = True) -> float:
    """The margin of the two atoms for any noise below 2 / blocks, whether or not it is the greatest there.

    kappa / (2 sqrt(d/2 + kappa^2)) with offsets and kappa / (4 sqrt(d/2)) without; kappa = 1 - eta d/2.
    """
    relevant = blocks // 2
    kappa = 1 - noise * relevant
    return kappa / (2 * sqrt(relevant + kappa**2)) if bias else kappa / (4 * sqrt(relevant))


def dual_bound(classifier: MaxMargin) -> float:
    """No network has a greater margin than this: the proven maximum of `dual_value` over units of length 1.

    The weights 1/d on the d corners of the support are a dual feasible point; by Cauchy-Schwarz they allow at
    most this for every lambda from 0 to 1, of which the best makes it the margin. Without offsets the value
    is linear itself. The proof is in docs/theory.md.
    """
    relevant = classifier.blocks // 2
    kappa = 1 - classifier.noise * relevant
    if classifier.slope is None:
        return sqrt(relevant * kappa**2) / (2 * classifier.blocks)
    squares = relevant * ((1 + classifier.slope) * kappa) ** 2 + (relevant * (1 - classifier.slope)) ** 2
    return sqrt(squares) / (2 * classifier.blocks)


def dual_value(units: Tensor, inputs: Tensor, sign: Tensor) -> Tensor:
    """mean_i y_i a relu(<w, x_i> + b) for units (K, 2 + size), each (a, b, w), at the corners; (K,)."""
    hidden = (inputs @ units[:, 2:].T + units[:, 1]).relu()
    return (sign[:, None] * hidden).mean(0) * units[:, 0]


def enumerated_dual(inputs: Tensor, sign: Tensor, *, bias: bool = True) -> float:
    """The greatest `dual_value` of all units of length 1, by going through every pattern of active inputs.

    inputs (N, size), sign (N,): the corners, at most `MOST_ENUMERATED`. Units with one pattern fill a cone of
    (b, w), in which the value is a <v, (b, w)>; its maximum is half the length of the projection of v, or of
    -v for a < 0, onto the cone, the residual of non-negative least squares (Lawson and Hanson, 1974).
    """
    if not 1 <= len(inputs) <= MOST_ENUMERATED:
        raise argument_error("inputs", inputs, f"1 to {MOST_ENUMERATED} inputs: there are 2^N patterns")
    rows = np.insert(inputs.double().numpy(), 0, float(bias), axis=1)
    # Columns that all inputs leave at 0 only make the problems larger.
    rows, labels = rows[:, rows.any(0)], sign.double().numpy()
    greatest = 0.0
    # Of each cone: the sum of its active rows, and walls that keep active inputs active and others not.
    for pattern in product((True, False), repeat=len(rows)):
        active = np.array(pattern)
        slope = (labels[active, None] * rows[active]).sum(0) / len(rows)
        walls = np.where(active[:, None], rows, -rows).T
        greatest = max(greatest, *(float(nnls(walls, side)[1]) / 2 for side in (slope, -slope)))
    return greatest
