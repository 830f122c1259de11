"""What the models of several seeds measure on the same examples, with one interval over each of the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.metrics.intervals import UNBOUNDED, Interval, mean_interval, proportion_interval
from veridical.runtime.errors import argument_error


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
