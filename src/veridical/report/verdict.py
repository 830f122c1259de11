"""The paragraph on top of a report: what was measured and what it shows, in words computed from the numbers.

A difference between two models is claimed only where their 95% intervals are disjoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from veridical.report.content import ModelSection, Protocol
from veridical.report.formats import Interval, listed, percent, percents, quoted, radius_text, signed

_APART = "and the 95% intervals do not overlap"


@dataclass(frozen=True)
class Verdict:
    """A headline for each comparison (or on the one model), and the paragraphs that follow."""

    headlines: tuple[str, ...]
    paragraphs: tuple[str, ...]


def verdict(
    sections: Sequence[ModelSection], protocol: Protocol | None, pixels: int | None = None
) -> Verdict:
    """Say what the numbers say; the first section is the one that the others are compared with.

    `pixels` is the number of pixels of a map, for the overlap that unrelated maps would have by chance.
    """
    first, *others = sections
    paragraphs = [
        f"{_overlap(sections, protocol)}{_chance(first.k, pixels)}",
        _rank(sections),
        _accuracy(sections),
    ]
    return Verdict(
        headlines=tuple(_headline(first, other) for other in others) or _kept(first),
        paragraphs=tuple(paragraph for paragraph in paragraphs if paragraph),
    )


def read(section: ModelSection, name: str) -> Interval:
    """A section's measure as an interval; all None when it was not measured."""
    return Interval.read(section.metrics.get(name))


def _condition(protocol: Protocol | None) -> str:
    """The clause on what the attack may do."""
    if protocol is None or protocol.radius is None:
        return "Under an attack that leaves the prediction as it was"
    radius = radius_text(protocol.radius)
    if protocol.norm == "linf":
        bound = f"changes no pixel by more than {radius} (0 is black, 1 is white)"
    else:
        bound = f"changes the image by a Euclidean distance of at most {radius} (each pixel runs from 0 to 1)"
    return f"Under an attack that {bound} and leaves the prediction as it was"


def _kept(section: ModelSection) -> tuple[str, ...]:
    """The headline on a single model; none when its top-k intersection was not measured."""
    share = read(section, "topk_intersection")
    if share.value is None:
        return ()
    headline = (
        f"After the attack, explanations keep {percents([share.value])[0]} of their most important pixels"
    )
    if share.low is None or share.high is None:
        return (f"{headline}.",)
    return (f"{headline} (95% interval {percent(share.low, 1)} to {percent(share.high, 1)}).",)


def _overlap(sections: Sequence[ModelSection], protocol: Protocol | None) -> str:
    """One sentence on the top-k intersection of every model."""
    values = [read(section, "topk_intersection").value for section in sections]
    measured = [
        (section, value) for section, value in zip(sections, values, strict=True) if value is not None
    ]
    missing = [
        quoted(section.title) for section, value in zip(sections, values, strict=True) if value is None
    ]
    clauses: list[str] = []
    for (section, _), share in zip(measured, percents([value for _, value in measured]), strict=True):
        if clauses:
            clauses.append(f"that of {quoted(section.title)} keeps {share}")
        else:
            pixels = f"{section.k:,} most important pixels"
            clauses.append(f"the explanation of {quoted(section.title)} keeps {share} of its {pixels}")
    if missing:
        clauses.append(f"for {listed(missing)} the most important pixels that stay were not measured")
    return f"{_condition(protocol)}, {'; '.join(clauses)}."


def _chance(k: int, pixels: int | None) -> str:
    """What two unrelated maps would share; without it a reader takes the bottom of the scale for zero."""
    if pixels is None or pixels <= k:
        return ""
    return f" Two unrelated rankings of {pixels:,} pixels would share {percent(k / pixels, 0)} by chance."


def _rank(sections: Sequence[ModelSection]) -> str:
    measured = [(section, read(section, "kendall_tau").value) for section in sections]
    parts = [
        f"{signed(value, 2)} for {quoted(section.title)}" for section, value in measured if value is not None
    ]
    if not parts:
        return ""
    return (
        "Between the orders of importance of all pixels before and after the attack, "
        f"Kendall\u2019s tau (1 is the same order, 0 no relation) is {listed(parts)}."
    )


def _accuracy(sections: Sequence[ModelSection]) -> str:
    """What the models get right, and whether steadiness was paid for with accuracy."""
    parts = []
    for section in sections:
        natural, adversarial = (
            read(section, "natural_accuracy").value,
            read(section, "adversarial_accuracy").value,
        )
        if natural is None:
            continue
        part = (
            f"{quoted(section.title)} classifies {percent(natural, 1)} of the unchanged test images correctly"
        )
        if adversarial is not None:
            part += f" and {percent(adversarial, 1)} when they are changed to mislead it"
        parts.append(part)
    if not parts:
        return ""
    return f"{'; '.join(parts)}.{_price(*sections) if len(sections) == 2 else ''}"


def _price(first: ModelSection, second: ModelSection) -> str:
    """Whether the second model's accuracy on unchanged images differs; empty when that is unknown."""
    outcome = read(second, "natural_accuracy").against(read(first, "natural_accuracy"))
    if outcome == "unknown":
        return ""
    if outcome == "overlap":
        return " The 95% intervals of their accuracies on unchanged images overlap."
    return (
        f" On unchanged images the second is {'less' if outcome == 'lower' else 'more'} accurate, {_APART}."
    )


def _headline(first: ModelSection, other: ModelSection) -> str:
    """How the explanations of `other` hold against those of `first`, by the intervals of IN and CO."""
    by: dict[str, list[str]] = {"higher": [], "lower": [], "overlap": [], "unknown": []}
    for name, words in (("topk_intersection", "share of kept pixels"), ("kendall_tau", "rank correlation")):
        by[read(other, name).against(read(first, name))].append(f"the {words}")
    if by["higher"] and by["lower"]:
        return (
            f"The two measures disagree about {quoted(other.title)} and {quoted(first.title)}: "
            f"{listed(by['higher'])} is higher, {listed(by['lower'])} is lower; "
            "in neither do the 95% intervals overlap."
        )
    for direction, manner in (("higher", "hold better"), ("lower", "hold less well")):
        if names := by[direction]:
            verb = "is" if len(names) == 1 else "are"
            caution = f" For {listed(by['overlap'])} the intervals overlap." if by["overlap"] else ""
            return (
                f"The explanations of {quoted(other.title)} {manner} than those of {quoted(first.title)}: "
                f"{listed(names)} {verb} {direction}, {_APART}.{caution}"
            )
    if by["overlap"]:
        return (
            f"This run shows no difference between the explanations of {quoted(other.title)} and "
            f"{quoted(first.title)}: for {listed(by['overlap'])} the 95% intervals overlap."
        )
    return (
        f"{quoted(other.title)} and {quoted(first.title)} cannot be compared here: intervals were not "
        "measured for both."
    )
