"""Attacks on explanations: change the map, keep the prediction (Ghorbani et al. 2019; Chen et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attacks.ascent import ascend
from veridical.attacks.ball import Ball, check_examples, draw
from veridical.attacks.directions import Direction, RandomSign
from veridical.attacks.protocols import Protocol
from veridical.attacks.protocols import protocol as protocol_by_name
from veridical.attacks.selection import IterateSelector
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
from veridical.attribution.quadrature import Quadrature
from veridical.attribution.second_order import QuickSecondOrder, check_second_order
from veridical.runtime.checking import Count, Seed, checked
from veridical.runtime.devices import rows_at_once
from veridical.runtime.errors import argument_error
from veridical.runtime.record import record
from veridical.runtime.seeds import stream

Method = Callable[..., Tensor]
"""An `Attribution`, or a function of its form with fewer names: (model, inputs, target, create_graph)."""

ROWS = 160
"""Most examples times nodes of one batch by default: on a CPU as fast as larger ones, with less memory."""

_KEPT = 180
"""Bytes that a climbed map keeps for each byte of an input at every node, 178 on a ResNet-18 at 224x224."""


@record
class AttackResult:
    """What an attribution attack did to each of N examples.

    Attributes
    ----------
    inputs
        Perturbed inputs of least tau, (N, C, H, W); the originals where no iterate kept the label.
    clean_map, perturbed_map
        Attributions (N, C, H, W) by the final quadrature.
    kendall_tau, spearman, topk_intersection
        (N,) float64, of the saliency maps; tau and intersection each minimised alone under "strong". 1 where
        nothing was found, as the RAR authors count it.
    found
        (N,) bool: some iterate kept the predicted label and has tau < 1.
    trace
        (N, restarts * steps) float64, tau of every iterate by the judge's quadrature, NaN where the label
        changed.
    gradient_evaluations
        Input gradients of the network or its twin per example: a map counts one per node (or sample). Each
        step's backward pass through the climbed map comes on top.
    rewrites
        Calls that the smooth twin rewrote in one forward pass; 0 where no twin was used.
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

    Parameters
    ----------
    model
        Any classifier, (N, C, H, W) -> logits (N, K); evaluated in eval mode, restored afterwards.
    inputs, target
        (N, C, H, W) floating point in the ball's bounds, and the class explained, (N,) int64.
    attribution
        The map that is attacked and judged. Where it has `with_quadrature` (Integrated Gradients) the
        protocol's nodes replace its own.
    attack
        A direction: TopK, MassCentre, TargetRegion, RandomSign, or a function from the clean saliency maps
        (N, H, W) to the score to be raised, itself a function of such maps that gives (N,).
    ball
        Threat model.
    protocol
        "paper" (Chen et al. 2019, evaluation), "paper-fast", "strong" or a Protocol; the k of TopK is also
        that of the intersection.
    seed, indices
        All that is random for example i, starts above all, comes from streams keyed by (seed, purpose,
        indices[i]), so that neither batches nor shards change a result. None numbers the examples from 0.
    rows
        Bound on the examples times nodes whose graphs are alive at once; one example is the least. None is
        160, and fewer of large images or where memory is short.
    progress
        Called with the number of examples finished after each batch.
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
    if rows is None:
        rows = rows_at_once(inputs, ROWS, _KEPT)
    # The climbed maps decide: their graphs are alive at all nodes at once.
    at_once = batch_size(attribution, plan, rows)
    results: list[AttackResult] = []
    if not len(inputs):
        return _nothing(inputs, plan)
    with examining(model):
        for first in range(0, len(inputs), at_once):
            part = slice(first, first + at_once)
            batch = _Batch(
                model,
                out_of_inference(inputs[part].detach()),
                out_of_inference(target[part]),
                attribution,
                numbers[part],
            )
            results.append(_attack_batch(batch, attack, ball, plan, seed))
            if progress is not None:
                progress(min(first + at_once, len(inputs)))
    return _joined(results)


def batch_size(attribution: Method, protocol: Protocol, rows: int = ROWS) -> int:
    """How many examples `attack` takes at once."""
    return max(1, rows // gradients_per_map(attribution, protocol.climb_nodes))


def gradients_per_map(attribution: Method, quadrature: Quadrature) -> int:
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
        method = self.method if changed is None else changed(quadrature)
        if isinstance(method, AttributionMethod):
            return partial(method, indices=self.indices)
        return partial(_call_own, method)

    def map(self, quadrature: Quadrature) -> Callable[[Tensor], Tensor]:
        """The map of the batch's targets as a function of the inputs (N, C, H, W), without a graph."""
        method = self.explain(quadrature)
        return lambda inputs: check_map(method(self.model, inputs, self.target), inputs).detach()


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


@record
class _FixedDirection:
    """A score whose gradient is the same everywhere: the random-sign baseline."""

    direction: Tensor

    def value_and_gradient(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs.new_zeros(inputs.shape[0]), self.direction


def _attack_batch(batch: _Batch, direction: Direction, ball: Ball, plan: Protocol, seed: int) -> AttackResult:
    inputs, final_nodes = batch.inputs, plan.final_nodes or plan.judge_nodes
    logits = class_logits(batch.model, inputs)
    check_climbable(logits)
    check_target(batch.target, logits)
    label = logits.argmax(1)
    selector = IterateSelector(
        partial(logits_of, batch.model),
        batch.map(plan.judge_nodes),
        inputs,
        label,
        plan.compared,
        plan.shortlist if plan.final_nodes else 1,
        plan.minimise_each,
    )
    # A stream for each example, by its number in the data set: batches change nothing.
    generators = [stream(seed, "attack", index) for index in batch.indices]
    nudge = draw(inputs, [stream(seed, "nudge", index) for index in batch.indices], "normal").sign()
    gradients, rewrites = 0, 0
    for number, restart in enumerate(plan.climbs):
        if number == 1:
            # What the first climb alone would have reported stays in, so that more climbs never look safer.
            selector.freeze()
        if isinstance(direction, RandomSign):
            score: MapAscent | _FixedDirection = _FixedDirection(draw(inputs, generators, "normal").sign())
        else:
            score = MapAscent(
                batch.model,
                batch.explain(plan.climb_nodes),
                batch.target,
                label,
                direction,
                selector.clean,
                restart,
                plan.steps,
                nudge,
            )
            rewrites = max(rewrites, check_twin(batch.model, inputs, batch.target, restart.beta))
            # The pull back to the label takes one gradient more.
            per_step = gradients_per_map(batch.method, plan.climb_nodes) + (restart.label_weight > 0)
            gradients += plan.steps * per_step
        ascend(
            score,
            inputs,
            ball,
            steps=plan.steps,
            step_size=plan.step_size * restart.step_scale,
            start=restart.start,
            keep=selector,
            generator=generators,
            momentum=restart.momentum,
            decay=restart.decay,
        )
    # Maps that the judge made already are not made again.
    same = final_nodes == plan.judge_nodes or not hasattr(batch.method, "with_quadrature")
    outcome, final_maps = selector.choose(None if same else batch.map(final_nodes))
    gradients += selector.evaluations * gradients_per_map(batch.method, plan.judge_nodes)
    gradients += final_maps * gradients_per_map(batch.method, final_nodes)
    return AttackResult(
        **outcome,
        trace=torch.stack(selector.trace, 1),
        gradient_evaluations=gradients,
        rewrites=rewrites,
    )


def _nothing(inputs: Tensor, plan: Protocol) -> AttackResult:
    """The result for no examples: few models can be asked about an empty batch."""
    numbers = torch.zeros(0, dtype=torch.float64)
    maps = inputs.detach()
    trace = torch.zeros(0, len(plan.climbs) * plan.steps, dtype=torch.float64)
    return AttackResult(maps, maps, maps, numbers, numbers, numbers, numbers.bool(), trace, 0, 0)


def _joined(parts: list[AttackResult]) -> AttackResult:
    joined: dict[str, Any] = {
        f.name: torch.cat([getattr(p, f.name) for p in parts])
        for f in fields(AttackResult)
        if f.name not in ("gradient_evaluations", "rewrites")
    }
    return replace(parts[0], **joined)
