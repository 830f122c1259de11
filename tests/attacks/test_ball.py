"""Balls: exact projection, random starts, steps of steepest ascent, noise per example."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from veridical.attacks.ball import L2, Ball, Linf, ball, draw
from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import stream

BOTH = pytest.mark.parametrize("kind", [Linf, L2])


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(6, 2, 3, 4, generator=generator, dtype=torch.float64)


@BOTH
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_point_of_the_ball_is_nearer_than_the_projection(kind: type[Ball], seed: int) -> None:
    threat, origin = kind(0.5, bounds=None), images()
    outside = origin + noise(seed, 2.0)
    gap = (outside - threat.project(outside, origin)).flatten(1).norm(dim=1)
    for other in range(20):
        inside = threat.random_start(origin, torch.Generator().manual_seed(other))
        assert ((outside - inside).flatten(1).norm(dim=1) >= gap - 1e-12).all()


def test_linf_projection_with_bounds_is_the_nearest_admissible_point() -> None:
    origin, moved = torch.tensor([[[0.05, 0.5, 0.95]], [[-0.3, 0.9, 1.4]]], dtype=torch.float64)
    assert_close(Linf(0.1).project(moved, origin), torch.tensor([[0.0, 0.6, 1.0]], dtype=torch.float64))


@BOTH
def test_random_starts_fill_the_ball_and_every_orthant_alike(kind: type[Ball]) -> None:
    origin = torch.full((4000, 2), 0.5, dtype=torch.float64)
    threat = kind(0.25, bounds=None)
    lengths = threat.distance(threat.random_start(origin, torch.Generator().manual_seed(1)), origin) / 0.25
    assert float(lengths.max()) <= 1
    # Uniform in a two-dimensional ball: the share within r is r^2.
    for r in (0.3, 0.6, 0.9):
        share = float((lengths <= r).double().mean())
        assert abs(share - r**2) < 4 * math.sqrt(r**2 * (1 - r**2) / 4000)
    origin = torch.full((4000, 3), 0.5, dtype=torch.float64)
    offset = threat.random_start(origin, torch.Generator().manual_seed(1)) - origin
    orthant = ((offset > 0) * torch.tensor([1, 2, 4])).sum(1)
    assert (orthant.bincount(minlength=8) - 500).abs().max() < 4 * math.sqrt(500)


@BOTH
def test_noise_of_an_example_does_not_depend_on_its_batch(kind: type[Ball]) -> None:
    origin, threat = images(), kind(0.3)

    def started(numbers: list[int]) -> Tensor:
        return threat.random_start(origin[numbers], [stream(7, "test", n) for n in numbers])

    whole = started([0, 1, 2, 3, 4, 5])
    assert torch.equal(started([4, 1]), whole[[4, 1]])
    assert not torch.equal(whole[0] - origin[0], whole[1] - origin[1])


@BOTH
def test_step_has_unit_length_and_climbs_steepest(kind: type[Ball]) -> None:
    gradient, threat = noise(3), kind(1.0, bounds=None)
    step = threat.step(gradient)
    zero = torch.zeros_like(gradient)
    assert_close(threat.distance(step, zero), torch.ones(6, dtype=torch.float64))
    gain = (gradient * step).flatten(1).sum(1)
    for seed in range(20):
        other = threat.project(noise(100 + seed, 3.0), zero)
        assert ((gradient * other).flatten(1).sum(1) <= gain + 1e-12).all()


@BOTH
def test_nothing_to_move_stays(kind: type[Ball]) -> None:
    origin, gradient = images(), noise(3)
    gradient[2] = 0
    step = kind(1.0).step(gradient)
    assert not bool(step[2].any())
    assert bool(step.isfinite().all())
    assert torch.equal(kind(0.0).project(origin + 0.3, origin), origin)
    assert torch.equal(kind(0.0).random_start(origin, torch.Generator().manual_seed(0)), origin)
    empty, threat = origin[:0], kind(0.3)
    assert threat.distance(empty, empty).shape == (0,)
    for points in (threat.project(empty, empty), threat.random_start(empty, []), threat.step(empty)):
        assert points.shape == empty.shape


def test_bad_arguments_are_refused_with_what_was_given() -> None:
    with pytest.raises(UsageError, match="bounds="):
        L2(0.1, bounds=(1.0, 0.0))
    with pytest.raises(UsageError, match=r"linf, l2.*'l3'"):
        ball("l3", 0.1)
    with pytest.raises(UsageError, match="2 generators were given for 6 examples"):
        draw(images(), [stream(0, "a"), stream(0, "b")], "uniform")
