"""Which iterates of an attribution attack look worst: the trace of all, short lists, and the final choice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from veridical.metrics.maps import saliency
from veridical.metrics.overlap import topk_intersection
from veridical.metrics.rank import kendall_tau, spearman

Map = Callable[[Tensor], Tensor]
"""inputs (N, C, H, W) -> attribution (N, C, H, W), for one fixed batch and target."""


class Shortlist:
    """The `size` iterates of least value per example, values (S, N) ascending, and their maps by the judge.

    inputs, maps (S, N, ...); those of the origin in places that no iterate took.
    """

    def __init__(self, origin: Tensor, clean_map: Tensor, size: int) -> None:
        self.size = size
        self.values = torch.full((size, origin.shape[0]), torch.inf, dtype=torch.float64)
        self.inputs, self.maps = (
            first.detach().expand(size, *first.shape).clone() for first in (origin, clean_map)
        )

    def offer(self, inputs: Tensor, maps: Tensor, values: Tensor) -> None:
        """Take in one iterate (N, ...) with its maps and values (N,); NaN and +inf are never kept."""
        better = values < self.values[-1]
        # Most iterates late in a climb are no better, and copying is dear.
        if not bool(better.any()):
            return
        # The newcomer takes the last place, then all are sorted; stable, so that the earlier of equals leads.
        self.values[-1, better] = values[better]
        self.values, order = self.values.sort(dim=0, stable=True)
        for kept, new in ((self.inputs, inputs), (self.maps, maps)):
            kept[-1, better.to(kept.device)] = new.detach()[better.to(kept.device)]
            if self.size > 1:
                index = order.to(kept.device).reshape(*order.shape, *[1] * (kept.ndim - 2))
                kept.copy_(kept.gather(0, index.expand_as(kept)))


class IterateSelector:
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
        self.clean_map = attribute(origin)
        self.clean = saliency(self.clean_map)
        self.size = shortlist
        self.by_tau = [self._shortlist()]
        self.by_intersection = self._shortlist() if minimise_each else None
        self.trace: list[Tensor] = []
        self.evaluations = 1

    def __call__(self, inputs: Tensor) -> Tensor:
        """Kendall's tau (N,) float64 of the iterate's map with the original's; +inf where inadmissible."""
        with torch.no_grad():
            admissible = (self.logits(inputs).argmax(1) == self.label).cpu()
        attribution = self.attribute(inputs)
        maps = saliency(attribution)
        self.evaluations += 1
        tau = kendall_tau(maps, self.clean).cpu()
        self.trace.append(torch.where(admissible, tau, torch.nan))
        value = torch.where(admissible & ~tau.isnan(), tau, torch.inf)
        self.by_tau[-1].offer(inputs, attribution, value)
        if self.by_intersection is not None:
            overlap = topk_intersection(maps, self.clean, self.k).cpu().double()
            # Among equal overlaps the one of lower tau, without changing the order of different overlaps.
            worth = torch.where(value.isinf(), torch.inf, overlap + 1e-9 * value)
            self.by_intersection.offer(inputs, attribution, worth)
        return value.to(inputs.device)

    def freeze(self) -> None:
        """Close the shortlist by tau and begin another, so that what follows cannot displace its iterates.

        The judging map is cheaper than the final one: an iterate that it ranks lower may be worse in truth.
        """
        self.by_tau.append(self._shortlist())

    def _shortlist(self) -> Shortlist:
        return Shortlist(self.origin, self.clean_map, self.size)

    def choose(self, final: Map | None) -> tuple[dict[str, Tensor], int]:
        """The attack's outcome, from all shortlisted iterates: fields of `AttackResult`, and final maps made.

        final: the map that they are judged by; None where it is the judging map, so that every map is there
        already. tau and intersection are each the least of their own iterates if each was minimised, else
        those of the iterate of least tau.
        """
        clean_map = self.clean_map if final is None else final(self.origin)
        clean = saliency(clean_map)
        tau = torch.full(self.label.shape, torch.inf, dtype=torch.float64)
        overlap, rank = tau.clone(), tau.clone()
        kept, kept_map = self.origin.clone(), clean_map.clone()
        # Each number may come from another iterate where each was minimised.
        each = self.by_intersection is not None
        lists = [*self.by_tau, *([] if self.by_intersection is None else [self.by_intersection])]
        # The final map decides among all that were kept, whichever list they are in.
        for shortlist in lists:
            judged = zip(shortlist.inputs, shortlist.maps, shortlist.values, strict=True)
            for candidate, known, worth in judged:
                maps = known if final is None else final(candidate)
                new = saliency(maps)
                new_tau, new_rank = kendall_tau(new, clean).cpu(), spearman(new, clean).cpu()
                new_overlap = topk_intersection(new, clean, self.k).cpu().double()
                usable = worth.isfinite() & ~new_tau.isnan()
                better = usable & (new_tau < tau)
                rank = torch.where(usable & (new_rank < rank) if each else better, new_rank, rank)
                overlap = torch.where(
                    usable & (new_overlap < overlap) if each else better, new_overlap, overlap
                )
                tau = torch.where(better, new_tau, tau)
                mask = better.to(kept.device)
                kept[mask], kept_map[mask] = candidate[mask], maps[mask]
        # A tau of 1 or none at all: the authors count such an example as unharmed.
        found = tau < 1
        unharmed = ~found.to(kept.device)
        kept[unharmed], kept_map[unharmed] = self.origin[unharmed], clean_map[unharmed]
        outcome = {
            "inputs": kept,
            "clean_map": clean_map,
            "perturbed_map": kept_map,
            "kendall_tau": torch.where(found, tau, 1.0),
            "spearman": torch.where(found, rank, 1.0),
            "topk_intersection": torch.where(found, overlap, 1.0),
            "found": found,
        }
        return outcome, 0 if final is None else 1 + sum(shortlist.size for shortlist in lists)
