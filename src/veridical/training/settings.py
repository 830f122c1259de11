"""Everything that decides the weights of a trained run, fully explicit and as plain values; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from veridical.runtime.config import (
    AugmentName,
    BalanceName,
    NormName,
    OptimiserName,
    RuleName,
    ScheduleName,
    ScoreName,
    StartName,
)
from veridical.runtime.errors import RunError, fail_argument


@dataclass(frozen=True)
class RobustSettings:
    """The robust part of an objective; None stands for what the objective does not use.

    The fields are those of `veridical.runtime.config.ObjectiveOptions`.
    """

    weight: float
    norm: NormName
    radius: float
    beta: float | None = None
    beta_from: float | None = None
    inner_steps: int | None = None
    inner_step_size: float | None = None
    inner_start: StartName | None = None
    inner_score: ScoreName | None = None
    inner_nodes: int | None = None
    nodes: int | None = None
    rule: RuleName | None = None
    training_radius: float | None = None
    radius_warm_up: float | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "radius", "training_radius", "beta", "inner_step_size"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise fail_argument(name, value, "a finite number of at least 0")
        for name, least in (("inner_steps", 0), ("inner_nodes", 1), ("nodes", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise fail_argument(name, value, f"an integer of at least {least}")
        for name in ("beta_from", "radius_warm_up"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise fail_argument(name, value, "a share of the training, from 0 to 1")

    @property
    def ball_radius(self) -> float:
        """Radius of the ball in training; `radius` is the one that the run is evaluated at."""
        return self.radius if self.training_radius is None else self.training_radius


@dataclass(frozen=True)
class OptimiserSettings:
    """How the weights move; the fields are those of `veridical.runtime.config.OptimiserOptions`.

    steps: in total. reduction: how the losses of a batch become one number.
    """

    optimiser: OptimiserName
    schedule: ScheduleName
    learning_rate: float
    weight_decay: float
    batch_size: int
    steps: int
    averaging: float
    warm_up: float
    reduction: Literal["mean", "sum"]

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps"):
            if getattr(self, name) < 1:
                raise fail_argument(name, getattr(self, name), "an integer of at least 1")
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise fail_argument(name, getattr(self, name), "a finite number of at least 0")
        for name in ("averaging", "warm_up"):
            if not 0 <= getattr(self, name) < 1:
                raise fail_argument(name, getattr(self, name), "a number from 0 to 1, without 1")


@dataclass(frozen=True)
class Settings:
    """What a run folder is claimed for: two runs with equal settings (and machine) have equal weights.

    data, model: the records of `Dataset.describe` and `veridical.models.model_config`, or of a caller's own.
    robust: None for the natural objective and a caller's own. validation, train_examples: numbers of images.
    initial: the record of the run whose weights are begun with (`Beginning.record`), None for fresh ones.
    Fields with defaults are younger than the first runs, whose records are read with them.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    objective: str
    recipe: str
    robust: RobustSettings | None
    optimise: OptimiserSettings
    validation: int
    train_examples: int
    seed: int
    bf16: bool
    augment: AugmentName = "none"
    balance: BalanceName = "none"
    initial: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, hint in (("augment", AugmentName), ("balance", BalanceName)):
            if getattr(self, name) not in get_args(hint):
                raise fail_argument(name, getattr(self, name), f"one of {', '.join(get_args(hint))}")

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; what is left over of the permutation is not used in that epoch."""
        return max(1, self.train_examples // self.optimise.batch_size)

    @property
    def epochs(self) -> float:
        """Length of the training in epochs."""
        return self.optimise.steps / self.steps_per_epoch

    def to_dict(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Read back what `to_dict` gave; a RunError where it is another version's or damaged."""
        try:
            robust, optimise = values["robust"], values["optimise"]
            return cls(
                **{
                    **values,
                    "robust": None if robust is None else RobustSettings(**robust),
                    "optimise": OptimiserSettings(**optimise),
                }
            )
        except (KeyError, TypeError) as error:
            raise RunError(
                f"the settings of the run cannot be read ({error}). Another version of veridical wrote "
                "them, or they were edited; train the run again."
            ) from error
