"""Finished DiffROAR measurements as their folders keep them, and whether their accuracies compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from veridical.faithfulness.result import judge_levels
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.files import AGAIN, Frame
from veridical.studies.study import EXAMPLES, RESULT, StudyResult
from veridical.studies.training import training_title

# What must agree for accuracies to be of the same images, networks and trainings.
_SAME = ("data", "fill", "model", "training")
_SAME_DESIGN = ("mode", "order", "per")


class _Number(TypedDict):
    repeats: list[float]
    value: float | None
    low: float | None
    high: float | None


class _Level(TypedDict):
    level: float


class _Accuracy(_Level):
    accuracy: _Number


class _Ends(_Level):
    top: _Number
    bottom: _Number


class _Point(_Ends):
    difference: _Number


class _Control(TypedDict):
    chance: float | None
    curve: list[_Ends]


class _Judged(TypedDict):
    coordinates: int
    zero_share: float


class _Rankings(TypedDict):
    judged: _Judged


class _Results(TypedDict):
    curve: list[_Point]
    baselines: dict[str, list[_Point]]
    control: _Control | None
    roar: list[_Accuracy]
    kar: list[_Accuracy]
    rankings: _Rankings
    examples: int
    notes: list[str]


class _Named(TypedDict):
    name: str


class _Examined(TypedDict):
    """What pages tell of the model; one that is no run has no objective."""

    model: _Named
    objective: NotRequired[str]
    recipe: NotRequired[str]
    robust: NotRequired[dict[str, Any] | None]


class _Data(_Named):
    train: int
    test: int


class _Design(TypedDict):
    mode: Literal["keep", "remove"]
    order: str
    ties: str
    per: str
    fill: str | float
    repeats: int


class _Training(TypedDict):
    objective: str
    steps: int
    batch_size: int


class _Config(TypedDict):
    run: _Examined
    weights: str
    data: _Data
    attribution: dict[str, Any]
    measured: _Design
    fill: dict[str, Any]
    model: _Named
    training: _Training


class _Environment(TypedDict):
    attribution: str


class _Timing(TypedDict):
    retrainings: int


class DiffRoarDocument(Frame):
    """The result.json of a measurement."""

    config: _Config
    results: _Results
    environment: _Environment  # type: ignore[misc]
    timing: _Timing  # type: ignore[misc]


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
        raise RunError(f"{source} is damaged: its curves have other levels than {EXAMPLES}. {AGAIN}")
    try:
        # Judged again: verdicts of before masks and baselines counted must not stand beside those of now.
        judged = judge_levels(told["curve"], told["baselines"], told["control"], mode, told["examples"])
    except ValueError as error:
        raise RunError(f"{source} is damaged: {error} {AGAIN}") from error
    results = {**told, "verdicts": [dict(point) for point in judged]}
    return replace(found, document={**found.document, "results": results})


def name_measurements(
    found: Sequence[StudyResult], titles: Sequence[str] | None = None
) -> dict[str, StudyResult]:
    """The measurements by title: the titles given, else attribution and model as far as they differ."""
    if titles is not None and len(titles) != len(found):
        raise argument_error("titles", list(titles), f"{len(found)} names, one for each measurement")
    chosen = list(titles) if titles is not None else _titles(found)
    if len(set(chosen)) < len(chosen):
        raise argument_error("titles", chosen, "a different name for each measurement", "Give --titles.")
    return dict(zip(chosen, found, strict=True))


def _titles(found: Sequence[StudyResult]) -> list[str]:
    """The shortest names that tell them apart: what is judged, the attribution, then model, then folder."""
    ways = (
        [attribution_name(one) for one in found],
        [f"{attribution_name(one)}, {model_title(one)}" for one in found],
    )
    for names in ways:
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({one.folder.name})" for name, one in zip(ways[0], found, strict=True)]


def model_title(measured: StudyResult) -> str:
    """A reader's name for the run that explains: its objective, and the ball it was trained in."""
    run = measured.config["run"]
    return training_title(run) if "objective" in run else str(run["model"]["name"])


def attribution_name(measured: StudyResult) -> str:
    """The attribution as it was asked for."""
    return Path(str(measured.document["environment"]["attribution"])).name


def check_comparable(found: Mapping[str, StudyResult]) -> None:
    """Raise a UsageError unless all retrained the same networks on the same images in the same way."""
    (name, first), *others = found.items()
    for other_name, other in others:
        here, there = _conditions(first), _conditions(other)
        for key, value in here.items():
            if there[key] != value:
                raise UsageError(
                    f"{name} ({first.folder}) and {other_name} ({other.folder}) do not compare: their {key} "
                    f"differs, {value} and {there[key]}. Measure both in the same way."
                )


def _conditions(measured: StudyResult) -> dict[str, Any]:
    config = measured.config
    return {key: config[key] for key in _SAME} | {key: config["measured"][key] for key in _SAME_DESIGN}
