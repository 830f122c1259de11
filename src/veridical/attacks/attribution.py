"""Attacks on explanations: change the map, keep the prediction (Ghorbani et al. 2019; Chen et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attacks.ascent import ascend
from veridical.attacks.ball import Ball, draw
from veridical.attacks.climbing import FixedDirection, MapAscent, check_twin
from veridical.attacks.directions import Direction, RandomSign
from veridical.attacks.judge import Judge, Shortlist
from veridical.attacks.prediction import predict
from veridical.attacks.protocols import Protocol, protocol as protocol_by_name
from veridical.attribution.quadrature import Quadrature
from veridical.attribution.saliency import saliency
from veridical.metrics.overlap import topk_intersection
from veridical.metrics.rank import kendall_tau, spearman
from veridical.runtime.errors import UsageError
from veridical.runtime.guards import evaluating
from veridical.runtime.seeds import stream

Method = Callable[..., Tensor]
"""(model, inputs, target=None, *, create_graph=False) -> attribution of the inputs' shape."""


@dataclass(frozen=True)
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
        Input gradients of the network or its twin per example: maps count one per node.
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


def attack(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    *,
    attribution: Method,
    attack: Direction,
    ball: Ball,
    protocol: str | Protocol = "paper-fast",
    seed: int = 0,
    first_index: int = 0,
    rows: int = 640,
    progress: Callable[[int], Any] | None = None,
) -> AttackResult:
    """Change the attribution of `target` within `ball` while the predicted label stays; lower tau is a success.

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
        A direction: TopK, MassCentre, TargetRegion, RandomSign.
    ball
        Threat model.
    protocol
        "paper" (Chen et al. 2019, evaluation), "paper-fast", "strong" or a Protocol.
    seed, first_index
        Random starts of example i come from the stream (seed, "attack", first_index + i), so that neither
        batches nor shards change a result.
    rows
        Bound on the examples times nodes whose graphs are alive at once.
    progress
        Called with the number of examples finished after each batch.
    """
    plan = protocol_by_name(protocol) if isinstance(protocol, str) else protocol
    _check(inputs, target)
    per_batch = max(1, rows // plan.climb_nodes.nodes)
    results: list[AttackResult] = []
    with evaluating(model):
        for first in range(0, max(inputs.shape[0], 1), per_batch):
            part = slice(first, first + per_batch)
            results.append(
                _attack_batch(
                    model, inputs[part], target[part], attribution, attack, ball, plan, seed, first_index + first
                )
            )
            if progress is not None:
                progress(min(first + per_batch, inputs.shape[0]))
    return _joined(results)


def _attack_batch(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    method: Method,
    direction: Direction,
    ball: Ball,
    plan: Protocol,
    seed: int,
    first_index: int,
) -> AttackResult:
    inputs = inputs.detach()
    label = predict(model, inputs).argmax(1)
    judged = with_nodes(method, plan.judge_nodes)
    judge = Judge(
        model,
        lambda x: judged(model, x, target),
        inputs,
        label,
        plan.k,
        plan.shortlist if plan.final_nodes else 1,
        plan.minimise_each,
    )
    climbed = with_nodes(method, plan.climb_nodes)
    generators = [stream(seed, "attack", first_index + i) for i in range(inputs.shape[0])]
    gradients, rewrites = 0, 0
    for climb in plan.climbs:
        if isinstance(direction, RandomSign):
            score: MapAscent | FixedDirection = FixedDirection(draw(inputs, generators, "normal").sign())
        else:
            score = MapAscent(model, climbed, target, label, direction, judge.clean, climb, plan.steps)
            rewrites = max(rewrites, check_twin(model, inputs, target, climb.beta))
        ascend(
            score,
            inputs,
            ball,
            steps=plan.steps,
            step_size=plan.step_size * climb.step_scale,
            start=climb.start,
            keep=judge,
            generator=generators,
            momentum=climb.momentum,
            decay=climb.decay,
        )
        gradients += plan.steps * plan.climb_nodes.nodes * (0 if isinstance(direction, RandomSign) else 1)
    gradients += judge.evaluations * plan.judge_nodes.nodes
    return _finish(model, inputs, target, method, plan, judge, gradients, rewrites)


def _finish(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    method: Method,
    plan: Protocol,
    judge: Judge,
    gradients: int,
    rewrites: int,
) -> AttackResult:
    """Judge the shortlisted iterates by the final map and pick for each metric its own (or tau's) least."""
    final = with_nodes(method, plan.final_nodes or plan.judge_nodes)
    clean_map = final(model, inputs, target)
    clean = saliency(clean_map)
    tau = torch.full(inputs.shape[:1], torch.inf, dtype=torch.float64)
    overlap, rank = tau.clone(), tau.clone()
    kept, kept_map = inputs.clone(), clean_map.clone()
    lists: list[Shortlist] = [judge.by_tau]
    if judge.by_intersection is not None:
        lists.append(judge.by_intersection)
    for shortlist in lists:
        for candidate, worth in zip(shortlist.inputs, shortlist.values, strict=True):
            maps = final(model, candidate, target)
            gradients += (plan.final_nodes or plan.judge_nodes).nodes
            new = saliency(maps)
            new_tau, new_rank = kendall_tau(new, clean).cpu(), spearman(new, clean).cpu()
            new_overlap = topk_intersection(new, clean, plan.k).cpu().double()
            better = worth.isfinite() & (new_tau < tau)
            if plan.minimise_each:
                rank = torch.where(worth.isfinite() & (new_rank < rank), new_rank, rank)
                overlap = torch.where(worth.isfinite() & (new_overlap < overlap), new_overlap, overlap)
            else:
                rank, overlap = torch.where(better, new_rank, rank), torch.where(better, new_overlap, overlap)
            tau = torch.where(better, new_tau, tau)
            mask = better.to(inputs.device)
            kept[mask], kept_map[mask] = candidate[mask], maps[mask]
    found = tau < 1
    kept[~found.to(inputs.device)] = inputs[~found.to(inputs.device)]
    kept_map[~found.to(inputs.device)] = clean_map[~found.to(inputs.device)]
    trace = torch.stack(judge.trace, 1) if judge.trace else torch.zeros(inputs.shape[0], 0, dtype=torch.float64)
    return AttackResult(
        inputs=kept,
        clean_map=clean_map.detach(),
        perturbed_map=kept_map.detach(),
        kendall_tau=torch.where(found, tau, 1.0),
        spearman=torch.where(found, rank, 1.0),
        topk_intersection=torch.where(found, overlap, 1.0),
        found=found,
        trace=trace,
        gradient_evaluations=gradients,
        rewrites=rewrites,
    )


def with_nodes(method: Method, quadrature: Quadrature) -> Method:
    """The method with that quadrature where it integrates along a path, otherwise as it is."""
    changed = getattr(method, "with_quadrature", None)
    return method if changed is None else changed(quadrature)


def _check(inputs: Tensor, target: Tensor) -> None:
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise UsageError(
            f"inputs have shape {tuple(inputs.shape)} and dtype {inputs.dtype}; expected floating-point images "
            "(N, C, H, W)"
        )
    if target.shape != inputs.shape[:1] or target.dtype != torch.int64:
        raise UsageError(
            f"target has shape {tuple(target.shape)} and dtype {target.dtype}; expected ({inputs.shape[0]},) int64"
        )
    if not bool(torch.isfinite(inputs).all()):
        raise UsageError("inputs hold NaN or infinite values; expected finite pixels")


def _joined(parts: list[AttackResult]) -> AttackResult:
    if len(parts) == 1:
        return parts[0]
    joined = {
        f.name: torch.cat([getattr(p, f.name) for p in parts])
        for f in fields(AttackResult)
        if f.name not in ("gradient_evaluations", "rewrites")
    }
    return replace(parts[0], **joined)
