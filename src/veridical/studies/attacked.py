"""Finished attacks as their folders keep them, and whether their numbers compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from veridical.metrics.intervals import Interval
from veridical.runtime.errors import UsageError
from veridical.runtime.files import Frame
from veridical.runtime.record import record
from veridical.studies.finished import Finished, Named, Trained, distinct_titles, read_finished
from veridical.training.log import read_log

TITLES: Mapping[str, str] = {
    "natural": "Natural training",
    "adversarial": "Adversarial training",
    "input-gradient": "Input-gradient regularisation",
    "ig-norm": "IG-NORM",
    "ig-sum-norm": "IG-SUM-NORM",
    "loss-change": "Loss change",
}


class _Data(Named):
    split: str


class _Nodes(TypedDict):
    nodes: int
    rule: str


class _Protocol(Named):
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
    run: Trained
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


class _Document(Frame):
    config: _Config
    results: _Results
    environment: _Environment  # type: ignore[misc]


_ARRAYS = {
    **dict.fromkeys(("index", "label", "predicted"), "iu N"),
    **dict.fromkeys(("kendall_tau", "topk_intersection"), "f N"),
    **dict.fromkeys(("image", "perturbed"), "f M C H W"),
    **dict.fromkeys(("saliency", "perturbed_saliency"), "f M H W"),
    "trace": "f N T",
    "classes": "U K",
}


@record
class Attacked(Finished):
    """One finished attack."""

    @property
    def folder_of_run(self) -> Path:
        """Where the run lay when it was attacked."""
        return Path(self.document["environment"]["run"])

    @property
    def correct(self) -> Any:
        """Which examples were classified correctly, (N,) bool."""
        return self.arrays["predicted"] == self.arrays["label"]


def read_attack(folder: str | Path) -> Attacked:
    """Read what `veridical attack` left; a RunError for a folder that is not a finished attack."""
    return read_finished(Attacked, folder, "attack", "protocol", what="attack", form=_Document, forms=_ARRAYS)


def check_comparable(attacks: Mapping[str, Attacked]) -> None:
    """Raise a UsageError unless all attacks have one configuration but for the run."""
    (name, first), *others = attacks.items()
    for other_name, other in others:
        for key, value in first.config.items():
            if key != "run" and other.config.get(key) != value:
                raise UsageError(
                    f"{name} ({first.folder}) and {other_name} ({other.folder}) do not compare: their {key} "
                    f"differs, {value} and {other.config.get(key)}. Attack both in the same way."
                )


def named(attacks: Sequence[Attacked], titles: Sequence[str] | None = None) -> dict[str, Attacked]:
    """The attacks by title: the titles given, else the objectives', with the folder where two are equal."""
    defaults = [run_title(attacked) for attacked in attacks]
    chosen = distinct_titles(titles, defaults, [attacked.folder for attacked in attacks], "attack")
    return dict(zip(chosen, attacks, strict=True))


def run_title(attacked: Attacked) -> str:
    """A reader's name for the run: its objective's."""
    objective = str(attacked.config["run"]["objective"])
    return TITLES.get(objective, objective)


def training_title(run: Mapping[str, Any]) -> str:
    """A reader's name for a training, from its settings as plain values: objective, and the ball if any."""
    title = TITLES.get(run["objective"], run["objective"])
    robust = run["robust"]
    return title if robust is None else f"{title} ({robust['norm']} {robust['radius']:.3g})"


def training_log(folder: Path) -> list[dict[str, Any]]:
    """A run's log.jsonl as the report takes it: a record per epoch; empty if the folder is not there."""
    epochs: dict[int, dict[str, list[float]]] = {}
    for line in read_log(folder):
        record = epochs.setdefault(math.ceil(line["epoch"]), {})
        for name, value in line.items():
            if name not in ("step", "epoch", "kind") and value is not None:
                record.setdefault(name, []).append(float(value))
    return [_epoch(number, record) for number, record in sorted(epochs.items())]


def _epoch(number: int, record: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    means = {name: sum(values) / len(values) for name, values in record.items()}
    known = {"epoch": number, "loss": means.get("loss")}
    if "validation_natural_accuracy" in means:
        known["validation_accuracy"] = means["validation_natural_accuracy"]
    shown = ("natural_loss", "perturbed_loss", "attribution_l1")
    return known | {"parts": {name: means[name] for name in shown if name in means}}
