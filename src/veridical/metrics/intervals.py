"""95% intervals of the numbers that results report: means and proportions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from veridical.runtime.checking import check_count
from veridical.runtime.errors import argument_error

# Confidence of every interval.
LEVEL = 0.95
# Where the interval of a share, such as an accuracy, ends.
SHARE = (0.0, 1.0)
UNBOUNDED = (-math.inf, math.inf)


class Interval(TypedDict):
    """A reported number: its value, the ends of its interval and the number of examples behind it.

    None (null in JSON) stands for what is undefined.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


def mean_interval(
    values: Tensor | Sequence[float],
    *,
    undefined: Literal["propagate", "exclude"] = "propagate",
    bounds: tuple[float, float] = UNBOUNDED,
) -> Interval:
    """Mean of values (n,) with its 95% interval by Student's t.

    mean -+ t(n - 1) * s / sqrt(n): exact for independent normal values, approximate for the means of bounded
    metrics over many examples. bounds: what the mean can be, `SHARE` for shares; the interval ends there. For
    shares of successes use `proportion_interval`.

    A value that is not finite (tau of a constant map) makes the mean undefined, unless undefined="exclude"
    leaves such values out; n is then the number of the others. n = 0 has no value, n = 1 no interval.
    """
    if undefined not in ("propagate", "exclude"):
        raise argument_error("undefined", undefined, "'propagate' or 'exclude'")
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0, 0)
    if numbers.ndim != 1:
        raise argument_error("values", values, "one number per example, (n,)")
    finite = numbers.isfinite()
    if undefined == "exclude":
        numbers = numbers[finite]
    n = len(numbers)
    if n == 0 or not bool(numbers.isfinite().all()):
        return {"value": None, "low": None, "high": None, "n": n}
    # fsum rounds once, so neither the order of the examples nor how they were batched shows.
    value = math.fsum(numbers.tolist()) / n
    if n == 1:
        return {"value": value, "low": None, "high": None, "n": 1}
    variance = math.fsum(((numbers - value) ** 2).tolist()) / (n - 1)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * math.sqrt(variance / n)
    # A mean that rounding put beyond a bound stays inside its interval.
    low, high = max(min(bounds[0], value), value - half), min(max(bounds[1], value), value + half)
    return {"value": value, "low": low, "high": high, "n": n}


def proportion_interval(successes: int, n: int) -> Interval:
    """Share of successes among n with its 95% interval by Wilson's score, always inside [0, 1].

    Unlike the mean's interval it stays honest at 0 and n successes. n = 0 has no value.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    check_count("n", n, 0)
    check_count("successes", successes, 0)
    if successes > n:
        raise argument_error("successes", successes, f"a number from 0 to n = {n}")
    if n == 0:
        return mean_interval([])
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = successes / n
    # Wilson: the shares that a normal test would not reject.
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the formula gives exactly 0 or 1, but for rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return {"value": share, "low": low, "high": high, "n": n}


def two_intervals(
    measured: Sequence[NDArray[Any]], bounds: tuple[float, float] = UNBOUNDED
) -> dict[str, Interval]:
    """The mean of a measure of (seeds, examples), as {"examples": interval, "seeds": interval}.

    measured: for each seed its value on every example (N,), the same examples in the same order. "examples"
    is over the N examples' means over seeds: how much other images would change it. "seeds" is over the
    seeds' means over examples: how much training again would change it; with one seed it has no ends.
    Undefined values (NaN) are left out, and `n` says how many there were without them. One seed's booleans
    get Wilson's interval over examples, which stays honest at 0 and 1. bounds: where both intervals end.
    """
    if not measured or len({len(values) for values in measured}) != 1:
        given = [len(values) for values in measured]
        raise argument_error("measured", given, "the same number of examples for at least one seed")
    stacked = np.stack([np.asarray(values, dtype=np.float64) for values in measured])
    if len(measured) == 1 and measured[0].dtype == np.bool_:
        over_examples = proportion_interval(int(measured[0].sum()), len(measured[0]))
    else:
        over_examples = mean_interval(_means(stacked.T), undefined="exclude", bounds=bounds)
    over_seeds = mean_interval(_means(stacked), undefined="exclude", bounds=bounds)
    return {"examples": over_examples, "seeds": over_seeds}


def over_runs(
    intervals: Sequence[Mapping[str, Any]], bounds: tuple[float, float] = UNBOUNDED
) -> dict[str, Any]:
    """As `two_intervals`, from each seed's interval over examples; of several seeds these stand in `each`."""
    return {
        "examples": dict(intervals[0]) if len(intervals) == 1 else None,
        "seeds": mean_interval([float(interval["value"]) for interval in intervals], bounds=bounds),
        "each": [dict(interval) for interval in intervals],
    }


def paired_difference(
    measured: Mapping[int, NDArray[Any]], reference: Mapping[int, NDArray[Any]]
) -> dict[str, Interval]:
    """Two intervals of `measured` minus `reference`, arrays (N,) by seed, paired by example and by seed.

    Trainings of one seed share the order of the images and, of one architecture, the first weights. Where the
    seeds are not the same, the interval over seeds has no value.
    """
    if set(measured) == set(reference):
        return two_intervals([measured[seed] - reference[seed] for seed in measured])
    means = [_means(np.stack(list(each.values())).T) for each in (measured, reference)]
    return {
        "examples": mean_interval([a - b for a, b in zip(*means, strict=True)], undefined="exclude"),
        "seeds": mean_interval([]),
    }


def _means(rows: NDArray[np.float64]) -> list[float]:
    """The mean of each row's defined values; NaN for a row without one."""
    return [float(kept.mean()) if len(kept := row[~np.isnan(row)]) else float("nan") for row in rows]
