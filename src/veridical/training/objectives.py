"""What training minimises: Robust Attribution Regularization, objectives by name, and warm starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from veridical.attacks.ascent import Start, ascend, value_and_gradient
from veridical.attacks.ball import Ball, Noise, ball
from veridical.attribution.classifier import logits_of
from veridical.attribution.method import TargetScalar
from veridical.attribution.path import (
    Quadrature,
    input_gradient,
    path_attribution,
    points_on_path,
    weighted_sum,
)
from veridical.runtime.checking import Checked, Length, Steps, record
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.guards import default_modes, eval_mode, evaluating, no_autocast
from veridical.runtime.lengths import power_of_two
from veridical.runtime.options import ScoreName, StartName
from veridical.runtime.registry import load_factory
from veridical.training.penalties import OBJECTIVES, AttributionPenalty, ChangePenalty
from veridical.training.recipes import RobustSettings, Settings

if TYPE_CHECKING:
    from veridical.training.distributed import Share

# Warm starts are bytes, from -127 to 127.
_LEVELS = 127
# The scale of an image that was not met yet; 0 is that of one that did not move.
_UNSEEN = -1.0


@record
class ObjectiveValue:
    """Loss per example (N,), with the graph to the weights, and its parts by name, (N,) each, detached."""

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """What a training step minimises, per example; the caller reduces."""

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
    ) -> ObjectiveValue:
        """Loss per example of inputs (N, ...) and target (N,); `generator` is the source of random starts."""
        ...


@dataclass(frozen=True)
class Natural:
    """The cross-entropy at the clean input; nothing is random."""

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
    ) -> ObjectiveValue:
        """Cross-entropy per example."""
        del generator
        loss = TargetScalar(model, target, "loss", finite=False)(inputs)
        return ObjectiveValue(loss, {"natural_loss": loss.detach()})


@dataclass(frozen=True)
class Inner(Checked):
    """How the inner maximum over the ball is sought.

    steps, step_size: projected ascent steps and their length in input units. start: "random" (uniform in the
    ball, the RAR authors'), "origin", "gradient" (x + radius * step(grad l)), or "warm" (random unless
    `maximise` is given starts, as `train` gives it the last epoch's x'). x itself is a stationary point of
    ||IG||_1, so "origin" is of use for the score "loss" only. score: "size" climbs what the objective
    measures, l(x) + weight * size, exactly; "loss" climbs l(x') alone, which needs no second derivative.
    quadrature: nodes of the attribution inside the ascent (the authors: 10 right Riemann).
    """

    steps: Steps = 3
    step_size: Length = 0.05
    start: StartName = "random"
    score: ScoreName = "size"
    quadrature: Quadrature = Quadrature("midpoint", 1)


class RobustObjective(ABC):
    """An objective with an inner maximum: x' is sought in the ball, then the loss is taken there."""

    ball: Ball
    weight: float
    inner: Inner

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise UsageError(f"weight={self.weight!r}; lambda must be at least 0")

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
    ) -> ObjectiveValue:
        """The objective at the x' that the inner ascent finds from starts drawn by `generator`."""
        return self.at(model, inputs, target, self.maximise(model, inputs, target, generator))

    def maximise(
        self,
        model: nn.Module,
        inputs: Tensor,
        target: Tensor,
        generator: Noise | None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The x' that the inner ascent ends at, (N, ...), detached; weights get no gradient work.

        start: x' (N, ...) to begin with, projected into the ball, in place of `inner.start`.
        """
        inner, ball = self.inner, self.ball
        # Eval mode, and no parameter asks for a gradient: the ascent costs passes in the inputs alone.
        with evaluating(model):
            score = self.inner_score(model, inputs, target)
            begin: Start = "random"
            if start is not None:
                begin = start
            elif inner.start == "gradient":
                # Its signs decide where x' is, and those of small derivatives are rounding's.
                with no_autocast():
                    _, slope = value_and_gradient(TargetScalar(model, target, "loss", finite=False), inputs)
                begin = inputs + ball.radius * ball.step(slope)
            elif inner.start != "warm":
                begin = inner.start
            steps, size = inner.steps, inner.step_size
            return ascend(score, inputs, ball, steps=steps, step_size=size, start=begin, generator=generator)

    @abstractmethod
    def inner_score(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
        """The function of x' that the inner ascent climbs."""

    @abstractmethod
    def at(self, model: nn.Module, inputs: Tensor, target: Tensor, perturbed: Tensor) -> ObjectiveValue:
        """The objective at a given x' (N, ...), with the exact gradient in the weights."""


@dataclass(frozen=True)
class RobustAttribution(RobustObjective):
    """l(x) + weight * max over x' in the ball of size(IG of the loss from x to x'), per example.

    weight: lambda, at least 0. quadrature: nodes of the attribution in the outer step (the authors: 50 right
    Riemann). rows: bound on examples times nodes whose graphs are alive at once in the outer step.

    The gradient in the weights is exact at the x' found (Danskin): with d = x' - x, u = ds/dIG and v = u d
    held constant it is that of sum_k w_k <v, grad l(z_k)>. Attribution terms and the ascent see the model in
    eval mode (batch normalisation with its running statistics), the losses in the caller's mode. Under
    torch.autocast the losses are computed by it, the attribution terms without it, and losses neither whose
    difference an absolute value is taken of.
    Source: Chen et al. (2019), section 3; special cases in their table of instantiations.
    """

    size: AttributionPenalty
    ball: Ball
    weight: float = 1.0
    quadrature: Quadrature = Quadrature("midpoint", 1)
    inner: Inner = Inner()
    rows: int = 4096

    def inner_score(self, model: nn.Module, inputs: Tensor, target: Tensor) -> TargetScalar | _PenaltyScore:
        """The function of x' that the inner ascent climbs."""
        loss = TargetScalar(model, target, "loss", finite=False, climbed=True)
        # Without map or absolute value the penalty is l(x') - l(x), whose slope is that of the loss itself.
        if self.inner.score == "loss" or (not self.size.needs_map and not self.size.absolute_sum):
            return loss
        return _PenaltyScore(loss, inputs, self.size, self.inner.quadrature)

    def at(self, model: nn.Module, inputs: Tensor, target: Tensor, perturbed: Tensor) -> ObjectiveValue:
        """The objective at a given x' (N, ...), with the exact gradient in the weights."""
        loss = TargetScalar(model, target, "loss", finite=False)
        clean_share = 1 - self.weight * self.size.sum_weight
        # lambda s = lambda sum + ...: where the sum's weight is one, l(x) cancels and its pass is saved.
        if clean_share == 0 and not self.size.absolute_sum:
            clean, moved = None, loss(perturbed)
            change = torch.zeros_like(moved)
        elif self.size.sum_weight or self.size.absolute_sum:
            # One pass for both, so that batch normalisation and dropout treat them alike.
            with _arithmetic(self.size):
                both = logits_of(model, torch.cat([inputs, perturbed]), finite=False)
                clean, moved = loss.of_logits(both).chunk(2)
            change = (moved - clean).detach()
        else:
            clean, moved = loss(inputs), None
            change = torch.zeros_like(clean)
        attribution, surrogate, slope = self._attribution_term(model, loss, inputs, perturbed, change)
        total = surrogate.new_zeros(())
        parts: dict[str, Tensor] = {}
        # l(x) + weight * slope * (l(x') - l(x)), sorted by losses.
        if clean is not None:
            total = total + (1 - self.weight * slope) * clean
            parts["natural_loss"] = clean.detach()
        if moved is not None:
            total = total + self.weight * slope * moved
            parts["perturbed_loss"] = moved.detach()
        if self.size.needs_map:
            total = total + self.weight * surrogate
            parts["attribution_l1"] = attribution.flatten(1).abs().sum(1)
        return ObjectiveValue(total, parts)

    def _attribution_term(
        self, model: nn.Module, loss: TargetScalar, inputs: Tensor, perturbed: Tensor, change: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The map (detached), a term with the size's value and exact gradient (N,), and ds/dchange (N,)."""
        if not self.size.needs_map:
            _, slope = self.size.derivatives(None, change)
            return change, torch.zeros_like(change), slope
        with eval_mode(model), default_modes():
            # Small enough: one graph serves the map and its gradient in the weights. Else the nodes are gone
            # through twice: for the map, then with v = u d in chunks of graphs.
            whole = inputs.shape[0] * self.quadrature.nodes <= self.rows
            attribution = path_attribution(
                loss, inputs, perturbed, self.quadrature, create_graph=whole, rows=self.rows
            )
            direction, slope = self.size.derivatives(attribution, change)
            assert direction is not None
            if whole:
                surrogate = (direction * attribution).flatten(1).sum(1)
                attribution = attribution.detach()
            else:
                path = inputs, perturbed - inputs
                surrogate = _by_chunks(model, loss, path, direction, self.quadrature, self.rows)
        # <u, IG> equals the size only for sizes of degree one; the value reported is the size itself.
        map_size = replace(self.size, sum_weight=0.0, absolute_sum=0.0)
        value = map_size(attribution, torch.zeros_like(change))
        return attribution, surrogate + (value - surrogate.detach()), slope


def _by_chunks(
    model: nn.Module,
    scalar: TargetScalar,
    path: tuple[Tensor, Tensor],
    direction: Tensor,
    quadrature: Quadrature,
    rows: int,
) -> Tensor:
    """<direction, IG of scalar along path> per example, with its exact gradient in the weights, (N,).

    path: start and difference, (N, ...). It is sum_k w_k <v, grad f(z_k)> with v = direction * difference;
    each chunk's graph is made again in the backward pass, so that `rows` bounds what is alive at once.
    """
    start, difference = path
    v = direction * difference
    positions, weights = quadrature.points(start.dtype, start.device)
    at_once = max(1, rows // len(start))

    def part(t: Tensor, w: Tensor) -> Tensor:
        # Run again in the backward pass, when the caller has the model in train mode.
        with eval_mode(model), default_modes():
            points = points_on_path(start, difference, t).detach().requires_grad_(True)
            gradients = input_gradient(scalar, points, create_graph=True)
        return (v * weighted_sum(w, gradients)).flatten(1).sum(1)

    total = torch.zeros(len(start), dtype=start.dtype, device=start.device)
    # checkpoint keeps no chunk's graph; use_reentrant would not allow autograd.grad inside.
    for first in range(0, quadrature.nodes, at_once):
        piece = slice(first, first + at_once)
        total = total + checkpoint(part, positions[piece], weights[piece], use_reentrant=False)
    return total


def _arithmetic(size: AttributionPenalty) -> AbstractContextManager[None]:
    """Of losses: the caller's, but not autocast where rounding could turn the sign of their difference."""
    return no_autocast() if size.absolute_sum else nullcontext()


@record
class _PenaltyScore:
    """size(IG from the fixed inputs to x'), as a function of x' with its exact gradient (N,)."""

    loss: TargetScalar
    inputs: Tensor
    size: AttributionPenalty
    quadrature: Quadrature

    def __call__(self, perturbed: Tensor) -> Tensor:
        with _arithmetic(self.size):
            change = self.loss(perturbed)
            # The sign of the change matters here; elsewhere l(x) is a constant that no slope sees.
            if self.size.absolute_sum:
                with torch.no_grad():
                    clean = self.loss(self.inputs)
                change = change - clean
        attribution = None
        if self.size.needs_map:
            graph = torch.is_grad_enabled() and perturbed.requires_grad
            with default_modes():
                attribution = path_attribution(
                    self.loss, self.inputs, perturbed, self.quadrature, create_graph=graph, rows=4096
                )
        return self.size(attribution, change)


@dataclass(frozen=True)
class RobustChange(RobustObjective):
    """l(x) + weight * max over x' in the ball of the distance of two answers, at x and at x', per example.

    change: which answers and distance, and whether l(x') stands for l(x). quadrature: nodes of the maps.
    rows: bound on maps times nodes whose graphs are alive at once in the outer step.

    The gradient in the weights is exact at the x' found: it goes through both answers. The inner ascent holds
    the answer at x constant, which does not depend on x'. Maps and the ascent see the model in eval mode,
    losses and predictions in the caller's mode; under torch.autocast these are computed by it, maps without.
    Sources, and what differs from them: docs/robust-attribution.md.
    """

    change: ChangePenalty
    ball: Ball
    weight: float = 1.0
    quadrature: Quadrature = Quadrature("midpoint", 1)
    inner: Inner = Inner()
    rows: int = 4096

    def inner_score(self, model: nn.Module, inputs: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
        """The function of x' that the inner ascent climbs."""
        loss = TargetScalar(model, target, "loss", finite=False, climbed=True)
        if self.inner.score == "loss":
            return loss
        if not self.change.needs_map:
            with torch.no_grad():
                clean_logits = logits_of(model, inputs, finite=False)
            return replace(loss, output=lambda logits, _: _kl(clean_logits, logits))
        logit, nodes = replace(loss, output="logit"), self.inner.quadrature
        with default_modes():
            clean = _map_from_black(logit, inputs, nodes)

        def distance(moved: Tensor) -> Tensor:
            graph = torch.is_grad_enabled() and moved.requires_grad
            with default_modes():
                return _distance(self.change, clean, _map_from_black(logit, moved, nodes, graph=graph))

        return distance

    def at(self, model: nn.Module, inputs: Tensor, target: Tensor, perturbed: Tensor) -> ObjectiveValue:
        """The objective at a given x' (N, ...), with the exact gradient in the weights."""
        loss = TargetScalar(model, target, "loss", finite=False)
        if not self.change.needs_map:
            # One pass for both, so that batch normalisation and dropout treat them alike.
            both = logits_of(model, torch.cat([inputs, perturbed]), finite=False)
            clean_logits, moved_logits = both.chunk(2)
            value, distance = loss.of_logits(clean_logits), _kl(clean_logits, moved_logits)
        else:
            value = loss(perturbed if self.change.at_perturbed else inputs)
            distance = self._distance_of_maps(model, replace(loss, output="logit"), inputs, perturbed)
        name = "perturbed_loss" if self.change.at_perturbed else "natural_loss"
        return ObjectiveValue(
            value + self.weight * distance, {name: value.detach(), "distance": distance.detach()}
        )

    def _distance_of_maps(
        self, model: nn.Module, logit: TargetScalar, inputs: Tensor, perturbed: Tensor
    ) -> Tensor:
        """The distance, (N,), with its exact gradient in the weights."""
        ends = torch.cat([inputs, perturbed])
        with eval_mode(model), default_modes():
            whole = len(ends) * self.quadrature.nodes <= self.rows
            maps = _map_from_black(logit, ends, self.quadrature, graph=whole, rows=self.rows)
            if whole:
                return _distance(self.change, *maps.chunk(2))
            # By the chain rule: the distance's slope in the maps, then in the weights node by node.
            maps.requires_grad_()
            distance = _distance(self.change, *maps.chunk(2))
            (direction,) = torch.autograd.grad(distance.sum(), maps)
            path = torch.zeros_like(ends), ends
            shares = _by_chunks(model, logit, path, direction, self.quadrature, self.rows)
        surrogate: Tensor = shares.unflatten(0, (2, -1)).sum(0)
        return surrogate + (distance - surrogate).detach()


def _map_from_black(
    logit: TargetScalar, inputs: Tensor, quadrature: Quadrature, *, graph: bool = False, rows: int = 4096
) -> Tensor:
    """Integrated Gradients of the logit from black, of the inputs' shape (N, ...)."""
    black = torch.zeros_like(inputs)
    return path_attribution(logit, black, inputs, quadrature, create_graph=graph, rows=rows)


def _kl(clean: Tensor, moved: Tensor) -> Tensor:
    """KL(p, p') of the predictions by two logits (N, K), in nats, (N,)."""
    wide = clean.dtype if clean.dtype == torch.float64 else torch.float32
    log_p, log_q = (torch.log_softmax(logits.to(wide), 1) for logits in (clean, moved))
    divergence: Tensor = (log_p.exp() * (log_p - log_q)).sum(1)
    return divergence


def _distance(change: ChangePenalty, clean: Tensor, moved: Tensor) -> Tensor:
    """The distance of two maps (N, ...), (N,); see `ChangePenalty`."""
    if change.distance == "thickness":
        return _thickness(_shares(clean), _shares(moved), change.topk)
    return 1 - _similarity(clean, moved, centred=change.distance == "pearson")


def _similarity(clean: Tensor, moved: Tensor, *, centred: bool) -> Tensor:
    """Cosine similarity of two maps (N, ...), after their means are taken off if `centred`; (N,)."""
    pair = []
    for one in (clean, moved):
        flat = one.flatten(1)
        # Squares of gradients of 1e-25 would be 0. A power of two is exact, and a constant of the step.
        flat = flat / power_of_two(flat.detach())
        pair.append(flat - flat.mean(1, keepdim=True) if centred else flat)
    first, second = pair
    squares = first.square().sum(1), second.square().sum(1)
    # What is left of a constant map is rounding, which has no direction.
    floor = first.shape[1] * (8 * torch.finfo(first.dtype).eps) ** 2
    defined = (squares[0] > floor) & (squares[1] > floor)
    # The divisor is replaced before the root: its slope at 0 would put NaN into the gradient.
    length = torch.where(defined, squares[0] * squares[1], 1.0).sqrt()
    cosine: Tensor = torch.where(defined, (first * second).sum(1) / length, 1.0)
    return cosine


def _shares(maps: Tensor) -> Tensor:
    """The share of each pixel of images (N, C, ...) in the sum of absolute values, (N, pixels)."""
    pixels = maps.abs().sum(1).flatten(1) if maps.ndim > 2 else maps.abs()
    pixels = pixels / power_of_two(pixels.detach())
    total = pixels.sum(1, keepdim=True)
    return pixels / torch.where(total == 0, 1.0, total)


def _thickness(clean: Tensor, moved: Tensor, topk: int) -> Tensor:
    """Change of the shares (N, pixels) less the gap below the topk of the clean ones, (N,)."""
    k = max(1, min(topk, clean.shape[1] // 2))
    first = clean.topk(min(2 * k, clean.shape[1]), dim=1).values
    gap = first[:, :k].sum(1) - first[:, k:].sum(1)
    defined = (clean.detach().sum(1) > 0) & (moved.detach().sum(1) > 0)
    return torch.where(defined, (moved - clean).abs().sum(1) - gap, 0.0)


def build_objective(
    name: str,
    robust: RobustSettings | None,
    *,
    progress: float = 1.0,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    trust_code: bool = False,
) -> Objective:
    """The objective of that name at a point of the training (progress from 0 to 1), for inputs in `bounds`.

    Before `robust.beta_from` ig-sum-norm has no L1 term, and up to `robust.radius_warm_up` the ball, and the
    inner step with it, is smaller in proportion; nothing else depends on the progress.
    """
    entry = OBJECTIVES.get(name, trust_code=trust_code)
    if entry.build is not None:
        objective: Objective = load_factory(entry.build)(robust, progress, bounds)
        return objective
    if entry.penalty is None:
        return Natural()
    if robust is None:
        raise argument_error("robust", robust, f"the settings of the objective {name}")
    penalty = entry.penalty(robust, progress)
    # What follows is the one form of all of them: a penalty, a ball, and an ascent in it.
    if isinstance(penalty, AttributionPenalty) and entry.at_the_image:
        return _at_the_image(penalty, robust)
    # The step shrinks with the ball, or it would leave a small ball at once.
    grown = min(1.0, progress / robust.radius_warm_up) if robust.radius_warm_up else 1.0
    rule = robust.rule or "midpoint"
    assert robust.inner_steps is not None and robust.inner_step_size is not None  # noqa: PT018 - for mypy
    inner = Inner(
        robust.inner_steps,
        grown * robust.inner_step_size,
        robust.inner_start or "random",
        robust.inner_score or "size",
        Quadrature(rule, robust.inner_nodes or 1),
    )
    grown_ball = ball(robust.norm, grown * robust.ball_radius, bounds)
    outer = Quadrature(rule, robust.nodes or 1)
    if isinstance(penalty, ChangePenalty):
        return RobustChange(penalty, grown_ball, robust.weight, outer, inner)
    return RobustAttribution(penalty, grown_ball, robust.weight, outer, inner)


def _at_the_image(penalty: AttributionPenalty, robust: RobustSettings) -> RobustAttribution:
    """l(x) + weight * ||grad l(x)||_q^q, for a penalty of power q: the case of one node, which lies at x.

    There max ||d * grad l||_1 over the ball is radius * ||grad l||_q, attained at d = radius * (the dual
    direction of the gradient), where the start already lies. No image is shown there: the ball has no bounds.
    """
    if not robust.ball_radius > 0:
        raise argument_error("radius", robust.ball_radius, "a positive number")
    node = Quadrature("left", 1)
    return RobustAttribution(
        penalty,
        ball(robust.norm, robust.ball_radius, None),
        # The radius cancels, so that the weight is lambda' itself.
        weight=robust.weight / robust.ball_radius**penalty.power,
        quadrature=node,
        inner=Inner(steps=0, start="gradient", quadrature=node),
    )


class WarmStarts:
    """What is kept for the next epoch: x' - x of every training image, as bytes.

    offsets: int8 (N, C, H, W), in steps of 1/127 of the image's greatest absolute offset. scales: that
    greatest offset, float32 (N,), -1 for an image that was not met yet; it starts at random, as does one
    whose ascent never left x. Both are in the checkpoint, so a run that goes on sees the same numbers.
    """

    def __init__(self, count: int, shape: Sequence[int]) -> None:
        self.offsets = torch.zeros(count, *shape, dtype=torch.int8)
        self.scales = torch.full((count,), _UNSEEN)
        self._pending: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, objective: Objective, settings: Settings, shape: Sequence[int]) -> WarmStarts | None:
        """Those of a training whose inner ascent starts warm; a UsageError where images change in between."""
        if not isinstance(objective, RobustObjective) or objective.inner.start != "warm":
            return None
        for name in ("augment", "balance"):
            if getattr(settings, name) != "none":
                raise UsageError(
                    f"inner_start=warm keeps where the ascent ended for each image until the next epoch, and "
                    f"{name}={getattr(settings, name)} changes the images or how often they come. Give "
                    f"{name}=none, or another inner_start."
                )
        return cls(settings.train_examples, shape)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of them, by name; references."""
        return {"offsets": self.offsets, "scales": self.scales}

    def value(
        self,
        objective: Objective,
        model: nn.Module,
        inputs: Tensor,
        target: Tensor,
        generator: Noise,
        images: Tensor,
    ) -> ObjectiveValue:
        """The objective, its ascent started where that of these images (positions, (n,)) ended last time."""
        assert isinstance(objective, RobustObjective)
        start = self.start(inputs, objective.ball, generator, images)
        perturbed = objective.maximise(model, inputs, target, generator, start)
        # Kept by `keep`, when the step is known to be sound.
        self._pending = _packed(perturbed - inputs)
        return objective.at(model, inputs, target, perturbed)

    def start(self, inputs: Tensor, ball: Ball, generator: Noise, images: Tensor) -> Tensor | None:
        """The kept x' of these images, random for those without one; None where that is all of them."""
        scales = self.scales[images].to(inputs)
        # Where the ascent ended at x itself, as in a ball that is still a point, it would never leave it.
        met = scales > 0
        if not bool(met.any()):
            return None
        form = (-1, *[1] * (inputs.ndim - 1))
        kept = inputs + self.offsets[images].to(inputs) * (scales / _LEVELS).reshape(form)
        if bool(met.all()):
            return kept
        return torch.where(met.reshape(form), kept, ball.random_start(inputs, generator))

    def keep(self, images: Tensor, share: Share) -> None:
        """Keep where the last `value` ended, and the other processes for their rows of the batch."""
        assert self._pending is not None
        for kept, new in zip((self.offsets, self.scales), self._pending, strict=True):
            whole = torch.zeros(len(images), *new.shape[1:], dtype=new.dtype)
            whole[share.rows] = new
            # Every row is one process's, and is added to zeros.
            kept[images] = share.group.all_reduce(whole)
        self._pending = None


def _packed(offset: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (n, ...) as int8 of the same shape, and the scale of each, float32 (n,)."""
    exact = offset.detach().float()
    scale = exact.flatten(1).abs().amax(1)
    # Where nothing moved the offsets are zero, whatever they are divided by.
    unit = torch.where(scale > 0, scale, 1.0).reshape(-1, *[1] * (offset.ndim - 1))
    return (exact / unit * _LEVELS).round().to(torch.int8).cpu(), scale.cpu()
