"""The questions of an audit, from where on each holds, and the page of its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from veridical.faithfulness.evidence import ORDERED
from veridical.faithfulness.removal import ORDERS
from veridical.report import Curve, Interval, Panel, curves_illustration
from veridical.report.formats import listed, percent, radius_text
from veridical.report.table import Column, Table, Unit, write_cell, write_number
from veridical.studies.maps import examples_panel, map_row
from veridical.studies.study import StudyResult

# A map of noise: what it passes is no evidence of anything.
CONTROL = "random"
# Queries of the black-box attack for each image.
QUERIES = 200
# A residual below this share of what it is a residual of counts as none.
COMPLETE, SAME = 0.05, 1e-3

Verdict = Literal["holds", "fails", "undecided", "not measured"]


@dataclass(frozen=True)
class Question:
    """One question: what is asked, what is measured, and from which value on it holds.

    measure: of a value, higher is better. threshold: the interval has to lie above it. each: it is asked of
    every attribution, else of the model. speaks_to: the requirement that the answer is evidence relevant to.
    """

    name: str
    asks: str
    measure: str
    threshold: float
    unit: Literal["share", "points", "number"] = "share"
    each: bool = True
    speaks_to: str = ""


_ACCURACY = "EU AI Act article 15 (accuracy, robustness); NIST AI RMF MEASURE 2.5"
_LIMITS = "NISTIR 8312 (explanation accuracy); EU AI Act article 13 (transparency)"
_STABLE = "NISTIR 8312 (knowledge limits); NIST AI RMF MEASURE 2.9"
_OVERSIGHT = "EU AI Act article 14 (human oversight); NIST AI RMF MEASURE 2.9"

QUESTIONS: Mapping[str, Question] = {
    one.name: one
    for one in (
        Question(
            "accuracy", "Does it predict well?", "natural accuracy", 0.8, each=False, speaks_to=_ACCURACY
        ),
        Question(
            "accuracy-under-attack",
            "Does it predict well under attack?",
            "accuracy after projected gradient descent",
            0.5,
            each=False,
            speaks_to=_ACCURACY,
        ),
        Question(
            "completeness",
            "Do the parts of the map add up to the output?",
            f"images whose map misses less than {percent(COMPLETE, 0)} of the output's change since black",
            0.8,
            speaks_to=_LIMITS,
        ),
        Question(
            "sensitivity",
            "Does a pixel that changes the output get attribution?",
            "images whose brightest value, alone on black, is marked, where it changes the output",
            0.8,
            speaks_to=_LIMITS,
        ),
        Question(
            "invariance",
            "Does the map belong to the function, and not to how it is written?",
            "images with the same map when the input passes two ReLUs that change nothing",
            0.8,
            speaks_to=_LIMITS,
        ),
        Question(
            "stability",
            "Does the map hold still under attack?",
            "top pixels kept, for the strongest change that was found with this budget",
            0.5,
            speaks_to=_STABLE,
        ),
        Question(
            "stability-to-noise",
            "Does the map hold still under random noise of the same size?",
            "top pixels kept",
            0.5,
            speaks_to=_STABLE,
        ),
        Question(
            "depends-on-model",
            "Does the map depend on what the model has learnt?",
            "how much of the map is gone when the layers get random weights, at the least favourable measure",
            0.5,
            speaks_to=_LIMITS,
        ),
        Question(
            "depends-smoothed",
            "Does the map depend on what the model has learnt, averaged over noisy images?",
            "how much is gone of maps averaged over noisy images when the layers get random weights "
            "(needs --smooth)",
            0.5,
            speaks_to=_LIMITS,
        ),
        Question(
            "complexity-rises",
            "Is the map of the model simpler than that of random weights?",
            "relative rise of the entropy of the map's values when all weights are random",
            0.0,
            speaks_to=_LIMITS,
        ),
        Question(
            "deletion",
            "Does the prediction fall when marked pixels are removed (training mean)?",
            "probability, least minus most relevant removed, beyond random and fixed orders",
            0.05,
            "points",
            speaks_to=_LIMITS,
        ),
        Question(
            "insertion",
            "Does the prediction rise when marked pixels are put into a blurred image?",
            "probability, most minus least relevant inserted, beyond random and fixed orders",
            0.05,
            "points",
            speaks_to=_LIMITS,
        ),
        Question(
            "road",
            "Does the prediction change when marked pixels are imputed (ROAD)?",
            "predictions kept, least minus most relevant removed, beyond random and fixed orders",
            0.05,
            "points",
            speaks_to=_LIMITS,
        ),
        Question(
            "single-deletion",
            "Do single patches matter as the map says?",
            "rank correlation of the map's patches with the drops of the logit",
            0.1,
            "number",
            speaks_to=_LIMITS,
        ),
        Question(
            "in-domain-deletion",
            "Do single patches matter as the map says, to a model that was fine-tuned on missing patches?",
            "rank correlation of that model's maps with the drops of its logit (needs --finetune)",
            0.1,
            "number",
            speaks_to=_LIMITS,
        ),
        Question(
            "in-domain-removal",
            "Does a model that was fine-tuned on missing patches miss the marked ones more?",
            "predictions kept, least minus most relevant patches missing, beyond random and fixed orders "
            "(needs --finetune)",
            0.05,
            "points",
            speaks_to=_LIMITS,
        ),
        Question(
            "diffroar",
            "Does a network that is trained on what the map marks learn more than one trained on the rest?",
            "accuracy, most minus least relevant pixels kept, at the least favourable level; beyond masks "
            "alone and baselines (needs --retrain)",
            0.0,
            "points",
            speaks_to=_LIMITS,
        ),
        Question(
            "adversarial",
            "Do changes at marked pixels harm more than elsewhere, without masks?",
            "probability, least minus most relevant changed, beyond random and fixed orders",
            0.05,
            "points",
            speaks_to=_LIMITS,
        ),
        Question(
            "localisation",
            "Does the map lie where the true evidence is?",
            "share of the map inside the masks beyond their share of the area",
            0.1,
            "points",
            speaks_to=_OVERSIGHT,
        ),
        Question(
            "leakage",
            "Does the map keep to the true evidence, and not leak to where nothing tells?",
            "share of the map inside the masks",
            0.5,
            speaks_to=_OVERSIGHT,
        ),
    )
}
_LIMITS_TEXT = (
    (
        "A model can be built to show false maps while its predictions stay; an audit of gradients does "
        "not find that."
    ),
    (
        "A map that adds up (completeness) can be no better than chance at telling what a model would do "
        "if a feature changed."
    ),
    (
        "Removed pixels make images that the model has never seen; what it then says is in part an answer"
        " to the mask. The mask leak above says how much the place of the pixels tells by itself."
    ),
    (
        "Attacks show that a change exists. Where none was found, a stronger change may exist: no "
        "stronger change was found with this budget."
    ),
    ("Whether a map is understood, and whether people decide better with it, needs people."),
)


def judge(interval: Interval, threshold: float) -> Verdict:
    """Where an interval lies to a threshold that a value has to be above."""
    if interval.value is None:
        return "not measured"
    if interval.low is None or interval.high is None:
        return "undecided"
    if interval.low > threshold:
        return "holds"
    return "fails" if interval.high < threshold else "undecided"


def answers_table(result: StudyResult) -> Table:
    """Questions by explanations; the random map's answers are there for comparison."""
    names = list(result.config["attributions"])
    by_key = {(one["question"], one["attribution"]): one for one in result.results["answers"]}
    rows = []
    unasked = not_asked(result)
    for name, question in ((one, QUESTIONS[one]) for one in QUESTIONS if one not in unasked):
        whole = by_key.get((name, None))
        cells = [_answer_text(by_key.get((name, one))) for one in names]
        rows.append([name, _limit_text(result, question), _answer_text(whole), *cells])
    columns: list[Column | str] = ["question", "holds above", "the model", *names]
    return Table(columns, rows)


def not_asked(result: StudyResult) -> list[str]:
    """The questions of which nothing was measured, of any explanation but the random one."""
    asked = {
        one["question"]
        for one in result.results["answers"]
        if one["verdict"] != "not measured" and one["attribution"] != CONTROL
    }
    return [name for name in QUESTIONS if name not in asked]


def write_findings(result: StudyResult) -> list[str]:
    """What holds and fails, by explanation; flags that are raised; what is missing."""
    sentences = []
    answers = result.results["answers"]
    for name in [None, *(one for one in result.config["attributions"] if one != CONTROL)]:
        mine = [one for one in answers if one["attribution"] == name]
        if not mine:
            continue
        counts = {
            verdict: [one["question"] for one in mine if one["verdict"] == verdict]
            for verdict in ("holds", "fails", "undecided")
        }
        told = [f"{verdict}: {', '.join(questions)}" for verdict, questions in counts.items() if questions]
        if told:
            sentences.append(f"{name or 'The model'} \N{EM DASH} {'; '.join(told)}.")
    raised = [one["name"] for one in result.results["flags"] if one["raised"]]
    if raised:
        sentences.append(f"Trust these numbers less: {listed(raised)}.")
    if result.results["left_out"]:
        names = ", ".join(result.results["left_out"])
        sentences.append(f"Not all was measured ({names}). The same command continues.")
    return sentences


def audit_panels(result: StudyResult) -> list[Panel]:
    """Answers, whether to trust them, evidence, images, requirements, limits."""
    text = (
        "Holds: the 95% interval lies above the threshold. Fails: below it. Undecided: it holds the "
        "threshold, and more images may tell. Thresholds are ours unless given by --thresholds. The "
        "random map is a control: what it passes is no evidence of anything."
    )
    unasked = not_asked(result)
    also = [f"Not measured of any: {', '.join(unasked)}."] if unasked else []
    panels = [
        Panel("Answers", [text, *also], table=answers_table(result)),
        Panel("What was asked", table=_questions_table(result)),
    ]
    flags = [
        [one["name"], {True: "raised", False: "no", None: "look"}[one["raised"]], one["text"]]
        for one in result.results["flags"]
    ]
    panels.append(
        Panel(
            "Can this audit be trusted?",
            [one["text"] for one in result.results["remarks"] if one["severity"] == "note"],
            table=Table(["flag", "raised", "what it says"], flags),
        )
    )
    if result.results["before"] is not None:
        panels.append(_before_panel(result))
    panels += _stability_panels(result)
    panels += _evidence_panels(result)
    panels += _gallery(result)
    if result.results["left_out"]:
        rows = list(result.results["left_out"].items())
        panels.append(Panel("What is missing", table=Table(["part", "why"], rows)))
    commands = [
        [one["question"], one["attribution"] or "", one["command"] or ""] for one in result.results["answers"]
    ]
    speaks = [[one.name, one.speaks_to] for one in QUESTIONS.values()]
    return [
        *panels,
        Panel("Limits", _LIMITS_TEXT),
        Panel(
            "Which answer is evidence relevant to which requirement",
            ["Evidence relevant to a requirement; no statement that anything complies."],
            table=Table(["question", "evidence relevant to"], speaks),
            folded=True,
        ),
        Panel(
            "Commands",
            ["Each answers its question alone."],
            table=Table(["question", "explanation", "command"], commands),
            folded=True,
        ),
    ]


def _shown(answer: Mapping[str, Any]) -> str:
    """A value with its interval in the question's unit."""
    question, interval = QUESTIONS[answer["question"]], Interval.read(answer["value"])
    if interval.value is None:
        return ""
    value = write_number(interval.value, question.unit)
    if interval.low is None or interval.high is None:
        return value
    low, high = (write_number(end, question.unit).removesuffix("%") for end in (interval.low, interval.high))
    return f"{value} ({low} to {high})"


def _answer_text(answer: Mapping[str, Any] | None) -> str:
    """An answer as a cell: the verdict and, where it was measured, the value with its interval."""
    if answer is None:
        return ""
    return f"{answer['verdict']} {_shown(answer)}".strip()


def _limit_text(result: StudyResult, question: Question) -> str:
    return write_number(result.results["thresholds"][question.name], question.unit)


def _questions_table(result: StudyResult) -> Table:
    """Each question in full: what is asked, what its value is, and from where on it holds."""
    rows = [[name, one.asks, one.measure, _limit_text(result, one)] for name, one in QUESTIONS.items()]
    return Table(["question", "in full", "value", "holds above"], rows)


def _stability_panels(result: StudyResult) -> list[Panel]:
    """What attacks and noise leave of each map at every radius."""
    panels = []
    for name, entry in result.results["stability"].items():
        rows: list[list[Any]] = [
            [
                f"{one['protocol']}, radius {radius_text(one['radius'])}",
                one["topk_intersection"],
                one["windowed_topk_intersection"],
                one["kendall_tau"],
                one["kendall_tau_nonzero"],
                one["noise"],
            ]
            for one in entry["radii"]
        ]
        columns: list[Column | str] = ["attack", *_RADII_COLUMNS]
        panels.append(
            Panel(f"How {name} holds still", [_half_lost(entry["half_lost"])], table=Table(columns, rows))
        )
    return panels


_RADII_COLUMNS = (
    Column("topk", "IN", "share", "higher", "Share of the top pixels that the strongest change found left."),
    Column("windowed", "windowed IN", "share", "higher", "The same, a shift by one pixel forgiven."),
    Column("tau", "CO", "number", "higher", "Kendall's tau between the orders of all pixels."),
    Column("nonzero", "CO nonzero", "number", "higher", "CO over the pixels that the clean map marks."),
    Column("noise", "IN under noise", "share", "higher", "IN under random noise of the same size."),
)


def _half_lost(lost: Mapping[str, Any]) -> str:
    """The least radius at which half of the top pixels is lost, in a sentence."""
    if lost["value"] is None:
        return "At no radius that was attacked half of the top pixels were lost, on average over images."
    # Between radii, where more digits would say more than is known.
    value, low, high = (None if lost[end] is None else f"{lost[end]:.3g}" for end in ("value", "low", "high"))
    within = f"{low or '0'} to {high}" if high else f"from {low or '0'}; no upper end was reached"
    return (
        f"Half of the top pixels are lost at a radius of about {value} ({within}), "
        "linear between the radii that were attacked."
    )


def _before_panel(result: StudyResult) -> Panel:
    """Each answer of the earlier audit beside this one's."""
    rows: list[list[Any]] = []
    for one in result.results["before"]:
        then = _answer_text({**one, "verdict": one["verdict_before"], "value": one["before"]})
        now = _answer_text({**one, "value": one["after"]})
        change = _shown({**one, "value": one["difference"]})
        rows.append([one["question"], one["attribution"] or "", then, now, change])
    text = (
        "The change is that of the same images, where both audits examined the same; then it has an interval."
    )
    return Panel(
        "Before and after", [text], table=Table(["question", "explanation", "before", "now", "change"], rows)
    )


# What else was measured, by its name in the results, in words, and its unit.
_OTHERS: tuple[tuple[str, str, Unit], ...] = (
    ("single_deletion", "rank correlation of patches with single deletions", "number"),
    ("zero", "exact zeros", "share"),
)


def _evidence_panels(result: StudyResult) -> list[Panel]:
    """Curves of what the model says without marked pixels; leak of the masks; disagreement of the maps."""
    evidence = result.results["evidence"]
    if not evidence:
        return []
    levels, drawn = result.config["levels"], []
    titles = {
        "deletion": "probability after removal",
        "insertion": "probability after insertion",
        "road": "predictions kept after imputation",
    }
    for question, y_label in titles.items():
        curves = [
            Curve.through(
                f"{name}, {order} relevant first",
                levels,
                entry[question]["own"][order],
                dashed=order == "least",
                colour=place,
            )
            for place, (name, entry) in enumerate(evidence.items())
            for order in ORDERS
        ]
        drawn.append(
            curves_illustration(
                curves,
                f"{question}: a faithful map has its two curves far apart.",
                title=question,
                x_label="share of the pixels",
                y_label=y_label,
                x_percent=True,
                y_percent=True,
                y_range=(0.0, 1.0),
            )
        )
    rows: list[list[str]] = []
    asked = [one for one in (*ORDERED, "in-domain-removal") if one in next(iter(evidence.values()))]
    for question in asked:
        for ranking, words in (("own", "gap"), ("average", "gap of its mean map")):
            gaps = [write_cell(entry[question][ranking]["gap"], "points") for entry in evidence.values()]
            rows.append([f"{question}: {words}", *gaps])
        if question in next(iter(evidence.values()))["mask_leak"]:
            leaks = [write_cell(entry["mask_leak"][question], "points") for entry in evidence.values()]
            rows.append([f"{question}: mask leak", *leaks])
    for key, words, unit in _OTHERS:
        rows.append([words, *(write_cell(entry[key], unit) for entry in evidence.values())])
    names = list(evidence)
    agreement = [
        [
            one,
            *(write_number(result.results["disagreement"][one][other]["value"], "number") for other in names),
        ]
        for one in names
    ]
    text = (
        "Gap: how much more the model keeps when the least relevant pixels are removed than when the most "
        "relevant are, in points. Beside it the gap of one map for all images, the mean map: what is not "
        "above it does not follow the image. Mask leak: how much more often the model says the class of a "
        "mask's owner when the mask is laid on another image, than with a random mask."
    )
    return [
        Panel("Does the model use what maps mark?", [text], drawn, Table(["measure", *names], rows)),
        Panel(
            "Do explanations agree?",
            ["Spearman's correlation of every two maps, mean over images. Low: they show other things."],
            table=Table(["", *names], agreement),
        ),
    ]


def _gallery(result: StudyResult) -> list[Panel]:
    """Images and their maps, with what is told of each; where maps and predictions fail."""
    arrays, names = result.arrays, list(result.results["evidence"])
    if not names:
        return []
    rows = []
    for place, shown in enumerate(result.results["images"]):
        title = f"{shown['label']}, image {shown['index']}"
        title += "" if shown["predicted"] == shown["label"] else f", read as {shown['predicted']}"
        maps = [arrays[f"saliency/{name}"][place].astype(np.float64) for name in names]
        captions = [_caption(shown["maps"].get(name, {})) for name in names]
        facts = {"label": shown["label"], "score": shown["score"]}
        region = arrays["region"][place] if "region" in arrays else None
        rows.append(map_row(title, arrays["image"][place], maps, captions, region, **facts))
    text = (
        "Each map has a scale of its own. One half are the first images of each class, the other those whose "
        "maps the model bears out least. Below a map: evidence, how much more the model keeps when the least "
        "relevant pixels are removed than when the most relevant are; kept, the top pixels that the attack "
        "left; inside, the share inside the mask, whose border is drawn."
    )
    return [
        examples_panel(
            "Images and their maps", [text], rows, names, explorable=True, worst="maps borne out least"
        ),
        Panel("Where it fails, by class", _wrong(result), table=_class_table(result)),
        Panel(
            "The images whose maps are borne out least",
            table=Table(
                ["explanation", "image", "class", "read as", "what is told of its map"],
                [
                    [name, f"{one['index']}", one["label"], one["predicted"], _caption(one["maps"][name])]
                    for name, found in result.results["worst"].items()
                    for one in found
                ],
            ),
            folded=True,
        ),
    ]


_TOLD: tuple[tuple[str, str, Unit], ...] = (
    ("evidence", "evidence", "points"),
    ("kept", "kept", "share"),
    ("inside", "inside", "share"),
)


def _caption(told: Mapping[str, float | None]) -> str:
    """What is told of one map: evidence +12.0, kept 40.0%, inside 20.0%."""
    return ", ".join(
        f"{words} {write_number(told[key], unit)}" for key, words, unit in _TOLD if told.get(key) is not None
    )


def _class_table(result: StudyResult) -> Table:
    """Images, right predictions and what maps come to, class by class."""
    by_class = result.results["classes"]
    names = list(result.results["worst"])
    columns: list[Column | str] = ["class", "images", "right"]
    columns += [
        Column(f"{name}/{key}", f"{name}: {words}", unit) for name in names for key, words, unit in _TOLD
    ]
    rows: list[list[Any]] = [
        [
            label,
            f"{one['images']:,}",
            percent(one["right"] / one["images"], 0),
            *(one["maps"][name][key]["value"] for name in names for key, _, _ in _TOLD),
        ]
        for label, one in by_class.items()
    ]
    return Table(columns, rows)


def _wrong(result: StudyResult) -> list[str]:
    """How many of the examined images are read wrong, and in which classes most."""
    by_class = result.results["classes"]
    wrong = {name: one["images"] - one["right"] for name, one in by_class.items()}
    total, images = sum(wrong.values()), sum(one["images"] for one in by_class.values())
    worst = [name for name, count in sorted(wrong.items(), key=lambda pair: -pair[1]) if count][:3]
    most = f", most of class {listed(worst)}" if worst else ""
    return [f"{total:,} of {images:,} examined images are read wrong{most}. Their maps explain a mistake."]
