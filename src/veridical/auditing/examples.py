"""One batch of test images under both attacks: what every single example gave, as arrays."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.attacks.attribution import AttackResult, Method, attack
from veridical.attacks.ball import Ball
from veridical.attacks.directions import Direction
from veridical.attacks.prediction import pgd
from veridical.attacks.protocols import Protocol
from veridical.attribution.classifier import predict
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.saliency import saliency
from veridical.metrics import mass_centre_shift, windowed_topk_intersection

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Examination:
    """What is done to each example at one radius: the attack on its prediction, then on its explanation.

    pgd_steps, pgd_step_size: the former's; one random start, last iterate (Chen et al. 2019). window: pixels
    of shift that the windowed intersection forgives. pictures: keep images and maps of examples with a lower
    index.
    """

    attribution: Method
    attack: Direction
    protocol: Protocol
    ball: Ball
    pgd_steps: int
    pgd_step_size: float
    window: int
    seed: int
    pictures: int


MEASURED = (
    "kendall_tau",
    "spearman",
    "topk_intersection",
    "windowed_topk_intersection",
    "mass_centre_shift",
    "relative_residual",
)
"""Numbers per correctly classified example; NaN for the others."""
FORMS = {
    **dict.fromkeys(("index", "label", "predicted", "adversarial_prediction"), "i N"),
    **dict.fromkeys(MEASURED, "f N"),
    **dict.fromkeys(("image", "perturbed"), "f P C H W"),
    **dict.fromkeys(("saliency", "perturbed_saliency"), "f P H W"),
    "found": "b N",
    "trace": "f N T",
    "gradients": "i S",
    "seconds": "f S",
    "rewrites": "i R",
}
"""What `examine` returns, as `read_arrays` checks it."""


def examine(
    model: nn.Module, inputs: Tensor, target: Tensor, indices: list[int], examination: Examination, rows: int
) -> Arrays:
    """Measure N examples; `indices` are their numbers in their split and the key of their noise.

    Returns arrays of N rows: index, label, predicted, adversarial_prediction, found (bool), the numbers of
    `MEASURED` (float64), trace (N, T) float32; and image, perturbed, saliency, perturbed_saliency (float32)
    for the first P examples, those to be pictured. seconds (2,): of the attack on predictions and of that on
    explanations. gradients (2,): their input gradients per example. rewrites: see AttackResult.
    """
    begun = time.monotonic()
    predicted = predict(model, inputs).argmax(1)
    moved = pgd(
        model,
        inputs,
        target,
        examination.ball,
        steps=examination.pgd_steps,
        step_size=examination.pgd_step_size,
        seed=examination.seed,
        indices=indices,
    )
    adversarial = predict(model, moved).argmax(1)
    between = time.monotonic()
    correct = predicted == target
    chosen = correct.nonzero()[:, 0]
    plan, ball = examination.protocol, examination.ball
    if ball.radius == 0:
        # Nothing can move: one step shows it as well as a hundred.
        plan = replace(plan, steps=1)
    result = attack(
        model,
        inputs[chosen],
        target[chosen],
        attribution=examination.attribution,
        attack=examination.attack,
        ball=ball,
        protocol=plan,
        seed=examination.seed,
        indices=[indices[place] for place in chosen.tolist()],
        rows=rows,
    )
    arrays = {
        "index": np.asarray(indices, dtype=np.int64),
        "label": target.cpu().numpy(),
        "predicted": predicted.cpu().numpy(),
        "adversarial_prediction": adversarial.cpu().numpy(),
        **_spread(_numbers(model, inputs[chosen], target[chosen], result, examination), correct),
        "gradients": np.asarray([examination.pgd_steps, result.gradient_evaluations], dtype=np.int64),
        "rewrites": np.asarray([result.rewrites], dtype=np.int64),
    }
    pictured = sum(index < examination.pictures for index in indices)
    arrays |= _pictures(inputs, chosen, result, pictured)
    arrays["seconds"] = np.asarray([between - begun, time.monotonic() - between])
    return arrays


def _numbers(
    model: nn.Module, inputs: Tensor, target: Tensor, result: AttackResult, examination: Examination
) -> dict[str, Tensor]:
    """What is kept of each attacked example: (M,) or (M, T), on the CPU."""
    clean, perturbed = saliency(result.clean_map), saliency(result.perturbed_map)
    return {
        "found": result.found,
        "kendall_tau": result.kendall_tau,
        "spearman": result.spearman,
        "topk_intersection": result.topk_intersection,
        "windowed_topk_intersection": windowed_topk_intersection(
            clean, perturbed, examination.protocol.compared, examination.window
        ),
        "mass_centre_shift": mass_centre_shift(clean, perturbed),
        "relative_residual": _relative_residual(model, inputs, target, result, examination.attribution),
        "trace": result.trace.float(),
    }


def _relative_residual(
    model: nn.Module, inputs: Tensor, target: Tensor, result: AttackResult, attribution: Method
) -> Tensor:
    """|sum of the clean map - change of the logit| / |change|, (M,) float64; NaN where no sum is promised."""
    promised = isinstance(attribution, IntegratedGradients) and (
        attribution.layer is None and attribution.baseline is None and attribution.output == "logit"
    )
    if not promised or not len(inputs):
        return torch.full((len(inputs),), torch.nan, dtype=torch.float64)
    above, below = (
        predict(model, points).gather(1, target[:, None])[:, 0].double()
        for points in (inputs, torch.zeros_like(inputs))
    )
    change: Tensor = above - below
    return ((result.clean_map.flatten(1).double().sum(1) - change) / change).abs()


def _spread(numbers: dict[str, Tensor], correct: Tensor) -> Arrays:
    """From rows of the attacked examples to rows of all: NaN, or False, for those not attacked."""
    where = correct.cpu().numpy()
    spread: Arrays = {}
    for name, values in numbers.items():
        rows = values.detach().cpu().numpy()
        empty = False if rows.dtype == bool else np.nan
        spread[name] = np.full((len(where), *rows.shape[1:]), empty, dtype=rows.dtype)
        spread[name][where] = rows
    return spread


def _pictures(inputs: Tensor, chosen: Tensor, result: AttackResult, count: int) -> Arrays:
    """Images and saliency maps of the first `count` examples; those not attacked have maps of NaN."""
    shape = (count, *inputs.shape[2:])
    pictures: Arrays = {
        # Copies: in float32 on the CPU these would be the inputs themselves, which are written over below.
        "image": inputs[:count].float().cpu().numpy().copy(),
        "perturbed": inputs[:count].float().cpu().numpy().copy(),
        "saliency": np.full(shape, np.nan, dtype=np.float32),
        "perturbed_saliency": np.full(shape, np.nan, dtype=np.float32),
    }
    places = chosen.cpu().numpy()
    shown = places < count
    for name, values in (
        ("perturbed", result.inputs),
        ("saliency", saliency(result.clean_map)),
        ("perturbed_saliency", saliency(result.perturbed_map)),
    ):
        pictures[name][places[shown]] = values.float().cpu().numpy()[shown]
    return pictures
