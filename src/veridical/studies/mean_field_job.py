"""One network of the block world as a job: trained by full-batch gradient descent, its gradients measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veridical.attacks.ball import ball
from veridical.attacks.prediction import pgd
from veridical.attribution.classifier import predict
from veridical.attribution.path import input_gradient
from veridical.data.block_world import BlockExamples, BlockWorld
from veridical.metrics.localisation import block_magnitudes, by_role
from veridical.models.mean_field import LinearScore, MeanFieldMLP
from veridical.runtime.errors import RunError
from veridical.runtime.seeds import stream
from veridical.training.objectives import Inner, Natural, Objective, RobustAttribution
from veridical.training.penalties import signed_sum

MEAN_FIELD_JOB = "veridical.studies.mean_field_job:run"

RECORDED = 40
"""Places of the history, beside the start."""
PGD_STEPS = 20

Network = LinearScore | MeanFieldMLP


def run(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train a linear or mean-field network on one block world and measure its input gradients.

    values: world (fields of `BlockWorld`), network {kind, width, deviation, bias}, objective {name, norm,
    radius, inner_steps}, steps, learning_rate (of a unit: it is multiplied by the width), train_examples
    (without noise the d examples of the support), test_examples, seed.

    Returns numbers of the test examples at the end: accuracy, robust_accuracy (at the radius, None if
    natural), margin (least y f), normalised_margin (over the mean squared length of the units), signal,
    other, noise (mean magnitudes of the gradient of f by role), their ratios other_ratio and noise_ratio to
    the first, evenness, agnostic (greatest change of the gradient from example to example over its greatest
    entry); `magnitudes`, (d/2, d) by carrying block, mean over y = +-1 without noise; and `history`.
    """
    del folder, where  # it takes seconds, and reads no files
    world, seed = world_of(values["world"]), values["seed"]
    network = network_of(values["network"], world.size, seed)
    train = world.examples(values["train_examples"]) if world.noise else world.points()
    test = world.examples(values["test_examples"], "test")
    dtype = next(network.parameters()).dtype
    inputs, objective = train.inputs.to(dtype), objective_of(values["objective"])
    width = network.width if isinstance(network, MeanFieldMLP) else 1
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=values["learning_rate"] * width)
    steps, history = values["steps"], []
    every = max(1, steps // RECORDED)
    for step in range(steps):
        if step % every == 0:
            history.append({"step": step, **measures(network, test, world)})
        loss = objective(network, inputs, train.target, stream(seed, "inner", step)).loss.mean()
        if not bool(loss.isfinite()):
            raise RunError(f"the loss is {loss.item()} in step {step}. Ask for a smaller learning rate.")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    found = measures(network, test, world)
    history.append({"step": steps, **found})
    return {
        **found,
        "examples": len(test),
        "robust_accuracy": _robust_accuracy(network, test, values["objective"], seed),
        "magnitudes": _by_carrier(network, world),
        "history": history,
    }


def world_of(record: Mapping[str, Any]) -> BlockWorld:
    """The world that `BlockWorld.describe` wrote down."""
    direction = record["direction"]
    return BlockWorld(**{**record, "direction": None if direction is None else tuple(direction)})


def network_of(record: Mapping[str, Any], size: int, seed: int) -> Network:
    """A fresh linear network (float64) or mean-field MLP (float32), as a job's values describe it."""
    if record["kind"] == "linear":
        return LinearScore(size, seed=seed, deviation=record["deviation"])
    width, bias = record["width"], record["bias"]
    return MeanFieldMLP(size, width, seed=seed, deviation=record["deviation"], bias=bias)


def objective_of(record: Mapping[str, Any]) -> Objective:
    """The natural loss, or adversarial training in a ball without pixel bounds."""
    if record["name"] == "natural":
        return Natural()
    radius, steps = record["radius"], record["inner_steps"]
    inner = Inner(steps=steps, step_size=2.5 * radius / steps, start="random", score="loss")
    return RobustAttribution(signed_sum(), ball(record["norm"], radius, None), inner=inner)


def measures(network: Network, examples: BlockExamples, world: BlockWorld) -> dict[str, float]:
    """Accuracy, margins and the gradient's magnitude by role, as `run` describes them."""
    inputs = examples.inputs.to(next(network.parameters()).dtype)
    with torch.no_grad():
        margins = examples.sign * network.score(inputs).double()
    gradient = input_gradient(network.score, inputs).double()
    roles = by_role(block_magnitudes(gradient, world.blocks), examples.block, world.relevant)
    signal, other, noise = (float(part.mean()) for part in (roles.signal, roles.other, roles.noise))
    least = float(margins.min())
    length = network.squared_length()
    # Both are 0 for the linear network before its first step.
    return {
        "accuracy": float((margins > 0).double().mean()),
        "margin": least,
        "normalised_margin": least / length if length else 0.0,
        "signal": signal,
        "other": other,
        "noise": noise,
        "other_ratio": _ratio(other, signal),
        "noise_ratio": _ratio(noise, signal),
        "evenness": float(roles.evenness.mean()),
        "agnostic": _ratio(float((gradient - gradient[0]).abs().max()), float(gradient.abs().max())),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _by_carrier(network: Network, world: BlockWorld) -> list[list[float]]:
    """Magnitude of the gradient on every block (columns) for every block that carries the label (rows)."""
    points = world.points()
    gradient = input_gradient(network.score, points.inputs.to(next(network.parameters()).dtype))
    magnitudes = block_magnitudes(gradient.double(), world.blocks)
    rows: Tensor = magnitudes.unflatten(0, (2, world.relevant)).mean(0)
    found: list[list[float]] = rows.tolist()
    return found


def _robust_accuracy(
    network: Network, test: BlockExamples, record: Mapping[str, Any], seed: int
) -> float | None:
    """Accuracy under projected gradient ascent in the ball of the training, None where there is none."""
    if record["name"] == "natural":
        return None
    inputs, threat = (
        test.inputs.to(next(network.parameters()).dtype),
        ball(record["norm"], record["radius"], None),
    )
    noise = stream(seed, "attack")
    moved = pgd(network, inputs, test.target, threat, steps=PGD_STEPS, generator=noise)
    return float((predict(network, moved).argmax(1) == test.target).double().mean())
