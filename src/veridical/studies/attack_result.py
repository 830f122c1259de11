"""Finished attacks as their folders keep them, whether they compare, and how two of them differ by image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from veridical.metrics.intervals import Interval, mean_interval
from veridical.runtime.errors import UsageError
from veridical.runtime.files import Frame
from veridical.runtime.record import record
from veridical.studies.study import StudyResult, distinct_titles
from veridical.studies.training import OBJECTIVE_TITLES


class _Named(TypedDict):
    name: str


class _Robust(TypedDict):
    norm: str
    radius: float
    weight: NotRequired[float]
    beta: NotRequired[float | None]
    training_radius: NotRequired[float | None]


class _Examined(TypedDict):
    """What pages tell of the model; one that is no run has neither objective nor recipe."""

    model: _Named
    objective: NotRequired[str]
    recipe: NotRequired[str]
    robust: NotRequired[_Robust | None]


class _Data(_Named):
    split: str


class _Nodes(TypedDict):
    nodes: int
    rule: str


class _Protocol(_Named):
    k: int
    steps: int
    step_size: float
    climbs: list[Any]
    judge_nodes: _Nodes
    final_nodes: _Nodes | None


class _Evaluation(TypedDict):
    radius: float
    pgd_steps: int
    pgd_step_size: float


class _Method(TypedDict):
    method: str


class _Direction(TypedDict):
    direction: str
    k: NotRequired[int]


class _Config(TypedDict):
    run: _Examined
    data: _Data
    examples: int
    norm: Literal["linf", "l2"]
    protocol: _Protocol
    evaluation: _Evaluation
    attribution: _Method
    attack: _Direction


class _Metrics(TypedDict):
    natural_accuracy: Interval
    adversarial_accuracy: Interval
    topk_intersection: Interval
    kendall_tau: Interval
    spearman: Interval
    windowed_topk_intersection: Interval
    mass_centre_shift: Interval
    not_found: Interval
    incomplete: NotRequired[Interval]


class _Point(_Metrics):
    radius: float


class _Gradients(TypedDict):
    explanation: int


class _Results(_Metrics):
    examples: int
    natural_accuracy_of_all: Interval
    gradient_evaluations: _Gradients
    notes: list[str]
    curve: NotRequired[list[_Point]]


class _Environment(TypedDict):
    run: str


class AttackDocument(Frame):
    """The result.json of an attack."""

    config: _Config
    results: _Results
    environment: _Environment  # type: ignore[misc]


ARRAYS_FORM = {
    **dict.fromkeys(("index", "label", "predicted"), "iu N"),
    **dict.fromkeys(("kendall_tau", "topk_intersection"), "f N"),
    **dict.fromkeys(("image", "perturbed"), "f M C H W"),
    **dict.fromkeys(("saliency", "perturbed_saliency"), "f M H W"),
    "trace": "f N T",
    "classes": "U K",
}


@record
class AttackResult(StudyResult):
    """One finished attack."""

    @property
    def folder_of_run(self) -> Path:
        """Where the run lay when it was attacked."""
        return Path(self.document["environment"]["run"])

    @property
    def correct(self) -> Any:
        """Which examples were classified correctly, (N,) bool."""
        return self.arrays["predicted"] == self.arrays["label"]


def check_comparable(attacks: Mapping[str, AttackResult]) -> None:
    """Raise a UsageError unless all attacks have one configuration but for the run."""
    (name, first), *others = attacks.items()
    for other_name, other in others:
        for key, value in first.config.items():
            if key != "run" and other.config.get(key) != value:
                raise UsageError(
                    f"{name} ({first.folder}) and {other_name} ({other.folder}) do not compare: their {key} "
                    f"differs, {value} and {other.config.get(key)}. Attack both in the same way."
                )


def name_attacks(
    attacks: Sequence[AttackResult], titles: Sequence[str] | None = None, *, with_protocol: bool = False
) -> dict[str, AttackResult]:
    """The attacks by title: the titles given, else the objectives', with the folder where two are equal.

    with_protocol: by default the folder of the run and the protocol, where attacks differ in both.
    """
    defaults = [run_title(attacked) for attacked in attacks]
    if with_protocol:
        defaults = [f"{one.folder_of_run.name} ({one.config['protocol']['name']})" for one in attacks]
    chosen = distinct_titles(titles, defaults, [attacked.folder for attacked in attacks], "attack")
    return dict(zip(chosen, attacks, strict=True))


@record
class PairedDifference:
    """A measure's means over the images of two attacks, and the interval of second minus first."""

    means: tuple[float, float]
    difference: Interval


def paired_differences(first: AttackResult, second: AttackResult) -> dict[str, PairedDifference]:
    """How IN, CO and their kin differ image by image, over the images that both classify correctly.

    The attacks may differ in the protocol, or in the model. Raises UsageError for attacks of other images, of
    several radii, or without an image in common.
    """
    for attacked in (first, second):
        if len(attacked.config["radii"]) != 1:
            raise UsageError(
                f"{attacked.folder} has the radii {attacked.config['radii']}: give attacks of one radius."
            )
    for key in ("data", "radii", "norm"):
        if first.config[key] != second.config[key]:
            raise UsageError(
                f"{first.folder} and {second.folder} do not pair: their {key} differs, "
                f"{first.config[key]} and {second.config[key]}."
            )
    one, other = _rows(first), _rows(second)
    shared = sorted(one.keys() & other.keys())
    if not shared:
        raise UsageError(f"{first.folder} and {second.folder} classify no image of both correctly.")
    here, there = ([rows[index] for index in shared] for rows in (one, other))
    pairs = {}
    for name in ("topk_intersection", "kendall_tau", "spearman", "windowed_topk_intersection"):
        a, b = first.arrays[name][here], second.arrays[name][there]
        means = (_mean(a), _mean(b))
        pairs[name] = PairedDifference(means, mean_interval((b - a).tolist(), undefined="exclude"))
    return pairs


def _mean(values: Any) -> float:
    """The mean of what is defined."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _rows(attacked: AttackResult) -> dict[int, int]:
    """Row in the arrays by number in the data set, of the images that are classified correctly."""
    rows = np.flatnonzero(attacked.correct)
    return {int(attacked.arrays["index"][row]): int(row) for row in rows}


def run_title(attacked: AttackResult) -> str:
    """A reader's name for the model: the run's objective, or the architecture."""
    run = attacked.config["run"]
    return OBJECTIVE_TITLES.get(str(run.get("objective")), str(run.get("objective", run["model"]["name"])))
