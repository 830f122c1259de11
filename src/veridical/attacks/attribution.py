"""Attacks on explanations: change the map, keep the prediction (Ghorbani et al. 2019; Chen et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attacks.ascent import Score, ascend
from veridical.attacks.ball import Ball, check_examples, draw
from veridical.attacks.directions import Decorrelate, Direction, RandomSign
from veridical.attacks.protocols import Protocol
from veridical.attacks.protocols import protocol as protocol_by_name
from veridical.attacks.surrogate import MapAscent, check_twin
from veridical.attribution.classifier import (
    check_attribution,
    check_climbable,
    check_map,
    check_target,
    class_logits,
    examining,
    logits_of,
    out_of_inference,
)
from veridical.attribution.method import AttributionMethod
from veridical.attribution.path import Quadrature
from veridical.attribution.second_order import QuickSecondOrder, check_second_order
from veridical.metrics.maps import normalised_to_area, saliency
from veridical.metrics.rank import kendall_tau, spearman
from veridical.metrics.spatial import topk_intersection
from veridical.runtime.checking import Count, Seed, checked, record
from veridical.runtime.devices import rows_at_once
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import stream

# An `Attribution`, or a function of its form with fewer names: (model, inputs, target, create_graph).
Method = Callable[..., Tensor]

# Most examples times nodes of one batch by default: on a CPU as fast as larger ones, with less memory.
ROWS = 160

# Bytes that a climbed map keeps for each byte of an input at every node, 178 on a ResNet-18 at 224x224.
_KEPT = 180


@record
class AttackResult:
    """What an attribution attack did to each of N examples.

    inputs: perturbed inputs of least tau, (N, C, H, W); the originals where no iterate kept the label.
    clean_map, perturbed_map: attributions (N, C, H, W) by the final quadrature.
    kendall_tau, spearman, topk_intersection: (N,) float64, of the saliency maps; tau and intersection each
        minimised alone under "strong". 1 where nothing was found, as the RAR authors count it.
    found: (N,) bool: some iterate kept the predicted label and has tau < 1.
    trace: (N, restarts * steps) float64, tau of every iterate by the judge's quadrature, NaN where the label
        changed.
    gradient_evaluations: input gradients of the network or its twin per example: a map counts one per node
        (or sample). Each step's backward pass through the climbed map comes on top.
    rewrites: calls that the smooth twin rewrote in one forward pass; 0 where no twin was used.
    """

    inputs: Tensor
    clean_map: Tensor
    perturbed_map: Tensor
    kendall_tau: Tensor
    spearman: Tensor
    topk_intersection: Tensor
    found: Tensor
    trace: Tensor
    gradient_evaluations: int
    rewrites: int


@checked("attribution", "attack", "ball", "protocol", "indices")
def attack(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    attribution: Method,
    attack: Direction,
    ball: Ball,
    protocol: str | Protocol = "paper-fast",
    seed: Seed = 0,
    indices: Sequence[int] | Tensor | None = None,
    rows: Count | None = None,
    progress: Callable[[int], Any] | None = None,
) -> AttackResult:
    """Change the attribution of `target` within `ball`, the predicted label kept; lower tau is a success.

    model: any classifier, (N, C, H, W) -> logits (N, K); evaluated in eval mode, restored afterwards.
    inputs, target: (N, C, H, W) floating point in the ball's bounds, and the class explained, (N,) int64.
    attribution: the map that is attacked and judged. Where it has `with_quadrature` (Integrated Gradients)
        the protocol's nodes replace its own.
    attack: a direction: TopK, MassCentre, TargetRegion, RandomSign, or a function from the clean saliency
        maps (N, H, W) to the score to be raised, itself a function of such maps that gives (N,).
    ball: threat model.
    protocol: "paper" (Chen et al. 2019, evaluation), "paper-fast", "strong" or a Protocol; the k of TopK is
        also that of the intersection.
    seed, indices: all that is random for example i, starts above all, comes from streams keyed by (seed,
        purpose, indices[i]), so that neither batches nor shards change a result. None numbers the examples
        from 0.
    rows: bound on the examples times nodes whose graphs are alive at once; one example is the least. None is
        160, and fewer of large images or where memory is short.
    progress: called with the number of examples finished after each batch.
    """
    check_attribution(attribution, create_graph=not isinstance(attack, RandomSign))
    numbers = check_examples(inputs, target, ball, indices)
    if inputs.ndim != 4:
        raise argument_error("inputs", inputs, "images (N, C, H, W)")
    if isinstance(attack, type) or not callable(attack):
        directions = (
            "a direction: TopK(k), MassCentre(), TargetRegion(top, bottom, left, right), RandomSign()"
        )
        raise argument_error("attack", attack, directions)
    plan = protocol_by_name(protocol).towards(attack)
    # The climbed maps decide: their graphs are alive at all nodes at once.
    at_once = batch_size(attribution, plan, rows_at_once(inputs, ROWS, _KEPT) if rows is None else rows)
    if not len(inputs):
        return _nothing(inputs, plan)
    results: list[AttackResult] = []
    with examining(model):
        for first in range(0, len(inputs), at_once):
            part = slice(first, first + at_once)
            own = out_of_inference(inputs[part].detach()), out_of_inference(target[part])
            batch = _Batch(model, *own, attribution, numbers[part])
            results.append(_attack_batch(batch, attack, ball, plan, seed))
            if progress is not None:
                progress(min(first + at_once, len(inputs)))
    # Counts per example are the same in every batch.
    tensors = [f.name for f in fields(AttackResult) if isinstance(getattr(results[0], f.name), Tensor)]
    joined: dict[str, Any] = {name: torch.cat([getattr(one, name) for one in results]) for name in tensors}
    return replace(results[0], **joined)


def batch_size(attribution: Method, protocol: Protocol, rows: int = ROWS) -> int:
    """How many examples `attack` takes at once."""
    return max(1, rows // _gradients_per_map(attribution, protocol.climb_nodes))


def _gradients_per_map(attribution: Method, quadrature: Quadrature) -> int:
    """Input gradients behind one map: the nodes of a path, the samples of a mean, else one."""
    if hasattr(attribution, "with_quadrature"):
        return quadrature.nodes
    return int(getattr(attribution, "samples", 1))


@record
class _Batch:
    """The examples that are attacked together; `indices` are their numbers in their data set."""

    model: nn.Module
    inputs: Tensor
    target: Tensor
    method: Method
    indices: list[int]

    def explain(self, quadrature: Quadrature) -> Method:
        """The method with that quadrature, if it integrates along a path, and with the examples' numbers."""
        changed = getattr(self.method, "with_quadrature", None)
        return numbered(self.method if changed is None else changed(quadrature), self.indices)

    def map(self, quadrature: Quadrature) -> Callable[[Tensor], Tensor]:
        """The map of the batch's targets as a function of the inputs (N, C, H, W), without a graph."""
        method = self.explain(quadrature)
        return lambda inputs: check_map(method(self.model, inputs, self.target), inputs).detach()


def numbered(method: Method, indices: Sequence[int]) -> Method:
    """The method with the examples' numbers, by which it draws; a caller's own gets a copy of the inputs."""
    if isinstance(method, AttributionMethod):
        return partial(method, indices=indices)
    return partial(_call_own, method)


def _call_own(
    method: Method, model: nn.Module, inputs: Tensor, target: Tensor, *, create_graph: bool = False
) -> Tensor:
    """The map of a caller's own method, of a copy of the inputs: it, or its model, may write into them."""
    if not create_graph:
        return method(model, inputs.clone(), target)
    # What ours do by themselves: without it a second derivative may be slow, or missing.
    with QuickSecondOrder():
        maps = method(model, inputs.clone(), target, create_graph=True)
    check_second_order(check_map(maps, inputs, graph=True))
    return maps


def _constant(direction: Tensor) -> Score:
    """A score whose gradient is the same everywhere: the random-sign baseline."""
    return lambda inputs: (inputs.new_zeros(len(inputs)), direction)


def _attack_batch(batch: _Batch, direction: Direction, ball: Ball, plan: Protocol, seed: int) -> AttackResult:
    inputs, final_nodes = batch.inputs, plan.final_nodes or plan.judge_nodes
    logits = class_logits(batch.model, inputs)
    check_climbable(logits)
    check_target(batch.target, logits)
    label = logits.argmax(1)
    real, judge = partial(logits_of, batch.model), batch.map(plan.judge_nodes)
    selector = _IterateSelector(real, judge, inputs, label, plan)
    # A stream for each example, by its number in the data set: batches change nothing.
    generators = [stream(seed, "attack", index) for index in batch.indices]
    nudge = draw(inputs, [stream(seed, "nudge", index) for index in batch.indices], "normal").sign()
    gradients, rewrites = 0, 0
    for number, restart in enumerate(plan.climbs):
        if number == 1:
            # What the first climb alone would have reported stays in, so that more climbs never look safer.
            selector.freeze()
        if isinstance(direction, RandomSign):
            score = _constant(draw(inputs, generators, "normal").sign())
        else:
            goal = Decorrelate() if restart.goal == "decorrelate" else direction
            aim, method = goal(normalised_to_area(selector.clean)), batch.explain(plan.climb_nodes)
            score = MapAscent(batch.model, method, batch.target, label, aim, restart, plan.steps, nudge)
            rewrites = max(rewrites, check_twin(batch.model, inputs, batch.target, restart.beta))
            # The pull back to the label takes one gradient more.
            per_step = _gradients_per_map(batch.method, plan.climb_nodes) + (restart.label_weight > 0)
            gradients += plan.steps * per_step
        ascend(
            score,
            inputs,
            ball,
            steps=plan.steps,
            step_size=plan.step_size * restart.step_scale,
            start=restart.start,
            generator=generators,
            momentum=restart.momentum,
            decay=restart.decay,
            observe=selector,
        )
    # Maps that the judge made already are not made again.
    same = final_nodes == plan.judge_nodes or not hasattr(batch.method, "with_quadrature")
    outcome, final_maps = selector.choose(None if same else batch.map(final_nodes))
    gradients += selector.evaluations * _gradients_per_map(batch.method, plan.judge_nodes)
    gradients += final_maps * _gradients_per_map(batch.method, final_nodes)
    return AttackResult(
        **outcome, trace=torch.stack(selector.trace, 1), gradient_evaluations=gradients, rewrites=rewrites
    )


def _nothing(inputs: Tensor, plan: Protocol) -> AttackResult:
    """The result for no examples: few models can be asked about an empty batch."""
    numbers = torch.zeros(0, dtype=torch.float64)
    maps = inputs.detach()
    trace = torch.zeros(0, len(plan.climbs) * plan.steps, dtype=torch.float64)
    return AttackResult(maps, maps, maps, numbers, numbers, numbers, numbers.bool(), trace, 0, 0)


class _Shortlist:
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


class _IterateSelector:
    """Judges iterates by tau and top-k intersection of their maps with the original's; lower looks worse.

    logits: inputs -> logits (N, K) of the real network. attribute: its judging map. origin, label:
    unperturbed inputs (N, C, H, W) and their predicted labels (N,); iterates that change the label are
    inadmissible (+inf). plan: its shortlist is kept per example, for tau and (with `minimise_each`) apart
    from it for the intersection.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        attribute: Callable[[Tensor], Tensor],
        origin: Tensor,
        label: Tensor,
        plan: Protocol,
    ) -> None:
        self.logits, self.attribute, self.origin, self.label = logits, attribute, origin, label
        self.clean_map, self.k = attribute(origin), plan.compared
        self.clean = saliency(self.clean_map)
        # Where the judge's map is the final one, its first choice is final too.
        self._shortlist = partial(
            _Shortlist, origin, self.clean_map, plan.judged_again if plan.final_nodes else 1
        )
        self.by_tau = [self._shortlist()]
        self.by_intersection = self._shortlist() if plan.minimise_each else None
        self.trace: list[Tensor] = []
        self.evaluations = 1

    def __call__(self, inputs: Tensor) -> None:
        """Judge one iterate (N, C, H, W), and keep it where it is among the least."""
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

    def freeze(self) -> None:
        """Close the shortlist by tau and begin another, so that what follows cannot displace its iterates.

        The judging map is cheaper than the final one: an iterate that it ranks lower may be worse in truth.
        """
        self.by_tau.append(self._shortlist())

    def choose(self, final: Callable[[Tensor], Tensor] | None) -> tuple[dict[str, Tensor], int]:
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
        # The final map decides among all that were kept, whichever list they are in.
        each = self.by_intersection
        lists = [*self.by_tau, *([] if each is None else [each])]
        for shortlist in lists:
            for candidate, known, worth in zip(
                shortlist.inputs, shortlist.maps, shortlist.values, strict=True
            ):
                maps = known if final is None else final(candidate)
                new = saliency(maps)
                new_tau, new_rank = kendall_tau(new, clean).cpu(), spearman(new, clean).cpu()
                new_overlap = topk_intersection(new, clean, self.k).cpu().double()
                usable = worth.isfinite() & ~new_tau.isnan()
                better = usable & (new_tau < tau)
                # Each number may come from another iterate where each was minimised.
                lower_rank = better if each is None else usable & (new_rank < rank)
                less_overlap = better if each is None else usable & (new_overlap < overlap)
                tau, rank = torch.where(better, new_tau, tau), torch.where(lower_rank, new_rank, rank)
                overlap = torch.where(less_overlap, new_overlap, overlap)
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
