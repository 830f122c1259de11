"""Top-k intersection: the authors' tie order, the expectation over ties, and windows against brute force."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from veridical.metrics import topk_intersection, topk_mask, windowed_topk_intersection
from veridical.runtime.errors import UsageError

SMALL_MAPS = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randint(-2, 3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(seed)).double()
)


def authors_intersection(a: Tensor, b: Tensor, k: int) -> list[float]:
    """Count as in the RAR authors' evaluation: the last k of an argsort, here a stable one."""
    shares = []
    for left, right in zip(a.flatten(1).numpy(), b.flatten(1).numpy()):
        top_left = np.argsort(left, kind="stable")[-k:]
        top_right = np.argsort(right, kind="stable")[-k:]
        shares.append(len(np.intersect1d(top_left, top_right)) / k)
    return shares


@given(maps=SMALL_MAPS, k=st.integers(1, 30))
@settings(max_examples=80, deadline=None)
def test_stable_last_is_the_authors_computation(maps: Tensor, k: int) -> None:
    a, b = maps
    assert topk_intersection(a, b, k).tolist() == pytest.approx(authors_intersection(a, b, k), abs=1e-15)
    assert topk_intersection(a, b, k).dtype == torch.float64


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
    with pytest.raises(UsageError, match="'first'"):
        topk_intersection(maps, maps, 2, order="first")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'both'"):
        windowed_topk_intersection(maps, maps, 2, 1, direction="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 0"):
        windowed_topk_intersection(maps, maps, 2, -1)
