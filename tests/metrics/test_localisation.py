"""Where a map lies: brute force and scipy as oracles, ties, known maps, invariances, errors."""

from collections.abc import Callable

import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from veridical.faithfulness.unmasking import resolve_kept
from veridical.metrics import (
    area_share,
    auc,
    mass_share,
    pointing_game,
    topk_curve,
    topk_share,
    zero_share,
)
from veridical.metrics.localisation import LEVELS
from veridical.runtime.errors import UsageError

MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "topk_share": lambda maps, mask: topk_share(maps, mask, 0.1),
    "topk_share, stable": lambda maps, mask: topk_share(maps, mask, 0.3, ties="stable"),
    "mass_share": mass_share,
    "pointing_game": pointing_game,
    "auc": auc,
}
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))


def maps_and_masks(ties: bool = False, channels: int = 2) -> tuple[Tensor, Tensor]:
    """Signed maps (6, C, 5, 7), with many equal sizes on request, and masks (6, 5, 7) of different areas."""
    generator = torch.Generator().manual_seed(5)
    maps = torch.randn(6, channels, 5, 7, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 5, 7, generator=generator) < torch.linspace(0.2, 0.7, 6)[:, None, None]
    return (maps * 2).round() if ties else maps, mask


def expanded(mask: Tensor, maps: Tensor) -> Tensor:
    return mask[:, None].expand(maps.shape).flatten(1)


@pytest.mark.parametrize("level", [*LEVELS, 0.001, 1.0])
def test_top_share_is_a_count_over_the_sorted_coordinates(level: float) -> None:
    maps, mask = maps_and_masks()
    region = expanded(mask, maps)
    count = resolve_kept(level, 70).count
    for row, share in enumerate(topk_share(maps, mask, level).tolist()):
        first = sorted(range(70), key=lambda place: -abs(float(maps[row].flatten()[place])))[:count]
        assert share == sum(bool(region[row, place]) for place in first) / count


def test_levels_are_cut_from_one_order() -> None:
    maps, mask = maps_and_masks(ties=True)
    curve = topk_curve(maps, mask, LEVELS, seed=3)
    assert curve.shape == (6, len(LEVELS))
    for place, level in enumerate(LEVELS):
        assert torch.equal(curve[:, place], topk_share(maps, mask, level, seed=3))


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_that_of_scipy_with_ties_as_halves(ties: bool) -> None:
    maps, mask = maps_and_masks(ties)
    region, sizes = expanded(mask, maps), maps.abs().flatten(1)
    for row, found in enumerate(auc(maps, mask).tolist()):
        inside, outside = sizes[row][region[row]], sizes[row][~region[row]]
        expected = mannwhitneyu(inside.numpy(), outside.numpy()).statistic / (len(inside) * len(outside))
        assert found == pytest.approx(expected, abs=1e-12)
        pairs = inside[:, None] - outside
        halves = (pairs > 0).double() + 0.5 * (pairs == 0).double()
        assert found == pytest.approx(float(halves.mean()), abs=1e-12)


def test_mass_is_a_share_of_the_sum_of_absolute_values() -> None:
    maps, mask = maps_and_masks()
    expected = (maps.abs() * mask[:, None]).sum(dim=(1, 2, 3)) / maps.abs().sum(dim=(1, 2, 3))
    torch.testing.assert_close(mass_share(maps, mask), expected, rtol=1e-12, atol=0)


def test_a_region_and_the_rest_add_up_to_everything() -> None:
    maps, mask = maps_and_masks(ties=True)
    for measure in MEASURES.values():
        both = measure(maps, mask) + measure(maps, ~mask)
        torch.testing.assert_close(both, torch.ones(6, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_maps_inside_and_outside_score_one_and_zero() -> None:
    mask = maps_and_masks()[1]
    inside = torch.where(mask, -2.0, 0.5)[:, None]
    # No level is larger than the smallest region here, 5 of 35 coordinates.
    assert int(mask.flatten(1).sum(dim=1).min()) >= 5
    assert topk_share(inside, mask, 0.1).tolist() == [1.0] * 6
    assert topk_share(inside, ~mask, 0.1).tolist() == [0.0] * 6
    assert auc(inside, mask).tolist() == [1.0] * 6
    assert auc(inside, ~mask).tolist() == [0.0] * 6
    assert pointing_game(inside, mask).tolist() == [1.0] * 6
    assert mass_share(inside * mask[:, None], mask).tolist() == [1.0] * 6


def test_random_ties_make_zeros_say_nothing_and_stable_ones_favour_the_upper_rows() -> None:
    maps, mask = torch.zeros(4000, 1, 4, 4), torch.zeros(4000, 4, 4, dtype=torch.bool)
    mask[:, 0] = True
    shares = topk_share(maps, mask, 0.25, seed=1)
    # A quarter of the coordinates, 4 without replacement: the deviation of a share is 0.194.
    assert abs(float(shares.mean()) - 0.25) < 5 * 0.194 / 4000**0.5
    assert topk_share(maps, mask, 0.25, ties="stable").tolist() == [1.0] * 4000
    assert auc(maps, mask).tolist() == [0.5] * 4000
    assert pointing_game(maps, mask).tolist() == [0.25] * 4000
    assert bool(mass_share(maps, mask).isnan().all())
    assert zero_share(maps).tolist() == [1.0] * 4000


def test_random_ties_depend_on_seed_and_number_alone() -> None:
    maps, mask = torch.zeros(40, 1, 4, 4), torch.zeros(40, 4, 4, dtype=torch.bool)
    mask[:, :2] = True
    whole = topk_share(maps, mask, 0.3, seed=2)
    parts = [topk_share(maps[part], mask[part], 0.3, seed=2, indices=part) for part in ([7], [39, 0, 3])]
    assert torch.equal(torch.cat(parts), whole[[7, 39, 0, 3]])
    assert not torch.equal(topk_share(maps, mask, 0.3, seed=3), whole)


def test_several_maxima_share_the_point() -> None:
    maps = torch.tensor([[[3.0, -3.0], [3.0, 1.0]]])
    assert pointing_game(maps, torch.tensor([[[True, False], [True, True]]])).item() == pytest.approx(2 / 3)


def test_shares_of_area_and_of_zeros() -> None:
    mask = torch.tensor([[[True, False], [False, False]], [[True, True], [True, True]]])
    assert area_share(mask).tolist() == [0.25, 1.0]
    assert zero_share(torch.tensor([[[0.0, -0.0], [1e-45, 2.0]]])).tolist() == [0.5]


def test_regions_of_nothing_or_everything_have_no_auc() -> None:
    maps, _ = maps_and_masks()
    empty = torch.zeros(6, 5, 7, dtype=torch.bool)
    assert bool(auc(maps, empty).isnan().all())
    assert bool(auc(maps, ~empty).isnan().all())
    assert mass_share(maps, empty).tolist() == [0.0] * 6


@every_measure
@pytest.mark.parametrize("ties", [False, True])
def test_sign_scale_and_order_of_the_pixels_do_not_matter(
    measure: Callable[[Tensor, Tensor], Tensor], ties: bool
) -> None:
    maps, mask = maps_and_masks(ties)
    expected = measure(maps, mask)
    torch.testing.assert_close(measure(maps * -4.0, mask), expected, rtol=1e-12, atol=1e-12)
    if not ties:  # the order of equal values hangs on their places
        order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
        shuffled = maps.flatten(2)[..., order].reshape(maps.shape)
        moved = mask.flatten(1)[:, order].reshape(mask.shape)
        torch.testing.assert_close(measure(shuffled, moved), expected, rtol=1e-12, atol=1e-12)


@every_measure
def test_nothing_is_changed_and_masks_of_all_channels_are_the_same(
    measure: Callable[[Tensor, Tensor], Tensor],
) -> None:
    maps, mask = maps_and_masks(ties=True)
    before, rng = (maps.clone(), mask.clone()), torch.get_rng_state()
    found = measure(maps.requires_grad_(), mask)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert torch.equal(measure(maps, mask[:, None].expand(maps.shape)), found)
    assert torch.equal(maps, before[0])
    assert torch.equal(mask, before[1])
    assert torch.equal(torch.get_rng_state(), rng)
    assert measure(maps[:0].detach(), mask[:0]).shape == (0,)


@every_measure
def test_nan_stays_with_its_example(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    maps, mask = maps_and_masks()
    expected = measure(maps, mask)
    maps[2, 1, 3, 3] = torch.nan
    found = measure(maps, mask)
    assert found.isnan().nonzero().flatten().tolist() == [2]
    assert torch.equal(found[[0, 1, 3, 4, 5]], expected[[0, 1, 3, 4, 5]])


@every_measure
def test_what_does_not_fit_is_refused(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    maps, mask = maps_and_masks()
    for wrong in (mask.float(), mask[1:], mask[:, :4], mask.transpose(1, 2)):
        with pytest.raises(UsageError, match=r"^mask: expected a bool tensor of shape \(6, 2, 5, 7\) or"):
            measure(maps, wrong)
    with pytest.raises(UsageError, match=r"^attribution: expected float32 or float64"):
        measure(maps.half(), mask)


def test_levels_ties_and_numbers_are_checked() -> None:
    maps, mask = maps_and_masks()
    for level in (0.0, -0.1, 1.01):
        with pytest.raises(UsageError, match="level"):
            topk_share(maps, mask, level)
    with pytest.raises(UsageError, match="random or stable"):
        topk_share(maps, mask, 0.1, ties="first")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="6 integers"):
        topk_share(maps, mask, 0.1, indices=[1, 2])
    with pytest.raises(UsageError, match="bool tensor"):
        area_share(mask.float())
