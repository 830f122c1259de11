"""Finished DiffROAR measurements -> one page, one alone or several overlaid, and what their numbers say.

The words are computed from the numbers and the verdicts, and from nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from matplotlib.figure import Figure

from veridical.faithfulness.result import judge_levels
from veridical.faithfulness.unmasking import resolve_kept
from veridical.report import (
    Column,
    Curve,
    Illustration,
    Interval,
    Panel,
    PictureGallery,
    PictureRow,
    Table,
    Verdict,
    channels_last,
    curves_figure,
    curves_illustration,
    settings_panel,
    study_page,
)
from veridical.report.formats import (
    level_text,
    listed,
    notes_by_name,
    percent,
    points,
    quoted,
)
from veridical.report.pictures import colour_pixels
from veridical.report.table import Unit, write_cell, write_number
from veridical.runtime.checking import as_path
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import REPEAT_HINT, write_atomic
from veridical.studies.study import EXAMPLES, RESULT, StudyResult, check_alike, distinct_titles
from veridical.training.penalties import training_title

# What must agree for accuracies to be of the same images, networks and trainings.
_SAME = ("data", "fill", "model", "training")
_SAME_DESIGN = ("mode", "order", "per")

_NUMBER = {"repeats": list[float], **dict.fromkeys(("value", "low", "high"), float | None)}
_BOTH_ENDS = {"level": float, "top": _NUMBER, "bottom": _NUMBER}
_CURVE = [_BOTH_ENDS | {"difference": _NUMBER}]
_ACCURACIES = [{"level": float, "accuracy": _NUMBER}]
# What result.json must hold, as far as pages read it; a model that is no run has no objective.
FORM = {
    "config": {
        "run": {"model": {"name": str}, "objective?": str, "recipe?": str, "robust?": dict | None},
        "weights": str,
        "data": {"name": str, "train": int, "test": int},
        "attribution": dict,
        "measured": {
            "mode": Literal["keep", "remove"],
            **dict.fromkeys(("order", "ties", "per"), str),
            "fill": str | float,
            "repeats": int,
        },
        "fill": dict,
        "model": {"name": str},
        "training": {"objective": str, "steps": int, "batch_size": int},
    },
    "results": {
        "curve": _CURVE,
        "baselines": {"*": _CURVE},
        "control": ({"chance": float | None, "curve": [_BOTH_ENDS]}, None),
        "roar": _ACCURACIES,
        "kar": _ACCURACIES,
        "rankings": {"judged": {"coordinates": int, "zero_share": float}},
        "examples": int,
        "notes": list[str],
    },
    "environment": {"attribution": str},
    "timing": {"retrainings": int},
}
ARRAYS_FORM = {
    **dict.fromkeys(("index", "label"), "iu N"),
    "image": "u N C H W",
    "order": "f N H W",
    "levels": "f L",
    "unmasked": "u N L E C H W",
    "classes": "U K",
}


def judge_again(found: StudyResult) -> StudyResult:
    """The measurement with its verdicts judged anew; a RunError for one whose parts do not fit together."""
    told, mode, source = found.results, found.config["measured"]["mode"], found.folder / RESULT
    curves = [told["curve"], *told["baselines"].values()]
    curves += [told["control"]["curve"]] if told["control"] else []
    wanted = found.arrays["levels"].tolist()
    if not wanted or any([point["level"] for point in curve] != wanted for curve in curves):
        raise RunError(f"{source} is damaged: its curves have other levels than {EXAMPLES}. {REPEAT_HINT}")
    try:
        # Judged again: verdicts of before masks and baselines counted must not stand beside those of now.
        judged = judge_levels(told["curve"], told["baselines"], told["control"], mode, told["examples"])
    except ValueError as error:
        raise RunError(f"{source} is damaged: {error} {REPEAT_HINT}") from error
    results = {**told, "verdicts": [dict(point) for point in judged]}
    return replace(found, document={**found.document, "results": results})


def name_measurements(
    found: Sequence[StudyResult], titles: Sequence[str] | None = None
) -> dict[str, StudyResult]:
    """The measurements by title: the titles given, else attribution and model as far as they differ."""
    names = [attribution_name(one) for one in found]
    with_model = [f"{name}, {_model_title(one)}" for name, one in zip(names, found, strict=True)]
    # The shortest that tell them apart; where none do, the folder's name helps.
    defaults = with_model if len(set(names)) < len(set(with_model)) == len(found) else names
    chosen = distinct_titles(titles, defaults, [one.folder for one in found], "measurement")
    return dict(zip(chosen, found, strict=True))


def _model_title(measured: StudyResult) -> str:
    """A reader's name for the run that explains: its objective, and the ball it was trained in."""
    run = measured.config["run"]
    return training_title(run) if "objective" in run else str(run["model"]["name"])


def attribution_name(measured: StudyResult) -> str:
    """The attribution as it was asked for."""
    return Path(str(measured.document["environment"]["attribution"])).name


Measured = Mapping[str, StudyResult]
# {"level", "top", "bottom", "difference"}; the last three are {"repeats", "value", "low", "high"}.
Point = Mapping[str, Any]

# Curves of more models than this cannot be told apart on one page.
_MOST = 6
_SHOWN_LEVELS = 4
_BASELINES: Final = {
    # name: (in running text, as a heading, name of its curve)
    "random": ("a random order", "random order", "Random order"),
    "input-agnostic": ("one order for all images", "one order for all", "One order for all images"),
}
_HOW = {
    "random": ", drawn anew for each image.",
    "input-agnostic": ": by the weights of a linear classifier.",
}
_BANDS = "Bands are 95% intervals of the mean over the repeats."
_DONE: Final = {"keep": "kept", "remove": "removed"}
_CAUTION: Final = {
    "keep": "on images of which only the coordinates at the top of that order are left, and others on what "
    "stands at its bottom",
    "remove": "on images that lost the coordinates at the top of that order, and others on images that "
    "lost its bottom",
}
_ENDS: Final = {
    "keep": "Networks that see only the {count} most attributed coordinates reach {top}, those that see "
    "only the {count} least attributed {bottom}",
    "remove": "Networks that see all but the {count} most attributed coordinates reach {top}, those that "
    "see all but the {count} least attributed {bottom}",
}
_DIFFERENCE: Final = {
    "keep": "Accuracy from the top minus accuracy from the bottom",
    "remove": "Accuracy without the bottom minus accuracy without the top",
}


def write_diffroar_page(path: Path, measured: Measured, *, title: str, lead: str) -> Path:
    """Write the page of the measurements by title; the first is the one that others are compared with.

    Raises UsageError for more measurements than one page shows, and for those whose numbers do not compare.
    """
    if len(measured) > _MOST:
        raise argument_error(
            "measurements", f"{len(measured)} of them", f"1 to {_MOST}", "Make several pages."
        )
    conditions = {
        name: {key: one.config[key] for key in _SAME}
        | {key: one.config["measured"][key] for key in _SAME_DESIGN}
        for name, one in measured.items()
    }
    check_alike(measured, conditions, "Measure both in the same way.")
    page = study_page(
        title,
        [lead],
        diffroar_panels(measured),
        _details(measured),
        question="are explanations faithful?",
        verdict=diffroar_verdict(measured),
        notes=notes_by_name({name: one.results["notes"] for name, one in measured.items()}),
    )
    write_atomic(as_path(path), page)
    return path


def diffroar_panels(measured: Measured) -> list[Panel]:
    """The parts of that page."""
    first = next(iter(measured.values()))
    own = ("weights", "run", "attribution")
    about = {name: {key: one.config[key] for key in own} for name, one in measured.items()}
    return [
        Panel("Results", _results_text(measured), table=diffroar_table(measured)),
        *_end_panels(measured),
        *(_own_panel(name, one, alone=len(measured) == 1) for name, one in measured.items()),
        *_gallery_panels(measured),
        Panel("All numbers", table=_every_number(measured), folded=True),
        settings_panel("Configuration", {k: v for k, v in first.config.items() if k not in own} | about),
        settings_panel("Environment", first.document["environment"]),
    ]


def diffroar_table(measured: Measured) -> Table:
    """A row for each measurement and level: both ends, their difference, its verdict, baselines and masks."""
    done = _DONE[_mode(measured)]
    names = dict.fromkeys(name for one in measured.values() for name in one.results["baselines"])
    columns: list[Column | str] = [
        *([Column("title", "attribution")] if len(measured) > 1 else []),
        Column("level", "level", meaning="Share of the coordinates, the values of an image, that an end is."),
        Column(
            "top", f"top {done}", "share", meaning=f"Test accuracy of networks retrained with the top {done}."
        ),
        Column("bottom", f"bottom {done}", "share", meaning="The same for the bottom of the order."),
        Column(
            "difference",
            "difference",
            "points",
            meaning="Of the two ends, in percentage points: above zero, the top carries more. Its 95% "
            "interval is over retrainings and test images.",
        ),
        Column("verdict", "verdict", meaning="What explains the difference as well stands in brackets."),
        *(
            Column(
                name,
                _baseline(name)[1],
                "points",
                meaning="The same difference, its interval over retrainings alone, for an order that knows "
                "nothing of the explained model" + _HOW.get(name, "."),
            )
            for name in names
        ),
        Column(
            "masks_top", "masks only, top", "share", meaning="Accuracy of networks that saw the masks alone."
        ),
        Column("masks_bottom", "masks only, bottom", "share", meaning="The same for the bottom."),
    ]
    rows = [
        _row(name, one, place) for name, one in measured.items() for place in range(len(one.results["curve"]))
    ]
    return Table(
        columns, rows, "Test accuracy of the retrained networks, and the difference of the two ends."
    )


def _row(name: str, one: StudyResult, place: int) -> dict[str, object]:
    results = one.results
    point, judged = results["curve"][place], results["verdicts"][place]
    control = _at_level(results["control"]["curve"], point["level"]) if results["control"] else None
    also = [_baseline(known)[1] for known in judged.get("as_good") or ()]
    return {
        "title": name,
        "level": level_text(point["level"]),
        **{end: point[end]["value"] for end in ("top", "bottom")},
        "difference": judged,
        "verdict": f"{judged['verdict']} ({', '.join(also)})" if also else judged["verdict"],
        **{known: curve[place]["difference"] for known, curve in results["baselines"].items()},
        **{f"masks_{end}": control[end]["value"] for end in ("top", "bottom") if control},
    }


def differences_figure(measured: Measured) -> Figure:
    """The difference over the level for each measurement, with the verdicts' intervals."""
    lines = [_curve(name, one.results["verdicts"], "value") for name, one in measured.items()]
    return curves_figure(lines, **_difference_axes(lines, _mode(measured)), log_x=True)


def diffroar_verdict(measured: Measured) -> Verdict:
    """A headline for each measurement, and how the others lie to the first, or more on a single one."""
    (name, first), *others = measured.items()
    mode = _mode(measured)
    text = [_beside_first((name, first), other) for other in others] if others else _own_findings(name, first)
    lines = [_curve(title, one.results["curve"], "difference") for title, one in measured.items()]
    caption = f"{_DIFFERENCE[mode]}. Above zero, the coordinates that are marked most tell more. {_BANDS}"
    caution = (
        "How to read this: an attribution orders the coordinates (pixel values) of every image. New "
        f"networks are trained, and tested, {_CAUTION[mode]}. The difference of their accuracies says which "
        "end carries more of what a network can learn. \u201cSatisfied\u201d and \u201cviolated\u201d "
        "stand only where the 95% interval leaves out zero and nothing else explains the difference as "
        "well: not the masks alone, which show where coordinates were left and hide their values, nor, for "
        "\u201csatisfied\u201d, an order that knows nothing of the model. The interval tells how much the "
        "mean would vary over other retrainings and other test images, not over another training of the "
        "model that is explained. Where all coordinates tell equally much, no order is better than "
        "another, and \u201cundecided\u201d is the right answer. The new networks may use other features "
        "than the model that is explained."
    )
    drawn = curves_illustration(lines, caption, **_difference_axes(lines, mode))
    headlines = [diffroar_headline(title, one) for title, one in measured.items()]
    return Verdict(headlines, [sentence for sentence in text if sentence], caution, [drawn])


def diffroar_headline(name: str, one: StudyResult) -> str:
    """One sentence on all levels of an attribution, with what else explains a difference as well."""
    curve, groups = one.results["curve"], dict[str, list[float]]()
    for point in one.results["verdicts"]:
        said = {"satisfied": "more", "violated": "less"}.get(point["verdict"]) or _as_good(point)
        groups.setdefault(said, []).append(float(point["level"]))
    everywhere = "at every level" if len(curve) > 1 else f"at {level_text(curve[0]['level'])}"
    told = {
        said: everywhere if len(levels) == len(curve) else f"at {_levels(levels)}"
        for said, levels in groups.items()
    }
    decided = [f"{said} {told.pop(said)}" for said in ("more", "less") if said in told]
    clauses = [f"undecided {at}" + (f", where {since}" if since else "") for since, at in told.items()]
    if decided:
        clauses.insert(
            0, f"what it marks most, against what it marks least, tells networks {listed(decided)}"
        )
    elif list(told) == [""]:
        clauses.append("no difference of the two ends is shown")
    return f"{quoted(name)}: {'; '.join(clauses)}."


def _baseline(name: str) -> tuple[str, str, str]:
    return _BASELINES.get(name, (name, name, name))


def _at_level(curve: Sequence[Point], level: float) -> Point | None:
    """A curve's point at a level, or None where it has none."""
    return next((point for point in curve if abs(float(point["level"]) - level) < 1e-9), None)


def _mode(measured: Measured) -> str:
    return str(next(iter(measured.values())).config["measured"]["mode"])


def _as_good(judged: Point) -> str:
    """What leaves a difference undecided that it is not above, as a clause; empty for nothing."""
    names = judged.get("as_good") or ()
    told = ["the masks alone" if name == "masks" else _baseline(name)[0] for name in names]
    return f"it does not beat {' or '.join(told)}" if told else ""


def _own_findings(name: str, one: StudyResult) -> list[str]:
    """Against the baselines, a sentence each, and what the masks alone tell about the class."""
    sentences = []
    for baseline, curve in one.results["baselines"].items():
        told = [
            f"{write_number(p['difference']['value'], 'points')} at {level_text(p['level'])}" for p in curve
        ]
        words = _baseline(baseline)[0]
        sentences.append(f"{words[:1].upper()}{words[1:]} differs by {listed(told)} (points).")
    control = one.results["control"] or {"curve": [], "chance": None}
    ends = [(point[end], point["level"], end) for point in control["curve"] for end in ("top", "bottom")]
    known = [end for end in ends if Interval.read(end[0]).value is not None]
    if known:
        most, level, end = max(known, key=lambda one: float(one[0]["value"]))
        sentence = (
            f"Networks that see only the masks of {quoted(name)} reach at most {percent(most['value'], 1)} "
        )
        sentence += f"({end}, {level_text(level)})"
        if control["chance"] is not None:
            sentence += f"; always naming the largest class gives {percent(control['chance'], 1)}"
        if any(entry.get("leaks") for entry, _, _ in known):
            sentence += ". The shape of the masks tells about the class, and takes part in the accuracies"
        sentences.append(f"{sentence}.")
    return sentences


def _beside_first(first: tuple[str, StudyResult], other: tuple[str, StudyResult]) -> str:
    """Where another's difference lies above or below the first's; empty without a level of both."""
    orders: dict[str, list[float]] = {"higher": [], "lower": [], "overlap": []}
    for point in other[1].results["verdicts"]:
        there = _at_level(first[1].results["verdicts"], point["level"])
        order = "unknown" if there is None else Interval.read(point).against(Interval.read(there))
        if order in orders:
            orders[order].append(float(point["level"]))
    words = {"higher": "higher at", "lower": "lower at", "overlap": "the 95% intervals overlap at"}
    told = "; ".join(f"{words[order]} {_levels(levels)}" for order, levels in orders.items() if levels)
    return f"The difference of {quoted(other[0])} beside that of {quoted(first[0])}: {told}." if told else ""


def _levels(levels: Sequence[float]) -> str:
    return listed([level_text(level) for level in levels])


def _results_text(measured: Measured) -> list[str]:
    """How many coordinates the levels are."""
    counts = {
        f"{level_text(point['level'])} is {_count(one, point['level']):,} of "
        f"{one.results['rankings']['judged']['coordinates']:,} coordinates"
        for one in measured.values()
        for point in one.results["curve"]
    }
    return [f"{'; '.join(sorted(counts, key=lambda words: float(words.partition('%')[0])))}."]


def _count(one: StudyResult, level: float) -> int:
    coordinates: int = one.results["rankings"]["judged"]["coordinates"]
    return resolve_kept(level, coordinates).count


def _end_panels(measured: Measured) -> list[Panel]:
    """The accuracies of both ends, a line for each measurement; none for one, whose own panel shows them."""
    if len(measured) == 1:
        return []
    mode, drawn = _mode(measured), []
    for end, words in (("top", "most"), ("bottom", "least")):
        lines = [_curve(name, one.results["curve"], end) for name, one in measured.items()]
        title = f"Accuracy, {words} attributed {_DONE[mode]}"
        drawn.append(curves_illustration(lines, **_accuracy_axes(mode), title=title))
    return [Panel("Both ends, side by side", [_BANDS], drawn)]


def _own_panel(name: str, one: StudyResult, *, alone: bool) -> Panel:
    """One measurement level by level, with its charts: ends, baselines, the masks alone, ROAR and KAR."""
    results, mode = one.results, one.config["measured"]["mode"]
    random = results["baselines"].get("random", ())
    lines = [_curve(f"{end.capitalize()} {_DONE[mode]}", results["curve"], end) for end in ("top", "bottom")]
    lines += [_curve("Random order", random, "top")] if random else []
    accuracy_axes = _accuracy_axes(mode)
    drawn = [curves_illustration(lines, **accuracy_axes, title="Accuracy after retraining")]
    if results["baselines"]:
        lines = [_curve("This attribution", results["curve"], "difference")]
        for known, curve in results["baselines"].items():
            lines.append(_curve(_baseline(known)[2], curve, "difference"))
        title = "Difference beside the baselines"
        drawn.append(curves_illustration(lines, **_difference_axes(lines, mode), title=title))
    if results["control"]:
        control = results["control"]
        lines = [_curve(f"Masks of the {end}", control["curve"], end) for end in ("top", "bottom")]
        chance = None if control["chance"] is None else (control["chance"], "largest class")
        caption = "Networks that saw which coordinates were chosen, and no value of them."
        more = accuracy_axes | {"level_line": chance, "title": "Accuracy from the masks alone"}
        drawn.append(curves_illustration(lines, caption, **more))
    # Where there is one of the two alone, it is a line of the first chart.
    if min(len(results["roar"]), len(results["kar"])) > 1:
        lines = [_curve("KAR: top kept", results["kar"], "accuracy")]
        lines.append(_curve("ROAR: top removed", results["roar"], "accuracy"))
        drawn.append(curves_illustration(lines, **_accuracy_axes("either"), title="ROAR and KAR"))
    sentences = [_level_sentence(one, place) for place in range(len(results["curve"]))]
    findings = [] if alone else _own_findings(name, one)
    return Panel("Level by level" if alone else name, [*sentences, *findings, _BANDS], drawn)


def _level_sentence(one: StudyResult, place: int) -> str:
    """The verdict on one level and the numbers behind it, in words."""
    point, entry = one.results["curve"][place], one.results["verdicts"][place]
    level, judged = float(point["level"]), Interval.read(entry)
    top, bottom = (Interval.read(point[end]).value for end in ("top", "bottom"))
    start = f"{level_text(level)}, {entry['verdict']}:"
    if top is None or bottom is None or judged.value is None:
        return f"{start} not measured."
    count = f"{_count(one, level):,}"
    mode = one.config["measured"]["mode"]
    ends = _ENDS[mode].format(count=count, top=percent(top, 1), bottom=percent(bottom, 1))
    told = (
        f"{start} {ends}: {points(judged.value)} points, {_interval(judged, len(point['top']['repeats']))}."
    )
    control = _at_level(one.results["control"]["curve"], level) if one.results["control"] else None
    if control is not None:
        masks = " and ".join(write_number(control[end]["value"], "share") for end in ("top", "bottom"))
        told += f" Their masks alone give {masks}."
    since = _as_good(entry)
    return f"{told} Undecided: {since}." if since else told


def _interval(judged: Interval, repeats: int) -> str:
    if judged.low is None or judged.high is None:
        return "of a single repeat, which has no interval"
    ends = f"95% interval {points(judged.low)} to {points(judged.high)} ({repeats} repeats)"
    return f"{ends}, which holds zero" if judged.low <= 0 <= judged.high else ends


def _curve(label: str, curve: Sequence[Point], name: str) -> Curve:
    """One column of a curve over its levels ("value": its points are intervals), with their band."""
    entries = [point if name == "value" else point.get(name) for point in curve]
    return Curve.through(label, [float(point["level"]) for point in curve], entries)


def _level_axes(mode: str) -> dict[str, Any]:
    done = f" {_DONE[mode]}" if mode in _DONE else ""
    return {"x_label": f"share of the coordinates{done}", "x_percent": True, "y_percent": True}


def _accuracy_axes(mode: str) -> dict[str, Any]:
    return _level_axes(mode) | {"y_label": "accuracy", "y_bounds": (0.0, 1.0)}


def _difference_axes(lines: Sequence[Curve], mode: str) -> dict[str, Any]:
    """The axes of differences: with zero, and too wide for a tenth of a point to fill the chart."""
    ends = [end for line in lines for part in (line.y, line.low or (), line.high or ()) for end in part]
    # With two repeats an interval reaches far beyond what a difference can be; the axis should not.
    known = [min(1.0, max(-1.0, end)) for end in ends if end is not None and math.isfinite(end)]
    return _level_axes(mode) | {
        "y_label": "difference of accuracies",
        "y_range": (min([-0.02, *known]), max([0.02, *known])),
        "y_bounds": (-1.0, 1.0),
        "level_line": (0.0, "no difference"),
    }


def _every_number(measured: Measured) -> Table:
    """Every measured accuracy: attribution, order, level, end, mean, interval, the repeats one by one."""
    rows = []
    for title, one in measured.items():
        control = one.results["control"] or {"curve": []}
        curves = {
            "this attribution": one.results["curve"],
            **one.results["baselines"],
            "masks alone": control["curve"],
        }
        for order, curve in curves.items():
            for point in curve:
                ends = [end for end in ("top", "bottom", "difference") if point.get(end) is not None]
                start = [title, order, level_text(point["level"])]
                rows += [[*start, end, *_written(end, point[end])] for end in ends]
    heads = ["Attribution", "Order", "Level", "End", "Mean and 95% interval", "Repeats"]
    return Table(heads, rows, "Every accuracy and difference, repeat by repeat")


def _written(end: str, entry: Mapping[str, Any]) -> list[str]:
    unit: Unit = "points" if end == "difference" else "share"
    digits = 1 if end == "difference" else 2
    repeats = [write_number(value, unit, digits) for value in entry.get("repeats") or () if value is not None]
    return [write_cell(entry, unit, digits), ", ".join(repeats)]


def _gallery_panels(measured: Measured) -> list[Panel]:
    """What the networks saw of the images that all measurements kept, two rows of pictures for each."""
    shared = set.intersection(*(set(one.arrays["index"].tolist()) for one in measured.values()))
    first = next(iter(measured.values()))
    levels = _spread([float(point["level"]) for point in first.results["curve"]])
    rows = [
        row
        for number, index in enumerate([i for i in first.arrays["index"].tolist() if i in shared], start=1)
        for name, one in measured.items()
        for row in _picture_rows(name, one, index, levels, number if one is first else 0)
    ]
    if not rows:
        return []
    mode = _mode(measured)
    seen = {
        "keep": "Test images with only the top, or only the bottom, of the order left.",
        "remove": "Test images without the top, or without the bottom, of the order.",
    }[mode]
    legend = [(None, "Order: pale yellow comes first, black last; with several channels, their mean")]
    width = 1 + len(levels)
    gallery = PictureGallery(rows, [""] * width, ["grey"] * width, legend)
    alt = "images, the order of their coordinates, and what is left of them at both ends"
    text = f"{seen} Everything else has the fill value."
    return [Panel("What the networks saw", [text], [Illustration(gallery, "", alt)])]


def _spread(levels: Sequence[float]) -> list[float]:
    """As many levels as the pictures of a row have room for, evenly spread."""
    places = np.linspace(0, len(levels) - 1, min(_SHOWN_LEVELS, len(levels)))
    return [levels[round(place)] for place in places]


def _picture_rows(
    name: str, one: StudyResult, index: int, levels: Sequence[float], number: int
) -> Iterator[PictureRow]:
    """The image and its top ends, then the order and its bottom ends."""
    arrays, mode = one.arrays, one.config["measured"]["mode"]
    place = arrays["index"].tolist().index(index)
    label = str(arrays["classes"][int(arrays["label"][place])])
    order = colour_pixels(arrays["order"][place], "heat") / 255
    starts = {"top": channels_last(arrays["image"][place]), "bottom": order}
    done = {"keep": "left of the", "remove": "taken from the"}[mode]
    every = arrays["levels"].tolist()
    for row, (end, start) in enumerate(starts.items()):
        ends = [channels_last(arrays["unmasked"][place][every.index(level)][row]) for level in levels]
        names = [f"{end.capitalize()} {level_text(level)}" for level in levels]
        alt = f"image labelled {label}"
        alts = [f"order of importance by {name}" if row else alt]
        alts += [f"{alt}, {words.lower()} {done} coordinates by {name}" for words in names]
        heading = f"Image {number}, labelled {label}" if number and not row else ""
        captions = ["Order" if row else "Image", *names]
        yield PictureRow("" if row else name, [start, *ends], captions, alts=alts, heading=heading)


def _details(measured: Measured) -> dict[str, object]:
    """How it was measured, in the words of the page; what differs stands by name."""
    first = next(iter(measured.values()))
    config, design = first.config, first.config["measured"]
    data, training = config["data"], config["training"]
    fill = design["fill"]
    about = {name: _about(name, one) for name, one in measured.items()}
    return {
        **{name: words for name, words in about.items() if words},
        "Data": f"{data['name']}, {data['train']:,} training and {data['test']:,} test images",
        "Attribution": _by_name({name: attribution_name(one) for name, one in measured.items()}),
        "Order": f"by the {design['order']} value, ties {design['ties']}",
        "Coordinates": "single values" if design["per"] == "value" else "pixels, summed over channels",
        "In place of what is not shown": {"mean": "training mean of each channel"}.get(fill, fill),
        "Retrained": config["model"]["name"],
        "Training": ", ".join(
            f"{words} {training[key]}"
            for key, words in (("objective", "objective"), ("steps", "steps"), ("batch_size", "batches of"))
        ),
        "Repeats": _by_name({name: one.config["measured"]["repeats"] for name, one in measured.items()}),
        "Retrainings": _by_name(
            {name: one.document["timing"]["retrainings"] for name, one in measured.items()}
        ),
        "Attributions that are exactly zero": _by_name(
            {name: f"{one.results['rankings']['judged']['zero_share']:.1%}" for name, one in measured.items()}
        ),
    }


def _by_name(values: Mapping[str, object]) -> str:
    """One value where all agree, else each with its name."""
    if len({str(value) for value in values.values()}) == 1:
        return str(next(iter(values.values())))
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _about(name: str, one: StudyResult) -> str:
    """What of a measurement its name does not say already."""
    words = (one.config["run"]["model"]["name"], _model_title(one), attribution_name(one))
    return ", ".join(part for part in words if part not in name)
