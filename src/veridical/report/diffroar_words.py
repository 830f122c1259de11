"""What a DiffROAR page says: sentences computed from the numbers and the verdicts, and from nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from veridical.report.diffroar_content import DiffRoarSection, Point, at_level
from veridical.report.formats import DASH, Interval, level_text, listed, percent, points, quoted

BASELINES = {"random": "a random order", "input-agnostic": "one order for all images"}
"""The baselines in running text."""
SHORT = {"random": "random order", "input-agnostic": "one order"}
"""The baselines where there is little room."""


def headline(section: DiffRoarSection) -> str:
    """One sentence on all levels of an attribution, with what else explains a difference as well."""
    groups: dict[str, list[float]] = {}
    for point in section.verdicts:
        said = point["verdict"]
        said = {"satisfied": "more", "violated": "less"}.get(said) or as_good(point)
        groups.setdefault(said, []).append(float(point["level"]))
    everywhere = "at every level" if len(section.curve) > 1 else f"at {level_text(section.levels[0])}"
    told = {
        said: everywhere if len(levels) == len(section.curve) else f"at {_levels(levels)}"
        for said, levels in groups.items()
    }
    decided = [f"{said} {told.pop(said)}" for said in ("more", "less") if said in told]
    clauses = [f"undecided {at}" + (f", where {since}" if since else "") for since, at in told.items()]
    if decided:
        what = "what it marks most, against what it marks least, tells networks"
        clauses.insert(0, f"{what} {listed(decided)}")
    elif list(told) == [""]:
        clauses.append("no difference of the two ends is shown")
    return f"{quoted(section.title)}: {'; '.join(clauses)}."


def as_good(judged: Point) -> str:
    """What leaves a difference undecided that it is not above, as a clause; empty for nothing."""
    names = judged.get("as_good") or ()
    if not names:
        return ""
    told = [{"masks": "the masks alone", **BASELINES}.get(name, name) for name in names]
    return f"it does not beat {' or '.join(told)}"


def verdict_lines(judged: Point) -> str:
    """A verdict for a narrow column; what else explains the difference as well stands under it."""
    names = [SHORT.get(name, name) for name in judged.get("as_good") or ()]
    return f"{judged['verdict']}\n({', '.join(names)})" if names else str(judged["verdict"])


_ENDS = {
    "keep": (
        "Networks that see only the {count} most attributed coordinates reach {top}, those that see only the "
        "{count} least attributed {bottom}"
    ),
    "remove": (
        "Networks that see all but the {count} most attributed coordinates reach {top}, those that see all "
        "but the {count} least attributed {bottom}"
    ),
}


def level_sentence(section: DiffRoarSection, place: int) -> str:
    """The numbers behind the verdict on one level, in words."""
    point, judged = section.curve[place], Interval.read(section.verdicts[place])
    top, bottom = (Interval.read(point[name]) for name in ("top", "bottom"))
    if top.value is None or bottom.value is None or judged.value is None:
        return "Not measured."
    count = f"{section.count(float(point['level'])):,}"
    ends = _ENDS[section.mode].format(count=count, top=percent(top.value, 1), bottom=percent(bottom.value, 1))
    told = f"{ends}: {points(judged.value)} points, {_interval(judged, len(point['top']['repeats']))}."
    if (control := at_level(section.control, float(point["level"]))) is not None:
        masks = " and ".join(accuracy_text(control[end]) for end in ("top", "bottom"))
        told += f" Their masks alone give {masks}."
    since = as_good(section.verdicts[place])
    return f"{told} Undecided: {since}." if since else told


def _interval(judged: Interval, repeats: int) -> str:
    if judged.low is None or judged.high is None:
        return "of a single repeat, which has no interval"
    ends = f"95% interval {points(judged.low)} to {points(judged.high)} ({repeats} repeats)"
    return f"{ends}, which holds zero" if judged.low <= 0 <= judged.high else ends


def beside_baselines(section: DiffRoarSection) -> list[str]:
    """One sentence per baseline: its differences by level, which the verdicts compare with."""
    sentences = []
    for name, curve in section.baselines.items():
        told = [f"{difference_text(p['difference'])[0]} at {level_text(p['level'])}" for p in curve]
        words = BASELINES.get(name, name)
        sentences.append(f"{words[:1].upper()}{words[1:]} differs by {listed(told)} (points).")
    return sentences


def beside_first(first: DiffRoarSection, other: DiffRoarSection) -> str:
    """Where another output's difference lies above or below the first's; empty without a level of both."""
    told = _against(other.verdicts, first.verdicts)
    return (
        f"The difference of {quoted(other.title)} beside that of {quoted(first.title)}: {told}."
        if told
        else ""
    )


def _against(here: Sequence[Point], there: Sequence[Point]) -> str:
    """Higher at ...; lower at ...; intervals overlap at ...; only where both have an interval."""
    found: dict[str, list[float]] = {"higher": [], "lower": [], "overlap": []}
    for point in here:
        other = at_level(there, float(point["level"]))
        order = "unknown" if other is None else Interval.read(point).against(Interval.read(other))
        if order in found:
            found[order].append(float(point["level"]))
    words = {"higher": "higher at", "lower": "lower at", "overlap": "the 95% intervals overlap at"}
    return "; ".join(f"{words[order]} {_levels(levels)}" for order, levels in found.items() if levels)


def from_masks(section: DiffRoarSection) -> str:
    """What the shape of the masks alone tells about the class; empty without the control."""
    ends = [(point[end], point["level"], end) for point in section.control for end in ("top", "bottom")]
    known = [end for end in ends if Interval.read(end[0]).value is not None]
    if not known:
        return ""
    most, level, end = max(known, key=lambda one: float(one[0]["value"]))
    sentence = (
        f"Networks that see only the masks of {quoted(section.title)} reach at most "
        f"{percent(most['value'], 1)} ({end}, {level_text(level)})"
    )
    if section.chance is not None:
        sentence += f"; always naming the largest class gives {percent(section.chance, 1)}"
    if any(entry.get("leaks") for entry, _, _ in known):
        return f"{sentence}. The shape of the masks tells about the class, and takes part in the accuracies."
    return f"{sentence}."


def accuracy_text(entry: Mapping[str, Any] | None) -> str:
    """An accuracy in percent, or a dash."""
    value = Interval.read(entry).value
    return DASH if value is None else percent(value, 1)


def difference_text(entry: Mapping[str, Any] | None) -> tuple[str, str]:
    """A difference in points and its interval, either as a dash or empty where unknown."""
    interval = Interval.read(entry)
    if interval.value is None:
        return DASH, ""
    if interval.low is None or interval.high is None:
        return points(interval.value), ""
    return points(interval.value), f"{points(interval.low)} to {points(interval.high)}"


def _levels(levels: Sequence[float]) -> str:
    return listed([level_text(level) for level in levels])
