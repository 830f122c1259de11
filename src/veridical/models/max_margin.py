"""The max-margin classifier of the block world in closed form, and the dual that proves it."""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from veridical.models.mean_field import MeanFieldMLP
from veridical.runtime.errors import argument_error
from veridical.runtime.record import record

LENGTH_TOLERANCE = 1e-12
PROVEN = 0.5
"""noise * blocks up to which the closed form is proven to be the max-margin."""
MOST_ENUMERATED = 14
"""Inputs up to which `enumerated_dual` takes seconds."""


@record
class MaxMargin:
    """A network in mean-field scaling with finitely many units, of greatest margin, in float64.

    f(x) = sum_k mass_k outer_k relu(<inner_k, x> + offset_k) with masses that sum to 1 and units
    (outer_k, inner_k, offset_k) of length 1; `margin` is min y f(x) over the whole support, in closed form.

    Attributes
    ----------
    mass, outer, offset
        (units,).
    inner
        (units, blocks * block_size).
    margin
        kappa / (2 sqrt(d/2 + kappa^2)) with offsets, kappa / (4 sqrt(d/2)) without; kappa = 1 - eta d/2.
    slope
        lambda of the dual's proof, see `dual_bound`; None without offsets, where it needs none.
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

        at_kink: what stands for relu'(0), from 0 (PyTorch's choice) to 1. A unit counts as on its kink where
        it is within rounding of it; without noise every input of the support is on one.
        """
        reached = inputs.flatten(1) @ self.inner.T + self.offset
        kink = reached.abs() <= 16 * torch.finfo(torch.float64).eps
        open_share = torch.where(kink, at_kink, (reached > 0).double())
        return (open_share * (self.mass * self.outer)) @ self.inner

    def as_network(self, width: int) -> MeanFieldMLP:
        """The same function as an ordinary network of an even number of units, each atom copied."""
        if width < 2 or width % len(self.mass):
            raise argument_error("width", width, f"a multiple of {len(self.mass)}")
        network = MeanFieldMLP(self.inner.shape[1], width, seed=0, dtype=torch.float64)
        copies = width // len(self.mass)
        with torch.no_grad():
            # Atoms have equal masses, so copies in equal number are the same measure.
            network.outer.copy_(self.outer.repeat_interleave(copies))
            network.inner.copy_(self.inner.repeat_interleave(copies, dim=0))
            network.offset.copy_(self.offset.repeat_interleave(copies))
        return network


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
    if abs(float(unit.norm()) - 1) > LENGTH_TOLERANCE:
        hint = "Divide it by its length."
        raise argument_error("direction", float(unit.norm()), "a vector u* of length 1", hint)
    if not 0 <= noise * blocks <= PROVEN:
        expected = f"from 0 to {PROVEN:g} / blocks = {PROVEN / blocks:g}"
        raise argument_error("noise", noise, expected, "For more noise this closed form is not proven.")
    relevant = blocks // 2
    kappa = 1 - noise * relevant
    square = kappa**2 if bias else 0.0
    scale = 1 / sqrt(2 * (relevant + square))
    block_of_row = torch.cat([scale * unit.repeat(relevant), torch.zeros(relevant * len(unit)).double()])
    side = torch.tensor([1.0, -1.0], dtype=torch.float64)
    return MaxMargin(
        mass=torch.full((2,), 0.5, dtype=torch.float64),
        outer=side * sqrt(0.5),
        inner=side[:, None] * block_of_row,
        offset=torch.full((2,), kappa * scale if bias else 0.0, dtype=torch.float64),
        margin=closed_margin(blocks, noise, bias=bias),
        blocks=blocks,
        noise=noise,
        slope=(relevant - square) / (relevant + square) if bias else None,
    )


def closed_margin(blocks: int, noise: float, *, bias: bool = True) -> float:
    """The margin of the two atoms for any noise below 2 / blocks, whether or not it is the greatest there."""
    relevant = blocks // 2
    kappa = 1 - noise * relevant
    return kappa / (2 * sqrt(relevant + kappa**2)) if bias else kappa / (4 * sqrt(relevant))


def dual_bound(found: MaxMargin) -> float:
    """No network has a greater margin than this: the proven maximum of `dual_value` over units of length 1.

    The weights 1/d on the d corners of the support make a dual feasible point. For a unit (a, w, b) and
    s_j = <w_j, u*>, its value is at most |a|/d times the sum over the relevant blocks of
    min(2 t, t + |b|), t = kappa |s_j|, which is at most (1 + lambda) t + (1 - lambda) |b| for every lambda
    from 0 to 1. That is linear, so by Cauchy-Schwarz it is at most half the length of its coefficients; the
    best lambda makes it equal to the margin. Without offsets the value is linear itself.
    """
    relevant = found.blocks // 2
    kappa = 1 - found.noise * relevant
    if found.slope is None:
        return sqrt(relevant * kappa**2) / (2 * found.blocks)
    squares = relevant * ((1 + found.slope) * kappa) ** 2 + (relevant * (1 - found.slope)) ** 2
    return sqrt(squares) / (2 * found.blocks)


def dual_value(units: Tensor, inputs: Tensor, sign: Tensor) -> Tensor:
    """mean_i y_i a relu(<w, x_i> + b) for units (K, 2 + size), each (a, b, w), at the corners; (K,)."""
    hidden = (inputs @ units[:, 2:].T + units[:, 1]).relu()
    return (sign[:, None] * hidden).mean(0) * units[:, 0]


def enumerated_dual(inputs: Tensor, sign: Tensor, *, bias: bool = True) -> float:
    """The greatest `dual_value` of all units of length 1, by going through every pattern of active inputs.

    inputs (N, size), sign (N,): the corners, at most `MOST_ENUMERATED`. A check of `dual_bound` that knows
    nothing of its proof. Units with one pattern fill a cone of (b, w), in which the value is a <v, (b, w)>;
    its maximum is half the length of the projection of v, or of -v for a < 0, onto the cone, the residual of
    a non-negative least squares problem (Lawson and Hanson, 1974).
    """
    if not 1 <= len(inputs) <= MOST_ENUMERATED:
        raise argument_error("inputs", inputs, f"1 to {MOST_ENUMERATED} inputs: there are 2^N patterns")
    offsets = np.full((len(inputs), 1), float(bias))
    rows = np.hstack([offsets, inputs.double().numpy()])
    labels = sign.double().numpy()
    # Columns that all inputs leave at 0 only make the problems larger.
    rows = rows[:, np.abs(rows).max(0) > 0]
    greatest = 0.0
    for pattern in product((True, False), repeat=len(rows)):
        active = np.array(pattern)
        slope = (labels[active, None] * rows[active]).sum(0) / len(rows)
        walls = np.where(active[:, None], rows, -rows).T
        greatest = max(greatest, *(float(nnls(walls, side)[1]) / 2 for side in (slope, -slope)))
    return greatest
