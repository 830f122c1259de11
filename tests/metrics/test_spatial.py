"""Top-k sets and windows against brute force, SSIM against scikit-image, centres of mass against scipy."""

from itertools import combinations, product
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.testing import assert_close

from veridical.metrics import (
    mass_centre,
    mass_centre_shift,
    ssim,
    topk_intersection,
    topk_mask,
    windowed_topk_intersection,
)
from veridical.runtime.errors import UsageError

SMALL_MAPS = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randint(-2, 3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(seed)).double()
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [1, 3, 40, 10**6])
@pytest.mark.parametrize("specials", [(), (0.0, -0.0), (torch.inf, -torch.inf), (torch.nan, torch.inf)])
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 400), k=st.integers(1, 400))
@settings(max_examples=12, deadline=None)
def test_the_top_k_are_the_last_of_a_stable_sort(
    dtype: torch.dtype, values: int, specials: tuple[float, ...], seed: int, length: int, k: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-values, values + 1, (5, length), generator=generator).to(dtype) / 8
    for special in specials:
        maps[:3][torch.rand(3, length, generator=generator) < 0.2] = special
    for count in {min(k, length), 1, min(3, length), length}:
        expected = torch.zeros_like(maps, dtype=torch.bool)
        expected.scatter_(1, maps.argsort(dim=1, stable=True)[:, length - count :], value=True)
        assert torch.equal(topk_mask(maps, count), expected)


def expected_by_enumeration(a: Tensor, b: Tensor, k: int) -> float:
    """Mean intersection over all pairs of top-k sets that some order of the ties gives."""

    def tops(row: Tensor) -> list[set[int]]:
        values: list[float] = row.tolist()
        edge = sorted(values)[-k]
        above = {place for place, value in enumerate(values) if value > edge}
        tied = [place for place, value in enumerate(values) if value == edge]
        return [above | set(chosen) for chosen in combinations(tied, k - len(above))]

    shares = [len(left & right) / k for left, right in product(tops(a), tops(b))]
    return sum(shares) / len(shares)


@pytest.mark.parametrize("k", range(1, 8))
def test_expected_order_is_the_mean_over_all_tie_breaks(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    a, b = torch.randint(0, 3, (2, 6, 7), generator=generator).float()
    expected = [expected_by_enumeration(left, right, k) for left, right in zip(a, b)]
    assert topk_intersection(a, b, k, order="expected").tolist() == pytest.approx(expected, abs=1e-12)


def windowed_by_hand(a: Tensor, b: Tensor, k: int, window: int) -> tuple[float, float]:
    left, right = topk_mask(a[None], k)[0].nonzero().tolist(), topk_mask(b[None], k)[0].nonzero().tolist()

    def found(pixels: list[list[int]], others: list[list[int]]) -> float:
        near = [any(max(abs(r - s), abs(c - d)) <= window for s, d in others) for r, c in pixels]
        return sum(near) / k

    return found(left, right), found(right, left)


@given(maps=SMALL_MAPS, k=st.integers(1, 30), window=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_windows_are_chebyshev_distances(maps: Tensor, k: int, window: int) -> None:
    a, b = maps
    by_hand = torch.tensor([windowed_by_hand(left, right, k, window) for left, right in zip(a, b)])
    answers = {"precision": by_hand[:, 0], "recall": by_hand[:, 1], "mean": by_hand.mean(dim=1)}
    for direction, expected in answers.items():
        result = windowed_topk_intersection(a, b, k, window, direction=direction)  # type: ignore[arg-type]
        torch.testing.assert_close(result, expected.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [0, -1, 31])
def test_k_out_of_range_is_refused(k: int) -> None:
    maps = torch.rand(2, 5, 6)
    for call in (
        lambda: topk_intersection(maps, maps, k),
        lambda: topk_intersection(maps, maps, k, order="expected"),
        lambda: windowed_topk_intersection(maps, maps, k, 1),
        lambda: topk_mask(maps, k),
    ):
        with pytest.raises(UsageError, match="from 1 to 30"):
            call()


def test_unknown_options_are_named() -> None:
    maps = torch.rand(1, 5, 6)
    for options, message in (({"direction": "both"}, "'both'"), ({"window": -1}, "at least 0")):
        with pytest.raises(UsageError, match=message):
            windowed_topk_intersection(maps, maps, 2, **{"window": 1, **options})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'first'"):
        topk_intersection(maps, maps, 2, order="first")  # type: ignore[arg-type]


def pictures(
    shape: tuple[int, ...] = (4, 20, 17), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    a = torch.rand(*shape, generator=generator, dtype=dtype)
    b = 0.6 * a + 0.4 * torch.rand(*shape, generator=generator, dtype=dtype)
    return a, b


@pytest.mark.parametrize("sample_covariance", [False, True])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
@pytest.mark.parametrize(
    ("weights", "window", "theirs"),
    [
        ("gaussian", None, {"gaussian_weights": True, "sigma": 1.5}),
        ("uniform", None, {}),
        ("uniform", 5, {"win_size": 5}),
        ("uniform", 17, {"win_size": 17}),
    ],
)
def test_equal_to_scikit_image(
    weights: Literal["gaussian", "uniform"],
    window: int | None,
    theirs: dict[str, Any],
    data_range: float,
    sample_covariance: bool,
) -> None:
    a, b = (data_range * batch for batch in pictures())
    result = ssim(
        a, b, data_range=data_range, weights=weights, window=window, sample_covariance=sample_covariance
    )
    theirs = {**theirs, "data_range": data_range, "use_sample_covariance": sample_covariance}
    expected = [structural_similarity(one, other, **theirs) for one, other in zip(a.numpy(), b.numpy())]
    assert_close(result, torch.tensor(expected), rtol=1e-10, atol=1e-12)


def test_flat_pictures_are_compared_by_their_means_alone() -> None:
    low, high = torch.full((1, 11, 11), 0.2), torch.full((1, 11, 11), 0.6)
    expected = (2 * 0.2 * 0.6 + 0.01**2) / (0.2**2 + 0.6**2 + 0.01**2)
    assert ssim(low, high, data_range=1.0).item() == pytest.approx(expected, rel=1e-5)
    # Two blank pictures are the same picture.
    assert ssim(0 * low, 0 * high, data_range=1.0).item() == pytest.approx(1.0)


def test_a_picture_s_number_depends_on_no_other() -> None:
    a, b = pictures((5, 150, 160))  # more than are worked on together
    whole = ssim(a, b, data_range=1.0)
    assert torch.equal(torch.cat([ssim(a[i : i + 1], b[i : i + 1], data_range=1.0) for i in range(5)]), whole)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": 4}, "window: .*odd"),
        ({"window": 1}, "window: .*odd"),
        ({"window": 19}, "shorter side has 17"),
        ({"weights": "flat"}, "weights"),
        ({"data_range": 0.0}, "data_range"),
        ({"data_range": float("inf")}, "data_range"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], told: str) -> None:
    a, b = pictures()
    with pytest.raises(UsageError, match=told):
        ssim(a, b, **{"data_range": 1.0, **options})
    for wrong, message in ((a[:, None], "one value per pixel"), (a[:, :10], "shorter side has 10")):
        with pytest.raises(UsageError, match=message):
            ssim(wrong, wrong, data_range=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_centres_are_scipy_s_and_differentiable(dtype: torch.dtype) -> None:
    maps = torch.rand(4, 7, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = [ndimage.center_of_mass(image.double().numpy()) for image in maps]
    assert_close(mass_centre(maps), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(mass_centre, (maps[:2].double() + 0.1).requires_grad_())
    for wrong, message in ((maps - 1, "at least 0"), (torch.ones(2, 3, 4, 4), "channels")):
        with pytest.raises(UsageError, match=message):
            mass_centre(wrong)


def test_a_map_without_mass_has_no_centre() -> None:
    maps = torch.ones(3, 4, 4)
    maps[1] = 0
    maps[2, 0, 0] = torch.nan
    assert mass_centre(maps).isnan().all(dim=1).tolist() == [False, True, True]
    assert mass_centre_shift(torch.ones(3, 4, 4), maps).isnan().tolist() == [False, True, True]
