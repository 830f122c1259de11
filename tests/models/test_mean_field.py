"""The theorems' networks, and the max-margin one: closed forms against numbers that do not know them."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy, softplus

from veridical.data.block_world import BlockWorld
from veridical.models.mean_field import (
    LinearScore,
    MaxMargin,
    MeanFieldMLP,
    closed_margin,
    dual_bound,
    dual_value,
    enumerated_dual,
    max_margin,
)
from veridical.runtime.errors import UsageError

INPUTS = torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGET = torch.tensor([0, 1, 1, 0, 1, 0, 1])
SIGN = TARGET.double() * 2 - 1


def mlp(width: int = 5, **options: object) -> MeanFieldMLP:
    return MeanFieldMLP(6, width, seed=3, dtype=torch.float64, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", [LinearScore(6, seed=1), mlp()])
def test_cross_entropy_is_the_logistic_loss_of_the_score(network: LinearScore | MeanFieldMLP) -> None:
    loss = cross_entropy(network(INPUTS), TARGET, reduction="none")
    torch.testing.assert_close(loss, softplus(-SIGN * network.score(INPUTS)), rtol=1e-12, atol=1e-14)
    assert torch.equal(network(INPUTS).argmax(1), (network.score(INPUTS) > 0).long())


def test_the_score_is_the_mean_over_units() -> None:
    network = mlp()
    hidden = [torch.relu(INPUTS @ w + b) for w, b in zip(network.inner, network.offset, strict=True)]
    units = [a * h for a, h in zip(network.outer, hidden, strict=True)]
    torch.testing.assert_close(network.score(INPUTS), torch.stack(units).mean(0), rtol=1e-12, atol=1e-14)
    parts = [network.outer**2, (network.inner**2).sum(1), network.offset**2]
    assert network.squared_length() == pytest.approx(torch.stack(parts).sum(0).mean().item())
    linear = LinearScore(6, seed=1)
    assert linear.squared_length() == pytest.approx(linear.weight.square().sum().item())


def test_a_step_in_proportion_to_the_width_does_not_depend_on_it() -> None:
    # Every unit three times over is the same function, and must stay so.
    small, large = mlp(4), mlp(12)
    with torch.no_grad():
        for name, value in small.named_parameters():
            getattr(large, name).copy_(value.repeat_interleave(3, dim=0))
    for network in (small, large):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.7 * network.width)
        for _ in range(3):
            optimiser.zero_grad()
            cross_entropy(network(INPUTS), TARGET).backward()
            optimiser.step()
    torch.testing.assert_close(small.score(INPUTS), large.score(INPUTS), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(small.score(INPUTS), mlp(4).score(INPUTS), rtol=0.1)


def test_initial_weights_are_the_seed_s_and_of_the_deviation_whatever_the_width() -> None:
    state = torch.get_rng_state()
    assert torch.equal(mlp().inner, mlp().inner)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(mlp().inner, MeanFieldMLP(6, 5, seed=4, dtype=torch.float64).inner)
    for width in (200, 20_000):
        wide = MeanFieldMLP(6, width, seed=0, deviation=0.5)
        assert wide.inner.std().item() == pytest.approx(0.5, rel=0.05)
        assert wide.outer.dtype == torch.float32
    # Without bias offsets are zero and stay so.
    network = mlp(bias=False)
    assert torch.equal(network.inner, mlp().inner)
    assert network.offset.abs().max() == 0
    cross_entropy(network(INPUTS), TARGET).backward()
    assert network.offset.grad is None
    assert network.inner.grad is not None


WORLDS = [
    BlockWorld(2),
    BlockWorld(2, noise=0.25),
    BlockWorld(4, block_size=2, noise=0.125),
    BlockWorld(6, noise=1 / 60, direction=(-1.0,)),
    BlockWorld(6, block_size=2, direction=(0.6, -0.8)),
    BlockWorld(8, noise=1 / 16),
]
EXACT = 1e-13


def built(world: BlockWorld, bias: bool) -> MaxMargin:
    return max_margin(world.blocks, world.signal, world.noise, bias=bias)


def units_of(classifier: MaxMargin) -> torch.Tensor:
    return torch.cat([classifier.outer[:, None], classifier.offset[:, None], classifier.inner], 1)


def test_the_published_case() -> None:
    # d = 10, blocks of one number, u* = 1, no noise.
    classifier = max_margin(10, torch.ones(1).double())
    assert classifier.margin == pytest.approx(1 / (2 * sqrt(6)), rel=EXACT)
    assert classifier.outer.tolist() == pytest.approx([sqrt(0.5), -sqrt(0.5)], rel=EXACT)
    assert classifier.offset.tolist() == pytest.approx([1 / sqrt(12)] * 2, rel=EXACT)
    assert classifier.inner[0].tolist() == pytest.approx([1 / sqrt(12)] * 5 + [0.0] * 5, rel=EXACT)
    assert torch.equal(classifier.inner[1], -classifier.inner[0])
    plain = max_margin(10, torch.ones(1).double(), bias=False)
    assert plain.margin == pytest.approx(1 / (4 * sqrt(5)), rel=EXACT)
    assert plain.inner[0].tolist() == pytest.approx([1 / sqrt(10)] * 5 + [0.0] * 5, rel=EXACT)
    assert plain.offset.tolist() == [0, 0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("world", WORLDS)
def test_margin_and_dual_meet(world: BlockWorld, bias: bool) -> None:
    classifier, corners = built(world, bias), world.corners()
    units = units_of(classifier)
    assert units.norm(dim=1).tolist() == pytest.approx([1, 1], rel=EXACT)
    assert float(classifier.mass.sum()) == 1
    # The primal: no example of the support has a smaller margin than the corners.
    assert (corners.sign * classifier.score(corners.inputs)).tolist() == pytest.approx(
        [classifier.margin] * world.blocks, rel=EXACT
    )
    drawn = world.examples(300)
    assert float((drawn.sign * classifier.score(drawn.inputs)).min()) >= classifier.margin * (1 - 1e-13)
    # The dual: weights 1/d on the corners allow no unit more, by proof and by enumeration.
    assert dual_bound(classifier) == pytest.approx(classifier.margin, rel=EXACT)
    enumerated = enumerated_dual(corners.inputs, corners.sign, bias=bias)
    assert enumerated == pytest.approx(classifier.margin, rel=EXACT)
    reached = dual_value(units, corners.inputs, corners.sign)
    assert reached.tolist() == pytest.approx([classifier.margin] * 2, rel=EXACT)


@pytest.mark.parametrize("bias", [True, False])
def test_enumeration_finds_what_a_search_finds(bias: bool) -> None:
    # Inputs and labels without any structure.
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    sign = torch.tensor([1.0, -1, 1, 1, -1, -1], dtype=torch.float64)
    enumerated = enumerated_dual(inputs, sign, bias=bias)
    units = torch.randn(5000, 5, generator=generator, dtype=torch.float64)
    units[:, 1] *= bias
    units /= units.norm(dim=1, keepdim=True)
    values = dual_value(units, inputs, sign)
    assert values.max() <= enumerated

    def loss(unit: np.ndarray) -> float:
        point = torch.from_numpy(unit * [1, bias, 1, 1, 1])
        return -float(dual_value((point / point.norm())[None], inputs, sign))

    options = {"xatol": 1e-9, "fatol": 1e-12}
    starts = (units[place].numpy() for place in values.topk(3).indices.tolist())
    best = min(minimize(loss, start, method="Nelder-Mead", options=options).fun for start in starts)
    assert -best == pytest.approx(enumerated, rel=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("world", WORLDS)
def test_the_gradient_is_one_constant_on_relevant_blocks_and_zero_on_noise(
    world: BlockWorld, bias: bool
) -> None:
    classifier = built(world, bias)
    drawn = world.examples(100)
    for at_kink in (0.0, 0.5, 1.0):
        gradient = classifier.gradient(drawn.inputs, at_kink=at_kink)
        magnitudes = gradient.unflatten(1, (world.blocks, world.block_size)).norm(dim=2)
        relevant = magnitudes[:, : world.relevant]
        assert (relevant == relevant[:, :1]).all()
        assert relevant.min() > 0
        assert (magnitudes[:, world.relevant :] == 0).all()
        if world.noise or not bias:
            # No draw is on a kink: the constant is that of every example, to the last bit.
            assert (relevant == relevant[0, 0]).all()


def test_at_a_kink_the_gradients_are_the_one_sided_derivatives() -> None:
    world = BlockWorld(6, block_size=2, direction=(0.6, -0.8))
    classifier, points = built(world, True), world.points()
    outward = points.sign[:, None] * classifier.inner[0]
    step = 1e-6
    for direction, at_kink in ((outward, 0.0), (-outward, 1.0)):
        change = (classifier.score(points.inputs + step * direction) - classifier.score(points.inputs)) / step
        slope = (classifier.gradient(points.inputs, at_kink=at_kink) * direction).sum(1)
        torch.testing.assert_close(change, slope, rtol=1e-8, atol=1e-9)


def test_pytorch_s_network_of_the_same_units_has_the_same_score_and_gradient() -> None:
    world = BlockWorld(4, block_size=2, noise=0.1)
    classifier, drawn = built(world, True), world.examples(50)
    network = MeanFieldMLP(8, 2, seed=0, dtype=torch.float64)
    with torch.no_grad():
        for name in ("outer", "inner", "offset"):
            getattr(network, name).copy_(getattr(classifier, name))
    inputs = drawn.inputs.requires_grad_()
    score = network.score(inputs)
    torch.testing.assert_close(score, classifier.score(drawn.inputs), rtol=1e-13, atol=1e-15)
    (gradient,) = torch.autograd.grad(score.sum(), inputs)
    torch.testing.assert_close(gradient, classifier.gradient(inputs.detach()), rtol=1e-13, atol=1e-15)
    assert network.squared_length() == pytest.approx(1, rel=EXACT)


def test_a_wrong_classifier_is_not_certified() -> None:
    classifier = built(BlockWorld(6), True)
    greedy = replace(classifier, margin=classifier.margin * 1.001)
    assert dual_bound(greedy) < greedy.margin
    assert classifier.slope is not None
    worse = replace(classifier, slope=classifier.slope + 0.1)
    assert dual_bound(worse) > classifier.margin * (1 + 1e-6)
    # Nor is the bound on the noise mere caution: near 1/relevant other units win.
    corners = BlockWorld(6, noise=0.3).corners()
    assert enumerated_dual(corners.inputs, corners.sign) > 1.2 * closed_margin(6, 0.3)


@pytest.mark.parametrize(
    ("blocks", "direction", "noise", "name"),
    [
        (5, [1.0], 0.0, "blocks"),
        (4, [0.9], 0.0, "direction"),
        (4, [1.0], 0.13, "noise"),
        (4, [1.0], -0.1, "noise"),
    ],
)
def test_what_the_proof_does_not_cover_is_refused(
    blocks: int, direction: list[float], noise: float, name: str
) -> None:
    with pytest.raises(UsageError, match=f"^{name}: expected"):
        max_margin(blocks, torch.tensor(direction, dtype=torch.float64), noise)
    with pytest.raises(UsageError, match=r"2\^N patterns"):
        enumerated_dual(torch.zeros(40, 2), torch.ones(40))
    with pytest.raises(UsageError, match="width: expected a number of units of at least 1"):
        mlp(0)
