"""Judges the iterates of an attribution attack: which look worst, the trace of all, and the final choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from veridical.attribution.saliency import saliency
from veridical.metrics.overlap import topk_intersection
from veridical.metrics.rank import kendall_tau, spearman

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


@dataclass(frozen=True)
class Choice:
    """What `Judge.choose` settled on; the fields are those of `AttackResult`, evaluations are final maps."""

    inputs: Tensor
    clean_map: Tensor
    perturbed_map: Tensor
    kendall_tau: Tensor
    spearman: Tensor
    topk_intersection: Tensor
    found: Tensor
    evaluations: int


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
        self.logits, self.attribute, self.origin, self.label, self.k = logits, attribute, origin, label, k
        self.clean = saliency(attribute(origin))
        self.size = shortlist
        self.by_tau = [Shortlist(origin, shortlist)]
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
        self.by_tau[-1].offer(inputs, value)
        if self.by_intersection is not None:
            overlap = topk_intersection(maps, self.clean, self.k).cpu().double()
            # Among equal overlaps the one of lower tau, without changing the order of different overlaps.
            self.by_intersection.offer(inputs, torch.where(value.isinf(), torch.inf, overlap + 1e-9 * value))
        return value.to(inputs.device)

    def seal(self) -> None:
        """Close the shortlist by tau and begin another, so that what follows cannot displace its iterates.

        The judging map is cheaper than the final one: an iterate that it ranks lower may be worse in truth.
        """
        self.by_tau.append(Shortlist(self.origin, self.size))

    def choose(self, final: Map, *, minimise_each: bool) -> Choice:
        """Judge all shortlisted iterates again by the final map and pick the least: the attack's outcome."""
        clean_map = final(self.origin)
        clean = saliency(clean_map)
        tau = torch.full(self.label.shape, torch.inf, dtype=torch.float64)
        overlap, rank = tau.clone(), tau.clone()
        kept, kept_map = self.origin.clone(), clean_map.clone()
        lists = [*self.by_tau, *([] if self.by_intersection is None else [self.by_intersection])]
        for shortlist in lists:
            for candidate, worth in zip(shortlist.inputs, shortlist.values, strict=True):
                maps = final(candidate)
                new = saliency(maps)
                new_tau, new_rank = kendall_tau(new, clean).cpu(), spearman(new, clean).cpu()
                new_overlap = topk_intersection(new, clean, self.k).cpu().double()
                usable = worth.isfinite() & ~new_tau.isnan()
                better = usable & (new_tau < tau)
                rank = torch.where(usable & (new_rank < rank) if minimise_each else better, new_rank, rank)
                overlap = torch.where(
                    usable & (new_overlap < overlap) if minimise_each else better, new_overlap, overlap
                )
                tau = torch.where(better, new_tau, tau)
                mask = better.to(kept.device)
                kept[mask], kept_map[mask] = candidate[mask], maps[mask]
        # A tau of 1 or none at all: the authors count such an example as unharmed.
        found = tau < 1
        unharmed = ~found.to(kept.device)
        kept[unharmed], kept_map[unharmed] = self.origin[unharmed], clean_map[unharmed]
        return Choice(
            inputs=kept,
            clean_map=clean_map,
            perturbed_map=kept_map,
            kendall_tau=torch.where(found, tau, 1.0),
            spearman=torch.where(found, rank, 1.0),
            topk_intersection=torch.where(found, overlap, 1.0),
            found=found,
            evaluations=1 + sum(shortlist.size for shortlist in lists),
        )
