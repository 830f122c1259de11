"""Finished DiffROAR measurements as their folders keep them, and whether their accuracies compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from veridical.faithfulness.result import judge_levels
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.files import AGAIN, Frame
from veridical.runtime.record import record
from veridical.studies.finished import EXAMPLES, RESULT, Finished, Named, Trained, read_finished
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


class _Data(Named):
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
    run: Trained
    weights: str
    data: _Data
    attribution: dict[str, Any]
    measured: _Design
    fill: dict[str, Any]
    model: Named
    training: _Training


class _Environment(TypedDict):
    attribution: str


class _Timing(TypedDict):
    retrainings: int


class _Document(Frame):
    config: _Config
    results: _Results
    environment: _Environment  # type: ignore[misc]
    timing: _Timing  # type: ignore[misc]


_ARRAYS = {
    **dict.fromkeys(("index", "label"), "iu N"),
    "image": "u N C H W",
    "order": "f N H W",
    "levels": "f L",
    "unmasked": "u N L E C H W",
    "classes": "U K",
}


@record
class FinishedDiffRoar(Finished):
    """One finished measurement."""


def read_diffroar(folder: str | Path) -> FinishedDiffRoar:
    """Read what `veridical diffroar` left; a RunError for a folder that is not a finished measurement."""
    found = read_finished(
        FinishedDiffRoar, folder, "diffroar", "measured", what="measurement", form=_Document, forms=_ARRAYS
    )
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
    found: Sequence[FinishedDiffRoar], titles: Sequence[str] | None = None
) -> dict[str, FinishedDiffRoar]:
    """The measurements by title: the titles given, else attribution and model as far as they differ."""
    if titles is not None and len(titles) != len(found):
        raise argument_error("titles", list(titles), f"{len(found)} names, one for each measurement")
    chosen = list(titles) if titles is not None else _titles(found)
    if len(set(chosen)) < len(chosen):
        raise argument_error("titles", chosen, "a different name for each measurement", "Give --titles.")
    return dict(zip(chosen, found, strict=True))


def _titles(found: Sequence[FinishedDiffRoar]) -> list[str]:
    """The shortest names that tell them apart: what is judged, the attribution, then model, then folder."""
    ways = (
        [attribution_name(one) for one in found],
        [f"{attribution_name(one)}, {model_title(one)}" for one in found],
    )
    for names in ways:
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({one.folder.name})" for name, one in zip(ways[0], found, strict=True)]


def model_title(measured: FinishedDiffRoar) -> str:
    """A reader's name for the run that explains: its objective, and the ball it was trained in."""
    return training_title(measured.config["run"])


def attribution_name(measured: FinishedDiffRoar) -> str:
    """The attribution as it was asked for."""
    return Path(str(measured.document["environment"]["attribution"])).name


def check_comparable(found: Mapping[str, FinishedDiffRoar]) -> None:
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


def _conditions(measured: FinishedDiffRoar) -> dict[str, Any]:
    config = measured.config
    return {key: config[key] for key in _SAME} | {key: config["measured"][key] for key in _SAME_DESIGN}
