"""Maps and regions: known shares, scikit-learn and scipy, ties, leakage, the blocks of an input."""

from collections.abc import Callable

import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from veridical.faithfulness.unmasking import resolve_kept
from veridical.metrics import (
    area_share,
    auc,
    cosine_within,
    left_behind,
    mass_share,
    pointing_game,
    topk_curve,
    topk_share,
    zero_share,
)
from veridical.metrics.localisation import LEVELS, block_magnitudes, by_role, discriminative_pixels
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
    curve = topk_curve(maps, mask, [level, 0.5])
    assert torch.equal(curve[:, 0], topk_share(maps, mask, level))
    region = expanded(mask, maps)
    count = resolve_kept(level, 70).count
    for row, share in enumerate(topk_share(maps, mask, level).tolist()):
        first = sorted(range(70), key=lambda place: -abs(float(maps[row].flatten()[place])))[:count]
        assert share == sum(bool(region[row, place]) for place in first) / count


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_that_of_scipy_with_ties_as_halves(ties: bool) -> None:
    maps, mask = maps_and_masks(ties)
    region, sizes = expanded(mask, maps), maps.abs().flatten(1)
    for row, result in enumerate(auc(maps, mask).tolist()):
        inside, outside = sizes[row][region[row]], sizes[row][~region[row]]
        expected = mannwhitneyu(inside.numpy(), outside.numpy()).statistic / (len(inside) * len(outside))
        assert result == pytest.approx(expected, abs=1e-12)


@every_measure
def test_a_region_and_the_rest_add_up_to_everything(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    maps, mask = maps_and_masks(ties=True)
    both = measure(maps, mask) + measure(maps, ~mask)
    torch.testing.assert_close(both, torch.ones(6, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    # A mask for all channels is that mask for each.
    assert torch.equal(measure(maps, mask[:, None].expand(maps.shape)), measure(maps, mask))


def test_small_cases_by_hand() -> None:
    maps, mask = maps_and_masks()
    empty = torch.zeros_like(mask)
    for region in (empty, ~empty):
        assert bool(auc(maps, region).isnan().all())
    assert mass_share(maps, empty).tolist() == [0.0] * 6
    expected = (maps.abs() * mask[:, None]).sum(dim=(1, 2, 3)) / maps.abs().sum(dim=(1, 2, 3))
    torch.testing.assert_close(mass_share(maps, mask), expected, rtol=1e-12, atol=0)
    peaks, region = torch.tensor([[[3.0, -3.0], [3.0, 1.0]]]), torch.tensor([[[True, False], [True, True]]])
    assert pointing_game(peaks, region).item() == pytest.approx(2 / 3)
    assert area_share(region).tolist() == [0.75]
    assert zero_share(torch.tensor([[[0.0, -0.0], [1e-45, 2.0]]])).tolist() == [0.5]


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
    # They depend on seed and number alone.
    parts = [topk_share(maps[part], mask[part], 0.25, seed=1, indices=part) for part in ([7], [39, 0, 3])]
    assert torch.equal(torch.cat(parts), shares[[7, 39, 0, 3]])
    assert not torch.equal(topk_share(maps, mask, 0.25, seed=3), shares)


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
def test_what_does_not_fit_is_refused(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    maps, mask = maps_and_masks()
    for wrong in (mask.float(), mask[1:], mask[:, :4], mask.transpose(1, 2)):
        with pytest.raises(UsageError, match=r"^mask: expected a bool tensor of shape \(6, 2, 5, 7\) or"):
            measure(maps, wrong)
    with pytest.raises(UsageError, match=r"^attribution: expected float32 or float64"):
        measure(maps.half(), mask)


def maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two batches (4, 2, 3, 5) of signed maps and regions (4, 3, 5), none of them empty."""
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 4, 2, 3, 5, generator=generator)
    region = torch.rand(4, 3, 5, generator=generator) < 0.5
    region[:, 0, 0] = True
    return a, b, region


def test_left_behind_compares_the_sums_in_the_region() -> None:
    a, b, region = maps()
    here, there = ((one.double().abs() * region[:, None]).sum(dim=(1, 2, 3)) for one in (a, b))
    torch.testing.assert_close(left_behind(a, b, region), here / (here + there), rtol=1e-12, atol=0)
    assert left_behind(a, -a, region).tolist() == [0.5] * 4
    assert left_behind(a * ~region[:, None], b, region).tolist() == [0.0] * 4
    assert left_behind(a, b * ~region[:, None], region).tolist() == [1.0] * 4


def test_cosine_is_signed_and_blind_to_what_lies_outside() -> None:
    a, b, region = maps()
    inside = region[:, None].expand(a.shape)
    expected = [torch.cosine_similarity(x[m], y[m], dim=0) for x, y, m in zip(a, b, inside, strict=True)]
    torch.testing.assert_close(cosine_within(a, b, region), torch.stack(expected).double())
    torch.testing.assert_close(cosine_within(a, 3 * a, region), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(cosine_within(a, -a, region), -torch.ones(4, dtype=torch.float64))
    elsewhere = torch.where(inside, a, 100 * b)
    torch.testing.assert_close(cosine_within(elsewhere, b, region), cosine_within(a, b, region))
    # Maps that do not mark the region are like nothing, and have no leakage.
    a[1], b[1] = 0.0, 0.0
    for measure in (left_behind, cosine_within):
        assert measure(a, b, region).isnan().tolist() == [False, True, False, False]


def test_telling_places_are_where_class_means_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    images = 0.1 * torch.rand(300, 4, 4, generator=generator)
    images[:, 3, 3] += torch.rand(300, generator=generator) * 2  # varies most, but not with the class
    images[labels == 0, 0, 1] += 0.5
    images[labels == 1, 2, 2] += 0.5
    images[labels == 2, 1, 0] -= 0.5
    images[:, 0, 0] += 2.0  # bright in all classes
    images[labels == 1, 1, 3] += 0.5
    assert discriminative_pixels(images, labels, 0.25).nonzero().tolist() == [[0, 1], [1, 0], [1, 3], [2, 2]]
    # A class that is rare counts like the others.
    few = torch.cat([torch.arange(0, 300, 3), torch.arange(1, 300, 3), torch.tensor([2, 5, 8])])
    assert discriminative_pixels(images[few], labels[few], 0.25)[1, 0]
    for share, count in ((1.0, 16), (0.1, 2), (0.09, 1), (0.04, 1), (0.35, 6)):
        assert int(discriminative_pixels(images, labels, share).sum()) == count  # the nearest, at least one


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
    small = by_role(torch.tensor([[1e8, 1e-8, 1e-8]]), torch.tensor([0]), 3)
    assert small.other.item() == pytest.approx(1e-8)
    alone = by_role(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64), 1)
    assert bool((alone.other.isnan() & alone.noise.isnan()).all())
    assert by_role(torch.zeros(1, 2), torch.tensor([1]), 2).evenness.isnan().all()


IMAGES, LABELS, CARRIERS = torch.rand(6, 4, 4), torch.arange(6), torch.tensor([0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda level=level: topk_share(*maps_and_masks(), level), "level") for level in (0.0, -0.1, 1.01)),
        (lambda: topk_share(*maps_and_masks(), 0.1, ties="first"), "random or stable"),  # type: ignore[arg-type]
        (lambda: topk_share(*maps_and_masks(), 0.1, indices=[1, 2]), "6 integers"),
        (lambda: area_share(torch.rand(2, 3)), "bool tensor"),
        (lambda: left_behind(*maps()[:2], maps()[2][:, :2]), r"^region: expected a bool tensor"),
        (lambda: discriminative_pixels(IMAGES.byte(), LABELS), "images"),
        (lambda: discriminative_pixels(IMAGES[None], LABELS), "images"),
        (lambda: discriminative_pixels(IMAGES[:0], LABELS), "images"),
        (lambda: discriminative_pixels(IMAGES, LABELS[1:]), "labels"),
        (lambda: discriminative_pixels(IMAGES, LABELS, 0.0), "share"),
        (lambda: block_magnitudes(torch.zeros(1, 6), 4), "a number of equal blocks in 6 values, but got 4"),
        (lambda: by_role(torch.zeros(1, 4), CARRIERS, 5), "relevant"),
        (lambda: by_role(torch.zeros(1, 4), CARRIERS + 2, 2), "block"),
        (lambda: by_role(torch.zeros(2, 4), CARRIERS + 1, 2), "block"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
