"""The one-layer theorem: a linear model trained by three objectives that should be one.

For l = g(-y <w, x>) in an l_inf ball of radius eps without bounds, IG-NORM and adversarial training both are
(1 - lambda) l(x) + lambda g(-y <w, x> + eps ||w||_1), a soft max-margin: Chen et al. (2019), theorem for one
layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from veridical.attacks.ball import Linf, Noise
from veridical.attribution.path import Quadrature
from veridical.data import load
from veridical.data.block_world import BlockWorld
from veridical.data.dataset import describe_source, load_source
from veridical.metrics.intervals import SHARE, mean_interval
from veridical.models.mean_field import LinearScore
from veridical.report import Curve, Illustration, Panel, Table, curves_figure
from veridical.runtime.checking import Count, Factor, Length, Limit, Size, StepSize
from veridical.runtime.errors import DataError, RunError, argument_error
from veridical.runtime.options import BlockWorldChoice, DataChoice
from veridical.runtime.seeds import stream
from veridical.studies.study import Case, Context, Study, StudyResult, Work, check_different
from veridical.training.objectives import Inner, Natural, Objective, ObjectiveValue, RobustAttribution
from veridical.training.penalties import AttributionPenalty

REFERENCE = "soft max-margin"
# What the theorem says is the same as the reference.
EQUAL = ("adversarial", "ig-norm")
# Relative distance below which trajectories count as the same in float64.
EQUAL_BELOW = 1e-6

_BATCH, _RECORDED = 50, 100
_LEAST_NODES, _MOST_NODES = 48, 4096
_SHOWN_ZERO = 1e-17  # stands for an exact 0 on a logarithmic axis
_OF_FIRST_SEED = ("examples", "nodes", "steps", "distances", "coordinates", "paths")

_COMPARED = (
    "All start from the same weights and are trained on the same batches, in float64. Soft max-margin: (1 - "
    "lambda) g(-y <w, x>) + lambda g(-y <w, x> + eps ||w||_1), g(z) = log(1 + exp z), the closed form. "
    "Adversarial and ig-norm are the objectives that `veridical train` minimises, in an l_inf ball without "
    "pixel bounds; the inner ascent starts at x + eps sign(grad l), and attributions use as many "
    "Gauss-Legendre nodes as make the integral exact (48 or more). For lambda other than 1, adversarial is "
    "l(x) + lambda max (l(x') - l(x))."
)
_BROKEN = (
    "Each other line breaks one condition: the attribution by one node, inner ascents from random starts, "
    "inputs kept to their range, or no perturbation at all (natural)."
)


@dataclass(frozen=True, kw_only=True)
class OneLayerOptions(DataChoice, BlockWorldChoice):
    """Train a linear model by three objectives that a theorem says are one.

    Args:
        data: Data set whose first two classes replace the blocks, by name or as a file or folder.
        noise: Length eta of the noise on every block.
        radius: Radii of the l_inf ball, each of which is trained.
        weight: Weights lambda of the attribution's size, each of which is trained.
        deviation: Standard deviation of the initial weights, above 0: the theorem needs the sign of each.
        steps: Steps of gradient descent.
        learning_rate: Learning rate of SGD with momentum.
        inner_steps: Steps of the inner ascent.
        train_examples: Training examples.
    """

    noise: Length = 0.3
    radius: list[StepSize] = field(default_factory=lambda: [0.1])
    weight: list[Factor] = field(default_factory=lambda: [1.0, 0.5])
    deviation: Annotated[float, Limit(0, 1e6, above=True)] = 0.5
    steps: Count = 400
    learning_rate: Annotated[float, Limit(0, 1e6, above=True)] = 0.1
    inner_steps: Size = 2
    train_examples: Count = 500


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


class OneLayer(Study[OneLayerOptions]):
    """Train a linear model by IG-NORM, adversarially and by a soft max-margin, which a theorem says are one.

    examples:
      veridical one-layer --out runs/one-layer
      veridical one-layer --data mnist-5k --weight 1 0.5 2 --out runs/digits

    The three start from the same weights and see the same batches; beside them each condition of the theorem
    is broken once. An interrupted study is continued by the same command. DIR/report.html shows what came
    out, DIR/result.json has the numbers.
    """

    name = "one-layer"
    title = "One layer: three trainings that are one"
    question = "is robust attribution adversarial training, for one layer?"
    Options = OneLayerOptions
    dtype = "float64"

    def prepare(self) -> None:
        """Load the images that replace the blocks, if any."""
        options = self.options
        check_different("radius", options.radius)
        check_different("weight", options.weight)
        self.seeds = range(options.seed, options.seed + options.seeds)
        self.images: dict[str, str] | None = None
        self.source: dict[str, str] = {}
        if options.data is None:
            self._world(0)  # refuses blocks that cannot be
            return
        defaults = {one.name: one.default for one in fields(options)}
        for name in ("blocks", "block_size", "noise"):
            given = getattr(options, name)
            if given != defaults[name]:
                raise argument_error(name, given, "nothing", f"{options.data} replaces the blocks.")
        images = load(options.data, options.data_root)
        self.images = {"name": images.name, "checksum": images.checksum}
        self.source = describe_source(options.data, options.data_root, images.options)

    def _world(self, seed: int) -> BlockWorld:
        options = self.options
        return BlockWorld(options.blocks, options.block_size, options.noise, seed=seed)

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        own = {"experiment": self.name, "noise": [self.options.noise], "data": self.images}
        return {**super().config(), **own, "seeds": list(self.seeds)}

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        return super().where() | self.source

    def cases(self) -> Iterable[Case]:
        """A training by all objectives for each radius, weight and seed."""
        options = self.options
        names = ("deviation", "steps", "learning_rate", "inner_steps", "train_examples")
        shared = {"data": self.images, "batch_size": _BATCH} | {
            name: getattr(options, name) for name in names
        }
        for radius, weight, seed in product(options.radius, options.weight, self.seeds):
            world = self._world(seed).describe() if self.images is None else None
            values = {"world": world, "radius": radius, "weight": weight, "seed": seed, **shared}
            group = f"radius {radius:g}, lambda {weight:g}"
            label, cost = f"{group}, seed {seed}", 0.03 * options.steps
            yield Case(values, group, seed, stage="training", label=label, cost=cost)

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Train by the three objectives, and with one condition of the theorem broken at a time.

        Returns `steps` (recorded ones); `distances`, for each other objective its |w - w_ref| / |w_ref| to
        the soft max-margin's weights at these steps; `greatest`, the same over all steps; `paths`, per
        objective of the theorem some of its weights at these steps, `coordinates` their numbers; `l1_norm`
        and `accuracy` (on the training examples) of the reference at the end; `nodes`, of the integral along
        the path.
        """
        inputs, target, bounds = draw_examples(values, context.where)
        start = LinearScore(inputs.shape[1], seed=values["seed"], deviation=values["deviation"])
        # The path's integral must be exact for the greatest weights, which the reference alone shows first.
        alone = {REFERENCE: SoftMaxMargin(values["radius"], values["weight"])}
        course = _train(start, alone, inputs, target, values)
        steepest = max(float(weights[REFERENCE].abs().sum()) for weights in course)
        exact = Quadrature("gauss-legendre", count_nodes(values["radius"] * steepest))
        objectives = _objectives(values, bounds, exact)
        recorded: list[int] = []
        reference = start.weight.detach()
        kept: dict[str, list[Tensor]] = {name: [] for name in (REFERENCE, *EQUAL)}
        distances: dict[str, list[float]] = {name: [] for name in objectives if name != REFERENCE}
        greatest = dict.fromkeys(distances, 0.0)
        every = max(1, values["steps"] // _RECORDED)
        for step, weights in enumerate(_train(start, objectives, inputs, target, values)):
            reference = weights[REFERENCE]
            now = {name: float((weights[name] - reference).norm() / reference.norm()) for name in distances}
            greatest = {name: max(greatest[name], now[name]) for name in distances}
            if step % every == 0 or step == values["steps"]:
                recorded.append(step)
                for name, weight in kept.items():
                    weight.append(weights[name])
                for name, line in distances.items():
                    line.append(now[name])
        # The greatest, the least and the weight next to zero.
        coordinates = [int(one) for one in (reference.argmax(), reference.argmin(), reference.abs().argmin())]
        right = (inputs @ reference > 0).long() == target
        return {
            "examples": len(target),
            "steps": recorded,
            "distances": distances,
            "greatest": greatest,
            "coordinates": coordinates,
            "paths": {name: torch.stack(weight)[:, coordinates].tolist() for name, weight in kept.items()},
            "l1_norm": float(reference.abs().sum()),
            "accuracy": float(right.double().mean()),
            "nodes": exact.nodes,
        }

    def results(self, work: Work) -> dict[str, Any]:
        """Per radius and weight how far the trajectories are apart, and the first seed's course.

        `greatest` has the interval over seeds of each objective's greatest distance to the soft max-margin,
        `greatest_of_seeds` the worst seed's.
        """
        runs: dict[tuple[float, float], list[Mapping[str, Any]]] = {}
        for case in self.all_cases:
            runs.setdefault((case.values["radius"], case.values["weight"]), []).append(work.plain(case))
        cases = []
        for (radius, weight), trained in runs.items():
            greatest = {name: [run["greatest"][name] for run in trained] for name in trained[0]["greatest"]}
            cases.append(
                {
                    "radius": radius,
                    "weight": weight,
                    "greatest": {name: mean_interval(values) for name, values in greatest.items()},
                    "greatest_of_seeds": {name: max(values) for name, values in greatest.items()},
                    "accuracy": mean_interval([run["accuracy"] for run in trained], bounds=SHARE),
                    "l1_norm": mean_interval([run["l1_norm"] for run in trained]),
                    **{name: trained[0][name] for name in _OF_FIRST_SEED},
                }
            )
        return {"cases": cases}

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """For every case and objective the greatest distance to the soft max-margin, over steps and seeds."""
        columns = ("trained by", "radius", "lambda", "greatest distance")
        rows = [
            [name, f"{case['radius']:g}", f"{case['weight']:g}", f"{distance:.2g}"]
            for case in result.results["cases"]
            for name, distance in case["greatest_of_seeds"].items()
        ]
        caption = "Over all steps and all seeds, relative to the weights' length."
        return {"Greatest distances": Table(columns, rows, caption)}

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """Whether the trajectories coincide in each case, and how they part under broken conditions."""
        sentences = []
        cases = result.results["cases"]
        for case in cases:
            greatest = max(case["greatest_of_seeds"][name] for name in EQUAL)
            verdict = "coincide" if greatest < EQUAL_BELOW else "do not coincide"
            seeds = case["accuracy"]["n"]
            sentences.append(
                f"Radius {case['radius']:g}, lambda {case['weight']:g}: the three weight trajectories "
                f"{verdict}. At no step of {seeds} {'seed' if seeds == 1 else 'seeds'} are they further "
                f"apart than {greatest:.1e} of the weights' length (the same means below {EQUAL_BELOW:g})."
            )
        distances = cases[0]["greatest_of_seeds"].items()
        others = "; ".join(f"{name}: {value:.2g}" for name, value in distances if name not in EQUAL)
        return [*sentences, f"With one condition of the theorem broken they part ({others})."]

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """The weights of the first case, its distances, all distances as a table, and what they mean."""
        case = result.results["cases"][0]
        words = f"radius {case['radius']:g}, lambda {case['weight']:g}, first seed"
        steps = case["steps"]
        curves = [
            Curve(
                "" if place else name,  # each name stands once
                steps,
                [weights[place] for weights in case["paths"][name]],
                dashed=name != REFERENCE,
                colour=colour,
            )
            for colour, name in enumerate((REFERENCE, *EQUAL))
            for place in range(len(case["coordinates"]))
        ]
        paths = Illustration(
            curves_figure(curves, x_label="step", y_label="weight"),
            f"The greatest, the least and the weight next to zero; {words}.",
            "Weights against the training step, for the three objectives.",
        )
        curves = [
            Curve(name, steps, [max(value, _SHOWN_ZERO) for value in values], dashed=name not in EQUAL)
            for name, values in case["distances"].items()
        ]
        level = (EQUAL_BELOW, "the same below this")
        distances = Illustration(
            curves_figure(curves, x_label="step", y_label="relative distance", log_y=True, level_line=level),
            f"Distance to the weights of the soft max-margin over their length; {words}. Exact zeros are "
            f"drawn at {_SHOWN_ZERO:g}.",
            "Relative distance of the weights against the training step, on a logarithmic axis.",
        )
        text = ["The curves of one weight lie on each other, so that only the last drawn is seen."]
        return [
            Panel("Three trajectories of the weights", text, [paths, distances]),
            *(Panel(title, table=table) for title, table in cls.tables(result).items()),
            Panel("What is compared", [_COMPARED, _BROKEN]),
        ]


def draw_examples(
    values: Mapping[str, Any], where: Mapping[str, str]
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Inputs float64 (N, size), target 0 or 1, and the values that a bounded ball would keep to.

    Blocks lie in [-1, 1]; images are the first of the classes 0 and 1 of the training split, in [0, 1].
    """
    count = values["train_examples"]
    if values["world"] is not None:
        drawn = BlockWorld(**values["world"]).examples(count)
        return drawn.inputs, drawn.target, (-1.0, 1.0)
    split = load_source(where, values["data"]["checksum"]).train
    chosen = torch.nonzero(split.labels < 2)[:count, 0]
    if len(split.labels[chosen].unique()) < 2:
        raise DataError(
            f"{where['data']}: its first {len(chosen)} images of two classes are all of one class."
        )
    inputs, target = split.batch(chosen, torch.float64)
    return inputs.flatten(1), target, (0.0, 1.0)


def count_nodes(change: float) -> int:
    """Gauss-Legendre nodes that integrate g' exactly to rounding, where its argument changes by so much.

    g' is the sigmoid, whose nearest poles are at +-i pi; on a path along which the argument changes by c they
    are 2 pi / c away in the rule's own scale, and the error falls as rho^(-2 nodes) with rho the sum of the
    half-axes of the ellipse through them (Trefethen, "Approximation theory and approximation practice", 2013,
    chapter 19). Raises RunError where that would take more than 4,096.
    """
    away = 2 * math.pi / max(change, 1e-12)
    rate = math.log(away + math.hypot(1, away))
    # Half as much again, since the trajectories of broken conditions are a little steeper.
    nodes = max(_LEAST_NODES, math.ceil(1.5 * math.log(1e16) / (2 * rate)))
    if nodes > _MOST_NODES:
        raise RunError(
            f"radius times ||w||_1 is {change:.4g}, and the path's integral would need {nodes:,} nodes, more "
            f"than {_MOST_NODES:,}. Ask for a smaller radius, deviation or learning rate."
        )
    return nodes


def _objectives(
    values: Mapping[str, Any], bounds: tuple[float, float], exact: Quadrature
) -> dict[str, Objective]:
    """The theorem's three objectives by name, those that break one of its conditions, and the natural."""
    radius, weight, steps = values["radius"], values["weight"], values["inner_steps"]
    free, bounded, length = Linf(radius, None), Linf(radius, bounds), radius / 4
    size, one_node = AttributionPenalty(l1=1.0), Quadrature("midpoint", 1)
    from_gradient = Inner(steps, length, "gradient", "size", exact)
    from_anywhere = Inner(steps, length, "random", "size", exact)
    by_loss = Inner(steps, length, "gradient", "loss")
    return {
        REFERENCE: SoftMaxMargin(radius, weight),
        "adversarial": RobustAttribution(AttributionPenalty(sum_weight=1.0), free, weight, inner=by_loss),
        "ig-norm": RobustAttribution(size, free, weight, exact, from_gradient),
        "ig-norm, one node": RobustAttribution(size, free, weight, one_node, from_gradient),
        "ig-norm, random start": RobustAttribution(size, free, weight, exact, from_anywhere),
        "ig-norm, bounded inputs": RobustAttribution(size, bounded, weight, exact, from_gradient),
        "natural": Natural(),
    }


def _train(
    start: LinearScore,
    objectives: Mapping[str, Objective],
    inputs: Tensor,
    target: Tensor,
    values: Mapping[str, Any],
) -> Iterator[dict[str, Tensor]]:
    """Train a copy of `start` by each objective on the same batches; yield weights before and after steps."""
    models = {name: deepcopy(start) for name in objectives}
    optimisers = {
        name: torch.optim.SGD(model.parameters(), lr=values["learning_rate"], momentum=0.9)
        for name, model in models.items()
    }
    size, seed = values["batch_size"], values["seed"]
    for step in range(values["steps"]):
        yield {name: model.weight.detach().clone() for name, model in models.items()}
        epoch, number = divmod(step, max(1, len(target) // size))
        order = torch.randperm(len(target), generator=stream(seed, "batches", epoch))
        batch = order[number * size : (number + 1) * size]
        for name, objective in objectives.items():
            # A stream for each: what one objective draws changes nothing for the next.
            noise = stream(seed, "inner", step)
            loss = objective(models[name], inputs[batch], target[batch], noise).loss.mean()
            if not bool(loss.isfinite()):
                raise RunError(f"the loss is {loss.item()} in step {step}. Ask for a smaller learning rate.")
            optimisers[name].zero_grad(set_to_none=True)
            loss.backward()
            optimisers[name].step()
    yield {name: model.weight.detach().clone() for name, model in models.items()}
