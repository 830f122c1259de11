"""Whether maps care what a network has learnt: what unrelated maps share, what remains, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from veridical.metrics.intervals import Interval, mean_interval
from veridical.metrics.registry import compare_maps
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_normal, stream


def compare_unrelated(maps: Tensor, target: Tensor, seed: int) -> dict[str, dict[str, Tensor]]:
    """Similarities that say nothing about a network, by name of the other map: "other image" and "noise".

    other image: the map (N, C, H, W) of another image by the same network, of another class as far as the
    explained classes (N,) allow it. noise: independent normal values. Raises UsageError for fewer than 2
    maps.
    """
    noise = per_example_normal(
        maps.shape[1:], seed, "unrelated map", range(len(maps)), dtype=maps.dtype, device=maps.device
    )
    others = maps[pick_partners(target, seed).to(maps.device)]
    return {
        "other image": compare_maps(maps, others, "sanity"),
        "noise": compare_maps(maps, noise, "sanity"),
    }


def pick_partners(target: Tensor, seed: int) -> Tensor:
    """Another example for each (N,): each is taken once, none itself, of another class where that can be."""
    count = len(target)
    if count < 2:
        raise argument_error("target", target, "at least 2 examples")
    shuffled = torch.randperm(count, generator=stream(seed, "unrelated images"))
    order = shuffled[target.cpu()[shuffled].argsort(stable=True)]
    # Sorted by class and moved on by the largest class's size, nobody meets the own class, if that is
    # at most half.
    largest = int(target.cpu().bincount().max())
    result = torch.empty_like(order)
    result[order] = order.roll(-max(1, min(largest, count // 2)))
    return result


InvarianceVerdict = Literal["passes", "nearly invariant", "undecided"]

# Remaining similarity from which on a map is nearly invariant: it kept more than it lost.
INVARIANT_ABOVE = 0.5
# Remaining similarity up to which a map passes.
PASSES_BELOW = 0.25
# Training accuracy that a network must reach on randomised data for the comparison to say something.
LEARNT_BY_HEART = 0.95


def draws_interval(values: Tensor) -> Interval:
    """The mean of values (draws, N) with a 95% interval for both things that vary; NaN is left out.

    Half its length is the root of the sum of squares of two: Student's t over the examples' means over draws,
    and over the draws' means over examples. With one draw only the first is there. n is the number of
    examples with a value.
    """
    if values.ndim != 2:
        raise argument_error("values", values, "(draws, N)")
    over_examples = mean_interval(values.nanmean(dim=0), undefined="exclude")
    if len(values) < 2 or over_examples["low"] is None or over_examples["high"] is None:
        return over_examples
    over_draws = mean_interval(values.nanmean(dim=1), undefined="exclude")
    if over_draws["low"] is None or over_draws["high"] is None:
        return over_examples
    centre = (over_examples["high"] + over_examples["low"]) / 2
    halves = [(result["high"] - result["low"]) / 2 for result in (over_examples, over_draws)]  # type: ignore[operator]
    # Both things vary independently, so their variances add up.
    half = sqrt(sum(one**2 for one in halves))
    return {"value": centre, "low": centre - half, "high": centre + half, "n": over_examples["n"]}


def remaining_similarity(similarity: Tensor, unrelated: Tensor, identical: float = 1.0) -> Interval:
    """How much of a map is left, from similarity to the changed maps (draws, N) and to unrelated ones (N,).

    (similarity - unrelated) / (identical - mean unrelated), with `identical` the measure's value for equal
    maps: 1 for the same map, 0 for one that has no more in common with it than the map of another image,
    below 0 less. Differences are paired by example.
    """
    gap = identical - float(unrelated.nanmean())
    if not abs(gap) > 0:
        # Unrelated maps are the same map: nothing can be told from similarity.
        return {"value": None, "low": None, "high": None, "n": 0}
    return draws_interval((similarity - unrelated) / gap)


def judge_remaining(states: Sequence[Interval]) -> InvarianceVerdict:
    """The verdict of one measure from what remained at one or more states, all without what was learnt.

    "nearly invariant" if at one of them the whole interval lies above INVARIANT_ABOVE, "passes" if at all of
    them it lies below PASSES_BELOW, "undecided" otherwise, or where there is no interval.
    """
    if not states:
        raise argument_error("states", list(states), "at least one state")
    lows = [one["low"] for one in states]
    highs = [one["high"] for one in states]
    if any(low is not None and low > INVARIANT_ABOVE for low in lows):
        return "nearly invariant"
    if all(high is not None and high < PASSES_BELOW for high in highs):
        return "passes"
    return "undecided"


def combine_verdicts(
    verdicts: Mapping[str, InvarianceVerdict], telling: Mapping[str, bool]
) -> InvarianceVerdict:
    """One verdict from those of the measures: nearly invariant by any, or passes by all that can tell.

    telling: whether a measure could have come out otherwise. What is the same by one measure is the same to
    whoever looks at the maps in that way; a measure that cannot tell can refute a pass, not make one.
    """
    if "nearly invariant" in verdicts.values():
        return "nearly invariant"
    chosen = [verdict for name, verdict in verdicts.items() if telling[name]]
    return "passes" if chosen and all(verdict == "passes" for verdict in chosen) else "undecided"


def is_nearer(control: Tensor, randomised: Tensor, alike: str = "higher") -> bool:
    """Whether maps come nearer to the judged ones after training on the true data (N,) than on randomised.

    Without that a low similarity after training on randomised data shows nothing: trainings differ anyway.
    alike: the direction of the measure in which maps are more alike, "higher" or "lower".
    """
    nearer = control - randomised if alike == "higher" else randomised - control
    interval = mean_interval(nearer, undefined="exclude")
    return interval["low"] is not None and interval["low"] > 0


def count_undefined(similarity: Tensor) -> int:
    """How many of the comparisons (draws, N) have no value, such as rank correlations with a constant map."""
    return int(torch.isnan(similarity).sum())
