"""From options with gaps to trainings whose every setting is a plain value, as jobs need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from veridical.data import Dataset
from veridical.models import model_config
from veridical.runtime.config import (
    ModelOption,
    ObjectiveName,
    OptimiserOptions,
    RecipeName,
    TrainOptions,
)
from veridical.runtime.errors import UsageError
from veridical.training.recipes import MODEL_OPTIONS, USED
from veridical.training.resolution import resolve
from veridical.training.settings import Settings

_COSTS: Mapping[str, float] = {"natural": 1.0, "input-gradient": 3.0, "ig-norm": 6.0, "ig-sum-norm": 5.0}
_COST = 3.5
"""Time of a step, as a multiple of a natural one's, roughly: it only orders the jobs."""


def resolved(options: TrainOptions, data: Dataset) -> Settings:
    """What `train` would settle on for these options and this data set; UsageError as `train` raises it."""
    chosen = {**MODEL_OPTIONS.get(options.recipe, {}).get(options.model, {}), **options.model_options}
    model = model_config(options.model, shape=data.shape, num_classes=data.num_classes, **chosen)
    return resolve(options, data=data.describe(), model=model, train_size=len(data.train))


def taken(objective: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of an objective that it takes: one command trains several, and gives all the same."""
    used = USED[objective]
    return {name: value for name, value in given.items() if name in used or (name == "norm" and used)}


def check_taken(objectives: Sequence[str], given: Mapping[str, Any]) -> None:
    """Raise a UsageError for an option that was given and that none of the objectives takes."""
    for name, value in given.items():
        if value is not None and not any(name in USED[objective] for objective in objectives):
            raise UsageError(f"{name} has no effect on {', '.join(objectives)}. Leave {name} out.")


class StudyOptions(Protocol):
    """What options of a study say of its trainings, beside the fields of `OptimiserOptions`."""

    @property
    def model(self) -> str:
        """Architecture by name."""
        ...

    @property
    def model_options(self) -> dict[str, ModelOption]:
        """Options of the architecture."""
        ...

    @property
    def recipe(self) -> RecipeName:
        """Where options that were not given come from."""
        ...


def study_settings(
    options: StudyOptions, objective: ObjectiveName, robust: Mapping[str, Any], data: Dataset
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
        **taken(objective, robust),
    )
    return resolved(wanted, data)


def training_fields(settings: Settings) -> dict[str, Any]:
    """The fields of `TrainOptions`, explicit but for the seed, that train these settings on the same data."""
    optimise = {name: value for name, value in asdict(settings.optimise).items() if name != "reduction"}
    robust = {} if settings.robust is None else asdict(settings.robust)
    return {
        "model": settings.model["name"],
        "model_options": dict(settings.model["options"]),
        "objective": settings.objective,
        "recipe": settings.recipe,
        "validation": settings.validation,
        "train_examples": settings.train_examples,
        "augment": settings.augment,
        "balance": settings.balance,
        "bf16": settings.bf16,
        **{name: value for name, value in robust.items() if value is not None},
        **optimise,
    }


def predicted_cost(settings: Settings) -> float:
    """Roughly how long a training takes beside others of the same network, for the order of jobs."""
    return 0.01 * settings.optimise.steps * _COSTS.get(settings.objective, _COST)
