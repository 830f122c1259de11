"""The max-margin classifier of the block world: every closed form against numbers that do not know it."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from veridical.data.block_world import BlockWorld
from veridical.models.max_margin import (
    MaxMargin,
    closed_margin,
    dual_bound,
    dual_value,
    enumerated_dual,
    max_margin,
)
from veridical.runtime.errors import UsageError

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


def units_of(found: MaxMargin) -> torch.Tensor:
    return torch.cat([found.outer[:, None], found.offset[:, None], found.inner], 1)


def test_the_published_case() -> None:
    # d = 10, blocks of one number, u* = 1, no noise.
    found = max_margin(10, torch.ones(1).double())
    assert found.margin == pytest.approx(1 / (2 * sqrt(6)), rel=EXACT)
    assert found.outer.tolist() == pytest.approx([sqrt(0.5), -sqrt(0.5)], rel=EXACT)
    assert found.offset.tolist() == pytest.approx([1 / sqrt(12)] * 2, rel=EXACT)
    assert found.inner[0].tolist() == pytest.approx([1 / sqrt(12)] * 5 + [0.0] * 5, rel=EXACT)
    assert torch.equal(found.inner[1], -found.inner[0])
    plain = max_margin(10, torch.ones(1).double(), bias=False)
    assert plain.margin == pytest.approx(1 / (4 * sqrt(5)), rel=EXACT)
    assert plain.inner[0].tolist() == pytest.approx([1 / sqrt(10)] * 5 + [0.0] * 5, rel=EXACT)
    assert plain.offset.tolist() == [0, 0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("world", WORLDS)
def test_margin_and_dual_meet(world: BlockWorld, bias: bool) -> None:
    found, corners = built(world, bias), world.corners()
    units = units_of(found)
    assert units.norm(dim=1).tolist() == pytest.approx([1, 1], rel=EXACT)
    assert float(found.mass.sum()) == 1
    # The primal: no example of the support has a smaller margin than the corners.
    assert (corners.sign * found.score(corners.inputs)).tolist() == pytest.approx(
        [found.margin] * world.blocks, rel=EXACT
    )
    drawn = world.examples(300)
    assert float((drawn.sign * found.score(drawn.inputs)).min()) >= found.margin * (1 - 1e-13)
    # The dual: weights 1/d on the corners allow no unit more, by proof and by enumeration.
    assert dual_bound(found) == pytest.approx(found.margin, rel=EXACT)
    assert enumerated_dual(corners.inputs, corners.sign, bias=bias) == pytest.approx(found.margin, rel=EXACT)
    reached = dual_value(units, corners.inputs, corners.sign)
    assert reached.tolist() == pytest.approx([found.margin] * 2, rel=EXACT)


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

    best = min(
        minimize(
            loss, units[place].numpy(), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
        ).fun
        for place in values.topk(3).indices.tolist()
    )
    assert -best == pytest.approx(enumerated, rel=1e-5)


def test_a_linear_program_over_many_units_finds_no_greater_margin() -> None:
    world = BlockWorld(6, noise=0.02)
    found, corners = built(world, True), world.corners()
    random = torch.randn(400, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random /= random.norm(dim=1, keepdim=True)
    units = torch.cat([units_of(found), random])
    reached = (corners.inputs @ units[:, 2:].T + units[:, 1]).relu() * units[:, 0]
    gains = (corners.sign[:, None] * reached).numpy()
    # Maximise t with sum_k mass_k gains_ik >= t, mass_k >= 0, sum_k mass_k = 1.
    count = len(units)
    solved = linprog(
        [*[0.0] * count, -1.0],
        A_ub=np.hstack([-gains, np.ones((len(gains), 1))]),
        b_ub=np.zeros(len(gains)),
        A_eq=[[*[1.0] * count, 0.0]],
        b_eq=[1.0],
        bounds=[*[(0, None)] * count, (None, None)],
    )
    assert -solved.fun == pytest.approx(found.margin, rel=1e-9)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("world", WORLDS)
def test_the_gradient_is_one_constant_on_relevant_blocks_and_zero_on_noise(
    world: BlockWorld, bias: bool
) -> None:
    found = built(world, bias)
    drawn = world.examples(100)
    for at_kink in (0.0, 0.5, 1.0):
        blocks = found.gradient(drawn.inputs, at_kink=at_kink).unflatten(1, (world.blocks, world.block_size))
        magnitudes = blocks.norm(dim=2)
        relevant = magnitudes[:, : world.relevant]
        assert (relevant == relevant[:, :1]).all()
        assert relevant.min() > 0
        assert (magnitudes[:, world.relevant :] == 0).all()
        if world.noise or not bias:
            # No draw is on a kink: the constant is that of every example, to the last bit.
            assert (relevant == relevant[0, 0]).all()


def test_at_a_kink_the_gradients_are_the_one_sided_derivatives() -> None:
    world = BlockWorld(6, block_size=2, direction=(0.6, -0.8))
    found, points = built(world, True), world.points()
    outward = points.sign[:, None] * found.inner[0]
    step = 1e-6
    for direction, at_kink in ((outward, 0.0), (-outward, 1.0)):
        change = (found.score(points.inputs + step * direction) - found.score(points.inputs)) / step
        slope = (found.gradient(points.inputs, at_kink=at_kink) * direction).sum(1)
        torch.testing.assert_close(change, slope, rtol=1e-8, atol=1e-9)


def test_as_a_network_it_is_the_same_function_with_the_same_gradient() -> None:
    world = BlockWorld(4, block_size=2, noise=0.1)
    found, drawn = built(world, True), world.examples(50)
    network = found.as_network(6)
    inputs = drawn.inputs.requires_grad_()
    score = network.score(inputs)
    torch.testing.assert_close(score, found.score(drawn.inputs), rtol=1e-13, atol=1e-15)
    (gradient,) = torch.autograd.grad(score.sum(), inputs)
    torch.testing.assert_close(gradient, found.gradient(inputs.detach()), rtol=1e-13, atol=1e-15)
    assert network.squared_length() == pytest.approx(1, rel=EXACT)
    with pytest.raises(UsageError, match="width: expected a multiple of 2"):
        found.as_network(5)


def test_far_beyond_the_proven_noise_the_dual_leaves_the_closed_form() -> None:
    # So the bound on the noise is no mere caution: near 1/relevant other units win.
    corners = BlockWorld(6, noise=0.3).corners()
    assert enumerated_dual(corners.inputs, corners.sign) > 1.2 * closed_margin(6, 0.3)


def test_a_wrong_classifier_is_not_certified() -> None:
    found = built(BlockWorld(6), True)
    greedy = replace(found, margin=found.margin * 1.001)
    assert dual_bound(greedy) < greedy.margin
    assert found.slope is not None
    worse = replace(found, slope=found.slope + 0.1)
    assert dual_bound(worse) > found.margin * (1 + 1e-6)


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


def test_enumeration_refuses_what_would_take_for_ever() -> None:
    with pytest.raises(UsageError, match=r"2\^N patterns"):
        enumerated_dual(torch.zeros(40, 2), torch.ones(40))
