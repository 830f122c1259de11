"""Magnitudes of a map by what its blocks are to an example."""

import pytest
import torch

from veridical.metrics.localisation import block_magnitudes, by_role
from veridical.runtime.errors import UsageError


def test_blocks_have_their_euclidean_length() -> None:
    maps = torch.tensor([[3.0, -4.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 6.0, 8.0, 0.0, 0.0]])
    assert block_magnitudes(maps, 3).tolist() == [[5, 0, 1], [0, 10, 0]]
    assert torch.equal(block_magnitudes(maps.reshape(2, 1, 2, 3), 6), maps.abs())


def test_roles_pick_the_carrying_block_its_likes_and_the_rest() -> None:
    magnitudes = torch.tensor([[4.0, 1.0, 3.0, 0.5, 0.7], [2.0, 8.0, 4.0, 0.0, 0.0]], dtype=torch.float64)
    roles = by_role(magnitudes, torch.tensor([0, 1]), relevant=3)
    assert roles.signal.tolist() == [4, 8]
    assert roles.other.tolist() == [2, 3]
    torch.testing.assert_close(roles.noise, torch.tensor([0.6, 0.0]).double())
    assert roles.evenness.tolist() == [0.25, 0.25]


def test_a_small_rest_is_not_rounded_away() -> None:
    magnitudes = torch.tensor([[1e8, 1e-8, 1e-8]], dtype=torch.float32)
    assert by_role(magnitudes, torch.tensor([0]), 3).other.item() == pytest.approx(1e-8)


def test_roles_without_members_are_undefined() -> None:
    roles = by_role(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64), 1)
    assert roles.other.isnan().all()
    assert roles.noise.isnan().all()
    assert by_role(torch.zeros(1, 2), torch.tensor([1]), 2).evenness.isnan().all()


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="blocks: expected a number of equal blocks in 6 values, but got 4"):
        block_magnitudes(torch.zeros(1, 6), 4)
    with pytest.raises(UsageError, match="relevant"):
        by_role(torch.zeros(1, 4), torch.tensor([0]), 5)
    with pytest.raises(UsageError, match="block"):
        by_role(torch.zeros(1, 4), torch.tensor([2]), 2)
    with pytest.raises(UsageError, match="block"):
        by_role(torch.zeros(2, 4), torch.tensor([1]), 2)
