"""Intervals, what remains, and the three verdicts."""

import pytest
import torch
from torch import Tensor

from veridical.faithfulness.invariance import (
    InvarianceVerdict,
    combine_verdicts,
    draws_interval,
    is_nearer,
    judge_remaining,
    remaining_similarity,
)
from veridical.metrics.intervals import Interval, mean_interval
from veridical.runtime.errors import UsageError


def around(value: float, half: float = 0.05) -> Interval:
    return {"value": value, "low": value - half, "high": value + half, "n": 9}


UNKNOWN: Interval = {"value": 0.1, "low": None, "high": None, "n": 1}


def values(draws: int) -> Tensor:
    return torch.rand(draws, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_interval_joins_examples_and_draws() -> None:
    drawn = values(4) + torch.arange(4)[:, None]
    result = draws_interval(drawn)
    examples, draws = mean_interval(drawn.mean(0)), mean_interval(drawn.mean(1))
    assert result["high"] is not None
    assert result["low"] is not None
    halves = [(one["high"] - one["low"]) / 2 for one in (examples, draws)]  # type: ignore[operator]
    assert result["value"] == pytest.approx(float(drawn.mean()))
    assert (result["high"] - result["low"]) / 2 == pytest.approx((halves[0] ** 2 + halves[1] ** 2) ** 0.5)
    assert result["n"] == 30
    assert draws_interval(values(1)) == mean_interval(values(1)[0])


def test_undefined_comparisons_are_left_out() -> None:
    drawn = values(2)
    drawn[0, 3] = torch.nan
    drawn[:, 7] = torch.nan
    result = draws_interval(drawn)
    assert result["n"] == 29
    assert result["low"] is not None
    with pytest.raises(UsageError, match="draws, N"):
        draws_interval(drawn[0])


def test_what_remains_is_one_for_the_same_map_and_zero_for_an_unrelated_one() -> None:
    level = 0.2 + 0.1 * values(1)[0]
    same, other = (remaining_similarity(one, level) for one in (torch.ones(3, 30), level.expand(3, 30)))
    assert same["value"] == pytest.approx(1.0)
    assert other["value"] == pytest.approx(0.0)
    # Maps that do not depend on the image say nothing.
    assert remaining_similarity(torch.ones(3, 30), torch.ones(30))["value"] is None


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([around(0.0)], "passes"),
        ([around(0.1), around(-0.3)], "passes"),
        ([around(0.22)], "undecided"),  # the interval reaches over the threshold
        ([around(0.1), around(0.4)], "undecided"),
        ([around(0.52)], "undecided"),
        ([around(0.6), around(0.0)], "nearly invariant"),
        ([around(0.0), around(1.0)], "nearly invariant"),
        ([UNKNOWN], "undecided"),
        ([around(0.0), UNKNOWN], "undecided"),
    ],
)
def test_verdicts_need_a_whole_interval(found: list[Interval], verdict: str) -> None:
    assert judge_remaining(found) == verdict


@pytest.mark.parametrize(
    ("verdicts", "telling", "expected"),
    [
        (("passes", "passes"), (True, True), "passes"),
        (("passes", "undecided"), (True, True), "undecided"),
        (("passes", "undecided"), (True, False), "passes"),
        (("undecided", "undecided"), (False, False), "undecided"),
        (("passes", "nearly invariant"), (True, True), "nearly invariant"),
        (("undecided", "nearly invariant"), (True, False), "nearly invariant"),
    ],
)
def test_one_measure_is_enough_to_fail_and_all_that_tell_must_pass(
    verdicts: tuple[InvarianceVerdict, ...], telling: tuple[bool, ...], expected: str
) -> None:
    by_name, can_tell = dict(zip("ab", verdicts, strict=True)), dict(zip("ab", telling, strict=True))
    assert combine_verdicts(by_name, can_tell) == expected


def test_a_control_tells_only_where_it_is_clearly_nearer() -> None:
    randomised = values(1)[0]
    assert is_nearer(randomised + 0.1, randomised)
    assert not is_nearer(randomised, randomised)
    assert not is_nearer(values(2)[1], randomised)


def test_no_state_has_no_verdict() -> None:
    with pytest.raises(UsageError, match="at least one state"):
        judge_remaining([])
