"""Objectives that compare the answers at x and x': distances by independent oracles, gradients, limits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from scipy.spatial.distance import cosine
from scipy.stats import entropy, pearsonr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from veridical.attacks.ascent import value_and_gradient
from veridical.attacks.ball import Linf, NoiseRows
from veridical.attribution.path import Quadrature
from veridical.runtime.errors import UsageError
from veridical.runtime.files import read_json
from veridical.runtime.options import TrainOptions
from veridical.training.objectives import Inner, Natural, RobustAttribution, RobustChange, build_objective
from veridical.training.penalties import AttributionPenalty, ChangePenalty
from veridical.training.recipes import RobustSettings, resolve
from veridical.training.run import Run

Batch = tuple[Tensor, Tensor]
TOP = 7
CHANGES = {
    "pearson": ChangePenalty("pearson"),
    "cosine": ChangePenalty("cosine", at_perturbed=True),
    "thickness": ChangePenalty("thickness", topk=TOP),
    "kl": ChangePenalty("kl"),
}
every_change = pytest.mark.parametrize("name", CHANGES)
of_maps = pytest.mark.parametrize("name", ["pearson", "cosine", "thickness"])


def objective_of(name: str, nodes: int = 3, **given: Any) -> RobustChange:
    quadrature = Quadrature("gauss-legendre", nodes)
    inner = Inner(steps=2, step_size=0.1, score="size", quadrature=quadrature)
    return RobustChange(CHANGES[name], Linf(0.3, None), 0.6, quadrature, inner, **given)


def moved_from(inputs: Tensor) -> Tensor:
    return inputs + 0.3 * torch.sin(77 * inputs)


def shares(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.abs(values) / np.abs(values).sum()
    return result


def thickness(clean: np.ndarray, moved: np.ndarray) -> float:
    first, then = shares(clean), shares(moved)
    order = np.argsort(-first)
    return float(np.abs(then - first).sum() - first[order[:TOP]].sum() + first[order[TOP : 2 * TOP]].sum())


ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "pearson": lambda a, b: 1 - float(pearsonr(a, b)[0]),
    "cosine": lambda a, b: float(cosine(a, b)),
    "thickness": thickness,
    "kl": lambda a, b: float(entropy(np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum())),
}


@every_change
def test_the_loss_is_that_of_maps_by_captum_and_distances_by_scipy(
    name: str, smooth: nn.Module, batch: Batch
) -> None:
    inputs, target = batch
    moved = moved_from(inputs)
    value = objective_of(name, nodes=4).at(smooth.train(), inputs, target, moved)
    if name == "kl":
        answers = [smooth(points).detach() for points in (inputs, moved)]
    else:
        explain = IntegratedGradients(smooth, multiply_by_inputs=True)
        answers = [
            explain.attribute(points, target=target, n_steps=4, method="gausslegendre").detach()
            for points in (inputs, moved)
        ]
    pairs = zip(*(one.flatten(1).numpy() for one in answers), strict=True)
    expected = torch.tensor([ORACLES[name](first, then) for first, then in pairs], dtype=torch.float64)
    torch.testing.assert_close(value.parts["distance"], expected, rtol=1e-9, atol=1e-12)
    loss = cross_entropy(smooth(moved if name == "cosine" else inputs), target, reduction="none")
    torch.testing.assert_close(value.loss, loss + 0.6 * expected, rtol=1e-9, atol=1e-12)


@every_change
def test_gradient_of_the_inner_score_in_the_perturbed_inputs(
    name: str, smooth: nn.Module, batch: Batch
) -> None:
    inputs, target = batch
    climbed, moved = objective_of(name).inner_score(smooth.eval(), inputs, target), moved_from(inputs)
    value, gradient = value_and_gradient(climbed, moved)
    expected_value = objective_of(name).at(smooth, inputs, target, moved).parts["distance"]
    torch.testing.assert_close(value, expected_value, rtol=1e-9, atol=1e-12)
    direction = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(6), dtype=inputs.dtype)
    difference = climbed(moved + 1e-5 * direction) - climbed(moved - 1e-5 * direction)
    expected = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(difference.detach() / 2e-5, expected, rtol=1e-6, atol=1e-8)


@every_change
def test_the_ascent_raises_the_distance_and_asks_for_no_gradient_of_the_weights(
    name: str, smooth: nn.Module, batch: Batch
) -> None:
    inputs, target = batch
    objective = objective_of(name)
    start = inputs + 0.05 * torch.sin(77 * inputs)
    moved = objective.maximise(smooth, inputs, target, None, start)
    before, after = (objective.at(smooth, inputs, target, one).parts["distance"] for one in (start, moved))
    assert bool((after > before).all())
    assert not moved.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in smooth.parameters())
    assert float((moved - inputs).abs().max()) <= 0.3 + 1e-12


@of_maps
def test_chunks_of_nodes_give_the_value_and_gradient_of_one_pass(
    name: str, smooth: nn.Module, batch: Batch
) -> None:
    inputs, target = batch
    found = []
    for rows in (4096, 1, 10, 21):
        loss = objective_of(name, nodes=5, rows=rows).at(smooth, inputs, target, moved_from(inputs)).loss
        found.append([loss.detach(), *torch.autograd.grad(loss.sum(), list(smooth.parameters()))])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-13)


@every_change
def test_in_a_ball_that_is_a_point_what_is_left_is_the_loss_and_the_gap(
    name: str, smooth: nn.Module, batch: Batch
) -> None:
    inputs, target = batch
    objective = replace(objective_of(name), ball=Linf(0.0))
    loss = objective(smooth, inputs, target, torch.Generator().manual_seed(0)).loss
    expected = Natural()(smooth, inputs, target).loss
    if name == "thickness":
        gap = objective.at(smooth, inputs, target, inputs).parts["distance"]
        assert bool((gap < 0).all())
        torch.testing.assert_close(loss, expected + 0.6 * gap, rtol=1e-12, atol=0)
        return
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    ours, natural = (torch.autograd.grad(one.sum(), list(smooth.parameters())) for one in (loss, expected))
    torch.testing.assert_close(ours, natural, rtol=1e-10, atol=1e-10)


def test_without_weight_the_adversarial_variant_is_adversarial_training(
    smooth: nn.Module, batch: Batch
) -> None:
    inner = Inner(steps=2, step_size=0.1, score="loss")
    ours = RobustChange(CHANGES["cosine"], Linf(0.3), 0.0, inner=inner)
    theirs = RobustAttribution(AttributionPenalty(sum_weight=1.0), Linf(0.3), 1.0, inner=inner)
    losses = [one(smooth, *batch, torch.Generator().manual_seed(3)).loss for one in (ours, theirs)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)


class Linear(nn.Module):
    """Logits scale * (w x), whose map is scale * w x: constant, zero or as small as one likes."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.ones(3, 36)), scale

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * inputs.flatten(1) @ self.weight.T


@of_maps
@pytest.mark.parametrize("scale", [1.0, 0.0, 1e-30])
@pytest.mark.parametrize("clean", ["black", "constant", "image"])
@pytest.mark.parametrize("moved", ["black", "constant", "image"])
def test_undefined_distances_are_zero_and_small_maps_are_not_undefined(
    name: str, scale: float, clean: str, moved: str
) -> None:
    image = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    points = {"black": torch.zeros_like(image), "constant": torch.full_like(image, 0.7), "image": image}
    model, target = Linear(scale), torch.tensor([0, 1, 2, 0])
    value = objective_of(name).at(model, points[clean], target, points[moved])
    (gradient,) = torch.autograd.grad(value.loss.sum(), model.weight)
    assert bool(gradient.isfinite().all())
    distance = value.parts["distance"]
    undefined = ("black", "constant") if name == "pearson" else ("black",)
    if scale == 0 or clean in undefined or moved in undefined:
        assert distance.tolist() == [0] * 4
        return
    pair = [points[one].flatten(1).double().numpy() for one in (clean, moved)]
    expected = torch.tensor([ORACLES[name](*both) for both in zip(*pair, strict=True)]).float()
    torch.testing.assert_close(distance, expected, rtol=1e-4, atol=1e-6)


def test_more_pixels_than_half_of_an_image_are_half_of_them(smooth: nn.Module, batch: Batch) -> None:
    inputs, target = batch
    values = [
        RobustChange(ChangePenalty("thickness", topk=k), Linf(0.3)).at(smooth, inputs, target, inputs).loss
        for k in (18, 5000)
    ]
    assert torch.equal(*values)


SHAPES = {
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "mnist-5k": (1, 28, 28),
    "gtsrb": (3, 32, 32),
    "flowers17": (3, 128, 128),
    "own": (3, 224, 224),
}


def robust_of(objective: str, data: str = "mnist", **given: Any) -> RobustSettings:
    sizes: dict[str, Any] = {"name": data, "shape": list(SHAPES[data]), "num_classes": 10, "options": {}}
    options = TrainOptions(out="unused", objective=objective, **given)
    settings = resolve(options, data={**sizes, "train": 9000, "checksum": ""}, model=sizes, train_size=9000)
    assert settings.robust is not None
    return settings.robust


@pytest.mark.parametrize("recipe", ["fast", "paper"])
@pytest.mark.parametrize("data", SHAPES)
def test_recipes_have_every_setting_for_every_data_set(data: str, recipe: str) -> None:
    top = {"flowers17": 1000, "own": 1000}.get(data, 100)
    for objective, distance in {"trades": None, "far": "pearson", "far-adversarial": "pearson"}.items():
        robust = robust_of(objective, data, recipe=recipe)
        assert (robust.distance, robust.topk, robust.inner_score) == (distance, None, "size")
        colour = objective == "trades" and SHAPES[data][0] == 3
        assert robust.weight == (6.0 if colour else 1.0)
        assert isinstance(build_objective(objective, robust), RobustChange)
    robust = robust_of("r2et", data, recipe=recipe)
    assert (robust.distance, robust.topk) == (None, top)
    assert (robust.inner_steps, robust.inner_start) == (0, "gradient")


@pytest.mark.parametrize(
    ("objective", "given"),
    [("adversarial", {"distance": "cosine"}), ("r2et", {"distance": "cosine"}), ("far", {"topk": 5}),
     ("trades", {"nodes": 3}), ("natural", {"topk": 5})],
)  # fmt: skip
def test_options_of_other_objectives_are_refused(objective: str, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(given))} has no effect on the objective {objective}"):
        robust_of(objective, **given)


def test_r2et_without_a_number_of_pixels_is_told_so() -> None:
    robust = RobustSettings(weight=1.0, radius=0.1, inner_steps=0, inner_step_size=0.1)
    with pytest.raises(UsageError, match="topk: expected a number of pixels, but got None"):
        build_objective("r2et", robust)


@pytest.mark.parametrize("start", ["random", "warm"])
@pytest.mark.parametrize("objective", ["trades", "far"])
def test_a_training_learns_and_records_what_it_compared(
    objective: str, start: str, trained: Callable[..., Run]
) -> None:
    run = trained("run", objective=objective, radius=0.05, inner_start=start, epochs=4.0, learning_rate=0.01)
    results = read_json(run.folder / "result.json")["results"]
    assert results["natural_accuracy"]["value"] > 0.8
    assert results["objective"].get("distance") == ("pearson" if objective == "far" else None)


@every_change
def test_rows_of_a_batch_are_those_of_the_whole(name: str, smooth: nn.Module, batch: Batch) -> None:
    inputs, target = batch
    whole = objective_of(name)(smooth, inputs, target, torch.Generator().manual_seed(5)).loss
    rows = slice(1, 3)
    noise = NoiseRows(torch.Generator().manual_seed(5), rows, 5)
    part = objective_of(name)(smooth, inputs[rows], target[rows], noise).loss
    torch.testing.assert_close(part, whole[rows], rtol=1e-10, atol=1e-12)
