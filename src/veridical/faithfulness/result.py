"""From accuracies to what is reported: curves, verdicts with intervals, ROAR and KAR, the control, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from math import hypot, sqrt
from statistics import NormalDist
from typing import Any, Literal

from veridical.faithfulness.diffroar_plan import Design, Measurement, RankingName, Retraining
from veridical.faithfulness.unmasking import ENDS, Kept, Shown, resolve_kept
from veridical.metrics.intervals import LEVEL, mean_interval, proportion_interval
from veridical.runtime.checking import check_count, record
from veridical.runtime.errors import argument_error
from veridical.runtime.files import to_plain
from veridical.runtime.options import ModeName

Verdict = Literal["satisfied", "violated", "undecided"]
Pair = tuple[Sequence[float], Sequence[float]]


def _repeats_interval(values: Sequence[float], least: float = 0.0) -> dict[str, Any]:
    """One number by its repeats: {"repeats", "value", "low", "high"}, the 95% interval by Student's t.

    It ends at `least`, 0 for an accuracy and -1 for a difference of two, and at 1. With one repeat there is
    no interval; low and high are None.
    """
    result = mean_interval(list(values), bounds=(least, 1.0))
    return {"repeats": list(values), "value": result["value"], "low": result["low"], "high": result["high"]}


def judge(
    top: Sequence[float],
    bottom: Sequence[float],
    examples: int,
    masks: Pair | None = None,
    baselines: Mapping[str, Pair] | None = None,
) -> dict[str, Any]:
    """The verdict of one level from paired accuracies (repeats,) on `examples` test images each.

    top, bottom: from what the ranking puts first, and last. masks: the accuracies of the control, that saw
    the masks of these two ends alone. baselines: the accuracies of the two ends of other orders, by name.

    "satisfied": what the ranking puts first carries more than what it puts last, by its values, and by more
    than any baseline's; "violated": less; "undecided": one repeat, an interval that holds zero, or a
    difference that something else explains as well, which `as_good` names:

    - "masks": the end that is ahead is not above its masks alone, or the two ends do not differ by more than
      their masks do. What is ahead may then be where coordinates were shown, not what they show.
    - a baseline (of "satisfied" alone): the difference is not above the baseline's, so that the attribution
      need not have found anything about the image.

    Two things vary, and every interval joins them as the root of the sum of squares: the repeats (Student's
    t, of the paired differences; nothing where a control has one repeat), and the test images, which all
    repeats share (the normal interval of a difference of two shares, as if they were of different images,
    which is wide rather than narrow). Without the second the seeds of a training alone would decide between
    orders that are equally good.
    Returns {"verdict", "value", "low", "high", "as_good"}; low and high, within -1 and 1, are None with one
    repeat.
    """
    if len(top) != len(bottom) or not top:
        given = f"{len(top)} and {len(bottom)}"
        raise argument_error("repeats", given, "as many for top as for bottom, one or more")
    check_count("examples", examples)
    value = sum(top) / len(top) - sum(bottom) / len(bottom)
    if len(top) == 1:
        return {"verdict": "undecided", "value": value, "low": None, "high": None, "as_good": []}
    # Seeds alone would decide between orders that are equally good, so the test images count as well.
    value, *halves = _difference(examples, top, bottom)
    half = hypot(*halves)
    result = {"value": value, "low": max(-1.0, value - half), "high": min(1.0, value + half)}
    # The end that is ahead must be above its own masks and, if it is the top, above the baselines.
    ahead, behind, place = (top, bottom, 0) if value > 0 else (bottom, top, 1)
    as_good: list[str] = []
    if abs(value) <= half:
        return {"verdict": "undecided", **result, "as_good": as_good}
    if masks is not None:
        own, others = masks[place], masks[1 - place]
        if not (_above(examples, (ahead, own)) and _above(examples, (ahead, behind), (own, others))):
            as_good.append("masks")
    if value > 0:
        rivals = (baselines or {}).items()
        as_good += [name for name, ends in rivals if not _above(examples, (top, bottom), ends)]
    verdict: Verdict = "undecided" if as_good else "satisfied" if value > 0 else "violated"
    return {"verdict": verdict, **result, "as_good": as_good}


def _above(examples: int, pair: Pair, other: Pair | None = None) -> bool:
    """Whether the difference of a pair is above zero, or above that of another pair, beyond its interval.

    Both pairs are of the same test images, which count once.
    """
    value, of_repeats, of_images = _difference(examples, *pair)
    theirs, their_repeats, _ = _difference(examples, *other) if other is not None else (0.0, 0.0, 0.0)
    return value - theirs > hypot(of_repeats, their_repeats, of_images)


def _difference(examples: int, one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """The mean difference of two accuracies, and half its 95% intervals over repeats and over test images."""
    means = [sum(values) / len(values) for values in (one, other)]
    # Paired by seed where both have as many repeats; the control may have fewer.
    if len(one) == len(other):
        of_repeats = _half([a - b for a, b in zip(one, other, strict=True)])
    else:
        of_repeats = hypot(_half(one), _half(other))
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    of_images = z * sqrt(sum(share * (1 - share) for share in means) / examples)
    return means[0] - means[1], of_repeats, of_images


def _half(values: Sequence[float]) -> float:
    """Half the interval of a mean by Student's t; 0 where one value tells of no spread."""
    result = mean_interval(list(values))
    return 0.0 if result["high"] is None or result["value"] is None else result["high"] - result["value"]


Point = dict[str, Any]


@record
class DiffRoarResult:
    """What a DiffROAR measurement found.

    curve: a point per level, in rising order: {"level", "coordinates", "top", "bottom", "difference"}; the
        last three are {"repeats", "value", "low", "high"}, accuracies on the test images and their
        difference, with the 95% interval over the repeats within what they can be. In mode "keep" the
        difference is top - bottom, in mode "remove" bottom - top: positive always means that the ranking puts
        first what carries more.
    verdicts: per level {"level", "verdict", "value", "low", "high", "as_good"}; see `judge`.
    baselines: curves of the same form by name.
    control: None, or {"chance", "curve"}: per level {"level", "top", "bottom"}, accuracies of models that saw
        the masks alone, each with "leaks": whether it is above the share of the largest class, chance.
    roar, kar: per level {"level", "accuracy"} after the top coordinates were removed, or kept; only what
        was measured, which is all of them for one of the two.
    rankings: how each ranking was made, with its checksum, by name.
    examples, notes: number of test images; what a reader should know, a sentence or two each.
    config, timing: all that the numbers depend on, which `diffroar` fills in; and seconds, which vary.
    """

    curve: tuple[Point, ...]
    verdicts: tuple[Point, ...]
    baselines: Mapping[str, tuple[Point, ...]]
    control: Mapping[str, Any] | None
    roar: tuple[Point, ...]
    kar: tuple[Point, ...]
    rankings: Mapping[str, Any]
    examples: int
    notes: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the `results` of a result.json."""
        names = (name for name in self.__dataclass_fields__ if name not in ("config", "timing"))
        return {name: to_plain(getattr(self, name), name) for name in names}


def build_result(
    measurement: Measurement,
    rankings: Mapping[str, Mapping[str, Any]],
    accuracies: Mapping[Retraining, float],
    timing: Mapping[str, Any],
) -> DiffRoarResult:
    """The result from the accuracy of each retraining; rankings: what each one's `describe` gave."""
    design, count, examples = measurement.design, measurement.coordinates, len(measurement.data.test)

    def repeats(ranking: RankingName, shown: Shown, kept: Kept) -> list[float]:
        wanted = design.repeated(ranking, shown, kept)
        return [accuracies[one] for one in wanted] if all(one in accuracies for one in wanted) else []

    def ends(ranking: RankingName, shown: Shown, level: float) -> list[list[float]]:
        """The accuracies with the top and the bottom kept, or removed."""
        return [repeats(ranking, shown, resolve_kept(level, count, end, design.mode)) for end in ENDS]

    def curve(ranking: RankingName) -> tuple[Point, ...]:
        return tuple(
            {
                "level": level,
                "coordinates": resolve_kept(level, count).count,
                **_point(*ends(ranking, "images", level), keep=design.mode == "keep"),
            }
            for level in design.levels
        )

    def one_end(mode: ModeName) -> tuple[Point, ...]:
        """ROAR ("remove") or KAR ("keep") of the top coordinates, at the levels that were measured."""
        kept = {level: resolve_kept(level, count, "top", mode) for level in design.levels}
        return tuple(
            {"level": level, "accuracy": _repeats_interval(values)}
            for level, what in kept.items()
            if (values := repeats("judged", "images", what))
        )

    control = None
    if design.control:
        points = [
            {"level": level}
            | {
                end: _leak(values, examples, measurement.chance)
                for end, values in zip(ENDS, ends("judged", "masks", level), strict=True)
            }
            for level in design.levels
        ]
        control = {"chance": measurement.chance, "curve": points}
    judged = curve("judged")
    baselines: dict[str, tuple[Point, ...]] = {name: curve(name) for name in design.baselines}
    verdicts = judge_levels(judged, baselines, control, design.mode, examples)
    return DiffRoarResult(
        curve=judged,
        verdicts=verdicts,
        baselines=baselines,
        control=control,
        roar=one_end("remove"),
        kar=one_end("keep"),
        rankings=rankings,
        examples=examples,
        notes=_notes(design, verdicts, control, rankings["judged"]),
        timing=timing,
    )


def _point(top: list[float], bottom: list[float], *, keep: bool) -> Point:
    # To remove what is informative costs accuracy: positive always means that the top carries more.
    sign = 1 if keep else -1
    differences = [sign * (one - other) for one, other in zip(top, bottom, strict=True)]
    return {
        "top": _repeats_interval(top),
        "bottom": _repeats_interval(bottom),
        "difference": _repeats_interval(differences, -1.0),
    }


def _leak(values: list[float], examples: int, chance: float) -> dict[str, Any]:
    """The control's accuracy; it leaks if Wilson's interval over the test images is above chance."""
    interval = _repeats_interval(values)
    low = proportion_interval(round(interval["value"] * examples), examples)["low"]
    return {**interval, "leaks": low is not None and low > chance}


def judge_levels(
    curve: Sequence[Point],
    baselines: Mapping[str, Sequence[Point]],
    control: Mapping[str, Any] | None,
    mode: str,
    examples: int,
) -> tuple[Point, ...]:
    """The judgement of every level of a curve, from the repeats in it, in its baselines and in its control.

    mode: "keep" or "remove"; examples: how many test images every accuracy is of.
    """

    def pair(points: Sequence[Point], place: int) -> tuple[list[float], list[float]]:
        first, last = ENDS if mode == "keep" else reversed(ENDS)
        return points[place][first]["repeats"], points[place][last]["repeats"]

    result = []
    for place, point in enumerate(curve):
        masks = None if control is None else pair(control["curve"], place)
        rivals = {name: pair(points, place) for name, points in baselines.items()}
        result.append({"level": point["level"], **judge(*pair(curve, place), examples, masks, rivals)})
    return tuple(result)


def _notes(
    design: Design,
    judged: Sequence[Point],
    control: Mapping[str, Any] | None,
    ranking: Mapping[str, Any],
) -> tuple[str, ...]:
    """What a reader should know about these numbers, computed from them."""
    result = []
    if design.repeats == 1:
        result.append("With one repeat there is no interval, and every level is undecided.")
    undecided = [f"{p['level']:g}" for p in judged if p["verdict"] == "undecided" and not p["as_good"]]
    if undecided and design.repeats > 1:
        result.append(
            f"Undecided at level {', '.join(undecided)}: top and bottom do not differ by more than repeats "
            "and test images vary. Where all coordinates are equally informative it must be "
            "so, whatever the attribution."
        )
    if control is None and any(point["verdict"] != "undecided" for point in judged):
        result.append(
            "The masks alone were not measured, so how much of a difference is where coordinates were shown, "
            "and not what they show, is unknown."
        )
    if control is not None:
        leaks = [
            f"{point['level']:g} {end} ({point[end]['value']:.1%})"
            for point in control["curve"]
            for end in ENDS
            if point[end]["leaks"]
        ]
        if leaks:
            result.append(
                f"The masks alone tell the class, better than chance ({control['chance']:.1%}), at "
                f"{', '.join(leaks)}: up to so much of an accuracy may come from where coordinates were "
                "shown, not from what they show."
            )
    zeros = ranking.get("zero_share") or 0.0
    if zeros > 0.01:
        result.append(f"{zeros:.1%} of the attributions are exactly zero; among them the order is the ties'.")
    if ranking.get("target") == "label":
        result.append("The label was explained, so the masks of the test images know it.")
    return tuple(result)
