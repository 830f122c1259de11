"""From what the jobs of a leakage study found to its results and pictures: by training, data and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.metrics.intervals import SHARE
from veridical.runtime.data_config import PositionName
from veridical.runtime.files import Arrays
from veridical.studies.leakage_maps import PAIRED
from veridical.studies.leakage_plan import LeakagePlan
from veridical.studies.map_measures import measures_over_seeds
from veridical.studies.over_seeds import over_runs, two_intervals

APART = (("of_the_digit", "same_digit", "same_class"), ("of_the_class", "same_class", "other_class"))
"""Differences of cosines: what is of the very digit that is elsewhere, and what of its class alone."""


@dataclass(frozen=True)
class Measured:
    """What the jobs found for each seed: results of trainings and tests, and arrays of maps, by arm."""

    trained: Mapping[int, Sequence[Mapping[str, Any]]]
    tested: Mapping[int, Sequence[Mapping[str, Any]]]
    maps: Mapping[tuple[int, str], Sequence[Arrays]]


def results_of(plan: LeakagePlan, measured: Measured) -> dict[str, Any]:
    """The results by title of the training and position of the digit."""
    models: dict[str, dict[str, Any]] = {title: {} for title in plan.titles}
    for number, arm in enumerate(plan.arms):
        models[arm.title][arm.position] = _model(plan, measured, number)
    return {
        "explained": plan.explained,
        "attacked": plan.attacked,
        "ties": "random",
        "models": models,
        "leakage": _leakage(plan, measured),
    }


def _model(plan: LeakagePlan, measured: Measured, number: int) -> dict[str, Any]:
    """One kind of training on one data set; numbers of whole test sets have their interval over seeds."""
    trained, tested = measured.trained[number], measured.tested[number]
    return {
        "seeds": list(plan.seeds),
        "accuracy": over_runs([run["accuracy"] for run in trained], SHARE),
        "under_attack": {
            ball: over_runs([run["under_attack"][ball] for run in tested], SHARE)
            for ball in tested[0]["under_attack"]
        },
        "sure": over_runs([run["sure"] for run in tested], SHARE),
        **{name: over_runs([run[name] for run in tested]) for name in ("margin", "loss")},
        "maps": {name: _maps(measured.maps[number, name]) for name in plan.options.attribution},
    }


def _maps(runs: Sequence[Arrays]) -> dict[str, Any]:
    """The measures of one attribution's maps: of the null blocks, of their content, and of pairs."""
    null = [_under(run, "null/") for run in runs]
    found: dict[str, Any] = {"null": measures_over_seeds(null)}
    names = {"telling": "telling", "telling_area": "telling_area", "level/signal": "signal_level"}
    names |= {"level/null": "null_level"} | {f"pair/{name}": name for name in PAIRED}
    for name, shown in names.items():
        if name in runs[0]:
            found[shown] = two_intervals([run[name] for run in runs])
    for name, nearer, farther in APART:
        if f"pair/{nearer}" in runs[0]:
            found[name] = two_intervals([run[f"pair/{nearer}"] - run[f"pair/{farther}"] for run in runs])
    return found


def _leakage(plan: LeakagePlan, measured: Measured) -> dict[str, Any]:
    """What of the null block's share is there since other instances have their digit there.

    By attribution and title: the share on BlockMNIST minus that on BlockMNIST-Top, of the same digits with
    the same null content and the same seeds; `mass`, and `topk` by level. Empty unless both were trained on.
    """
    places: dict[str, dict[PositionName, int]] = {}
    for number, arm in enumerate(plan.arms):
        places.setdefault(arm.title, {})[arm.position] = number
    found: dict[str, Any] = {}
    for name in plan.options.attribution:
        for title, by_position in places.items():
            if {"random", "top"} <= by_position.keys():
                pair = (measured.maps[by_position[at], name] for at in ("random", "top"))
                found.setdefault(name, {})[title] = _differences(*pair)
    return found


def _differences(here: Sequence[Arrays], there: Sequence[Arrays]) -> dict[str, Any]:
    def minus(name: str) -> list[NDArray[Any]]:
        return [one[name] - other[name] for one, other in zip(here, there, strict=True)]

    levels = here[0]["null/topk"].shape[1]
    return {
        "mass": two_intervals(minus("null/mass")),
        "topk": [two_intervals([part[:, at] for part in minus("null/topk")]) for at in range(levels)],
    }


def pictures_of(plan: LeakagePlan, measured: Measured) -> Arrays:
    """What the gallery shows: of every data set the first images of each class and the first seed's maps.

    By position: label and index (p,), image uint8 (p, C, H, W), signal bool (p, H, W); by position,
    attribution and the number of the title: saliency float16 (p, H, W), null_share at all levels and correct.
    """
    found: Arrays = {"classes": np.asarray(next(iter(plan.data.values())).classes, dtype=np.str_)}
    for number, arm in enumerate(plan.arms):
        for name in plan.options.attribution:
            arrays = measured.maps[number, name][0]
            index = arrays["index"]
            for part in ("label", "image", "signal"):
                found[f"{arm.position}/{part}"] = arrays[f"picture/{part}"]
            found[f"{arm.position}/index"] = index
            place = f"{arm.position}/{name}/{plan.titles.index(arm.title)}"
            found[f"{place}/saliency"] = arrays["picture/saliency"]
            found[f"{place}/null_share"] = arrays["null/topk"][index]
            found[f"{place}/correct"] = arrays["correct"][index]
    return found


def _under(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
