"""Robust Attribution: gradients by finite differences, the theorems about it, what it leaves untouched."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from veridical.attacks.ascent import pgd, value_and_gradient
from veridical.attacks.ball import L2, Linf
from veridical.attribution.method import TargetScalar
from veridical.attribution.path import Quadrature, path_attribution
from veridical.runtime.options import ScoreName
from veridical.training.objectives import Inner, Natural, RobustAttribution, build_objective
from veridical.training.penalties import AttributionPenalty
from veridical.training.recipes import RobustSettings

Batch = tuple[Tensor, Tensor]
EXACT = Quadrature("gauss-legendre", 48)
EPS = 0.3
L1_NORM, SIGNED_SUM = AttributionPenalty(l1=1.0), AttributionPenalty(sum_weight=1.0)
ABSOLUTE_SUM = AttributionPenalty(absolute_sum=1.0)
SIZES = {
    "ig-norm": L1_NORM,
    "ig-sum-norm": AttributionPenalty(sum_weight=1.0, l1=0.3),
    "adversarial": SIGNED_SUM,
    "loss-change": ABSOLUTE_SUM,
    "squared norm": AttributionPenalty(l1=1.0, power=2.0),
    "everything": AttributionPenalty(sum_weight=0.7, absolute_sum=0.2, l1=0.5, power=1.5),
}


def objective_of(
    name: str, *, weight: float = 1.0, nodes: int = 3, score: ScoreName = "size"
) -> RobustAttribution:
    quadrature = Quadrature("gauss-legendre", nodes)
    inner = Inner(steps=2, step_size=0.1, score=score, quadrature=quadrature)
    return RobustAttribution(SIZES[name], Linf(EPS, None), weight=weight, quadrature=quadrature, inner=inner)


def moved_from(inputs: Tensor) -> Tensor:
    return inputs + EPS * torch.sin(77 * inputs)


@pytest.mark.parametrize("score", ["size", "loss"])
@pytest.mark.parametrize("name", list(SIZES))
def test_gradient_of_the_inner_score_in_the_perturbed_inputs(
    smooth: nn.Module, batch: Batch, name: str, score: ScoreName
) -> None:
    inputs, target = batch
    climbed = objective_of(name, score=score).inner_score(smooth, inputs, target)
    moved = moved_from(inputs)
    value, gradient = value_and_gradient(climbed, moved)
    torch.testing.assert_close(value, climbed(moved).detach(), rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(6)
    direction = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    difference = climbed(moved + 1e-5 * direction) - climbed(moved - 1e-5 * direction)
    expected = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(difference.detach() / 2e-5, expected, rtol=2e-7, atol=1e-8)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", ["ig-norm", "ig-sum-norm", "squared norm", "everything"])
def test_chunks_of_nodes_give_the_value_and_gradient_of_one_pass(
    smooth: nn.Module, batch: Batch, name: str, normalised: bool
) -> None:
    """Batch normalisation is in eval mode too when chunks are computed again in the backward pass."""
    inputs, target = batch
    found = []
    for rows in (4096, 1, 5, 11):
        model = normalised_network().train() if normalised else smooth
        objective = replace(objective_of(name, nodes=5), rows=rows)
        loss = objective.at(model, inputs, target, moved_from(inputs)).loss
        gradients = torch.autograd.grad(loss.sum(), list(model.parameters()))
        found.append([loss.detach(), *gradients, *(value.clone() for value in model.buffers())])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-13)


class Watched(nn.Module):
    """Records, at every forward pass, whether it trains and whether its weights ask for gradients."""

    def __init__(self, inner: nn.Module, fail_at: int | None = None) -> None:
        super().__init__()
        self.inner, self.fail_at = inner, fail_at
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        wanted = any(parameter.requires_grad for parameter in self.inner.parameters())
        self.seen.append((self.training, wanted))
        if len(self.seen) == self.fail_at:
            raise ArithmeticError("stop here")
        logits: Tensor = self.inner(inputs)
        return logits


@pytest.mark.parametrize("score", ["size", "loss"])
def test_weights_get_no_gradient_work_in_the_inner_loop(
    smooth: nn.Module, batch: Batch, score: ScoreName
) -> None:
    inputs, target = batch
    model = Watched(smooth).train()
    next(model.parameters()).requires_grad_(False)
    moved = objective_of("ig-norm", score=score).maximise(model, inputs, target, torch.Generator())
    assert model.seen
    assert set(model.seen) == {(False, False)}
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not moved.requires_grad


@pytest.mark.parametrize("name", list(SIZES))
def test_modes_and_flags_are_given_back_wherever_a_pass_fails(
    smooth: nn.Module, batch: Batch, name: str
) -> None:
    model = Watched(smooth).train()
    model.inner.eval()
    objective_of(name)(model, *batch, torch.Generator().manual_seed(1))
    assert (model.training, model.inner.training) == (True, False)
    for fail_at in range(1, len(model.seen) + 1):
        broken = Watched(smooth, fail_at).train()
        with pytest.raises(ArithmeticError):
            objective_of(name)(broken, *batch, torch.Generator().manual_seed(1))
        assert broken.training
        assert all(parameter.requires_grad for parameter in broken.parameters())


def normalised_network() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(64, 3)
    )
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.double()


@pytest.mark.parametrize("name", [*SIZES, "natural"])
def test_batch_normalisation_learns_from_the_outer_pass_alone(batch: Batch, name: str) -> None:
    inputs, target = batch
    model = normalised_network().train()
    objective = Natural() if name == "natural" else objective_of(name, weight=0.6)
    objective(model, inputs, target, torch.Generator().manual_seed(1)).loss.sum().backward()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 1
    assert norm.training


def test_with_batch_normalisation_ascent_and_attribution_use_the_running_statistics(batch: Batch) -> None:
    inputs, target = batch
    trained, evaluated = normalised_network().train(), normalised_network().eval()
    norm = trained[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = 0.0  # else the outer pass moves the statistics before the outer attribution sees them
    objective = objective_of("ig-norm")
    in_training, in_eval = (
        objective(model, inputs, target, torch.Generator().manual_seed(1)) for model in (trained, evaluated)
    )
    torch.testing.assert_close(in_training.parts["attribution_l1"], in_eval.parts["attribution_l1"])
    assert not torch.allclose(in_training.parts["natural_loss"], in_eval.parts["natural_loss"])


@pytest.mark.parametrize("name", ["ig-norm", "everything"])
@pytest.mark.parametrize("rows", [4096, 5])
@pytest.mark.parametrize("backward_too", [False, True])
def test_objectives_work_under_autocast(
    smooth: nn.Module, batch: Batch, name: str, rows: int, backward_too: bool
) -> None:
    model, inputs, target = smooth.float(), batch[0].float(), batch[1]
    objective = replace(objective_of(name), rows=rows)
    found = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = objective(model, inputs, target, torch.Generator().manual_seed(0)).loss
            if backward_too:
                value.sum().backward()
        if not backward_too:
            value.sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((value.detach(), gradients))
    (plain, exact), (rounded, slopes) = found
    torch.testing.assert_close(rounded, plain, rtol=0.05, atol=0.02)
    assert torch.cosine_similarity(slopes, exact, dim=0) > 0.99


class OneLayer(nn.Module):
    """Logits (0, <w, x>): the loss of class 1 (0) is log(1 + exp(-y <w, x>)) with y = 1 (-1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.w = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64) * 0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        score = inputs.flatten(1) @ self.w
        return torch.stack([torch.zeros_like(score), score], 1)


def assert_same_gradients(model: nn.Module, one: Tensor, other: Tensor) -> None:
    ours, theirs = (torch.autograd.grad(loss.sum(), list(model.parameters())) for loss in (one, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_ig_sum_norm_with_weight_one_is_the_perturbed_loss_plus_beta_times_the_norm(
    smooth: nn.Module, batch: Batch, beta: float
) -> None:
    inputs, target = batch
    objective = RobustAttribution(
        AttributionPenalty(sum_weight=1.0, l1=beta), Linf(EPS, None), quadrature=EXACT
    )
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
    objective = RobustAttribution(SIGNED_SUM, ball, inner=inner)
    value = objective(smooth, inputs, target, torch.Generator().manual_seed(7))
    moved = pgd(
        smooth, inputs, target, ball, steps=4, step_size=0.1, generator=torch.Generator().manual_seed(7)
    )
    madry = cross_entropy(smooth(moved), target, reduction="none")
    torch.testing.assert_close(value.loss, madry, rtol=1e-12, atol=0)
    assert_same_gradients(smooth, value.loss, madry)


def test_loss_change_is_the_absolute_difference(smooth: nn.Module, batch: Batch) -> None:
    inputs, target = batch
    objective = RobustAttribution(ABSOLUTE_SUM, Linf(EPS, None), weight=0.6)
    # One example falls, others rise: both signs of the sum are met.
    moved = inputs + EPS * torch.cos(37 * inputs)
    clean = cross_entropy(smooth(inputs), target, reduction="none")
    change = cross_entropy(smooth(moved), target, reduction="none") - clean
    assert change.min() < 0 < change.max()
    value = objective.at(smooth, inputs, target, moved)
    torch.testing.assert_close(value.loss, clean + 0.6 * change.abs(), rtol=1e-12, atol=0)
    assert_same_gradients(smooth, value.loss, clean + 0.6 * change.abs())
    # What is climbed is |l(x') - l(x)|, whose slope turns where the loss falls, not l(x') itself.
    score = objective.inner_score(smooth, inputs, target)(moved)
    torch.testing.assert_close(score, change.abs(), rtol=1e-12, atol=1e-14)


def one_layer_objectives(weight: float) -> dict[str, RobustAttribution]:
    ball = Linf(EPS, None)
    inners = {
        "start": Inner(steps=0, start="gradient"),
        "climb size": Inner(steps=3, step_size=0.1, start="gradient", score="size", quadrature=EXACT),
        "climb loss": Inner(steps=8, step_size=0.1, start="random", score="loss"),
    }
    found = {
        f"ig-norm, {name}": RobustAttribution(L1_NORM, ball, weight=weight, quadrature=EXACT, inner=inner)
        for name, inner in inners.items()
    }
    return found | {
        "adversarial": RobustAttribution(SIGNED_SUM, ball, weight=weight, inner=inners["climb loss"])
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
    norm = RobustAttribution(L1_NORM, Linf(EPS, None), quadrature=EXACT).at(smooth, inputs, target, moved)
    adversarial = RobustAttribution(SIGNED_SUM, Linf(EPS, None)).at(smooth, inputs, target, moved)
    assert bool((norm.loss > adversarial.loss).all())


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
    flat = gradient.flatten(1)
    expected = loss + 0.8 * (flat.abs() if norm == "linf" else flat.square()).sum(1)
    torch.testing.assert_close(value.loss, expected, rtol=1e-10, atol=1e-12)
    assert_same_gradients(smooth, value.loss, expected)


@pytest.mark.parametrize("ball", [Linf(3.0, None), L2(3.0, None), Linf(0.02, None), L2(0.02, None)])
def test_the_one_node_maximum_is_where_the_start_lies_at_the_radius(
    smooth: nn.Module, batch: Batch, ball: Linf | L2
) -> None:
    inputs, target = batch
    penalty = AttributionPenalty(l1=1.0, power=2.0 if isinstance(ball, L2) else 1.0)
    node = Quadrature("left", 1)
    inner = Inner(steps=0, start="gradient", quadrature=node)
    objective = RobustAttribution(penalty, ball, quadrature=node, inner=inner)
    start = objective.maximise(smooth, inputs, target, None)
    torch.testing.assert_close(ball.distance(start, inputs), torch.full((len(inputs),), ball.radius).double())
    best = objective(smooth, inputs, target).loss.detach()
    generator = torch.Generator().manual_seed(3)
    for _ in range(200):
        noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
        moved = inputs + ball.radius * ball.step(noise)
        other = objective.at(smooth, inputs, target, moved).loss.detach()
        assert bool((other <= best * (1 + 1e-12)).all())
