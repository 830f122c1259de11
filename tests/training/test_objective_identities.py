"""The theorems about Robust Attribution, in float64 and without pixel bounds."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from veridical.attacks.ball import L2, Linf
from veridical.attacks.prediction import pgd
from veridical.attribution.method import TargetScalar
from veridical.attribution.path import path_attribution
from veridical.attribution.quadrature import Quadrature
from veridical.training.objectives import Inner, RobustAttribution, build_objective
from veridical.training.penalties import absolute_sum, l1_norm, l1_power, signed_sum, sum_and_l1
from veridical.training.settings import RobustSettings

Batch = tuple[Tensor, Tensor]
EXACT = Quadrature("gauss-legendre", 48)
EPS = 0.3


class OneLayer(nn.Module):
    """Logits (0, <w, x>): the loss of class 1 (0) is log(1 + exp(-y <w, x>)) with y = 1 (-1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.w = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64) * 0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        score = inputs.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(score), score], 1)


def weight_gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss.sum(), list(model.parameters())))


def assert_same_gradients(model: nn.Module, one: Tensor, other: Tensor) -> None:
    for left, right in zip(weight_gradients(model, one), weight_gradients(model, other), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ball", [Linf(EPS, None), L2(EPS, None)])
def test_attribution_of_the_loss_sums_to_its_change(smooth: nn.Module, batch: Batch, ball: Linf | L2) -> None:
    inputs, target = batch
    loss = TargetScalar(smooth, target, "loss")
    moved = ball.random_start(inputs, torch.Generator().manual_seed(0))
    total = path_attribution(loss, inputs, moved, EXACT).flatten(1).sum(1)
    torch.testing.assert_close(total, (loss(moved) - loss(inputs)).detach(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_ig_sum_norm_with_weight_one_is_the_perturbed_loss_plus_beta_times_the_norm(
    smooth: nn.Module, batch: Batch, beta: float
) -> None:
    inputs, target = batch
    objective = RobustAttribution(sum_and_l1(beta), Linf(EPS, None), quadrature=EXACT)
    moved = inputs + EPS * torch.sin(100 * inputs).sign()
    value = objective.at(smooth, inputs, target, moved)
    loss = TargetScalar(smooth, target, "loss")
    attribution = path_attribution(loss, inputs, moved, EXACT)
    expected = loss(moved).detach() + beta * attribution.flatten(1).abs().sum(1)
    torch.testing.assert_close(value.loss.detach(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("score", ["size", "loss"])
def test_the_sum_with_weight_one_is_adversarial_training(smooth: nn.Module, batch: Batch, score: str) -> None:
    inputs, target = batch
    ball = Linf(EPS, None)
    inner = Inner(steps=4, step_size=0.1, start="random", score="size" if score == "size" else "loss")
    objective = RobustAttribution(signed_sum(), ball, inner=inner)
    value = objective(smooth, inputs, target, torch.Generator().manual_seed(7))
    moved = pgd(
        smooth, inputs, target, ball, steps=4, step_size=0.1, generator=torch.Generator().manual_seed(7)
    )
    madry = cross_entropy(smooth(moved), target, reduction="none")
    torch.testing.assert_close(value.loss, madry, rtol=1e-12, atol=0)
    assert_same_gradients(smooth, value.loss, madry)


def test_loss_change_is_the_absolute_difference(smooth: nn.Module, batch: Batch) -> None:
    inputs, target = batch
    objective = RobustAttribution(absolute_sum(), Linf(EPS, None), weight=0.6)
    # One example falls, others rise: both signs of the sum are met.
    moved = inputs + EPS * torch.cos(37 * inputs)
    clean = cross_entropy(smooth(inputs), target, reduction="none")
    change = cross_entropy(smooth(moved), target, reduction="none") - clean
    assert change.min() < 0 < change.max()
    value = objective.at(smooth, inputs, target, moved)
    torch.testing.assert_close(value.loss, clean + 0.6 * change.abs(), rtol=1e-12, atol=0)
    assert_same_gradients(smooth, value.loss, clean + 0.6 * change.abs())


def test_loss_change_climbs_its_own_size(smooth: nn.Module, batch: Batch) -> None:
    """|l(x') - l(x)|, whose slope turns where the loss falls below that of x, not l(x') itself."""
    inputs, target = batch
    objective = RobustAttribution(absolute_sum(), Linf(EPS, None))
    moved = (inputs + EPS * torch.cos(37 * inputs)).requires_grad_()
    clean = cross_entropy(smooth(inputs), target, reduction="none")
    change = cross_entropy(smooth(moved), target, reduction="none") - clean
    assert change.min() < 0 < change.max()
    score = objective.inner_score(smooth, inputs, target)(moved)
    torch.testing.assert_close(score, change.abs(), rtol=1e-12, atol=1e-14)
    expected = torch.autograd.grad(change.abs().sum(), moved, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(score.sum(), moved)[0], expected)


def one_layer_objectives(weight: float) -> dict[str, RobustAttribution]:
    ball = Linf(EPS, None)
    inners = {
        "start": Inner(steps=0, start="gradient"),
        "climb size": Inner(steps=3, step_size=0.1, start="gradient", score="size", quadrature=EXACT),
        "climb loss": Inner(steps=8, step_size=0.1, start="random", score="loss"),
    }
    found = {
        f"ig-norm, {name}": RobustAttribution(l1_norm(), ball, weight=weight, quadrature=EXACT, inner=inner)
        for name, inner in inners.items()
    }
    return found | {
        "adversarial": RobustAttribution(signed_sum(), ball, weight=weight, inner=inners["climb loss"])
    }


@pytest.mark.parametrize("weight", [1.0, 0.4, 2.5])
@pytest.mark.parametrize("name", list(one_layer_objectives(1.0)))
def test_closed_form_of_one_layer(batch: Batch, name: str, weight: float) -> None:
    inputs, target = batch[0], batch[1] % 2
    model = OneLayer(36)
    value = one_layer_objectives(weight)[name](model, inputs, target, torch.Generator().manual_seed(1))
    margin = (2 * target - 1) * (inputs.flatten(1) @ model.w)
    worst = softplus(-margin + EPS * model.w.abs().sum())
    closed = (1 - weight) * softplus(-margin) + weight * worst
    torch.testing.assert_close(value.loss, closed, rtol=1e-10, atol=1e-12)
    assert_same_gradients(model, value.loss, closed)


def test_ig_norm_bounds_the_adversarial_loss(smooth: nn.Module, batch: Batch) -> None:
    inputs, target = batch
    moved = inputs + EPS * torch.sin(50 * inputs).sign()
    norm = RobustAttribution(l1_norm(), Linf(EPS, None), quadrature=EXACT).at(smooth, inputs, target, moved)
    adversarial = RobustAttribution(signed_sum(), Linf(EPS, None)).at(smooth, inputs, target, moved)
    assert bool((norm.loss > adversarial.loss).all())


Penalty = Callable[[Tensor], Tensor]
PENALTIES: dict[str, Penalty] = {
    "linf": lambda gradient: gradient.flatten(1).abs().sum(1),
    "l2": lambda gradient: gradient.flatten(1).square().sum(1),
}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_input_gradient_regularisation_is_the_one_node_case(
    smooth: nn.Module, batch: Batch, norm: str
) -> None:
    inputs, target = batch
    robust = RobustSettings(weight=0.8, norm="l2" if norm == "l2" else "linf", radius=EPS)
    value = build_objective("input-gradient", robust)(smooth, inputs, target)
    point = inputs.clone().requires_grad_(True)
    loss = cross_entropy(smooth(point), target, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), point, create_graph=True)
    expected = loss + 0.8 * PENALTIES[norm](gradient)
    torch.testing.assert_close(value.loss, expected, rtol=1e-10, atol=1e-12)
    assert_same_gradients(smooth, value.loss, expected)


@pytest.mark.parametrize("ball", [Linf(3.0, None), L2(3.0, None), Linf(0.02, None), L2(0.02, None)])
def test_the_gradient_start_lies_at_the_radius(smooth: nn.Module, batch: Batch, ball: Linf | L2) -> None:
    inputs, target = batch
    objective = RobustAttribution(l1_norm(), ball, inner=Inner(steps=0, start="gradient"))
    start = objective.maximise(smooth, inputs, target, None)
    torch.testing.assert_close(ball.distance(start, inputs), torch.full((len(inputs),), ball.radius).double())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_one_node_maximum_is_where_the_start_lies(smooth: nn.Module, batch: Batch, norm: str) -> None:
    inputs, target = batch
    ball = L2(EPS, None) if norm == "l2" else Linf(EPS, None)
    q = 2.0 if norm == "l2" else 1.0
    objective = RobustAttribution(
        l1_power(q),
        ball,
        quadrature=Quadrature("left", 1),
        inner=Inner(steps=0, start="gradient", quadrature=Quadrature("left", 1)),
    )
    best = objective(smooth, inputs, target).loss.detach()
    generator = torch.Generator().manual_seed(3)
    for _ in range(200):
        moved = inputs + EPS * ball.step(torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype))
        other = objective.at(smooth, inputs, target, moved).loss.detach()
        assert bool((other <= best + 1e-12).all())


def test_named_objectives_do_not_disturb_the_weights(smooth: nn.Module, batch: Batch) -> None:
    inputs, target = batch
    before = copy.deepcopy(smooth.state_dict())
    robust = RobustSettings(
        weight=1.0, norm="linf", radius=EPS, beta=0.1, beta_from=0.5, inner_steps=2, inner_step_size=0.1,
        inner_start="random", inner_score="size", inner_nodes=2, nodes=2, rule="midpoint",
    )  # fmt: skip
    for name in ("natural", "adversarial", "input-gradient", "ig-norm", "ig-sum-norm", "loss-change"):
        objective = build_objective(name, robust)
        assert objective(smooth, inputs, target, torch.Generator().manual_seed(0)).loss.shape == (5,)
    for key, value in smooth.state_dict().items():
        assert torch.equal(value, before[key])


def test_the_l1_term_is_switched_on_at_its_share_of_the_training() -> None:
    robust = RobustSettings(
        weight=1.0, norm="linf", radius=EPS, beta=0.4, beta_from=0.5, inner_steps=1, inner_step_size=0.1,
        inner_start="random", inner_score="size", inner_nodes=1, nodes=1, rule="midpoint",
    )  # fmt: skip
    sizes = [build_objective("ig-sum-norm", robust, progress=progress) for progress in (0.0, 0.49, 0.5, 1.0)]
    assert [objective.size.l1 for objective in sizes if isinstance(objective, RobustAttribution)] == [
        0,
        0,
        0.4,
        0.4,
    ]


@pytest.mark.parametrize("name", ["adversarial", "ig-norm", "ig-sum-norm", "loss-change"])
def test_every_setting_reaches_its_place_in_a_named_objective(name: str) -> None:
    """Numbers that are all different, so that none can stand for another."""
    robust = RobustSettings(
        weight=0.7,
        norm="l2",
        radius=EPS,
        beta=0.4,
        inner_steps=3,
        inner_step_size=0.11,
        inner_start="origin",
        inner_score="loss",
        inner_nodes=5,
        nodes=8,
        rule="right",
        training_radius=0.9,
    )
    inner = Inner(3, 0.11, "origin", "loss", Quadrature("right", 5))
    size = {
        "adversarial": signed_sum(),
        "ig-norm": l1_norm(),
        "ig-sum-norm": sum_and_l1(0.4),
        "loss-change": absolute_sum(),
    }[name]
    expected = RobustAttribution(size, L2(0.9), weight=0.7, quadrature=Quadrature("right", 8), inner=inner)
    assert build_objective(name, robust) == expected
