"""From numbers per example to what a result reports: means with intervals, and what a reader should know."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from veridical.attacks.protocols import Protocol
from veridical.attribution.classifier import parameter_like, predict
from veridical.auditing.examples import Arrays
from veridical.data.dataset import Split
from veridical.metrics.intervals import SHARE, Interval, mean_interval, proportion_interval
from veridical.runtime.record import record

INCOMPLETE = 0.1
"""A map is called incomplete where its sum misses more than this share of the output's change."""

MEANS = {
    "topk_intersection": SHARE,
    "kendall_tau": (-1.0, 1.0),
    "spearman": (-1.0, 1.0),
    "windowed_topk_intersection": SHARE,
}


@record
class RadiusResult:
    """All at one radius: intervals by name, and one row per example in `arrays` (see `auditing.examples`)."""

    radius: float
    metrics: dict[str, Interval]
    arrays: Arrays


@record
class RobustnessResult:
    """What attacks on a model's predictions and explanations left standing.

    Attributes
    ----------
    main
        The result at the main radius. natural_accuracy and adversarial_accuracy are over all examples asked
        for; topk_intersection, kendall_tau, spearman, windowed_topk_intersection, mass_centre_shift,
        not_found and incomplete are over the correctly classified ones.
    curve
        The results at all radii asked for, by ascending radius, the main one among them.
    natural_accuracy_of_all
        Over the whole split, where the examples asked for are only its first ones.
    gradient_evaluations
        Per example, of the attack on the prediction and of that on the explanation (at the main radius).
    rewrites
        Calls that the smooth twin rewrote in one forward pass; 0 for a smooth network.
    seconds
        Spent in each of the two, over all radii, summed over processes and earlier sessions.
    notes
        What a reader should know, a sentence or two each.
    """

    main: RadiusResult
    curve: tuple[RadiusResult, ...]
    natural_accuracy_of_all: Interval
    gradient_evaluations: dict[str, int]
    rewrites: int
    seconds: dict[str, float]
    notes: tuple[str, ...]

    @property
    def examples(self) -> int:
        """How many examples were asked for."""
        return len(self.main.arrays["index"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a result.json; arrays and times are not among them."""
        correct = self.main.arrays["predicted"] == self.main.arrays["label"]
        plain: dict[str, Any] = {
            **self.main.metrics,
            "examples": self.examples,
            "correctly_classified": int(correct.sum()),
            "radius": self.main.radius,
            "natural_accuracy_of_all": self.natural_accuracy_of_all,
            "gradient_evaluations": self.gradient_evaluations,
            "twin_rewrites": self.rewrites,
            "notes": list(self.notes),
        }
        if len(self.curve) > 1:
            plain["curve"] = [{"radius": point.radius, **point.metrics} for point in self.curve]
        return plain


def summary(arrays: Arrays) -> dict[str, Interval]:
    """Intervals by name: accuracies over all examples, the others over the correctly classified ones.

    not_found: share of examples for which no iterate kept the label and changed the map's order; they count
    as unharmed. incomplete: share of clean maps that miss completeness by more than `INCOMPLETE`; absent
    where the explanation promises no sum.
    """
    label = arrays["label"]
    correct, held = arrays["predicted"] == label, arrays["adversarial_prediction"] == label
    found: dict[str, Interval] = {
        "natural_accuracy": proportion_interval(int(correct.sum()), len(label)),
        "adversarial_accuracy": proportion_interval(int(held.sum()), len(label)),
    }
    for name, bounds in MEANS.items():
        found[name] = mean_interval(torch.from_numpy(arrays[name][correct]), bounds=bounds)
    # A map that is zero everywhere has no centre.
    shift = torch.from_numpy(arrays["mass_centre_shift"][correct])
    found["mass_centre_shift"] = mean_interval(shift, undefined="exclude", bounds=(0.0, math.inf))
    missed = int((~arrays["found"][correct]).sum())
    found["not_found"] = proportion_interval(missed, int(correct.sum()))
    residual = arrays["relative_residual"][correct]
    residual = residual[~np.isnan(residual)]
    if len(residual):
        found["incomplete"] = proportion_interval(int((residual > INCOMPLETE).sum()), len(residual))
    return found


def notes(model: nn.Module, split: Split, main: RadiusResult, plan: Protocol) -> list[str]:
    """What a reader should know about these numbers, computed from them."""
    found = []
    nodes = (plan.final_nodes or plan.judge_nodes).nodes
    incomplete = (main.metrics["incomplete"]["value"] if "incomplete" in main.metrics else None) or 0.0
    if incomplete > 0.5:
        found.append(
            f"With {nodes} nodes Integrated Gradients did not converge (converged = False) for "
            f"{incomplete:.0%} of the explanations: they miss over {INCOMPLETE:.0%} of the change of the "
            "output that they should add up to."
        )
        if ignores_scale(model, split):
            found.append(
                "The network gives the same output for an image and for the same image at half the "
                "brightness, as networks that standardise each image inside do. On the path from black the "
                "output then changes only next to black, and the map of any Riemann sum is gradient x input "
                "times a constant: the measured intersection and tau are those of gradient x input."
            )
    if plan.minimise_each:
        found.append(
            "Intersection, tau and Spearman are each the least over all iterates tried, so they may come "
            "from different iterates; the windowed intersection and the shift are those of the least tau's."
        )
    missed = main.metrics["not_found"]["value"] or 0.0
    if missed > 0.01:
        found.append(
            f"For {missed:.1%} of the explanations no iterate kept the predicted class and changed the order "
            "of pixels; as in the authors' evaluation they count as unharmed (intersection and tau 1)."
        )
    if main.metrics["not_found"]["n"] == 0:
        found.append("No example was classified correctly, so no explanation was attacked.")
    return found


def ignores_scale(model: nn.Module, split: Split, count: int = 8) -> bool:
    """Whether f(x / 2) = f(x) for the first images, to a thousandth of the logits' spread."""
    like = parameter_like(model)
    inputs, _ = split.batch(range(min(count, len(split))), like.dtype, like.device)
    whole, half = predict(model, inputs).double(), predict(model, inputs / 2).double()
    return bool(((whole - half).abs().amax(1) <= 1e-3 * whole.std(1)).all())
