"""From options with gaps to explicit settings, by way of a recipe; refusals are made here. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.data.registry import DATASETS
from veridical.runtime.config import AugmentName, ObjectiveOptions, OptimiserOptions, TrainOptions
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error
from veridical.training.recipes import USED, paper_row, recipe_values
from veridical.training.settings import OptimiserSettings, RobustSettings, Settings

Values = Mapping[str, Any]


def resolve(
    options: TrainOptions,
    *,
    data: Values,
    model: Values,
    train_size: int,
    objective: str | None = None,
) -> Settings:
    """Fill every gap of `options` from its recipe; a UsageError for an option that cannot have an effect.

    data: what `Dataset.describe` gives. model: the record of the network. train_size: images in the training
    split, before validation is held out. objective: the record of a caller's own objective, if it is one.
    """
    own = objective is not None
    name = options.objective if objective is None else objective
    if not own and name not in USED:
        raise unknown_name_error("objective", name, USED)
    values = recipe_values(options.recipe, paper_row(data["name"], tuple(data["shape"])), name)
    _refuse_unused(options, () if own else USED[name], name)
    for field_name in (*ObjectiveOptions.__dataclass_fields__, *OptimiserOptions.__dataclass_fields__):
        given = getattr(options, field_name)
        if given is not None:
            values[field_name] = given
    validation = _validation(options.validation, values, train_size)
    remaining = train_size - validation
    examples = remaining if options.train_examples is None else options.train_examples
    if not 1 <= examples <= remaining:
        raise argument_error("train_examples", examples, f"a number from 1 to {remaining}")
    return Settings(
        data=dict(data),
        model=dict(model),
        objective=name,
        recipe=options.recipe,
        robust=None if own or name == "natural" else _robust(name, values),
        optimise=_optimise(options, values, examples),
        validation=validation,
        train_examples=examples,
        seed=options.seed,
        bf16=options.bf16,
        augment=_augment(options, values, data),
        balance=options.balance or values["balance"],
    )


def _augment(options: TrainOptions, values: Values, data: Values) -> AugmentName:
    """How images are changed; a UsageError for mirroring where no class is known to allow it."""
    if options.augment == "shift-rotate-flip" and not _any_mirror(data):
        raise UsageError(
            f"augment=shift-rotate-flip: no class of {data['name']} is known to have mirror images that "
            "belong to a class. Take shift-rotate."
        )
    chosen: AugmentName = options.augment or values["augment"]
    return chosen


def _any_mirror(data: Values) -> bool:
    """Whether the data set of this record has classes whose mirror images are known to belong to a class."""
    entry = DATASETS.get(data["name"])
    return entry is not None and any(label is not None for label in entry.mirrored(data["num_classes"]))


def _refuse_unused(options: TrainOptions, used: tuple[str, ...], objective: str) -> None:
    for name in ObjectiveOptions.__dataclass_fields__:
        given = getattr(options, name)
        if name not in (*used, *(("norm",) if used else ())) and given not in (None, "linf"):
            possible = ", ".join(used) if used else "none"
            raise UsageError(
                f"{name} has no effect on the objective {objective}; the options it takes: {possible}. "
                f"Leave {name} out."
            )


def _validation(given: int | None, values: Values, train_size: int) -> int:
    """How many images are held out: as asked, else 5,000 but at most a tenth."""
    if given is None:
        return min(int(values.get("validation", 5000)), train_size // 10)
    if not 0 <= given < train_size:
        raise argument_error("validation", given, f"a number from 0 to {train_size - 1}")
    return given


def _robust(objective: str, values: Values) -> RobustSettings:
    found: dict[str, Any] = {key: values.get(key) for key in USED[objective]}
    wider = values["training_radius"]
    radius = float(values["radius"] if wider is None else wider)
    if objective == "input-gradient" and values["weight"] is None:
        # lambda' = radius^q makes lambda 1: the loss's change in the ball, to first order, is what is added.
        found["weight"] = radius ** (1 if values["norm"] == "linf" else 2)
    if "inner_step_size" in found and found["inner_step_size"] is None:
        found["inner_step_size"] = values["inner_step_share"] * radius
    found["radius_warm_up"] = found.get("radius_warm_up") or None  # 0 is none
    return RobustSettings(norm=values["norm"], **found)


def _optimise(options: TrainOptions, values: Values, examples: int) -> OptimiserSettings:
    if options.epochs is not None and options.steps is not None:
        raise UsageError(f"epochs={options.epochs} and steps={options.steps} were both given; give one.")
    batch_size = min(int(values["batch_size"]), examples)
    if batch_size < 1:
        raise argument_error("batch_size", batch_size, "an integer of at least 1")
    if options.epochs is not None or "steps" not in values:
        if not 0 < values["epochs"] < float("inf"):
            raise argument_error("epochs", values["epochs"], "a positive number")
        steps = max(1, round(values["epochs"] * (examples // batch_size)))
    else:
        steps = values["steps"]
    names = ("optimiser", "schedule", "learning_rate", "weight_decay", "averaging", "warm_up", "reduction")
    return OptimiserSettings(batch_size=batch_size, steps=steps, **{name: values[name] for name in names})
