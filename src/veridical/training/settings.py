"""Everything that decides the weights of a trained run, fully explicit and as plain values; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypedDict

from veridical.runtime.checking import Checked, Count, Decay, Factor, Limit, Radius, Seed, Width
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.files import check_form
from veridical.runtime.options import AugmentName, BalanceName, ObjectiveOptions, OptimiserName, ScheduleName


@dataclass(frozen=True, kw_only=True)
class RobustSettings(ObjectiveOptions):
    """The options of an objective, resolved; None stands for what the objective does not use."""

    weight: Factor = field()
    radius: Radius = field()

    @property
    def ball_radius(self) -> float:
        """Radius of the ball in training; `radius` is the one that the run is evaluated at."""
        return self.radius if self.training_radius is None else self.training_radius


@dataclass(frozen=True)
class OptimiserSettings(Checked):
    """How the weights move; the fields are those of `veridical.runtime.options.OptimiserOptions`.

    steps: in total. reduction: how the losses of a batch become one number.
    """

    optimiser: OptimiserName
    schedule: ScheduleName
    learning_rate: Factor
    weight_decay: Factor
    batch_size: Width
    steps: Count
    averaging: Decay
    warm_up: Decay
    reduction: Literal["mean", "sum"]


@dataclass(frozen=True)
class Settings(Checked):
    """What a run folder is claimed for: two runs with equal settings (and machine) have equal weights.

    data, model: the records of `Dataset.describe` and `veridical.models.model_config`, or of a caller's own.
    robust: None for the natural objective and a caller's own. validation, train_examples: numbers of images.
    initial: the run whose weights are begun with (weights, objective, epochs), None for fresh ones.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    objective: str
    recipe: str
    robust: RobustSettings | None
    optimise: OptimiserSettings
    validation: Annotated[int, Limit(0, 10**9)]
    train_examples: Count
    seed: Seed
    bf16: bool
    augment: AugmentName = "none"
    balance: BalanceName = "none"
    initial: Mapping[str, Any] | None = None

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
    def from_dict(cls, values: Mapping[str, Any], source: object = "the settings of the run") -> Settings:
        """Read back what `to_dict` gave; a RunError that names `source` if another version's or damaged."""
        hint = "Another version of veridical wrote it, or it was edited; train the run again in a new folder."
        check_form(values, Settings, source, hint)
        robust = values["robust"]
        try:
            parts = {
                "robust": robust and RobustSettings(**robust),
                "optimise": OptimiserSettings(**values["optimise"]),
            }
            return cls(**{**values, **parts})
        except UsageError as error:
            raise RunError(f"{source} is damaged: {error} {hint}") from error


class _Images(TypedDict):
    """What the records of all data sets and models say, of which `Settings` itself knows no more."""

    name: str
    shape: list[int]
    num_classes: int
    options: dict[str, Any]


class _Data(_Images):
    checksum: str


class _InitialWeights(TypedDict):
    weights: str
    objective: str
    epochs: float


class Records(TypedDict):
    """What a claim's records of data, model and initial weights have at least."""

    data: _Data
    model: _Images
    initial: _InitialWeights | None
