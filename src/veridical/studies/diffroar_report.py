"""From finished DiffROAR measurements to one page: one alone, or the curves of several overlaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from veridical.faithfulness.result import judge_levels
from veridical.report import DiffRoarSection, UnmaskedItem, write_diffroar_report
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.files import AGAIN, Frame
from veridical.runtime.record import record
from veridical.studies.attacked import training_title
from veridical.studies.finished import EXAMPLES, RESULT, Finished, Named, Trained, read_finished

REPORT = "report.html"
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
    fill: str
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
class Measured(Finished):
    """One finished measurement."""


def read_measured(folder: str | Path) -> Measured:
    """Read what `veridical diffroar` left; a RunError for a folder that is not a finished measurement."""
    found = read_finished(
        Measured, folder, "diffroar", "measured", what="measurement", form=_Document, forms=_ARRAYS
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


def named(found: Sequence[Measured], titles: Sequence[str] | None = None) -> dict[str, Measured]:
    """The measurements by title: the titles given, else attribution and model as far as they differ."""
    if titles is not None and len(titles) != len(found):
        raise argument_error("titles", list(titles), f"{len(found)} names, one for each measurement")
    chosen = list(titles) if titles is not None else _titles(found)
    if len(set(chosen)) < len(chosen):
        raise argument_error("titles", chosen, "a different name for each measurement", "Give --titles.")
    return dict(zip(chosen, found, strict=True))


def _titles(found: Sequence[Measured]) -> list[str]:
    """The shortest names that tell them apart: what is judged, the attribution, then model, then folder."""
    ways = (
        [attribution_name(one) for one in found],
        [f"{attribution_name(one)}, {model_title(one)}" for one in found],
    )
    for names in ways:
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({one.folder.name})" for name, one in zip(ways[0], found, strict=True)]


def model_title(measured: Measured) -> str:
    """A reader's name for the run that explains: its objective, and the ball it was trained in."""
    return training_title(measured.config["run"])


def attribution_name(measured: Measured) -> str:
    """The attribution as it was asked for."""
    return Path(str(measured.document["environment"]["attribution"])).name


def check_comparable(found: Mapping[str, Measured]) -> None:
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


def _conditions(measured: Measured) -> dict[str, Any]:
    config = measured.config
    return {key: config[key] for key in _SAME} | {key: config["measured"][key] for key in _SAME_DESIGN}


def write_measured_report(path: Path, found: Mapping[str, Measured], *, title: str, lead: str) -> Path:
    """Write the page of the measurements by title; the first is the one that others are compared with."""
    check_comparable(found)
    first = next(iter(found.values()))
    own = ("weights", "run", "attribution")
    about = {name: {key: one.config[key] for key in own} for name, one in found.items()}
    return write_diffroar_report(
        path,
        title,
        lead,
        sections(found),
        details=_details(found),
        notes=_notes(found),
        config={key: value for key, value in first.config.items() if key not in own} | about,
        environment=first.document["environment"],
    )


def sections(found: Mapping[str, Measured]) -> list[DiffRoarSection]:
    """What the page shows of each, with pictures of the images that all of them have."""
    shared = set.intersection(*(set(one.arrays["index"].tolist()) for one in found.values()))
    return [_section(name, one, shared) for name, one in found.items()]


def _section(name: str, measured: Measured, pictured: Set[int]) -> DiffRoarSection:
    results, config = measured.results, measured.config
    told = [config["run"]["model"]["name"], model_title(measured), attribution_name(measured)]
    control = results["control"] or {"curve": [], "chance": None}
    return DiffRoarSection(
        title=name,
        curve=results["curve"],
        verdicts=results["verdicts"],
        coordinates=results["rankings"]["judged"]["coordinates"],
        subtitle=", ".join(part for part in told if part not in name),
        mode=config["measured"]["mode"],
        baselines=results["baselines"],
        control=control["curve"],
        chance=control["chance"],
        roar=results["roar"],
        kar=results["kar"],
        gallery=[
            _item(measured, place)
            for place, index in enumerate(measured.arrays["index"].tolist())
            if index in pictured
        ],
    )


def _item(measured: Measured, place: int) -> UnmaskedItem:
    arrays = measured.arrays
    ends = [tuple(_picture(end) for end in level) for level in arrays["unmasked"][place]]
    return UnmaskedItem(
        image=_picture(arrays["image"][place]),
        order=arrays["order"][place],
        label=str(arrays["classes"][int(arrays["label"][place])]),
        unmasked={
            float(level): (top, bottom) for level, (top, bottom) in zip(arrays["levels"], ends, strict=True)
        },
    )


def _picture(image: Any) -> Any:
    """Bytes (C, H, W) to numbers in [0, 1], channels last."""
    values = image.astype(np.float64) / 255
    return values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)


def _details(found: Mapping[str, Measured]) -> dict[str, object]:
    """How it was measured, in the words of the page; what differs stands by name."""
    first = next(iter(found.values()))
    config, design = first.config, first.config["measured"]
    data, training = config["data"], config["training"]
    fill = design["fill"]
    return {
        "Data": f"{data['name']}, {data['train']:,} training and {data['test']:,} test images",
        "Attribution": _by_name({name: attribution_name(one) for name, one in found.items()}),
        "Order": f"by the {design['order']} value, ties {design['ties']}",
        "Coordinates": "single values" if design["per"] == "value" else "pixels, summed over channels",
        "In place of what is not shown": {"mean": "training mean of each channel"}.get(fill, fill),
        "Retrained": config["model"]["name"],
        "Training": ", ".join(
            f"{words} {training[key]}"
            for key, words in (("objective", "objective"), ("steps", "steps"), ("batch_size", "batches of"))
        ),
        "Repeats": _by_name({name: one.config["measured"]["repeats"] for name, one in found.items()}),
        "Retrainings": _by_name({name: one.document["timing"]["retrainings"] for name, one in found.items()}),
        "Attributions that are exactly zero": _by_name(
            {name: f"{one.results['rankings']['judged']['zero_share']:.1%}" for name, one in found.items()}
        ),
    }


def _by_name(values: Mapping[str, object]) -> str:
    """One value where all agree, else each with its name."""
    if len({str(value) for value in values.values()}) == 1:
        return str(next(iter(values.values())))
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _notes(found: Mapping[str, Measured]) -> list[str]:
    """Each note once, with the measurements that it is about where it is not about all."""
    about: dict[str, list[str]] = {}
    for name, one in found.items():
        for note in one.results["notes"]:
            about.setdefault(note, []).append(name)
    return [
        note if len(names) == len(found) else f"{', '.join(names)}: {note}" for note, names in about.items()
    ]
