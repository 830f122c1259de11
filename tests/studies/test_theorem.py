"""What is checked about the max-margin classifier, and the radius up to which it is the robust one."""

import math

import pytest

from veridical.data.block_world import BlockWorld
from veridical.models.mean_field import closed_margin, enumerated_dual
from veridical.runtime.errors import UsageError
from veridical.studies.theorem import certified_radius, check_theorem


def test_every_check_passes_and_says_what_it_saw() -> None:
    found = check_theorem(BlockWorld(6, 2, 0.05), draws=100)
    assert found["margin"] == pytest.approx(0.85 / (2 * math.sqrt(3 + 0.85**2)), rel=1e-12)
    for name in ("support_margin", "dual", "enumerated_dual"):
        assert found[name] == pytest.approx(found["margin"], rel=1e-12)
    assert found["dual_at_units"] == pytest.approx(1, rel=1e-12)
    assert abs(found["gap"]) < 1e-12
    assert found["unit_error"] < 1e-15
    assert found["noise_greatest"] == 0
    assert found["unevenness"] < 1e-15
    # The six corners alone lie on a kink; there a one-sided gradient is twice the other.
    assert found["kinked"] == pytest.approx(6 / 106)
    assert found["relevant_greatest"] == pytest.approx(2 * found["relevant_least"], rel=1e-12)


def test_without_noise_every_example_is_on_a_kink_and_without_offsets_none() -> None:
    assert check_theorem(BlockWorld(4), draws=10)["kinked"] == 1
    plain = check_theorem(BlockWorld(4), bias=False, draws=10)
    assert plain["kinked"] == 0
    assert plain["relevant_least"] == pytest.approx(plain["relevant_greatest"], rel=1e-12)


def test_many_blocks_are_checked_without_enumeration() -> None:
    found = check_theorem(BlockWorld(40), draws=10)
    assert found["enumerated_dual"] is None
    assert abs(found["gap"]) < 1e-12
    assert certified_radius(BlockWorld(40)) is None


def test_the_certified_radius_is_where_the_dual_leaves_the_closed_form() -> None:
    radius = certified_radius(BlockWorld(6))
    assert radius is not None
    for step, tight in ((-1e-3, True), (2e-3, False)):
        corners = BlockWorld(6, noise=radius + step).corners()
        dual = enumerated_dual(corners.inputs, corners.sign)
        assert (dual <= closed_margin(6, radius + step) * (1 + 1e-12)) is tight
    # What the noise takes is not left to the adversary.
    noisy = certified_radius(BlockWorld(6, noise=0.05))
    assert noisy == pytest.approx(radius - 0.05, abs=2e-4)


@pytest.mark.parametrize("noise", [0.16, 0.2, 0.3])
def test_a_world_whose_closed_form_is_not_the_greatest_margin_has_no_certified_radius(noise: float) -> None:
    assert certified_radius(BlockWorld(10, noise=noise)) is None


def test_larger_blocks_have_no_certified_radius() -> None:
    with pytest.raises(UsageError, match="block_size: expected 1, but got 2"):
        certified_radius(BlockWorld(4, 2))
