"""The measures a report knows: their names for a reader, their units, and how their numbers are written."""

from dataclasses import dataclass
from typing import Literal

from veridical.report.formats import DASH, finite, percent, signed


@dataclass(frozen=True)
class Measure:
    """One row of the results: `meaning` explains it once, with {k} for the number of pixels counted."""

    name: str
    label: str
    short: str
    meaning: str
    unit: Literal["share", "correlation", "pixels"] = "share"

    def write(self, value: object, digits: int | None = None) -> str:
        """Write one number: a share in percent (1 digit), a correlation (3), pixels (2); else a dash."""
        number = finite(value)
        if number is None:
            return DASH
        if self.unit == "share":
            return percent(number, 1 if digits is None else digits)
        if self.unit == "pixels":
            return f"{signed(number, 2 if digits is None else digits)} px"
        return signed(number, 3 if digits is None else digits)


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            "natural_accuracy",
            "Natural accuracy",
            "NA",
            "Share of all test images, left as they are, that the model classifies correctly. "
            "Higher is better.",
        ),
        Measure(
            "adversarial_accuracy",
            "Adversarial accuracy",
            "AA",
            "Share of all test images still classified correctly after each was changed, within the same "
            "bound, to mislead the classifier. Higher is better.",
        ),
        Measure(
            "topk_intersection",
            "Attribution intersection",
            "IN",
            "Share of an explanation\u2019s {k} most important pixels that are still among the {k} most "
            "important after the attack; mean over the correctly classified images. Higher is better.",
        ),
        Measure(
            "kendall_tau",
            "Attribution rank correlation",
            "CO",
            "Kendall\u2019s tau between the importance ranking of all pixels before and after the attack: 1 "
            "is the same order, 0 no relation, \N{MINUS SIGN}1 the reverse; mean over the correctly "
            "classified images. Higher is better.",
            "correlation",
        ),
        Measure(
            "spearman",
            "Spearman rank correlation",
            "",
            "The same comparison of rankings by Spearman\u2019s rho. Higher is better.",
            "correlation",
        ),
        Measure(
            "windowed_topk_intersection",
            "Windowed intersection",
            "",
            "As IN, but a pixel counts as kept when one of the {k} most important lies close to it, so that "
            "a small shift is forgiven. Higher is better.",
        ),
        Measure(
            "mass_centre_shift",
            "Shift of the centre of mass",
            "",
            "How far the explanation\u2019s centre of mass moved, in pixels. Lower is better.",
            "pixels",
        ),
    )
}


def measure_named(name: str) -> Measure:
    """The measure with this name; an unknown one keeps its name and is written as a plain number."""
    known = MEASURES.get(name)
    return known or Measure(name, name.replace("_", " ").capitalize(), "", "", "correlation")
