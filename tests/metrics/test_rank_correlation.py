"""tau-b and Spearman against scipy, with heavy ties; the order statistics under them by brute force."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import Tensor

from veridical.metrics import kendall_tau, rank, spearman
from veridical.runtime.errors import UsageError

Rows = np.ndarray[Any, np.dtype[Any]]

CASES = [
    pytest.param(kendall_tau, stats.kendalltau, id="kendall"),
    pytest.param(spearman, stats.spearmanr, id="spearman"),
]
Metric = Callable[[Tensor, Tensor], Tensor]
Oracle = Callable[[Rows, Rows], Any]


def by_scipy(oracle: Oracle, a: Rows, b: Rows) -> Rows:
    with warnings.catch_warnings():
        # scipy warns of constant and of single values, and gives NaN, which is what is compared.
        warnings.simplefilter("ignore")
        return np.array([oracle(*pair).statistic for pair in zip(a, b)])


def assert_as_scipy(metric: Metric, oracle: Oracle, a: Rows, b: Rows) -> None:
    result = metric(torch.from_numpy(a), torch.from_numpy(b))
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), by_scipy(oracle, a, b), rtol=0, atol=1e-12)


@st.composite
def tied_pairs_of_maps(draw: st.DrawFn) -> tuple[Rows, Rows]:
    """Rows of few distinct values, of which some are constant, in a random precision."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 150)))
    largest = draw(st.sampled_from([0, 1, 2, 5, 40]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    whole = hnp.arrays(np.int64, shape, elements=st.integers(-largest, largest))
    a, b = draw(whole).astype(dtype), draw(whole).astype(dtype)
    # Negative zeros equal zeros.
    a[a == 0] *= -1
    return a, b


@pytest.mark.parametrize(("metric", "oracle"), CASES)
@given(maps=tied_pairs_of_maps())
@settings(max_examples=150, deadline=None)
def test_equals_scipy_with_heavy_ties(metric: Metric, oracle: Oracle, maps: tuple[Rows, Rows]) -> None:
    assert_as_scipy(metric, oracle, *maps)


@pytest.mark.parametrize(("metric", "oracle"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [2, 31, 32, 33, 64, 65, 784, 3072, 70_000])
def test_equals_scipy_at_every_piece_size(
    metric: Metric, oracle: Oracle, dtype: type[np.floating[Any]], length: int
) -> None:
    rng = np.random.default_rng(length)
    rows = 5 if length < 10_000 else 2  # of the longest, ranks need more than 16 bits
    a = rng.normal(size=(rows, length))
    b = a + rng.normal(size=(rows, length))
    half_zero = rng.random(size=(rows, length)) < 0.4
    a[half_zero], b[half_zero] = 0, 0
    a[0] = np.abs(a[0])
    assert_as_scipy(metric, oracle, a.astype(dtype), b.astype(dtype))


def test_counts_beyond_32_bits_are_exact() -> None:
    length = 150_528
    ascending = torch.arange(length, dtype=torch.float32)[None]
    assert kendall_tau(ascending, -ascending).item() == -1.0
    assert kendall_tau(ascending, ascending).item() == 1.0
    # One swap of neighbours among 1.1e10 pairs.
    swapped = ascending.clone()
    swapped[0, :2] = torch.tensor([1.0, 0.0])
    pairs = length * (length - 1) // 2
    assert kendall_tau(ascending, swapped).item() == pytest.approx((pairs - 2) / pairs, abs=1e-15)


@pytest.mark.parametrize(("metric", "oracle"), CASES)
def test_float64_values_that_differ_in_their_last_bits_keep_their_order(
    metric: Metric, oracle: Oracle
) -> None:
    rng = np.random.default_rng(3)
    steps = rng.integers(-40, 40, size=(6, 500))
    a = 1.0 + steps * np.finfo(np.float64).eps
    b = rng.normal(size=a.shape)
    # Some rows have no such values, so both ways to sort are taken in one batch.
    a[::2] = rng.normal(size=a[::2].shape)
    assert len(np.unique(a[1])) > 50
    assert_as_scipy(metric, oracle, a, b)
    assert_as_scipy(metric, oracle, -b, -a)


@pytest.mark.parametrize(("metric", "oracle"), CASES)
def test_extreme_values_have_an_order(metric: Metric, oracle: Oracle) -> None:
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    a = np.array([[-huge, -1, -tiny, -0.0, 0.0, tiny, 1, huge]], dtype=np.float32)
    order = np.random.default_rng(1).permutation(8)
    assert_as_scipy(metric, oracle, a[:, order], np.arange(8, dtype=np.float32)[None])


@pytest.mark.parametrize("metric", [kendall_tau, spearman])
def test_the_number_of_rows_at_once_changes_nothing(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 23, 40, generator=generator).round(decimals=1)
    whole = metric(a, b)
    monkeypatch.setattr(rank, "_VALUES_AT_ONCE", 130)
    assert torch.equal(metric(a, b), whole)
    # More values than can be counted exactly are refused.
    monkeypatch.setattr(rank, "_MAX_VALUES", 40)
    assert metric(a, b).shape == (23,)
    with pytest.raises(UsageError, match="at most 40 values"):
        metric(torch.rand(1, 41), torch.rand(1, 41))
