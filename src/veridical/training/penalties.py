"""Penalties (the size `s` of Robust Attribution Regularization), and the registry of objectives made of them.

To add an objective, add an entry to `OBJECTIVES`. Free of torch: commands and recipes read the registry too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.options import DistanceName
from veridical.runtime.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from veridical.training.recipes import RobustSettings


@dataclass(frozen=True)
class AttributionPenalty:
    """sum_weight * sum(IG) + absolute_sum * |sum(IG)| + l1 * ||IG||_1 ** power, per example.

    sum(IG) is computed as the change of the loss, l(x') - l(x), which equals it (completeness) and needs no
    quadrature. IG-NORM is l1 = 1, adversarial training sum_weight = 1, IG-SUM-NORM sum_weight = 1 and
    l1 = beta. Source: Chen et al. (2019), section 3 and table of special cases.
    """

    sum_weight: float = 0.0
    absolute_sum: float = 0.0
    l1: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.power < 1:
            raise UsageError(f"power={self.power!r}; a size needs a power of at least 1 (q of 1/p + 1/q = 1)")
        if not (self.sum_weight or self.absolute_sum or self.l1):
            weights = "sum_weight, absolute_sum or l1"
            raise UsageError(f"a size with all weights 0 measures nothing; give {weights}")

    @property
    def needs_map(self) -> bool:
        """Whether the attribution itself is needed, not only the change of the loss."""
        return self.l1 != 0

    def __call__(self, attribution: Tensor | None, change: Tensor) -> Tensor:
        """The size, (N,); `attribution` (N, ...) may be None where `needs_map` is False; `change` (N,)."""
        size = self.sum_weight * change
        if self.absolute_sum:
            size = size + self.absolute_sum * change.abs()
        if self.needs_map:
            assert attribution is not None
            norm = attribution.flatten(1).abs().sum(1)
            size = size + self.l1 * (norm if self.power == 1 else norm**self.power)
        return size

    def derivatives(self, attribution: Tensor | None, change: Tensor) -> tuple[Tensor | None, Tensor]:
        """ds/dIG (N, ...) without the sums' share, and ds/dchange (N,), both constants."""
        # Both derivatives are constants of the step (Danskin): no gradient goes through them.
        slope = self.sum_weight + self.absolute_sum * change.detach().sign()
        if not self.needs_map:
            return None, slope
        assert attribution is not None
        fixed = attribution.detach()
        # d ||m||^q = q ||m||^(q-1) sign(m), for q = 1 the sign alone.
        direction = self.l1 * fixed.sign()
        if self.power != 1:
            norm = fixed.flatten(1).abs().sum(1)
            factor = self.power * norm ** (self.power - 1)
            direction = direction * factor.reshape(-1, *[1] * (fixed.ndim - 1))
        return direction, slope


@dataclass(frozen=True)
class ChangePenalty:
    """How far the answer at x' lies from the answer at x, per example, and where the loss is taken.

    distance: of maps, "pearson" (1 - correlation), "cosine" (1 - cosine similarity) or "thickness" (see
    below); of predictions, "kl" (Kullback-Leibler divergence from p(x) to p(x'), in nats). at_perturbed: the
    loss is l(x') in place of l(x). topk: pixels of "thickness", at most half of them.

    Maps are those that attacks are judged by: Integrated Gradients of the target's logit from black.
    "thickness" is change - gap, of each map's absolute values summed over channels and divided by their sum:
    gap is what the topk first pixels have at x more than the topk next ones, change the L1 distance of both
    maps. While change is below the difference of two pixels, their order is the same at x and x'.
    Where a map is zero, or constant for "pearson", a distance of maps is undefined; it is 0 then, without
    gradient.
    """

    distance: DistanceName | Literal["thickness", "kl"]
    at_perturbed: bool = False
    topk: int = 0

    @property
    def needs_map(self) -> bool:
        """Whether maps are compared, not predictions."""
        return self.distance != "kl"


@dataclass(frozen=True)
class ObjectiveEntry:
    """One objective by name: what it is made of, and what commands, recipes and docs have to know of it.

    penalty: (settings, progress of the training from 0 to 1) -> the penalty; None: there is none. options:
    fields of `ObjectiveOptions` that it takes, beside the norm; others are refused. needs_second_order:
    whether its gradient in the weights differentiates a gradient in the inputs. at_the_image: whether the
    attribution has one node, at the image itself, so that the inner maximum is known. cost: of a step, as a
    multiple of a natural one's, roughly: it orders the jobs of a study. build: in place of the penalty, for
    an objective of another kind: (settings, progress, bounds of the inputs) -> `Objective`, or
    "module:function"; the settings are None for an objective without options. title: for people.
    """

    name: str
    summary: str
    penalty: Callable[[RobustSettings, float], AttributionPenalty | ChangePenalty] | None = None
    options: tuple[str, ...] = ()
    needs_second_order: bool = False
    at_the_image: bool = False
    cost: float = 3.5
    build: str | Callable[..., Any] | None = None
    title: str = ""


def _ig_sum_norm(robust: RobustSettings, progress: float) -> AttributionPenalty:
    assert robust.beta is not None
    beta = robust.beta if progress >= (robust.beta_from or 0.0) else 0.0
    return AttributionPenalty(sum_weight=1.0, l1=beta)


def _map_distance(at_perturbed: bool) -> Callable[[RobustSettings, float], ChangePenalty]:
    return lambda robust, _: ChangePenalty(robust.distance or "pearson", at_perturbed)


def _thickness(robust: RobustSettings, progress: float) -> ChangePenalty:
    del progress
    if robust.topk is None:
        raise argument_error("topk", None, "a number of pixels", "r2et keeps so many in their places.")
    return ChangePenalty("thickness", topk=robust.topk)


_BALL = ("weight", "radius", "training_radius")
_ASCENT = ("radius_warm_up", "inner_steps", "inner_step_size", "inner_start")
_MAPS = ("inner_score", "inner_nodes", "nodes", "rule")

OBJECTIVES = Registry(
    "objective",
    "veridical.objectives",
    ObjectiveEntry,
    [
        ObjectiveEntry("natural", "l(x)", cost=1.0, title="Natural training"),
        ObjectiveEntry(
            "adversarial",
            "max l(x') (Madry et al. 2018): the size is the sum, with weight 1",
            lambda *_: AttributionPenalty(sum_weight=1.0),
            (*_BALL, *_ASCENT),
            title="Adversarial training",
        ),
        ObjectiveEntry(
            "input-gradient",
            "l(x) + weight' * (dual norm of the gradient)^q: the L1 norm to the power q, one node at x",
            # q of 1/p + 1/q = 1 for an l_p ball
            lambda robust, _: AttributionPenalty(l1=1.0, power={"linf": 1.0, "l2": 2.0}[robust.norm]),
            _BALL,
            needs_second_order=True,
            at_the_image=True,
            cost=3.0,
            title="Input-gradient regularisation",
        ),
        ObjectiveEntry(
            "ig-norm",
            "l(x) + weight * max of the L1 norm",
            lambda *_: AttributionPenalty(l1=1.0),
            (*_BALL, *_ASCENT, *_MAPS),
            needs_second_order=True,
            cost=6.0,
            title="IG-NORM",
        ),
        ObjectiveEntry(
            "ig-sum-norm",
            "max { l(x') + beta * L1 norm }: the size is the sum + beta * L1 norm, with weight 1",
            _ig_sum_norm,
            (*_BALL, "beta", "beta_from", *_ASCENT, *_MAPS),
            needs_second_order=True,
            cost=5.0,
            title="IG-SUM-NORM",
        ),
        ObjectiveEntry(
            "loss-change",
            "l(x) + weight * max of abs(l(x') - l(x)): the absolute sum",
            lambda *_: AttributionPenalty(absolute_sum=1.0),
            (*_BALL, *_ASCENT),
            title="Loss change",
        ),
        ObjectiveEntry(
            "trades",
            "l(x) + weight * max of KL(p(x), p(x')) (Zhang et al. 2019)",
            lambda *_: ChangePenalty("kl"),
            (*_BALL, *_ASCENT, "inner_score"),
            cost=4.0,
            title="TRADES",
        ),
        ObjectiveEntry(
            "far",
            "l(x) + weight * max of 1 - correlation of the maps at x and x', after Ivankay et al. 2021",
            _map_distance(at_perturbed=False),
            (*_BALL, "distance", *_ASCENT, *_MAPS),
            needs_second_order=True,
            cost=15.0,
            title="FAR",
        ),
        ObjectiveEntry(
            "far-adversarial",
            "l(x') + weight * max of 1 - correlation of the maps at x and x', after Ivankay et al. 2021",
            _map_distance(at_perturbed=True),
            (*_BALL, "distance", *_ASCENT, *_MAPS),
            needs_second_order=True,
            cost=15.0,
            title="FAR, adversarial",
        ),
        ObjectiveEntry(
            "r2et",
            "l(x) + weight * (change of the map from x to x' - gap below topk), after Chen et al. 2024",
            _thickness,
            (*_BALL, "topk", *_ASCENT, *_MAPS),
            needs_second_order=True,
            cost=12.0,
            title="R2ET",
        ),
    ],
    wrap=lambda name, function: ObjectiveEntry(name, "the caller's own", build=lambda *_: function),
    positional=("model", "inputs", "target", "generator"),
)


def supported_options(objective: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given options that an objective takes: a study trains several, and gives all the same."""
    options = OBJECTIVES.get(objective).options
    return {name: value for name, value in given.items() if name in options or (name == "norm" and options)}


def check_supported(objectives: Sequence[str], given: Mapping[str, Any]) -> None:
    """Raise a UsageError for an option that was given and that none of the objectives takes."""
    for name, value in given.items():
        if value is not None and not any(name in OBJECTIVES.get(one).options for one in objectives):
            raise UsageError(f"{name} has no effect on {', '.join(objectives)}. Leave {name} out.")


def objective_title(name: str) -> str:
    """A reader's name for an objective."""
    return (OBJECTIVES.get(name).title if name in OBJECTIVES else "") or name


def training_title(run: Mapping[str, Any]) -> str:
    """A reader's name for a training, from its settings as plain values: objective, and the ball if any."""
    title, robust = objective_title(run["objective"]), run.get("robust")
    return title if robust is None else f"{title} ({robust['norm']} {robust['radius']:.3g})"
