"""Which retrainings a measurement takes: by ranking, end, number of coordinates and seed, each once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from veridical.faithfulness.unmasking import ENDS, End, Kept, Shown, kept_at
from veridical.runtime.checking import Checked, Level, Repeats, Seed, Share, needs
from veridical.runtime.errors import argument_error
from veridical.runtime.options import (
    BaselineName,
    FillName,
    ModeName,
    OrderName,
    PerName,
    TargetName,
    TiesName,
)

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
BASELINES: tuple[BaselineName, ...] = ("random", "input-agnostic")
SEEDS_APART = 1000
"""Seeds of two measurements, s and s + 1, give their repeats seeds that are this far apart."""

RankingName = Literal["judged", "random", "input-agnostic"]


class Retraining(NamedTuple):
    """One model to train anew: on which unmasked instances, and from which seed."""

    ranking: RankingName
    shown: Shown
    kept: Kept
    seed: int


@dataclass(frozen=True, kw_only=True)
class Design(Checked):
    """What is measured; the fields are those of `veridical.runtime.study_config.DiffRoarOptions`."""

    levels: tuple[Level, ...] = LEVELS
    repeats: Repeats = 5
    mode: ModeName = "keep"
    roar: bool = False
    fill: FillName | Share = "mean"
    order: OrderName = "absolute"
    per: PerName = "value"
    ties: TiesName = "random"
    target: TargetName = "predicted"
    baselines: tuple[BaselineName, ...] = BASELINES
    control: bool = True
    control_repeats: Repeats = field(default=1, metadata=needs("control"))
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels:
            raise argument_error("levels", self.levels, "shares of the coordinates, one or more")
        object.__setattr__(self, "levels", tuple(sorted(set(self.levels))))
        object.__setattr__(self, "baselines", tuple(dict.fromkeys(self.baselines)))

    def describe(self) -> dict[str, Any]:
        """Plain values for a record."""
        plain = asdict(self)
        return plain | {"levels": list(self.levels), "baselines": list(self.baselines)}

    def at(
        self, ranking: RankingName, shown: Shown, level: float, end: End, coordinates: int
    ) -> list[Retraining]:
        """The repeats at one level and end of a ranking; the control has its own number of them."""
        return self.repeated(ranking, shown, kept_at(level, coordinates, end, self.mode))

    def repeated(self, ranking: RankingName, shown: Shown, kept: Kept) -> list[Retraining]:
        """The repeats on what is kept, in the order of their seeds."""
        repeats = self.repeats if shown == "images" else self.control_repeats
        first = self.seed * SEEDS_APART
        return [Retraining(ranking, shown, kept, first + repeat) for repeat in range(repeats)]

    def curves(self) -> list[tuple[RankingName, Shown]]:
        """What has a point at every level and end: the attribution, the baselines, the control."""
        found: list[tuple[RankingName, Shown]] = [("judged", "images")]
        found += [(baseline, "images") for baseline in self.baselines]
        return [*found, ("judged", "masks")] if self.control else found

    def check(self, coordinates: int) -> None:
        """Refuse levels of which two mean the same number of coordinates, or one means all of them."""
        counts = [kept_at(level, coordinates).count for level in self.levels]
        if len(set(counts)) < len(counts) or counts[-1] >= coordinates:
            expected = f"levels that differ in the number of coordinates out of {coordinates}, fewer than all"
            raise argument_error("levels", f"{list(self.levels)}, which are {counts}", expected)

    def retrainings(self, coordinates: int) -> list[Retraining]:
        """All of them, each once, by curve and level."""
        self.check(coordinates)
        found = [
            retraining
            for ranking, shown in self.curves()
            for level in self.levels
            for end in ENDS
            for retraining in self.at(ranking, shown, level, end, coordinates)
        ]
        if self.roar:
            for level in self.levels:
                found += self.repeated("judged", "images", kept_at(level, coordinates, "top", "remove"))
        return list(dict.fromkeys(found))
