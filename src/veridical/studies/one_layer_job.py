"""The one-layer theorem as a job: a linear model trained by three objectives that should be one.

For l = g(-y <w, x>) in an l_inf ball of radius eps without bounds, IG-NORM and adversarial training both are
(1 - lambda) l(x) + lambda g(-y <w, x> + eps ||w||_1), a soft max-margin: Chen et al. (2019), theorem for one
layer. The three train side by side from one start on the same batches, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from veridical.attacks.ball import Linf, Noise
from veridical.attribution.quadrature import Quadrature
from veridical.faithfulness.sources import load_source
from veridical.models.mean_field import LinearScore
from veridical.runtime.errors import DataError, RunError
from veridical.runtime.seeds import stream
from veridical.studies.mean_field_job import world_of
from veridical.training.objectives import Inner, Natural, Objective, ObjectiveValue, RobustAttribution
from veridical.training.optimisation import make_optimiser
from veridical.training.penalties import l1_norm, signed_sum
from veridical.training.settings import OptimiserSettings

ONE_LAYER_JOB = "veridical.studies.one_layer_job:run"

REFERENCE = "soft max-margin"
EQUAL = ("adversarial", "ig-norm")
"""What the theorem says is the same as the reference."""
LEAST_NODES, MOST_NODES = 48, 4096
RECORDED = 100


@dataclass(frozen=True)
class SoftMaxMargin:
    """(1 - weight) g(-y <w, x>) + weight g(-y <w, x> + radius ||w||_1) of a LinearScore, g the softplus."""

    radius: float
    weight: float = 1.0

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
    ) -> ObjectiveValue:
        """The closed form per example (N,); nothing is random, so the generator is not used."""
        del generator
        assert isinstance(model, LinearScore)
        against = (1 - 2 * target.to(inputs.dtype)) * model.score(inputs)
        worst = against + self.radius * model.weight.abs().sum()
        return ObjectiveValue((1 - self.weight) * softplus(against) + self.weight * softplus(worst))


def run(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train by the three objectives, and with one condition of the theorem broken at a time.

    values: world (None for images), data {checksum} (None for blocks), radius, weight (lambda), deviation,
    steps, learning_rate, inner_steps, train_examples, batch_size, seed. where: the data, for images.

    Returns `steps` (recorded ones); `distances`, for each other objective its |w - w_ref| / |w_ref| to the
    soft max-margin's weights at these steps; `greatest`, the same over all steps; `paths`, per objective of
    the theorem some of its weights at these steps, `coordinates` their numbers; `l1_norm` and `accuracy` (on
    the training examples) of the reference at the end; `nodes`, of the integral along the path.
    """
    del folder
    inputs, target, bounds = examples_of(values, where)
    start = LinearScore(inputs.shape[1], seed=values["seed"], deviation=values["deviation"])
    steepest = values["radius"] * _greatest_l1_norm(start, inputs, target, values)
    exact = Quadrature("gauss-legendre", nodes_for(steepest))
    runners = {
        name: _Runner(start, objective, values)
        for name, objective in objectives_of(values, bounds, exact).items()
    }
    steps, kept = values["steps"], max(1, values["steps"] // RECORDED)
    recorded: list[int] = []
    weights: dict[str, list[Tensor]] = {name: [] for name in runners}
    greatest = dict.fromkeys((name for name in runners if name != REFERENCE), 0.0)
    for step in range(steps + 1):
        for name in greatest:
            greatest[name] = max(greatest[name], _distance(runners[name].weight, runners[REFERENCE].weight))
        if step % kept == 0 or step == steps:
            recorded.append(step)
            for name, runner in runners.items():
                weights[name].append(runner.weight)
        if step < steps:
            chosen = _batch(len(target), values, step)
            for runner in runners.values():
                runner.step(inputs[chosen], target[chosen], step)
    reference = weights[REFERENCE]
    coordinates = _telling(reference[-1])
    with torch.no_grad():
        right = (runners[REFERENCE].model.score(inputs) > 0).long() == target
    return {
        "examples": len(target),
        "steps": recorded,
        "distances": {
            name: [_distance(one, ref) for one, ref in zip(weights[name], reference, strict=True)]
            for name in greatest
        },
        "greatest": greatest,
        "coordinates": coordinates,
        "paths": {name: torch.stack(weights[name])[:, coordinates].tolist() for name in (REFERENCE, *EQUAL)},
        "l1_norm": float(reference[-1].abs().sum()),
        "accuracy": float(right.double().mean()),
        "nodes": exact.nodes,
    }


def _greatest_l1_norm(start: LinearScore, inputs: Tensor, target: Tensor, values: Mapping[str, Any]) -> float:
    """The greatest ||w||_1 on the reference's way, found by going it once alone."""
    runner = _Runner(start, SoftMaxMargin(values["radius"], values["weight"]), values)
    greatest = float(runner.weight.abs().sum())
    for step in range(values["steps"]):
        chosen = _batch(len(target), values, step)
        runner.step(inputs[chosen], target[chosen], step)
        greatest = max(greatest, float(runner.weight.abs().sum()))
    return greatest


def nodes_for(change: float) -> int:
    """Gauss-Legendre nodes that integrate g' exactly to rounding, where its argument changes by so much.

    g' is the sigmoid, whose nearest poles are at +-i pi; on a path along which the argument changes by c they
    are 2 pi / c away in the rule's own scale, and the error falls as rho^(-2 nodes) with rho the sum of the
    half-axes of the ellipse through them (Trefethen, "Approximation theory and approximation practice", 2013,
    chapter 19).
    Raises RunError where that is more than MOST_NODES.
    """
    away = 2 * math.pi / max(change, 1e-12)
    rate = math.log(away + math.hypot(1, away))
    # Half as much again, since the trajectories of broken conditions are a little steeper.
    nodes = max(LEAST_NODES, math.ceil(1.5 * math.log(1e16) / (2 * rate)))
    if nodes > MOST_NODES:
        raise RunError(
            f"radius times ||w||_1 is {change:.4g}, and the path's integral would need {nodes:,} nodes, more "
            f"than {MOST_NODES:,}. Ask for a smaller radius, deviation or learning rate."
        )
    return nodes


def examples_of(
    values: Mapping[str, Any], where: Mapping[str, str]
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Inputs float64 (N, size), target 0 or 1, and the values that a bounded ball would keep to.

    Blocks lie in [-1, 1]; images are the first of the classes 0 and 1 of the training split, in [0, 1].
    """
    count = values["train_examples"]
    if values["world"] is not None:
        drawn = world_of(values["world"]).examples(count)
        return drawn.inputs, drawn.target, (-1.0, 1.0)
    split = load_source(where, values["data"]["checksum"]).train
    chosen = torch.nonzero(split.labels < 2)[:count, 0]
    if len(split.labels[chosen].unique()) < 2:
        raise DataError(
            f"{where['data']}: its first {len(chosen)} images of two classes are all of one class."
        )
    inputs, target = split.batch(chosen, torch.float64)
    return inputs.flatten(1), target, (0.0, 1.0)


def objectives_of(
    values: Mapping[str, Any], bounds: tuple[float, float], exact: Quadrature
) -> dict[str, Objective]:
    """The theorem's three objectives by name, those that break one of its conditions, and the natural."""
    radius, weight, steps = values["radius"], values["weight"], values["inner_steps"]
    free, bounded, length = Linf(radius, None), Linf(radius, bounds), radius / 4

    size, one_node = l1_norm(), Quadrature("midpoint", 1)
    from_gradient = Inner(steps, length, "gradient", "size", exact)
    from_anywhere = Inner(steps, length, "random", "size", exact)
    return {
        REFERENCE: SoftMaxMargin(radius, weight),
        "adversarial": RobustAttribution(
            signed_sum(), free, weight, inner=Inner(steps, length, "gradient", "loss")
        ),
        "ig-norm": RobustAttribution(size, free, weight, exact, from_gradient),
        "ig-norm, one node": RobustAttribution(size, free, weight, one_node, from_gradient),
        "ig-norm, random start": RobustAttribution(size, free, weight, exact, from_anywhere),
        "ig-norm, bounded inputs": RobustAttribution(size, bounded, weight, exact, from_gradient),
        "natural": Natural(),
    }


class _Runner:
    """One objective's model, from the common start, and its optimiser (momentum 0.9)."""

    def __init__(self, start: LinearScore, objective: Objective, values: Mapping[str, Any]) -> None:
        self.model = deepcopy(start)
        self.objective, self.seed = objective, values["seed"]
        settings = OptimiserSettings(
            optimiser="sgd",
            schedule="constant",
            learning_rate=values["learning_rate"],
            weight_decay=0.0,
            batch_size=values["batch_size"],
            steps=values["steps"],
            averaging=0.0,
            warm_up=0.0,
            reduction="mean",
        )
        self.optimiser = make_optimiser(self.model, settings)

    @property
    def weight(self) -> Tensor:
        return self.model.weight.detach().clone()

    def step(self, inputs: Tensor, target: Tensor, step: int) -> None:
        loss = self.objective(self.model, inputs, target, stream(self.seed, "inner", step)).loss.mean()
        if not bool(loss.isfinite()):
            raise RunError(f"the loss is {loss.item()} in step {step}. Ask for a smaller learning rate.")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()


def _batch(count: int, values: Mapping[str, Any], step: int) -> Tensor:
    """Positions of a step's examples; every epoch has an order of its own."""
    size = values["batch_size"]
    epoch, number = divmod(step, max(1, count // size))
    order = torch.randperm(count, generator=stream(values["seed"], "batches", epoch))
    return order[number * size : (number + 1) * size]


def _distance(weight: Tensor, reference: Tensor) -> float:
    return float((weight - reference).norm() / reference.norm())


def _telling(weight: Tensor) -> list[int]:
    """The numbers of the greatest, the least and the weight next to 0."""
    return [int(weight.argmax()), int(weight.argmin()), int(weight.abs().argmin())]
