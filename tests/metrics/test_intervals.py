"""Intervals against scipy, their coverage, and results of no, one, equal and undefined values."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from veridical.metrics import mean_interval, proportion_interval
from veridical.runtime.errors import UsageError


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_mean_equals_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(3.0, 2.0, size=n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    result = mean_interval(torch.from_numpy(values))
    assert result == {
        "value": pytest.approx(values.mean(), rel=1e-12),
        "low": pytest.approx(low, rel=1e-9),
        "high": pytest.approx(high, rel=1e-9),
        "n": n,
    }
    assert mean_interval(values.tolist()) == result


def test_interval_covers_the_true_mean_95_times_in_100() -> None:
    rows = np.random.default_rng(0).normal(size=(4000, 5))
    covered = 0
    for row in rows:
        result = mean_interval(row.tolist())
        assert result["low"] is not None
        assert result["high"] is not None
        covered += result["low"] <= 0 <= result["high"]
    assert covered / 4000 == pytest.approx(0.95, abs=0.015)


def test_none_one_and_equal_values() -> None:
    assert mean_interval([]) == {"value": None, "low": None, "high": None, "n": 0}
    assert mean_interval([0.5]) == {"value": 0.5, "low": None, "high": None, "n": 1}
    # The interval of few values may leave the metric's range, unless that is given.
    assert (mean_interval([1.0, 1.0, 0.7])["high"] or 0.0) > 1
    assert mean_interval([0.1] * 7) == {"value": 0.1, "low": 0.1, "high": 0.1, "n": 7}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_undefined_values_are_never_dropped_silently(bad: float) -> None:
    assert mean_interval([0.2, bad, 0.4]) == {"value": None, "low": None, "high": None, "n": 3}
    assert mean_interval([0.2, bad, 0.4], undefined="exclude") == mean_interval([0.2, 0.4])
    with pytest.raises(UsageError, match="undefined"):
        mean_interval([0.2], undefined="drop")  # type: ignore[arg-type]


def test_order_and_precision_of_values_do_not_show() -> None:
    values = torch.rand(1001, generator=torch.Generator().manual_seed(0))
    assert mean_interval(values) == mean_interval(values.flip(0).double())


def test_values_are_one_per_example() -> None:
    with pytest.raises(UsageError, match="one number per example"):
        mean_interval(torch.rand(3, 2))


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (10, 10), (850, 1000), (1, 1), (0, 1)])
def test_proportion_equals_scipys_wilson(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    result = proportion_interval(successes, n)
    assert result == {
        "value": successes / n,
        "low": pytest.approx(expected.low, abs=1e-12),
        "high": pytest.approx(expected.high, abs=1e-12),
        "n": n,
    }
    assert result["low"] is not None
    assert result["high"] is not None
    assert 0 <= result["low"] <= successes / n <= result["high"] <= 1


def test_proportion_of_nothing_and_of_too_much() -> None:
    assert proportion_interval(0, 0) == {"value": None, "low": None, "high": None, "n": 0}
    for successes, n in ((3, 2), (-1, 5), (0, -1)):
        with pytest.raises(UsageError, match=r"successes|^n:"):
            proportion_interval(successes, n)
