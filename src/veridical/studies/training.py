"""What studies need of their trainings: plain settings for jobs, their cost, and whether they succeeded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from veridical.data import Dataset
from veridical.report.formats import main_interval, percent
from veridical.runtime.options import ModelOption, OptimiserOptions, RecipeName, TrainOptions
from veridical.training.penalties import OBJECTIVES, supported_options
from veridical.training.settings import Settings
from veridical.training.task import resolve_options

# Share of the way from guessing to no error, below which a model has hardly learnt anything.
_LEARNT = 0.1


OBJECTIVE_TITLES: Mapping[str, str] = {
    "natural": "Natural training",
    "adversarial": "Adversarial training",
    "input-gradient": "Input-gradient regularisation",
    "ig-norm": "IG-NORM",
    "ig-sum-norm": "IG-SUM-NORM",
    "loss-change": "Loss change",
}


def training_title(run: Mapping[str, Any]) -> str:
    """A reader's name for a training, from its settings as plain values: objective, and the ball if any."""
    title = OBJECTIVE_TITLES.get(run["objective"], run["objective"])
    robust = run["robust"]
    return title if robust is None else f"{title} ({robust['norm']} {robust['radius']:.3g})"


class _StudyOptions(Protocol):
    """What options of a study say of its trainings, beside the fields of `OptimiserOptions`."""

    @property
    def model(self) -> str: ...
    @property
    def model_options(self) -> dict[str, ModelOption]: ...
    @property
    def recipe(self) -> RecipeName: ...


def study_settings(
    options: _StudyOptions, objective: str, robust: Mapping[str, Any], data: Dataset
) -> Settings:
    """What a study trains for one objective, nothing held out. robust: options, as far as it takes them."""
    optimise = {name: getattr(options, name) for name in OptimiserOptions.__dataclass_fields__}
    wanted = TrainOptions(
        out=".",
        model=options.model,
        model_options=options.model_options,
        objective=objective,
        recipe=options.recipe,
        validation=0,
        **optimise,
        **supported_options(objective, robust),
    )
    return resolve_options(wanted, data)


def training_fields(settings: Settings) -> dict[str, Any]:
    """The fields of `TrainOptions`, explicit but for the seed, that train these settings on the same data."""
    optimise = {name: value for name, value in asdict(settings.optimise).items() if name != "reduction"}
    robust = {} if settings.robust is None else asdict(settings.robust)
    names = ("objective", "recipe", "validation", "train_examples", "augment", "balance", "bf16")
    return {
        "model": settings.model["name"],
        "model_options": dict(settings.model["options"]),
        **{name: getattr(settings, name) for name in names},
        **{name: value for name, value in robust.items() if value is not None},
        **optimise,
    }


def predict_cost(settings: Settings) -> float:
    """Roughly how long a training takes beside others of the same network, for the order of jobs."""
    return 0.01 * settings.optimise.steps * OBJECTIVES.get(settings.objective).cost


def undertrained(accuracy: Mapping[str, Any], classes: int) -> str | None:
    """What is to be said of a model that has hardly come away from guessing; None for others.

    accuracy: its two intervals, and where it has them those of `each` training, one of which is enough to
    spoil the mean. classes: of the data; guessing is right once in so many.
    """
    guessing = 1 / classes
    each = [one["value"] for one in accuracy.get("each", [main_interval(accuracy)])]
    failed = [value for value in each if value < guessing + _LEARNT * (1 - guessing)]
    if not failed:
        return None
    reason = f"accuracy {percent(max(failed), 1)}, guessing {percent(guessing, 1)}"
    if len(each) > 1:
        reason = f"{len(failed)} of {len(each)} trainings; {reason}"
    return f"has hardly learnt anything ({reason}), so nothing follows from its maps"
