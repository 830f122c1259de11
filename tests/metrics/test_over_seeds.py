"""Intervals over examples and over seeds, and differences paired by both."""

import math

import numpy as np
import pytest
from scipy import stats

from veridical.metrics.intervals import paired_difference, proportion_interval, two_intervals
from veridical.report.formats import main_interval
from veridical.runtime.errors import UsageError


def students(values: list[float]) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return float(low), float(high)


def test_each_interval_is_over_its_own_means() -> None:
    first, second = np.array([0.0, 1.0, 0.5, 0.25]), np.array([0.5, 1.0, 0.0, 0.75])
    found = two_intervals([first, second])
    by_example = [0.25, 1.0, 0.25, 0.5]
    assert found["examples"]["value"] == pytest.approx(0.5)
    assert (found["examples"]["low"], found["examples"]["high"]) == pytest.approx(students(by_example))
    assert (found["seeds"]["low"], found["seeds"]["high"]) == pytest.approx(students([0.4375, 0.5625]))
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
