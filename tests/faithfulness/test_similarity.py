"""Similarity of maps, and the level that unrelated maps reach."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from veridical.faithfulness.similarity import (
    MEASURES,
    partners,
    pictures,
    similarities,
    ssim_window,
    unrelated,
)
from veridical.runtime.errors import UsageError


def maps(count: int = 6, channels: int = 3, size: int = 12) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def test_a_map_is_like_itself_and_a_flipped_sign_shows_in_one_measure() -> None:
    own = maps()
    ones = torch.ones(6, dtype=torch.float64)
    for values in similarities(own, own).values():
        assert_close(values, ones)
    flipped = similarities(own, -own)
    assert_close(flipped["spearman_signed"], -ones)
    assert_close(flipped["spearman_absolute"], ones)
    assert_close(flipped["ssim"], ones)
    assert set(flipped) == set(MEASURES)


def test_the_scale_of_a_map_does_not_matter() -> None:
    own, other = maps(), maps().roll(1, dims=3)
    scaled = similarities(own, other * 2.0**20)
    for name, values in similarities(own, other).items():
        assert_close(scaled[name], values)


def test_pictures_end_their_scale_at_a_quantile_or_at_what_there_is() -> None:
    found = pictures(maps())
    assert found.shape == (6, 12, 12)
    assert float(found.min()) >= 0
    assert_close(found.amax(dim=(1, 2)), torch.ones(6, dtype=torch.float64))
    sizes = maps().double().abs().sum(dim=1)
    tops = np.quantile(sizes.flatten(1).numpy(), 0.995, axis=1)
    assert_close(found, (sizes / torch.from_numpy(tops)[:, None, None]).clamp(max=1))
    for side in (1, 2, 14, 28, 201):
        wide = torch.randn(5, 2, side, 3, generator=torch.Generator().manual_seed(side))
        sizes = wide.double().abs().sum(dim=1)
        tops = torch.stack([row.quantile(0.995) for row in sizes])
        assert torch.equal(pictures(wide), (sizes / tops[:, None, None]).clamp(max=1))
    assert pictures(torch.tensor([[[[torch.nan] + 300 * [1.0]]]])).isnan().all()
    sparse = torch.zeros(2, 1, 32, 32)
    sparse[0, 0, 3, 4] = -0.5
    assert pictures(sparse)[0, 3, 4] == 1.0
    assert float(pictures(sparse)[1].abs().sum()) == 0.0


def test_constant_and_broken_maps_have_no_rank_correlation() -> None:
    own, other = maps(3), maps(3)
    other[0] = 0.0
    other[1, 0, 0, 0] = torch.nan
    found = similarities(own, other)
    assert found["spearman_signed"].isnan().tolist() == [True, True, False]
    assert found["ssim"].isnan().tolist() == [False, True, False]


def test_the_window_fits_small_pictures() -> None:
    assert [ssim_window(side, 40) for side in (3, 4, 8, 11, 28)] == [3, 3, 7, 11, 11]
    assert ssim_window(28, 5) == 5


@pytest.mark.parametrize("counts", [(5, 5), (10, 10, 9), (1, 1), (30, 1, 1), (7,), (3, 4, 5, 6)])
def test_partners_are_others_of_another_class(counts: tuple[int, ...]) -> None:
    target = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    target = target[torch.randperm(len(target), generator=torch.Generator().manual_seed(2))]
    found = partners(target, 4)
    assert sorted(found.tolist()) == list(range(len(target)))
    assert bool((found != torch.arange(len(target))).all())
    if 2 * max(counts) <= sum(counts):
        assert bool((target[found] != target).all())
    assert torch.equal(found, partners(target, 4))


def test_unrelated_maps_are_near_zero_for_noise_and_not_where_images_share_structure() -> None:
    shared = maps(1).abs() * 4
    own = maps(40) + shared
    found = unrelated(own, torch.arange(40) % 4, seed=0)
    assert abs(float(found["noise"]["spearman_signed"].mean())) < 0.05
    assert float(found["other image"]["spearman_signed"].mean()) > 0.5
    with pytest.raises(UsageError, match="at least 2"):
        unrelated(own[:1], torch.zeros(1, dtype=torch.int64), seed=0)
