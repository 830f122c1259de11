"""From accuracies to what is reported: curves with intervals, verdicts, ROAR and KAR, the control, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from veridical.faithfulness.design import Design, RankingName, Retraining
from veridical.faithfulness.unmasking import ENDS, Kept, Shown, kept_at
from veridical.faithfulness.verdict import judge, measured
from veridical.metrics.intervals import proportion_interval
from veridical.runtime.record import record

Point = dict[str, Any]


@record
class DiffRoarResult:
    """What a DiffROAR measurement found.

    Attributes
    ----------
    curve
        A point per level, in rising order: {"level", "coordinates", "top", "bottom", "difference"}; each of
        the last three is {"repeats", "value", "low", "high"}, accuracies on the test images and their
        difference, with the 95% interval over the repeats within what they can be. In mode "keep" the
        difference is top - bottom, in mode "remove" bottom - top: positive always means that the ranking
        puts first what carries more.
    verdicts
        Per level {"level", "verdict", "value", "low", "high", "as_good"}; see `faithfulness.verdict.judge`.
    baselines
        Curves of the same form by name.
    control
        None, or {"chance", "curve"}: per level {"level", "top", "bottom"}, accuracies of models that saw the
        masks alone, each with "leaks": whether it is above the share of the largest class, chance.
    roar, kar
        Per level {"level", "accuracy"} after the top coordinates were removed, or kept; only the levels that
        were measured, which is all of them for one of the two.
    rankings
        How each ranking was made, with its checksum, by name.
    notes
        What a reader should know, a sentence or two each.
    config, timing
        All that the numbers depend on; and seconds, which vary.
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
        return {
            "curve": list(self.curve),
            "verdicts": list(self.verdicts),
            "baselines": {name: list(curve) for name, curve in self.baselines.items()},
            "control": None if self.control is None else dict(self.control),
            "roar": list(self.roar),
            "kar": list(self.kar),
            "rankings": dict(self.rankings),
            "examples": self.examples,
            "notes": list(self.notes),
        }


@record
class Accuracies:
    """Accuracies of retrainings, on so many test images, by what was retrained; and how to read them."""

    design: Design
    coordinates: int
    examples: int
    chance: float
    values: Mapping[Retraining, float]

    def of(self, ranking: RankingName, shown: Shown, kept: Kept) -> list[float]:
        """The repeats' accuracies, in the order of their seeds; empty where there was no retraining."""
        wanted = self.design.repeated(ranking, shown, kept)
        return [self.values[one] for one in wanted] if all(one in self.values for one in wanted) else []

    def ends(self, ranking: RankingName, shown: Shown, level: float) -> tuple[list[float], list[float]]:
        """The accuracies with the top and the bottom kept, or removed."""
        top, bottom = (
            self.of(ranking, shown, kept_at(level, self.coordinates, end, self.design.mode)) for end in ENDS
        )
        return top, bottom

    def curve(self, ranking: RankingName) -> tuple[Point, ...]:
        """A point per level."""
        return tuple(self._point(ranking, level) for level in self.design.levels)

    def removed_or_kept(self, mode: str) -> tuple[Point, ...]:
        """ROAR ("remove") or KAR ("keep") of the top coordinates, at the levels that were measured."""
        found = []
        for level in self.design.levels:
            kept = kept_at(level, self.coordinates, "top", "remove" if mode == "remove" else "keep")
            if values := self.of("judged", "images", kept):
                found.append({"level": level, "accuracy": measured(values)})
        return tuple(found)

    def control(self) -> dict[str, Any] | None:
        """What the masks alone tell about the class."""
        if not self.design.control:
            return None
        points = []
        for level in self.design.levels:
            ends = dict(zip(ENDS, self.ends("judged", "masks", level), strict=True))
            points.append({"level": level} | {end: self._leak(values) for end, values in ends.items()})
        return {"chance": self.chance, "curve": points}

    def _point(self, ranking: RankingName, level: float) -> Point:
        top, bottom = self.ends(ranking, "images", level)
        sign = 1 if self.design.mode == "keep" else -1
        differences = [sign * (one - other) for one, other in zip(top, bottom, strict=True)]
        return {
            "level": level,
            "coordinates": kept_at(level, self.coordinates).count,
            "top": measured(top),
            "bottom": measured(bottom),
            "difference": measured(differences, -1.0),
        }

    def _leak(self, values: list[float]) -> dict[str, Any]:
        """The control's accuracy; it leaks if Wilson's interval over the test images is above chance."""
        found = measured(values)
        low = proportion_interval(round(found["value"] * self.examples), self.examples)["low"]
        return {**found, "leaks": low is not None and low > self.chance}


def verdicts(
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

    found = []
    for place, point in enumerate(curve):
        masks = None if control is None else pair(control["curve"], place)
        rivals = {name: pair(points, place) for name, points in baselines.items()}
        found.append({"level": point["level"], **judge(*pair(curve, place), examples, masks, rivals)})
    return tuple(found)


def notes(
    accuracies: Accuracies,
    judged: Sequence[Point],
    control: Mapping[str, Any] | None,
    ranking: Mapping[str, Any],
) -> tuple[str, ...]:
    """What a reader should know about these numbers, computed from them."""
    found = []
    design = accuracies.design
    if design.repeats == 1:
        found.append("With one repeat there is no interval, and every level is undecided.")
    undecided = [f"{p['level']:g}" for p in judged if p["verdict"] == "undecided" and not p["as_good"]]
    if undecided and design.repeats > 1:
        found.append(
            f"Undecided at level {', '.join(undecided)}: top and bottom do not differ by more than repeats "
            "and test images vary. Where all coordinates are equally informative it must be "
            "so, whatever the attribution."
        )
    if control is None and any(point["verdict"] != "undecided" for point in judged):
        found.append(
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
            found.append(
                f"The masks alone tell the class, better than chance ({control['chance']:.1%}), at "
                f"{', '.join(leaks)}: up to so much of an accuracy may come from where coordinates were "
                "shown, not from what they show."
            )
    zeros = ranking.get("zero_share") or 0.0
    if zeros > 0.01:
        found.append(f"{zeros:.1%} of the attributions are exactly zero; among them the order is the ties'.")
    if ranking.get("target") == "label":
        found.append("The label was explained, so the masks of the test images know it.")
    return tuple(found)
