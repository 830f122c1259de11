"""Finished attacks -> one page: a model alone, or several side by side, and what the numbers say in words.

A difference between two models is claimed only where their 95% intervals are disjoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from matplotlib.figure import Figure

from veridical.attacks.directions import DIRECTIONS
from veridical.attacks.protocols import PAPER_SETTINGS
from veridical.metrics.intervals import Interval as IntervalForm
from veridical.metrics.intervals import mean_interval
from veridical.metrics.registry import measures
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
    curves_illustration,
    histograms_figure,
    intervals_figure,
    scatter_figure,
    settings_panel,
    study_page,
)
from veridical.report.formats import (
    finite,
    listed,
    notes_by_name,
    percent,
    percents,
    quoted,
    radius_text,
    signed,
)
from veridical.report.pictures import COLORMAP, GAINED, KEPT, LOST, overlap, top_mask
from veridical.report.table import Unit, write_cell
from veridical.runtime.checking import as_path
from veridical.runtime.errors import UsageError
from veridical.runtime.files import write_atomic
from veridical.studies.maps import first_of_each_class
from veridical.studies.study import StudyResult, check_alike, distinct_titles
from veridical.training.log import read_log
from veridical.training.penalties import objective_title

# What the paper reports. Every number carries a mark. "published": stated by the authors in what was read
# again for this table. "recalled": written down from memory of the paper's table and not read again, so it
# is shown as "recalled, unverified". Neither kind is ever compared with a measurement to pass a verdict,
# here or in a test; both stand beside it. All are fractions (0.9086, not 90.86%) but Kendall's tau, which
# lies in [-1, 1].
CITATION: Final = (
    "J. Chen, X. Wu, V. Rastogi, Y. Liang, S. Jha: "
    "Robust Attribution Regularization. NeurIPS 2019, arXiv:1905.09957."
)
MEASURES: Final = ("natural_accuracy", "adversarial_accuracy", "topk_intersection", "kendall_tau")

Mark = Literal["published", "recalled"]

# MEASURES of the network that was trained on a data set under an objective.
PAPER_NUMBERS: Final[Mapping[tuple[str, str], tuple[float, float, float, float]]] = {
    ("mnist", "natural"): (0.9917, 0.0000, 0.4661, 0.1758),
    ("mnist", "adversarial"): (0.9840, 0.9247, 0.6256, 0.2422),
    ("mnist", "ig-norm"): (0.9874, 0.8143, 0.7136, 0.2841),
    ("mnist", "ig-sum-norm"): (0.9834, 0.8817, 0.7245, 0.3111),
    ("fashion-mnist", "natural"): (0.9086, 0.0001, 0.3901, 0.4610),
    ("fashion-mnist", "adversarial"): (0.8573, 0.7301, 0.4612, 0.6251),
    ("fashion-mnist", "ig-norm"): (0.8513, 0.6595, 0.5922, 0.6171),
    ("fashion-mnist", "ig-sum-norm"): (0.8544, 0.7026, 0.7208, 0.6747),
    ("gtsrb", "natural"): (0.9857, 0.2105, 0.5416, 0.6790),
    ("gtsrb", "adversarial"): (0.9759, 0.8324, 0.6885, 0.7520),
    ("gtsrb", "ig-norm"): (0.9702, 0.7524, 0.7481, 0.7555),
    ("gtsrb", "ig-sum-norm"): (0.9568, 0.7712, 0.7404, 0.7684),
    ("flowers17", "natural"): (0.8676, 0.0000, 0.0812, 0.4978),
    ("flowers17", "adversarial"): (0.8382, 0.4191, 0.5587, 0.7784),
    ("flowers17", "ig-norm"): (0.8529, 0.2426, 0.6468, 0.7591),
    ("flowers17", "ig-sum-norm"): (0.8235, 0.4706, 0.6633, 0.7974),
}

# The natural accuracy of these three was stated by the authors; all other numbers are recalled.
_STATED_ACCURACY: Final = frozenset({"natural", "ig-norm", "ig-sum-norm"})


def paper_numbers(data: str, objective: str, mark: Mark) -> dict[str, float]:
    """The numbers with this mark by measure; empty where the paper has no such network."""
    numbers = dict(zip(MEASURES, PAPER_NUMBERS.get((data, objective), ()), strict=False))
    stated = {"natural_accuracy"} if objective in _STATED_ACCURACY else set()
    return {name: value for name, value in numbers.items() if (name in stated) == (mark == "published")}


_MAPS_COMPARED: Final = measures("attack")
# Of each image, as two attacks are compared by.
_PAIRED_MEASURES = ("topk_intersection", "kendall_tau", "spearman", "windowed_topk_intersection")
# Attacks of before the registry had another measure stay readable: they have these.
_IN_EVERY_RESULT = (*_PAIRED_MEASURES, "mass_centre_shift")
_LATER_MEASURES = [name for name in _MAPS_COMPARED if name not in _IN_EVERY_RESULT]
_INTERVALS = dict.fromkeys(
    ("natural_accuracy", "adversarial_accuracy", *_IN_EVERY_RESULT, "not_found", "incomplete?"), IntervalForm
) | dict.fromkeys((f"{name}?" for name in _LATER_MEASURES), IntervalForm)
_NODES = {"nodes": int, "rule": str}
_BALL = {"norm": str, "radius": float, "weight?": float, "beta?": float | None}
# What result.json of an attack must hold, as far as pages read it; a model that is no run has no objective.
FORM = {
    "config": {
        "run": {
            "model": {"name": str},
            "objective?": str,
            "recipe?": str,
            "robust?": (_BALL | {"training_radius?": float | None}, None),
        },
        "data": {"name": str, "split": str},
        "examples": int,
        "pictures": int,
        "radii": [float],
        "norm": Literal["linf", "l2"],
        "protocol": {
            "name": str,
            "k": int,
            "steps": int,
            "step_size": float,
            "climbs": list,
            "judge_nodes": _NODES,
            "final_nodes": (_NODES, None),
        },
        "evaluation": {"radius": float, "pgd_steps": int, "pgd_step_size": float},
        "attribution": {"method": str},
        "attack": {"direction": str, "k?": int},
    },
    "results": _INTERVALS
    | {
        "examples": int,
        "natural_accuracy_of_all": IntervalForm,
        "gradient_evaluations": {"explanation": int},
        "notes": list[str],
        "curve?": [_INTERVALS | {"radius": float}],
    },
    "environment": {"run": str},
}
ARRAYS_FORM = {
    **dict.fromkeys(("index", "label", "predicted"), "iu N"),
    **dict.fromkeys(_PAIRED_MEASURES, "f N"),
    **dict.fromkeys((f"{name}?" for name in _LATER_MEASURES), "f N"),
    **dict.fromkeys(("image", "perturbed"), "f M C H W"),
    **dict.fromkeys(("saliency", "perturbed_saliency"), "f M H W"),
    "trace": "f N T",
    "classes": "U K",
}


Attacks = Mapping[str, StudyResult]


def check_comparable(attacks: Attacks) -> None:
    """Raise a UsageError unless all attacks have one configuration but for the run."""
    configs = {name: {**attacked.config} for name, attacked in attacks.items()}
    for config in configs.values():
        del config["run"]
    check_alike(attacks, configs, "Attack both in the same way.")


def name_attacks(
    attacks: Sequence[StudyResult], titles: Sequence[str] | None = None, *, with_protocol: bool = False
) -> dict[str, StudyResult]:
    """The attacks by title: the titles given, else the objectives', with the folder where two are equal.

    with_protocol: by default the folder of the run and the protocol, where attacks differ in both.
    """
    defaults = [run_title(attacked) for attacked in attacks]
    if with_protocol:
        defaults = [f"{_folder_of_run(one).name} ({one.config['protocol']['name']})" for one in attacks]
    chosen = distinct_titles(titles, defaults, [attacked.folder for attacked in attacks], "attack")
    return dict(zip(chosen, attacks, strict=True))


def _folder_of_run(attacked: StudyResult) -> Path:
    """Where the run lay when it was attacked."""
    return Path(attacked.document["environment"]["run"])


def _correct(attacked: StudyResult) -> Any:
    """Which examples were classified correctly, (N,) bool."""
    return attacked.arrays["predicted"] == attacked.arrays["label"]


def run_title(attacked: StudyResult) -> str:
    """A reader's name for the model: the run's objective, or the architecture."""
    run = attacked.config["run"]
    return objective_title(run["objective"]) if "objective" in run else str(run["model"]["name"])


_ACCURACIES: Final = (
    Column(
        "natural_accuracy",
        "Natural accuracy (NA)",
        "share",
        "higher",
        "Share of all test images, left as they are, that the model classifies correctly.",
    ),
    Column(
        "adversarial_accuracy",
        "Adversarial accuracy (AA)",
        "share",
        "higher",
        "Share of all test images still classified correctly after each was changed, within the same bound, "
        "to mislead the classifier.",
    ),
)
_COUNTS: Final = (
    Column("examples", "images", "count", meaning="Test images that were attacked."),
    Column(
        "correctly_classified",
        "classified correctly",
        "count",
        meaning="Of these, the ones whose explanations were attacked.",
    ),
)
# The two that headlines speak of, in points and pages before all others.
_STEADINESS: Final = ("topk_intersection", "kendall_tau")
_SHORT_LABELS: Final = {"topk_intersection": "Top pixels kept", "kendall_tau": "Kendall\u2019s tau"}
_APART = "and the 95% intervals do not overlap"
# Where the second model's accuracy on unchanged images lies to the first's.
_PRICES = {
    "overlap": " The 95% intervals of their accuracies on unchanged images overlap.",
    "lower": f" On unchanged images the second is less accurate, {_APART}.",
    "higher": f" On unchanged images the second is more accurate, {_APART}.",
}
_CAUTION = (
    "How to read this: an explanation here is a map of how much each pixel counts for the model\u2019s "
    "answer. An attack shows how far a map can be moved by a change that leaves the answer alone; a stronger "
    "attack may move it further. The 95% intervals tell how much the means would vary over other test images "
    "of the same kind, not over another training of the same model."
)
# Logs of single steps are averaged down to this many points; more than that no reader can tell apart.
_LOG_POINTS = 100
_LOGGED: Final = {
    "loss": "loss",
    "validation_natural_accuracy": "validation accuracy",
    "natural_loss": "part of the loss: natural loss",
    "perturbed_loss": "part of the loss: perturbed loss",
    "attribution_l1": "part of the loss: attribution l1",
}

MARKS: Final[Mapping[Mark, str]] = {"published": "published", "recalled": "recalled, unverified"}
_TRACE = (
    "How fast the explanations give way: Kendall\u2019s tau between the explanation before the attack and "
    "after each of its iterations. The line is the median over the images, the band holds the middle half of "
    "them."
)
_LITERATURE = (
    "Numbers from the literature stand beside for orientation and are not a yardstick. "
    "\u201cPublished\u201d numbers are stated by the authors; \u201crecalled, unverified\u201d ones were "
    f"written down from memory of the paper and not checked against it. Source: {CITATION}"
)
_READ_GALLERY = (
    "Each image was attacked so as to move its explanation. A steady explanation looks the same for the "
    "image and for the changed image, and \u201cTop pixels\u201d is then mostly white."
)


def write_attack_page(
    path: Path,
    attacks: Attacks,
    *,
    title: str,
    lead: str,
    notes: Sequence[str] = (),
    gallery: int = 8,
    any_protocol: bool = False,
) -> Path:
    """Write the page of the attacks by title, the first being the one that others are compared with.

    `notes` stand before those of the results. The course of training is shown of runs whose folders are where
    they were. Raises UsageError where the models were not attacked in the same way on the same images: such
    numbers do not compare. With `any_protocol` they may differ; the page then has tables and scatters alone.
    """
    if not any_protocol:
        check_comparable(attacks)
    page = study_page(
        title,
        [lead],
        attack_panels(attacks, gallery, any_protocol=any_protocol),
        {} if any_protocol else _protocol(attacks),
        question="do explanations hold still?",
        verdict=None if any_protocol else attack_verdict(attacks),
        notes=[*notes, *_notes(attacks)],
    )
    write_atomic(as_path(path), page)
    return path


def attack_panels(attacks: Attacks, gallery: int = 8, *, any_protocol: bool = False) -> list[Panel]:
    """The parts of that page."""
    first = next(iter(attacks.values()))
    pictures_and_curves: list[Panel] = []
    if not any_protocol:  # of several protocols the images need not be the same, nor as many
        pictures_and_curves += [
            *gallery_panels(attacks, gallery),
            *_attack_panels(attacks),
            *_radius_panels(attacks),
        ]
    runs = {name: attacked.config["run"] for name, attacked in attacks.items()}
    config = {**first.config, "run": runs if len(runs) > 1 else first.config["run"]}
    if any_protocol:
        config = {name: attacked.config for name, attacked in attacks.items()}
    return [
        _results_panel(attacks),
        *pictures_and_curves,
        *_comparison_panels(attacks),
        *_training_panels(attacks),
        settings_panel("Configuration", config),
        settings_panel("Environment", first.document["environment"]),
    ]


def attack_table(attacks: Attacks, *, literature: bool = False) -> Table:
    """A row for each attack: the measures with their 95% intervals, and the images that they are about.

    literature: below each, what is published of a network like it, for orientation and not as a yardstick.
    """
    measured = _attack_columns(attacks)
    columns: list[Column | str] = ["model", *measured, *_COUNTS]
    rows: list[Mapping[str, object]] = []
    for name, attacked in attacks.items():
        rows.append({"model": name, **attacked.results})
        rows += _literature_rows(name, attacked, measured) if literature else ()
    return Table(columns, rows, "Measured values with 95% intervals.")


def _attack_columns(attacks: Attacks) -> list[Column]:
    """What an attack measures, as columns: both accuracies, then the registry's measures of two maps."""
    k = next(iter(attacks.values())).config["protocol"]["k"]
    columns = [*_ACCURACIES]
    for measure in _MAPS_COMPARED.values():
        name = _SHORT_LABELS.get(measure.name, measure.label)
        heading = f"{name} ({measure.short})" if measure.short else name
        unit: Unit = "number" if measure.unit == "correlation" else measure.unit
        what = f"{measure.label} before and after the attack: {measure.help.format(k=f'{k:,}')}"
        meaning = f"{what}; mean over the correctly classified images."
        columns.append(Column(measure.name, heading, unit, measure.alike, meaning))
    return columns


def _steadiness(attacks: Attacks) -> list[Column]:
    return [column for column in _attack_columns(attacks) if column.key in _STEADINESS]


def _comparison_panels(attacks: Attacks) -> list[Panel]:
    """Robust predictions beside robust explanations and, of two attacks, the differences image by image."""
    if len(attacks) < 2:
        return []
    drawn = []
    across = [_ACCURACIES[1].cell(one) for one in _intervals_of(attacks, "adversarial_accuracy").values()]
    for column in _steadiness(attacks):
        measured = _intervals_of(attacks, column.key).items()
        told = [
            f"{name}: {column.cell(one)} at {accuracy}"
            for (name, one), accuracy in zip(measured, across, strict=True)
        ]
        alt = f"{column.heading} against adversarial accuracy. {'; '.join(told)}."
        drawn.append(Illustration(robustness_scatter(attacks, [column]), "", alt))
    text = ["Do models whose predictions hold also have explanations that hold? Bars are 95% intervals."]
    panels = [Panel("Robust predictions and robust explanations", text, drawn)]
    if len(attacks) == 2:
        with suppress(UsageError):  # of other images, or of several radii
            panels.append(Panel("Image by image", [_PAIRED], table=paired_table(attacks)))
    return panels


_PAIRED = (
    "Differences are second minus first, over the images that both classify correctly. Paired, their "
    "intervals are narrower than those of the two means."
)


def robustness_scatter(attacks: Attacks, measures: Sequence[Column] | None = None) -> Figure:
    """Adversarial accuracy against IN and against CO, a point with 95% intervals per attack."""
    across = _intervals_of(attacks, "adversarial_accuracy")
    charts = []
    for column in measures or _steadiness(attacks):
        points = {name: (across[name], one) for name, one in _intervals_of(attacks, column.key).items()}
        charts.append((column.heading, column.unit == "share", points))
    return scatter_figure(charts, x_label="adversarial accuracy (AA)")


def paired_table(attacks: Attacks) -> Table:
    """How IN, CO and their kin differ image by image, over the images that both classify correctly.

    A row per measure: the means of both attacks, and the mean of second minus first with its interval. They
    may differ in the protocol, or in the model. Raises UsageError for attacks of other images, of several
    radii, or without an image in common.
    """
    headings = {column.key: column.heading for column in _attack_columns(attacks)}
    columns = [Column("", name, "number", digits=4) for name in attacks]
    return Table(
        ["measure", *columns, Column("", "difference", "difference"), Column("", "images", "count")],
        [
            [headings[name], *means, change, change["n"]]
            for name, (*means, change) in _paired(attacks).items()
        ],
    )


def _paired(attacks: Attacks) -> dict[str, tuple[Any, Any, Any]]:
    """By measure the means of both attacks over the images that both classify correctly, and the change."""
    first, second = attacks.values()
    for attacked in (first, second):
        if len(attacked.config["radii"]) != 1:
            raise UsageError(
                f"{attacked.folder} has the radii {attacked.config['radii']}: give attacks of one radius."
            )
    for key in ("data", "radii", "norm", "attribution", "k"):
        one, other = (
            attacked.config["protocol"]["k"] if key == "k" else attacked.config[key]
            for attacked in (first, second)
        )
        if one != other:
            raise UsageError(
                f"{first.folder} and {second.folder} do not pair: their {key} differs, {one} and {other}."
            )
    right = [np.flatnonzero(_correct(attacked)) for attacked in (first, second)]
    numbers = (one.arrays["index"][rows] for one, rows in zip((first, second), right, strict=True))
    shared, *places = np.intersect1d(*numbers, return_indices=True)
    if not len(shared):
        raise UsageError(f"{first.folder} and {second.folder} classify no image of both correctly.")
    here, there = (rows[place] for rows, place in zip(right, places, strict=True))
    found = {}
    for name in (*_PAIRED_MEASURES, *_LATER_MEASURES):
        if name not in first.arrays or name not in second.arrays:
            continue
        ours, theirs = first.arrays[name][here], second.arrays[name][there]
        one, other = (mean_interval(part.tolist(), undefined="exclude")["value"] for part in (ours, theirs))
        found[name] = (one, other, mean_interval((theirs - ours).tolist(), undefined="exclude"))
    return found


def attack_verdict(attacks: Attacks) -> Verdict:
    """Say what the numbers say; the first attack is the one that the others are compared with."""
    (name, first), *others = attacks.items()
    headlines = [_headline((name, first), other) for other in others] or _kept(first)
    paragraphs = [f"{_overlap(attacks)}{_chance(first)}", _rank(attacks), _accuracy(attacks)]
    text = [paragraph for paragraph in paragraphs if paragraph]
    return Verdict(headlines, text, _CAUTION, _draw_intervals(_steadiness(attacks), attacks))


def _read(attacked: StudyResult, name: str) -> Interval:
    return Interval.read(attacked.results.get(name))


def _intervals_of(attacks: Attacks, name: str) -> dict[str, Interval]:
    return {title: _read(attacked, name) for title, attacked in attacks.items()}


def _condition(attacked: StudyResult) -> str:
    """The clause on what the attack may do."""
    radius = radius_text(attacked.config["evaluation"]["radius"])
    if attacked.config["norm"] == "linf":
        bound = f"changes no pixel by more than {radius} (0 is black, 1 is white)"
    else:
        bound = f"changes the image by a Euclidean distance of at most {radius} (each pixel runs from 0 to 1)"
    return f"Under an attack that {bound} and leaves the prediction as it was"


def _kept(attacked: StudyResult) -> list[str]:
    """The headline on a single model; none when its top-k intersection was not measured."""
    share = _read(attacked, "topk_intersection")
    if share.value is None:
        return []
    kept = f"After the attack, explanations keep {percents([share.value])[0]} of their most important pixels"
    if share.low is None or share.high is None:
        return [f"{kept}."]
    return [f"{kept} (95% interval {percent(share.low, 1)} to {percent(share.high, 1)})."]


def _overlap(attacks: Attacks) -> str:
    """One sentence on the top-k intersection of every model."""
    first = next(iter(attacks.values()))
    shares = {name: one.value for name, one in _intervals_of(attacks, "topk_intersection").items()}
    known = {name: value for name, value in shares.items() if value is not None}
    clauses: list[str] = []
    for name, share in zip(known, percents(list(known.values())), strict=True):
        if clauses:
            clauses.append(f"that of {quoted(name)} keeps {share}")
        else:
            pixels = f"{first.config['protocol']['k']:,} most important pixels"
            clauses.append(f"the explanation of {quoted(name)} keeps {share} of its {pixels}")
    if missing := [quoted(name) for name, value in shares.items() if value is None]:
        clauses.append(f"for {listed(missing)} the most important pixels that stay were not measured")
    return f"{_condition(first)}, {'; '.join(clauses)}."


def _chance(attacked: StudyResult) -> str:
    """What two unrelated maps would share; without it a reader takes the bottom of the scale for zero."""
    k, maps = attacked.config["protocol"]["k"], attacked.arrays["saliency"]
    pixels = int(np.prod(maps.shape[1:]))
    if len(maps) == 0 or pixels <= k:
        return ""
    return f" Two unrelated rankings of {pixels:,} pixels would share {percent(k / pixels, 0)} by chance."


def _rank(attacks: Attacks) -> str:
    taus = _intervals_of(attacks, "kendall_tau").items()
    parts = [f"{signed(tau.value, 2)} for {quoted(name)}" for name, tau in taus if tau.value is not None]
    if not parts:
        return ""
    return (
        "Between the orders of importance of all pixels before and after the attack, "
        f"Kendall\u2019s tau (1 is the same order, 0 no relation) is {listed(parts)}."
    )


def _accuracy(attacks: Attacks) -> str:
    """What the models get right, and whether steadiness was paid for with accuracy."""
    parts = []
    for name, attacked in attacks.items():
        natural, adversarial = (
            _read(attacked, key).value for key in ("natural_accuracy", "adversarial_accuracy")
        )
        if natural is None:
            continue
        part = f"{quoted(name)} classifies {percent(natural, 1)} of the unchanged test images correctly"
        if adversarial is not None:
            part += f" and {percent(adversarial, 1)} when they are changed to mislead it"
        parts.append(part)
    if not parts:
        return ""
    price = ""
    if len(attacks) == 2:
        first, second = _intervals_of(attacks, "natural_accuracy").values()
        price = _PRICES.get(second.against(first), "")
    return f"{'; '.join(parts)}.{price}"


def _headline(first: tuple[str, StudyResult], other: tuple[str, StudyResult]) -> str:
    """How the explanations of `other` hold against those of `first`, by the intervals of IN and CO."""
    there, here = quoted(first[0]), quoted(other[0])
    by: dict[str, list[str]] = {"higher": [], "lower": [], "overlap": [], "unknown": []}
    for key, words in (("topk_intersection", "share of kept pixels"), ("kendall_tau", "rank correlation")):
        by[_read(other[1], key).against(_read(first[1], key))].append(f"the {words}")
    if by["higher"] and by["lower"]:
        return (
            f"The two measures disagree about {here} and {there}: {listed(by['higher'])} is higher, "
            f"{listed(by['lower'])} is lower; in neither do the 95% intervals overlap."
        )
    for direction, manner in (("higher", "hold better"), ("lower", "hold less well")):
        if names := by[direction]:
            verb = "is" if len(names) == 1 else "are"
            caution = f" For {listed(by['overlap'])} the intervals overlap." if by["overlap"] else ""
            return (
                f"The explanations of {here} {manner} than those of {there}: "
                f"{listed(names)} {verb} {direction}, {_APART}.{caution}"
            )
    if by["overlap"]:
        overlap = f"for {listed(by['overlap'])} the 95% intervals overlap"
        changes = _changes(dict([first, other]))
        if not changes:
            return f"This run shows no difference between the explanations of {here} and {there}: {overlap}."
        return (
            f"Image by image, on those that both classify correctly, {here} differs from {there}: "
            f"{listed(changes)}; {overlap}."
        )
    return f"{here} and {there} cannot be compared here: intervals were not measured for both."


def _changes(attacks: Attacks) -> list[str]:
    """By how much IN and CO differ image by image, second minus first, where their intervals leave out 0."""
    try:
        changes = _paired(attacks)
    except UsageError:  # of other images, or of several radii
        return []
    found = []
    for column in _steadiness(attacks):
        change = Interval.read(changes[column.key][2]) if column.key in changes else Interval.read(None)
        if change.sign:
            share = column.unit == "share"
            text = write_cell(change, "points" if share else "difference")
            found.append(f"{column.heading} by {text}{' points' if share else ''}")
    return found


def _results_panel(attacks: Attacks) -> Panel:
    """Measured values, with the literature's numbers in rows of their own where there are any."""
    compared = {name: f"{attacked.config['protocol']['k']:,}" for name, attacked in attacks.items()}
    table = attack_table(attacks, literature=True)
    few = ", ".join(f"{k} for {quoted(name)}" for name, k in compared.items())
    k = few if len(set(compared.values())) > 1 else next(iter(compared.values()))
    text = [f"The top pixels are the k = {k} most important.", *_counts(attacks)]
    if len(table.rows) > len(attacks):
        text.append(_LITERATURE)
    others = [column for column in _attack_columns(attacks) if column.key not in _STEADINESS]
    return Panel("Results", text, _draw_intervals(others, attacks), table)


def _literature_rows(
    name: str, attacked: StudyResult, columns: Sequence[Column]
) -> Iterator[dict[str, object]]:
    """What is published, and what is recalled, of this objective's network on this data in this ball."""
    data = attacked.config["data"]["name"] if _is_as_published(attacked) else ""
    for mark, words in MARKS.items():
        numbers = paper_numbers(data, attacked.config["run"].get("objective", ""), mark)
        # They keep the digits of their print, more than the measured ones deserve.
        cells = {c.key: c.cell(numbers.get(c.key), 4 if c.unit == "number" else 2) for c in columns}
        if numbers:
            yield {"model": f"{name} ({words})", **cells}


def _counts(attacks: Attacks) -> Iterator[str]:
    """A sentence for each measure that is defined on fewer images than its kind."""
    for name, attacked in attacks.items():
        for column in _attack_columns(attacks):
            # Accuracies are of all images; maps are compared only of those classified correctly.
            n = _read(attacked, column.key).n
            whole = attacked.results["examples"]
            usual = whole if column in _ACCURACIES else attacked.results.get("correctly_classified", n)
            if n and n != usual:
                yield f"{column.heading} of {quoted(name)} is over {n:,} images."


def _draw_intervals(columns: Sequence[Column], attacks: Attacks) -> list[Illustration]:
    """Each measure of all models to one scale, where it was measured."""
    drawn = []
    for column in columns:
        rows, share = _intervals_of(attacks, column.key), column.unit == "share"
        known = [end for one in rows.values() for end in (one.value, one.low, one.high) if end is not None]
        if known:
            top = max(known) * 1.1 or 1.0 if column.unit == "pixels" else max(1.0, *known)
            reach = (0.0, 1.0) if share else (min(0.0, *known), top)
            figure = intervals_figure(rows, title=column.heading, x_percent=share, x_range=reach)
            told = "; ".join(f"{name}: {column.cell(interval)}" for name, interval in rows.items())
            drawn.append(Illustration(figure, "", f"{column.heading}. {told}."))
    return drawn


def _is_as_published(attacked: StudyResult) -> bool:
    """Whether data, ball, attribution and direction are the paper's; k, steps, network are not compared."""
    config = attacked.config
    row = PAPER_SETTINGS.get(config["data"]["name"])
    return (
        row is not None
        and config["norm"] == "linf"
        and abs(config["evaluation"]["radius"] - row.radius) < 1e-9
        and config["attribution"]["method"] == "IntegratedGradients"
        and config["attack"]["direction"] == "topk"
    )


def gallery_panels(attacks: Attacks, count: int) -> list[Panel]:
    """The same images before and after the attack, a row for each model."""
    first = next(iter(attacks.values()))
    k, rows, differing = first.config["protocol"]["k"], [], 0
    for number, place in enumerate(_shown(list(attacks.values()), count), start=1):
        label = str(first.arrays["classes"][int(first.arrays["label"][place])])
        for name, attacked in attacks.items():
            heading = f"Image {number}, labelled {label}" if attacked is first else ""
            row, drawn = _picture_row(name, attacked, place, k, label, heading)
            rows.append(row)
            written = finite(attacked.arrays["topk_intersection"][place])
            differing += written is not None and abs(drawn - written * k) > 1.5
    if not rows:
        return []
    text = [_READ_GALLERY]
    if differing:
        text.append(
            f"In {differing} of the pictures below, the number of top pixels drawn as kept is not the one "
            "written beside them: the maps shown are not exactly those that were measured."
        )
    scale = (
        f"Explanation: black counts for nothing, pale yellow for most (colormap {COLORMAP}; every map has a "
        "scale of its own from zero to its 99.5th percentile, since rankings are compared)"
    )
    legend = [
        (None, scale),
        (KEPT, f"among the {k:,} most important pixels before and after"),
        (LOST, "only before"),
        (GAINED, "only after"),
    ]
    columns = ("Image", "Explanation", "Changed image", "Its explanation", "Top pixels")
    gallery = PictureGallery(rows, columns, ("grey", "heat", "grey", "heat", "grey"), legend)
    alt = "images and their explanations before and after the attack"
    return [Panel("The same images, before and after", text, [Illustration(gallery, "", alt)])]


def _picture_row(
    name: str, attacked: StudyResult, place: int, k: int, label: str, heading: str
) -> tuple[PictureRow, int]:
    """One example of one model, and how many of the top pixels are drawn as kept."""
    arrays = attacked.arrays
    before, after = arrays["saliency"][place], arrays["perturbed_saliency"][place]
    image, perturbed = (channels_last(arrays[key][place]) for key in ("image", "perturbed"))
    shared = int(np.count_nonzero(top_mask(before, k) & top_mask(after, k)))
    topk, tau = (
        column.cell(arrays[column.key][place], digits)
        for column, digits in zip(_steadiness({name: attacked}), (0, 2), strict=True)
    )
    alts = (
        f"image labelled {label}, before the attack",
        f"explanation of {name} before the attack",
        "the image after the attack",
        f"explanation of {name} after the attack",
        f"{shared:,} of the {k:,} most important pixels stayed the same",
    )
    pictures = [image, before, perturbed, after, overlap(image, before, after, k)]
    title = f"{name}: top pixels kept {topk}, tau {tau}"
    return PictureRow(title, pictures, alts=alts, heading=heading), shared


def _shown(attacks: Sequence[StudyResult], count: int) -> list[int]:
    """Examples for the gallery: the first of each class that all models classify correctly, then the next."""
    first = attacks[0].arrays
    pictured = len(first["image"])
    right = np.logical_and.reduce([_correct(attacked)[:pictured] for attacked in attacks])
    places = np.flatnonzero(right)
    chosen = first_of_each_class(torch.from_numpy(first["label"][places].astype(np.int64)), count)
    return [int(place) for place in places[chosen]]


def _attack_panels(attacks: Attacks) -> list[Panel]:
    """Tau over the iterations of the attack, and how tau and the kept pixels spread over the images."""
    drawn = []
    traces = {name: one.arrays["trace"][_correct(one)] for name, one in attacks.items()}
    lines = [_quartiles(name, trace) for name, trace in traces.items() if np.isfinite(trace).any()]
    if lines:
        lowest = min(
            low for line in lines for low in line.low or () if low is not None and math.isfinite(low)
        )
        drawn.append(
            curves_illustration(
                lines,
                _TRACE,
                x_label="attack iteration",
                y_label="Kendall\u2019s tau",
                y_range=(min(0.0, lowest), 1.0),
            )
        )
    for column in _steadiness(attacks):
        values = {name: one.arrays[column.key][_correct(one)].astype(float) for name, one in attacks.items()}
        samples = {name: each[np.isfinite(each)] for name, each in values.items() if np.isfinite(each).any()}
        if samples:
            share = column.unit == "share"
            least = 0.0 if share else min(0.0, *(float(each.min()) for each in samples.values()))
            x_range = (math.floor(least * 10) / 10, 1.0)
            figure, alt = histograms_figure(samples, x_label=column.heading, x_range=x_range, x_percent=share)
            words = f"{column.heading}, image by image. Further right is steadier; the line is the median."
            drawn.append(Illustration(figure, words, alt))
    return [Panel("Over the attack and over the images", (), drawn)] if drawn else []


def _quartiles(name: str, trace: Any) -> Curve:
    """Quartiles over the examples (rows) of each iteration; an iteration that nobody has is left out."""
    known = np.flatnonzero(np.isfinite(trace).any(axis=0))
    values = np.where(np.isfinite(trace), trace, np.nan)[:, known]
    low, middle, high = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0).tolist()
    return Curve(name, (1 + known).tolist(), middle, low, high)


def _radius_panels(attacks: Attacks) -> list[Panel]:
    """Each measure against the attack radius with its 95% band; natural accuracy has no radius."""
    drawn = []
    curves = {
        name: sorted(one.results.get("curve") or (), key=lambda point: point["radius"])
        for name, one in attacks.items()
    }
    for column in _attack_columns(attacks)[1:]:
        lines = [
            Curve.through(name, [point["radius"] for point in curve], [p.get(column.key) for p in curve])
            for name, curve in curves.items()
        ]
        lines = [line for line in lines if any(value is not None for value in line.y)]
        if lines:
            known = [end for line in lines for end in (*line.y, *(line.low or ())) if end is not None]
            y_range = None if column.unit == "pixels" else (min(0.0, *known), 1.0)
            drawn.append(
                curves_illustration(
                    lines,
                    f"{column.heading}. The band is the 95% interval of the mean.",
                    x_label="attack radius",
                    y_label=column.heading,
                    y_percent=column.unit == "share",
                    y_range=y_range,
                )
            )
    return [Panel("With larger and smaller changes", (), drawn)] if drawn else []


def _training_panels(attacks: Attacks) -> list[Panel]:
    """Loss, validation accuracy and the parts of the loss over the epochs, with a line for each model."""
    logs = {name: read_log(_folder_of_run(attacked)) for name, attacked in attacks.items()}
    drawn = []
    for key, words in _LOGGED.items():
        lines = [_training_curve(name, log, key) for name, log in logs.items()]
        lines = [line for line in lines if line.x]
        if lines:
            drawn.append(
                curves_illustration(
                    lines,
                    "Each objective has a loss of its own; only its course compares."
                    if key == "loss"
                    else "",
                    x_label="epoch",
                    y_label=words,
                    title=words[0].upper() + words[1:],
                    y_percent=words == "validation accuracy",
                )
            )
    return [Panel("Training", (), drawn)] if drawn else []


def _training_curve(name: str, log: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """A number of a training's log over the epochs, the mean over the steps of each."""
    epochs: dict[int, list[float]] = {}
    for line in log:
        if finite(line.get(key)) is not None:
            epochs.setdefault(math.ceil(line["epoch"]), []).append(float(line[key]))
    means = [(epoch, sum(values) / len(values)) for epoch, values in sorted(epochs.items())]
    points = np.array(means, dtype=float).reshape(-1, 2)
    if len(points) > _LOG_POINTS:
        points = np.stack([part.mean(axis=0) for part in np.array_split(points, _LOG_POINTS)])
    return Curve(name, points[:, 0].tolist(), points[:, 1].tolist())


def _protocol(attacks: Attacks) -> dict[str, object]:
    """The attack in the words of the page; it is the same for all models."""
    first = next(iter(attacks.values()))
    config, results = first.config, first.results
    data = config["data"]
    plan, evaluation = config["protocol"], config["evaluation"]
    final = plan["final_nodes"] or plan["judge_nodes"]
    method = config["attribution"]["method"]
    path = method == "IntegratedGradients"
    direction = config["attack"]["direction"]
    norm = {"linf": "No pixel changes by more than", "l2": "A Euclidean distance of at most"}[config["norm"]]
    return {
        **{name: _training_words(attacked.config["run"]) for name, attacked in attacks.items()},
        "Bound on the change": f"{norm} {radius_text(evaluation['radius'])} (pixels run from 0 to 1)",
        "Images": f"the first {config['examples']:,} {data['split']} images of {data['name']}",
        "Explanation": f"{method}, {final['nodes']} {final['rule']} nodes from black" if path else method,
        "Protocol": plan["name"],
        "Direction": DIRECTIONS.get(direction).summary if direction in DIRECTIONS else direction,
        "Pixels attacked / compared": f"{config['attack'].get('k', 'all')} / {plan['k']}",
        "Climbs of the attack on explanations": len(plan["climbs"]),
        "Steps of each": f"{plan['steps']} of {plan['step_size']:.4g}",
        "Attack on predictions": f"{evaluation['pgd_steps']} steps of {evaluation['pgd_step_size']:.4g} "
        "from one random start, last iterate",
        "Left as they were, and counted as unharmed": ", ".join(
            f"{name} {'(none attacked)' if one.value is None else percent(one.value, 1)}"
            for name, one in _intervals_of(attacks, "not_found").items()
        ),
        "Gradients per explanation attacked": f"{results['gradient_evaluations']['explanation']:,}",
    }


def _training_words(run: Mapping[str, Any]) -> str:
    robust = run.get("robust") or {}
    told = [
        f"{key.replace('_', ' ')} {robust[key]:g}"
        for key in ("weight", "beta", "radius", "training_radius")
        if robust.get(key) is not None
    ]
    recipe = [run["objective"], f"{run['recipe']} recipe"] if "objective" in run else []
    return ", ".join([run["model"]["name"], *recipe, *told])


def _notes(attacks: Attacks) -> list[str]:
    """Each note once, with the models that it is about."""
    notes = notes_by_name({name: attacked.results["notes"] for name, attacked in attacks.items()})
    for name, attacked in attacks.items():
        whole = attacked.results["natural_accuracy_of_all"]
        if whole["n"] > attacked.results["examples"]:
            images = f"{whole['n']:,} {attacked.config['data']['split']} images"
            notes.append(f"{name} classifies {whole['value']:.1%} of all {images} correctly.")
    climbs = len(next(iter(attacks.values())).config["protocol"]["climbs"])
    if climbs > 1:
        notes.append(f"In the trace the {climbs} climbs of the attack stand one behind the other.")
    return notes
