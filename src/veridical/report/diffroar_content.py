"""What a DiffROAR page is made of: plain frozen dataclasses of numbers and arrays, and the checks on them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

import numpy as np

from veridical.report.content import Array
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.record import record

VERDICTS = ("satisfied", "violated", "undecided")
MOST = 6
"""Curves of more models than this cannot be told apart on one page."""

Point = Mapping[str, Any]
"""{"level", "top", "bottom", "difference"}; the last three are {"repeats", "value", "low", "high"}."""


@record
class UnmaskedItem:
    """One image, the order of its coordinates, and what is left of it at some levels.

    `image` and the pictures of `unmasked` are (H, W), (H, W, 1) or (H, W, 3) in [0, 1]. `order` is (H, W),
    from 0 for the pixel that comes last to 1 for the one that comes first. `unmasked` maps a level to what
    the networks saw of the (top, bottom) end.
    """

    image: Array
    order: Array
    label: str
    unmasked: Mapping[float, tuple[Array, Array]]

    def __post_init__(self) -> None:
        grid = np.shape(self.order)
        if len(grid) != 2 or 0 in grid:
            raise argument_error("UnmaskedItem.order", self.order, "shape (H, W)", "Average over channels.")
        shapes = (grid, (*grid, 1), (*grid, 3))
        for picture in (self.image, *(picture for ends in self.unmasked.values() for picture in ends)):
            if np.shape(picture) not in shapes:
                raise argument_error("UnmaskedItem", picture, f"pictures of shape {grid}, or channels last")


@record
class DiffRoarSection:
    """Everything a page shows about one attribution of one model.

    `curve` has a `Point` per level, in rising order; a positive difference means that what comes first in
    the order carries more. `verdicts` has a {"level", "verdict", "value", "low", "high", "as_good"} for each,
    the verdict one of "satisfied", "violated" and "undecided", with the interval of the difference that it
    rests on; `as_good` names what explains a difference as well and so leaves it undecided, "masks" or a
    baseline. `baselines` maps a name to a curve like `curve`. `control` has a {"level", "top", "bottom"} per
    level: accuracies of networks that saw only the masks, each with "leaks" where it is above `chance`, the
    share of the largest class. `coordinates` is how many an image has. `mode` is "keep" or "remove": what was
    done with the coordinates of an end. `roar` and `kar` have a {"level", "accuracy"} per level, or nothing;
    they are shown where both have two levels or more.
    """

    title: str
    curve: Sequence[Point]
    verdicts: Sequence[Point]
    coordinates: int
    subtitle: str = ""
    mode: str = "keep"
    baselines: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    control: Sequence[Point] = ()
    chance: float | None = None
    roar: Sequence[Point] = ()
    kar: Sequence[Point] = ()
    gallery: Sequence[UnmaskedItem] = ()

    def __post_init__(self) -> None:
        levels = self.levels
        if not levels or levels != sorted(set(levels)):
            raise argument_error("DiffRoarSection.curve", levels, "one point or more, levels rising")
        judged = [(float(point["level"]), point["verdict"]) for point in self.verdicts]
        if [level for level, _ in judged] != levels or {said for _, said in judged} - set(VERDICTS):
            expected = f"one of {', '.join(VERDICTS)} for each of the levels {levels}"
            raise argument_error("DiffRoarSection.verdicts", judged, expected)
        if self.mode not in ("keep", "remove"):
            raise argument_error("DiffRoarSection.mode", self.mode, '"keep" or "remove"')

    @property
    def levels(self) -> list[float]:
        """The levels of the curve."""
        return [float(point["level"]) for point in self.curve]

    def judged(self, verdict: str) -> list[float]:
        """The levels with a verdict."""
        return [float(point["level"]) for point in self.verdicts if point["verdict"] == verdict]

    def count(self, level: float) -> int:
        """How many coordinates a level is."""
        return max(1, math.floor(level * self.coordinates + 0.5))


def at_level(curve: Sequence[Point], level: float) -> Point | None:
    """A curve's point at a level, or None where it has none."""
    return next((point for point in curve if abs(float(point["level"]) - level) < 1e-9), None)


def check_diffroar_sections(sections: Sequence[DiffRoarSection]) -> None:
    """Refuse what one page cannot compare: too many sections, equal titles, different modes or examples."""
    if not 1 <= len(sections) <= MOST:
        raise argument_error("sections", f"{len(sections)} of them", f"1 to {MOST}", "Make several pages.")
    titles = [section.title for section in sections]
    if len(set(titles)) < len(titles):
        raise argument_error("sections", titles, "a different title for each")
    modes = {section.mode for section in sections}
    if len(modes) > 1:
        raise argument_error("sections", sorted(modes), "one mode", "Kept and removed do not compare.")
    shown = [section for section in sections if section.gallery]
    for section in shown[1:]:
        first = shown[0]
        same = len(first.gallery) == len(section.gallery) and all(
            np.array_equal(here.image, there.image)
            for here, there in zip(first.gallery, section.gallery, strict=True)
        )
        if not same:
            raise UsageError(
                f"the gallery of {section.title!r} does not show the images of {first.title!r}. "
                "Pass the same examples, in the same order, for all."
            )
