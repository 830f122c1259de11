"""How robust one model's predictions and explanations are on one data set: NA, AA, IN, CO and more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from veridical.attacks.ascent import pgd
from veridical.attacks.attribution import ROWS, AttackResult, Method, attack, batch_size
from veridical.attacks.ball import Ball, ball
from veridical.attacks.directions import Direction, TopK
from veridical.attacks.protocols import Protocol
from veridical.attacks.protocols import protocol as protocol_by_name
from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.method import predict_classes
from veridical.attribution.methods import IntegratedGradients
from veridical.data.dataset import Split
from veridical.metrics.intervals import Interval, mean_interval, proportion_interval
from veridical.metrics.maps import saliency
from veridical.metrics.registry import compare_maps, measures
from veridical.runtime.checking import (
    Count,
    Length,
    Limit,
    Pictures,
    Pixel,
    Seed,
    Steps,
    StepSize,
    checked,
    record,
)
from veridical.runtime.errors import argument_error
from veridical.runtime.files import Arrays

# Measures that an attack may minimise one by one, so that it hands over its own numbers.
_MINIMISED = ("topk_intersection", "kendall_tau", "spearman")
_PER_BATCH = ("gradients", "seconds", "rewrites")
# A map is called incomplete where its sum misses more than this share of the output's change.
_INCOMPLETE = 0.1
_ATTACKED = ("prediction", "explanation")


@record
class RadiusResult:
    """All at one radius: intervals by name, and one row per example in `arrays`.

    arrays: index, label, predicted, adversarial_prediction, found (bool), the attack's measures of the
    registry by name and relative_residual (float64, NaN for the wrongly classified), trace (N, T) float32;
    image, perturbed, saliency, perturbed_saliency (float32) of the first P examples, those to be pictured.
    """

    radius: float
    metrics: dict[str, Interval]
    arrays: Arrays


@record
class RobustnessResult:
    """What attacks on a model's predictions and explanations left standing.

    main: at the main radius. natural_accuracy and adversarial_accuracy are over all examples asked for;
    the registry's measures of an attack, not_found and incomplete over the correctly classified ones. curve:
    at all radii, ascending, the main one among them.
    natural_accuracy_of_all: over the whole split, where the examples asked for are only its first ones.
    gradient_evaluations: per example, of the attack on the prediction and of that on the explanation, at the
    main radius. rewrites: calls that the smooth twin rewrote in one forward pass; 0 for a smooth network.
    seconds: spent in each of the two, over all radii, summed over processes and earlier sessions. notes: what
    a reader should know, a sentence or two each.
    """

    main: RadiusResult
    curve: tuple[RadiusResult, ...]
    natural_accuracy_of_all: Interval
    gradient_evaluations: dict[str, int]
    rewrites: int
    seconds: dict[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a result.json; arrays and times are not among them."""
        predicted, label = (self.main.arrays[name] for name in ("predicted", "label"))
        plain: dict[str, Any] = {
            **self.main.metrics,
            "examples": len(label),
            "correctly_classified": int((predicted == label).sum()),
            "radius": self.main.radius,
            "natural_accuracy_of_all": self.natural_accuracy_of_all,
            "gradient_evaluations": self.gradient_evaluations,
            "twin_rewrites": self.rewrites,
            "notes": list(self.notes),
        }
        if len(self.curve) > 1:
            plain["curve"] = [{"radius": point.radius, **point.metrics} for point in self.curve]
        return plain


@checked("split", "attribution", "attack", "protocol", "examine")
def measure_robustness(
    model: nn.Module,
    split: Split,
    *,
    radius: Length,
    curve: Sequence[Length] = (),
    norm: Literal["linf", "l2"] = "linf",
    bounds: tuple[Pixel, Pixel] | None = (0.0, 1.0),
    protocol: str | Protocol = "paper-fast",
    k: Count | None = None,
    steps: Count | None = None,
    step_size: StepSize | None = None,
    attribution: Method | None = None,
    attack: Direction | None = None,
    pgd_steps: Annotated[int, Limit(1, 10**5)] = 20,
    pgd_step_size: StepSize | None = None,
    window: Steps = 1,
    examples: Count | None = None,
    pictures: Pictures = 0,
    seed: Seed = 0,
    rows: Count | None = None,
    progress: Callable[[int, int], Any] | None = None,
    examine: Callable[[Sequence[tuple[Examination, range]]], Sequence[dict[str, Any]]] | None = None,
) -> RobustnessResult:
    """Attack the predictions and the explanations of the first `examples` images and measure what holds.

    model: inputs (N, C, H, W) in [0, 1] to logits; computed on its own device and in its own dtype.
    split: test images and labels.
    radius, curve: the main radius and further ones, in input units. Step sizes are those of the main radius,
        and in proportion at the others.
    norm, bounds: the ball, and the valid range of pixels.
    protocol, k, steps, step_size: the attack on explanations, by name ("paper", "paper-fast", "strong") or a
        Protocol, with fields of it replaced where given. step_size=None is a tenth of the radius for a name.
    attribution, attack: the explanation of the label's logit, Integrated Gradients from black by default
        (with the protocol's nodes), and where it is pushed: TopK(k) by default.
    pgd_steps, pgd_step_size: the attack on predictions (one random start, the last iterate); None is
        2.5 radius / pgd_steps.
    window: shift in pixels that windowed_topk_intersection forgives.
    examples, pictures: how many of the first images are attacked (None: all), and kept with their maps.
    seed: example i draws its noise from streams keyed by (seed, purpose, i): batches do not change a result.
    rows: bound on examples times nodes at once; None takes 160 for 28x28 grey images, less for larger ones.
    progress: called with the examples done and in total, over all radii.
    examine: who examines the batches, in place of this process: (examination, numbers of examples) of each
        to its arrays, in the same order. See `Examination.examine`.

    Source: Chen et al. (2019), section 5; the settings per data set are in `veridical.attacks.protocols`.
    """
    if not isinstance(split, Split):
        raise argument_error("split", split, "a split of a data set, such as load(NAME).test")
    count = len(split) if examples is None else min(examples, len(split))
    if count < 1:
        raise argument_error("examples", examples, f"a number from 1 to {len(split)}, the images there are")
    is_default = step_size is None and isinstance(protocol, str)
    step_length = (radius / 10 or 1.0) if is_default else step_size
    plan = protocol_by_name(protocol, k=k, steps=steps, step_size=step_length)
    direction = TopK(plan.compared) if attack is None else attack
    plan = plan.towards(direction)
    method = IntegratedGradients() if attribution is None else attribution

    def examination_at(r: float) -> Examination:
        if radius > 0:
            share = r / radius if r > 0 else 1.0
            length = share * plan.step_size
            pgd_length = share * (2.5 * radius / pgd_steps if pgd_step_size is None else pgd_step_size)
        else:
            # Nothing is in proportion to no radius: those beside it have the steps that they have alone.
            length = r / 10 if r > 0 and is_default else plan.step_size
            pgd_length = 2.5 * (r or 1.0) / pgd_steps if pgd_step_size is None else pgd_step_size
        return Examination(
            attribution=method,
            attack=direction,
            protocol=replace(plan, step_size=length),
            ball=ball(norm, r, bounds),
            pgd_steps=pgd_steps,
            pgd_step_size=pgd_length,
            window=window,
            seed=seed,
            pictures=pictures if r == radius else 0,
        )

    length = batch_length(split, method, plan, rows)
    batches = [range(first, min(first + length, count)) for first in range(0, count, length)]
    examinations = {r: examination_at(r) for r in sorted({radius, *curve})}
    work = [(examination, batch) for examination in examinations.values() for batch in batches]
    arrays = _examine_here(model, split, work, progress) if examine is None else examine(work)
    by_radius = {r: arrays[i * len(batches) : (i + 1) * len(batches)] for i, r in enumerate(examinations)}
    return _result(model, split, radius, by_radius, plan)


def batch_length(split: Split, attribution: Method, protocol: Protocol, rows: int | None = None) -> int:
    """How many examples are examined at a time."""
    if rows is None:
        rows = max(1, ROWS * 784 // max(784, split.images[0].numel()))
    return batch_size(attribution, protocol, rows)


def _ignores_scale(model: nn.Module, split: Split, count: int = 8) -> bool:
    """Whether f(x / 2) = f(x) for the first images, to a thousandth of the logits' spread."""
    like = parameter_like(model)
    inputs, _ = split.batch(range(min(count, len(split))), like.dtype, like.device)
    whole, half = predict(model, inputs).double(), predict(model, inputs / 2).double()
    return bool(((whole - half).abs().amax(1) <= 1e-3 * whole.std(1)).all())


@dataclass(frozen=True)
class Examination:
    """What is done to each example at one radius: the attack on its prediction, then on its explanation."""

    attribution: Method
    attack: Direction
    protocol: Protocol
    ball: Ball
    pgd_steps: int
    pgd_step_size: float
    window: int
    seed: int
    pictures: int

    def examine(self, model: nn.Module, split: Split, batch: range) -> Arrays:
        """Measure the examples of these numbers; the arrays of a `RadiusResult`, and three of the batch.

        gradients (2,), seconds (2,): input gradients per example, and time, of the attack on predictions and
        of that on explanations. rewrites (1,): calls that the smooth twin rewrote.
        """
        like, indices = parameter_like(model), list(batch)
        inputs, target = split.batch(batch, like.dtype, like.device)
        rows = len(batch) * self.protocol.climb_nodes.nodes
        start = time.monotonic()
        predicted = predict(model, inputs).argmax(1)
        moved = pgd(
            model,
            inputs,
            target,
            self.ball,
            steps=self.pgd_steps,
            step_size=self.pgd_step_size,
            seed=self.seed,
            indices=indices,
        )
        adversarial = predict(model, moved).argmax(1)
        between = time.monotonic()
        correct = predicted == target
        # As in the paper: of a wrong class no explanation is attacked.
        attacked = correct.nonzero()[:, 0]
        result = attack(
            model,
            inputs[attacked],
            target[attacked],
            attribution=self.attribution,
            attack=self.attack,
            ball=self.ball,
            # In a ball of radius 0 nothing can move: one step shows it as well as a hundred.
            protocol=self.protocol if self.ball.radius else replace(self.protocol, steps=1),
            seed=self.seed,
            indices=[indices[place] for place in attacked.tolist()],
            rows=rows,
        )
        arrays = {
            "index": np.asarray(indices, dtype=np.int64),
            "label": target.cpu().numpy(),
            "predicted": predicted.cpu().numpy(),
            "adversarial_prediction": adversarial.cpu().numpy(),
            **_spread(self._numbers(model, inputs[attacked], target[attacked], result), correct),
            "gradients": np.asarray([self.pgd_steps, result.gradient_evaluations], dtype=np.int64),
            "rewrites": np.asarray([result.rewrites], dtype=np.int64),
        }
        perturbed = inputs.clone()
        perturbed[attacked] = result.inputs
        maps = {"saliency": result.clean_map, "perturbed_saliency": result.perturbed_map}
        spread = _spread({name: saliency(map_).float() for name, map_ in maps.items()}, correct)
        pictured = sum(index < self.pictures for index in indices)
        # Copies: a view of a few pictures would keep its whole batch in memory.
        for name, images in (("image", inputs), ("perturbed", perturbed)):
            arrays[name] = images[:pictured].float().cpu().numpy().copy()
        arrays |= {name: rows[:pictured].copy() for name, rows in spread.items()}
        # Last, so that the second time holds all that the explanation needs.
        arrays["seconds"] = np.asarray([between - start, time.monotonic() - between])
        return arrays

    def _numbers(
        self, model: nn.Module, inputs: Tensor, target: Tensor, result: AttackResult
    ) -> dict[str, Tensor]:
        """What is kept of each attacked example: (M,) or (M, T)."""
        clean, perturbed, k = result.clean_map, result.perturbed_map, self.protocol.compared
        return {
            "found": result.found,
            **{name: getattr(result, name) for name in _MINIMISED},
            **compare_maps(clean, perturbed, "attack", k=k, window=self.window, skip=_MINIMISED),
            "relative_residual": self._relative_residual(model, inputs, target, clean),
            "trace": result.trace.float(),
        }

    def _relative_residual(self, model: nn.Module, inputs: Tensor, target: Tensor, maps: Tensor) -> Tensor:
        """|sum of the map - change of the logit| / |change|, (M,) float64; NaN where no sum is promised."""
        method = self.attribution
        promised = isinstance(method, IntegratedGradients) and (
            method.layer is None and method.baseline is None and method.output == "logit"
        )
        if not promised or not len(inputs):
            return torch.full((len(inputs),), torch.nan, dtype=torch.float64)
        above, below = (
            predict(model, points).gather(1, target[:, None])[:, 0].double()
            for points in (inputs, torch.zeros_like(inputs))
        )
        # What the map from black has to add up to.
        change: Tensor = above - below
        return ((maps.flatten(1).double().sum(1) - change) / change).abs()


def _spread(numbers: dict[str, Tensor], correct: Tensor) -> Arrays:
    """From rows of the attacked examples to rows of all: NaN, or False, for those not attacked."""
    where = correct.cpu().numpy()
    spread: Arrays = {}
    for name, values in numbers.items():
        rows = values.detach().cpu().numpy()
        spread[name] = np.full(
            (len(where), *rows.shape[1:]), False if rows.dtype == bool else np.nan, rows.dtype
        )
        spread[name][where] = rows
    return spread


def _examine_here(
    model: nn.Module,
    split: Split,
    work: Sequence[tuple[Examination, range]],
    progress: Callable[[int, int], Any] | None,
) -> list[Arrays]:
    """Examine batch by batch in this process."""
    total, report = sum(len(batch) for _, batch in work), progress or (lambda _done, _total: None)
    report(0, total)
    arrays, done = [], 0
    for examination, batch in work:
        arrays.append(examination.examine(model, split, batch))
        done += len(batch)
        report(done, total)
    return arrays


def _result(
    model: nn.Module, split: Split, radius: float, collected: Mapping[float, Sequence[Arrays]], plan: Protocol
) -> RobustnessResult:
    """Join the batches of every radius and take means and intervals."""
    curve = []
    for r, batches in collected.items():
        names = [name for name in batches[0] if name not in _PER_BATCH]
        arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
        curve.append(RadiusResult(r, _summary(arrays), arrays))
    main = next(point for point in curve if point.radius == radius)
    gradients = np.stack([batch["gradients"] for batch in collected[radius]]).max(0).tolist()
    seconds = np.sum([batch["seconds"] for part in collected.values() for batch in part], axis=0).tolist()
    # To classify is cheap: the whole split, even where only its first examples are attacked.
    everything = main.metrics["natural_accuracy"]
    if len(main.arrays["index"]) < len(split):
        right = int((predict_classes(model, split) == split.labels).sum())
        everything = proportion_interval(right, len(split))
    return RobustnessResult(
        main=main,
        curve=tuple(curve),
        natural_accuracy_of_all=everything,
        gradient_evaluations=dict(zip(_ATTACKED, gradients, strict=True)),
        rewrites=max(int(batch["rewrites"][0]) for batch in collected[radius]),
        seconds=dict(zip(_ATTACKED, seconds, strict=True)),
        notes=tuple(_notes(model, split, main, plan)),
    )


def _summary(arrays: Arrays) -> dict[str, Interval]:
    """Intervals by name: accuracies over all examples, the others over the correctly classified ones.

    not_found: share of examples for which no iterate kept the label and changed the map's order; they count
    as unharmed. incomplete: share of clean maps that miss completeness by more than a tenth; absent where the
    explanation promises no sum.
    """
    label = arrays["label"]
    correct, held = arrays["predicted"] == label, arrays["adversarial_prediction"] == label
    intervals: dict[str, Interval] = {
        "natural_accuracy": proportion_interval(int(correct.sum()), len(label)),
        "adversarial_accuracy": proportion_interval(int(held.sum()), len(label)),
    }
    for name, measure in measures("attack").items():
        values = torch.from_numpy(arrays[name][correct])
        intervals[name] = mean_interval(values, undefined=measure.undefined, bounds=measure.bounds)
    missed = int((~arrays["found"][correct]).sum())
    intervals["not_found"] = proportion_interval(missed, int(correct.sum()))
    residual = arrays["relative_residual"][correct]
    # NaN where the explanation promises no sum.
    residual = residual[~np.isnan(residual)]
    if len(residual):
        intervals["incomplete"] = proportion_interval(int((residual > _INCOMPLETE).sum()), len(residual))
    return intervals


def _notes(model: nn.Module, split: Split, main: RadiusResult, plan: Protocol) -> list[str]:
    """What a reader should know about these numbers, computed from them."""
    notes = []
    nodes = (plan.final_nodes or plan.judge_nodes).nodes
    incomplete = (main.metrics["incomplete"]["value"] if "incomplete" in main.metrics else None) or 0.0
    if incomplete > 0.5:
        notes.append(
            f"With {nodes} nodes Integrated Gradients did not converge (converged = False) for "
            f"{incomplete:.0%} of the explanations: they miss over {_INCOMPLETE:.0%} of the change of the "
            "output that they should add up to."
        )
        if _ignores_scale(model, split):
            notes.append(
                "The network gives the same output for an image and for the same image at half the "
                "brightness, as networks that standardise each image inside do. On the path from black the "
                "output then changes only next to black, and the map of any Riemann sum is gradient x input "
                "times a constant: the measured intersection and tau are those of gradient x input."
            )
    if plan.minimise_each:
        notes.append(
            "Intersection, tau and Spearman are each the least over all iterates tried, so they may come "
            "from different iterates; all other measures of the maps are those of the least tau's."
        )
    missed = main.metrics["not_found"]["value"] or 0.0
    if missed > 0.01:
        notes.append(
            f"For {missed:.1%} of the explanations no iterate kept the predicted class and changed the order "
            "of pixels; as in the authors' evaluation they count as unharmed (intersection and tau 1)."
        )
    if main.metrics["not_found"]["n"] == 0:
        notes.append("No example was classified correctly, so no explanation was attacked.")
    return notes
