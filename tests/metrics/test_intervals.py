"""Intervals against scipy, over examples and over seeds; no, one, equal and undefined values."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from veridical.metrics import mean_interval, proportion_interval
from veridical.metrics.intervals import paired_difference, two_intervals
from veridical.report.formats import main_interval
from veridical.runtime.errors import UsageError


def by_t(values: Any) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(low), float(high)


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
def test_mean_equals_scipy(n: int) -> None:
    values = np.random.default_rng(n).normal(3.0, 2.0, size=n)
    low, high = by_t(values)
    result = mean_interval(torch.from_numpy(values))
    assert result == {
        "value": pytest.approx(values.mean(), rel=1e-12),
        "low": pytest.approx(low, rel=1e-9),
        "high": pytest.approx(high, rel=1e-9),
        "n": n,
    }
    assert mean_interval(values.tolist()) == result


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
    with pytest.raises(UsageError, match="one number per example"):
        mean_interval(torch.rand(3, 2))


def test_order_and_precision_of_values_do_not_show() -> None:
    values = torch.rand(1001, generator=torch.Generator().manual_seed(0))
    assert mean_interval(values) == mean_interval(values.flip(0).double())


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


def test_each_interval_is_over_its_own_means() -> None:
    first, second = np.array([0.0, 1.0, 0.5, 0.25]), np.array([0.5, 1.0, 0.0, 0.75])
    found = two_intervals([first, second])
    by_example = [0.25, 1.0, 0.25, 0.5]
    assert found["examples"]["value"] == pytest.approx(0.5)
    assert (found["examples"]["low"], found["examples"]["high"]) == pytest.approx(by_t(by_example))
    assert (found["seeds"]["low"], found["seeds"]["high"]) == pytest.approx(by_t([0.4375, 0.5625]))
    assert (found["examples"]["n"], found["seeds"]["n"]) == (4, 2)
    assert main_interval(found) == found["seeds"]


def test_one_seed_has_an_interval_over_examples_alone_and_booleans_wilsons() -> None:
    found = two_intervals([np.array([True] * 20)])
    assert found["examples"] == proportion_interval(20, 20)
    assert found["examples"]["low"] is not None
    assert found["examples"]["low"] < 0.9
    assert (found["seeds"]["value"], found["seeds"]["low"]) == (1.0, None)
    assert main_interval(found) == found["examples"]


def test_undefined_values_are_left_out_and_counted() -> None:
    found = two_intervals([np.array([1.0, math.nan, math.nan]), np.array([0.0, 0.5, math.nan])])
    assert found["examples"]["n"] == 2
    assert found["examples"]["value"] == pytest.approx(0.5)
    assert found["seeds"]["value"] == pytest.approx((1.0 + 0.25) / 2)


def test_seeds_must_have_measured_the_same_examples() -> None:
    with pytest.raises(UsageError, match="same number of examples"):
        two_intervals([np.zeros(3), np.zeros(4)])
    with pytest.raises(UsageError, match="at least one seed"):
        two_intervals([])


def test_differences_are_paired_by_seed_where_the_seeds_are_the_same() -> None:
    noise = {seed: np.array([0.1, 0.4, 0.2, 0.3]) * (seed + 1) for seed in range(3)}
    higher = {seed: values + 0.05 for seed, values in reversed(noise.items())}
    found = paired_difference(higher, noise)
    assert found["seeds"]["low"] == pytest.approx(0.05)
    assert found["examples"]["high"] == pytest.approx(0.05)
    other = paired_difference({7: noise[0] + 0.05}, noise)
    mean = np.mean([noise[0] + 0.05 - np.mean(list(noise.values()), axis=0)])
    assert other["examples"]["value"] == pytest.approx(mean)
    assert other["seeds"] == {"value": None, "low": None, "high": None, "n": 0}
    # Equally many seeds are no pairs unless they are the same seeds.
    unlike = paired_difference({seed + 1: values + 0.05 for seed, values in noise.items()}, noise)
    assert unlike["seeds"] == other["seeds"]
    assert unlike["examples"]["value"] == pytest.approx(0.05)
