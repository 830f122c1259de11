"""Keeps, for every example, the iterates of an attack that look worst, and the trace of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from veridical.attribution.saliency import saliency
from veridical.metrics.overlap import topk_intersection
from veridical.metrics.rank import kendall_tau

Map = Callable[[Tensor], Tensor]
"""inputs (N, C, H, W) -> attribution (N, C, H, W), for one fixed batch and target."""


@dataclass
class Shortlist:
    """The `size` iterates of least value per example, values ascending: inputs (S, N, ...), values (S, N)."""

    origin: Tensor
    size: int
    values: Tensor = field(init=False)
    inputs: Tensor = field(init=False)

    def __post_init__(self) -> None:
        examples = self.origin.shape[0]
        self.values = torch.full((self.size, examples), float("inf"), dtype=torch.float64)
        self.inputs = self.origin.detach().expand(self.size, *self.origin.shape).clone()

    def offer(self, inputs: Tensor, values: Tensor) -> None:
        """Take in one iterate (N, ...) with its values (N,); NaN and +inf are never kept."""
        worst = self.values[-1]
        better = values < worst
        if not bool(better.any()):
            return
        mask = better.to(inputs.device)
        self.inputs[-1, mask] = inputs.detach()[mask]
        self.values[-1, better] = values[better]
        order = self.values.argsort(dim=0, stable=True)
        self.values = self.values.gather(0, order)
        index = order.to(inputs.device).reshape(*order.shape, *[1] * (inputs.ndim - 1))
        self.inputs = self.inputs.gather(0, index.expand_as(self.inputs))


class Judge:
    """Judges iterates by tau and top-k intersection of their maps with the original's; lower looks worse.

    Parameters
    ----------
    logits
        inputs -> logits (N, K) of the real network.
    attribute
        The judging map of the real network.
    origin, label
        Unperturbed inputs (N, C, H, W) and their predicted labels (N,); iterates that change the label are
        inadmissible (+inf).
    k
        Pixels of the intersection.
    shortlist
        Iterates kept per example, for tau and (with `minimise_each`) apart from it for the intersection.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        attribute: Map,
        origin: Tensor,
        label: Tensor,
        k: int,
        shortlist: int,
        minimise_each: bool,
    ) -> None:
        self.logits, self.attribute, self.label, self.k = logits, attribute, label, k
        self.clean = saliency(attribute(origin))
        self.by_tau = Shortlist(origin, shortlist)
        self.by_intersection = Shortlist(origin, shortlist) if minimise_each else None
        self.trace: list[Tensor] = []
        self.evaluations = 1

    def __call__(self, inputs: Tensor) -> Tensor:
        """Kendall's tau (N,) float64 of the iterate's map with the original's; +inf where inadmissible."""
        with torch.no_grad():
            admissible = (self.logits(inputs).argmax(1) == self.label).cpu()
        maps = saliency(self.attribute(inputs))
        self.evaluations += 1
        tau = kendall_tau(maps, self.clean).cpu()
        self.trace.append(torch.where(admissible, tau, torch.nan))
        value = torch.where(admissible & ~tau.isnan(), tau, torch.inf)
        self.by_tau.offer(inputs, value)
        if self.by_intersection is not None:
            overlap = topk_intersection(maps, self.clean, self.k).cpu().double()
            # Among equal overlaps the one of lower tau, without changing the order of different overlaps.
            self.by_intersection.offer(
                inputs, torch.where(admissible, overlap + 1e-9 * value.clamp(max=1.0), torch.inf)
            )
        return value.to(inputs.device)
