"""Verdicts: what is a finding, and what is not."""

import math

import pytest
from scipy import stats

from veridical.faithfulness.verdict import judge, measured
from veridical.runtime.errors import UsageError


def test_the_interval_joins_repeats_and_test_images() -> None:
    top, bottom, examples = [0.71, 0.74, 0.72], [0.60, 0.66, 0.63], 500
    found = judge(top, bottom, examples)
    differences = [one - other for one, other in zip(top, bottom, strict=True)]
    low, high = stats.t.interval(0.95, 2, loc=stats.tmean(differences), scale=stats.sem(differences))
    one, other = sum(top) / 3, sum(bottom) / 3
    images = stats.norm.ppf(0.975) * math.sqrt((one * (1 - one) + other * (1 - other)) / examples)
    half = math.hypot((high - low) / 2, images)
    assert found["value"] == pytest.approx(one - other)
    assert found["low"] == pytest.approx(one - other - half)
    assert found["high"] == pytest.approx(one - other + half)


@pytest.mark.parametrize(
    ("top", "bottom", "verdict"),
    [
        ([0.9, 0.91, 0.9], [0.5, 0.52, 0.51], "satisfied"),
        ([0.5, 0.52, 0.51], [0.9, 0.91, 0.9], "violated"),
        ([0.8, 0.82, 0.78], [0.79, 0.83, 0.8], "undecided"),
        ([0.9], [0.5], "undecided"),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "undecided"),
    ],
)
def test_verdicts(top: list[float], bottom: list[float], verdict: str) -> None:
    assert judge(top, bottom, 1000)["verdict"] == verdict


def test_seeds_that_agree_do_not_make_few_images_many() -> None:
    # The repeats differ by one image in a thousand, always the same way; the images alone vary by 2.5%.
    top, bottom = [0.801, 0.802, 0.801, 0.802], [0.79, 0.791, 0.79, 0.791]
    assert measured([one - other for one, other in zip(top, bottom, strict=True)])["low"] > 0
    assert judge(top, bottom, 1000)["verdict"] == "undecided"
    assert judge(top, bottom, 100_000)["verdict"] == "satisfied"


def test_one_repeat_has_no_interval() -> None:
    assert measured([0.7]) == {"repeats": [0.7], "value": 0.7, "low": None, "high": None}
    assert judge([0.9], [0.5], 1000)["low"] is None


@pytest.mark.parametrize(("top", "bottom"), [([], []), ([0.5], [0.5, 0.6])])
def test_repeats_come_in_pairs(top: list[float], bottom: list[float]) -> None:
    with pytest.raises(UsageError, match="repeats"):
        judge(top, bottom, 100)
