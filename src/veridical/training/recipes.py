"""From options with gaps to explicit settings: the authors' recipe, Veridical's own, and how they differ.

The two tables are lists of rules; every rule that fits the data set and the objective is applied, later rules
overrule earlier ones, and what the user gives overrules all. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from veridical.runtime.config import ObjectiveOptions, OptimiserOptions, TrainOptions
from veridical.runtime.errors import UsageError, fail_argument
from veridical.training.settings import OptimiserSettings, RobustSettings, Settings

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """Values for some data sets (rows of the paper's table; empty: all) and some objectives (empty: all)."""

    data: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    values: Values = field(default_factory=dict)

    def fits(self, data: str, objective: str) -> bool:
        """Whether the rule applies to this row and objective."""
        return (not self.data or data in self.data) and (not self.objectives or objective in self.objectives)


_IMAGES_28 = ("mnist", "mnist-5k", "fashion-mnist")
_RESNETS = ("gtsrb", "flowers17")

# Chen et al. (2019) and their code. Penalties that they did not train get weights of the same meaning.
PAPER: tuple[Rule, ...] = (
    Rule(
        values={
            "weight": 1.0,
            "beta": 0.1,
            "beta_from": 0.0,
            "inner_start": "random",
            "inner_score": "size",
            "inner_nodes": 10,
            "nodes": 50,
            "rule": "right",
            "averaging": 0.0,
            "warm_up": 0.0,
            "reduction": "sum",
        }
    ),
    Rule(
        _IMAGES_28,
        values={
            "model": "cnn",
            "optimiser": "adam",
            "schedule": "constant",
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "batch_size": 50,
            "steps": 100_000,
            "validation": 5000,
            "train_examples": 55_000,
        },
    ),
    Rule(_IMAGES_28, ("natural",), {"steps": 25_000}),
    Rule((), ("input-gradient",), {"weight": None}),
    Rule(("mnist", "mnist-5k"), values={"radius": 0.3, "inner_steps": 40, "inner_step_size": 0.01}),
    Rule(("fashion-mnist",), values={"radius": 0.1, "inner_steps": 20, "inner_step_size": 0.01}),
    Rule(
        _RESNETS,
        values={
            "model": "rar-resnet",
            "radius": 8 / 255,
            "inner_steps": 7,
            "inner_step_size": 2 / 255,
            "inner_nodes": 5,
            "optimiser": "sgd",
            "schedule": "steps",
            "learning_rate": 1e-2,
            "weight_decay": 2e-4,
            "steps": 70_001,
        },
    ),
    Rule(("gtsrb",), values={"batch_size": 64, "beta": 1.0}),
    Rule(("flowers17",), values={"batch_size": 16}),
    Rule(("flowers17",), ("ig-norm",), {"weight": 0.1}),
    Rule(("flowers17",), ("ig-norm", "ig-sum-norm"), {"learning_rate": 1e-3}),
)

# Veridical's own. A radius or weight not named here is the paper's. inner_step_share: of the radius.
FAST: tuple[Rule, ...] = (
    Rule(
        values={
            "beta_from": 0.0,
            "inner_steps": 2,
            "inner_step_share": 0.7,
            "inner_start": "random",
            "inner_score": "loss",
            "inner_nodes": 1,
            "nodes": 1,
            "rule": "midpoint",
            "optimiser": "adam",
            "schedule": "one-cycle",
            "learning_rate": 3e-3,
            "weight_decay": 0.0,
            "batch_size": 100,
            "epochs": 7.0,
            "averaging": 0.999,
            "warm_up": 0.15,
            "reduction": "mean",
        }
    ),
    Rule((), ("ig-sum-norm",), {"beta": 0.3, "beta_from": 0.6}),
    Rule(("mnist-5k",), values={"epochs": 15.0, "batch_size": 50, "averaging": 0.99}),
    Rule(("gtsrb",), values={"epochs": 15.0}),
    Rule(("flowers17",), values={"epochs": 40.0, "batch_size": 32, "averaging": 0.99}),
)

_TABLES = {"paper": PAPER, "fast": FAST}

MODEL_OPTIONS: Mapping[str, Mapping[str, Values]] = {
    "paper": {"cnn": {"initialisation": "paper"}},
    "fast": {"cnn": {"initialisation": "paper"}},
}
"""What a recipe chooses of an architecture, by recipe and network, where the user does not."""

_ASCENT = ("inner_steps", "inner_step_size", "inner_start")
_MAPS = ("inner_score", "inner_nodes", "nodes", "rule")
USED: Mapping[str, tuple[str, ...]] = {
    "natural": (),
    "adversarial": ("weight", "radius", *_ASCENT),
    "loss-change": ("weight", "radius", *_ASCENT),
    "input-gradient": ("weight", "radius"),
    "ig-norm": ("weight", "radius", *_ASCENT, *_MAPS),
    "ig-sum-norm": ("weight", "radius", "beta", "beta_from", *_ASCENT, *_MAPS),
}
"""The options that each objective takes, beside the norm."""


def paper_row(data: str, shape: tuple[int, int, int]) -> str:
    """The column of the paper's table whose settings a data set gets: its own, else that of like images."""
    if data in (*_IMAGES_28, *_RESNETS):
        return data
    channels, height, _ = shape
    if channels == 1:
        return "fashion-mnist"
    return "gtsrb" if height <= 64 else "flowers17"


def recipe_values(recipe: str, row: str, objective: str) -> dict[str, Any]:
    """All values of a recipe for one row of the table and one objective."""
    if recipe not in _TABLES:
        raise fail_argument("recipe", recipe, f"one of {', '.join(_TABLES)}")
    merged: dict[str, Any] = {}
    for rule in PAPER:
        # Veridical's table is a departure from the paper's in these and keeps it in the rest.
        if rule.fits(row, objective):
            kept = ("weight", "beta", "radius") if recipe == "fast" else tuple(rule.values)
            merged.update({key: value for key, value in rule.values.items() if key in kept})
    if recipe == "fast":
        for rule in FAST:
            if rule.fits(row, objective):
                merged.update(rule.values)
    return merged


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
        raise fail_argument("objective", name, f"one of {', '.join(USED)}")
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
        raise fail_argument("train_examples", examples, f"a number from 1 to {remaining}")
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
    )


def _refuse_unused(options: TrainOptions, used: tuple[str, ...], objective: str) -> None:
    for name in ObjectiveOptions.__dataclass_fields__:
        if name != "norm" and name not in used and getattr(options, name) is not None:
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
        raise fail_argument("validation", given, f"a number from 0 to {train_size - 1}")
    return given


def _robust(objective: str, values: Values) -> RobustSettings:
    found: dict[str, Any] = {key: values.get(key) for key in USED[objective]}
    radius = float(values["radius"])
    if objective == "input-gradient" and values["weight"] is None:
        # lambda' = radius^q makes lambda 1: the loss's change in the ball, to first order, is what is added.
        found["weight"] = radius ** (1 if values["norm"] == "linf" else 2)
    if "inner_step_size" in found and found["inner_step_size"] is None:
        found["inner_step_size"] = values["inner_step_share"] * radius
    return RobustSettings(norm=values["norm"], **found)


def _optimise(options: TrainOptions, values: Values, examples: int) -> OptimiserSettings:
    if options.epochs is not None and options.steps is not None:
        raise UsageError(f"epochs={options.epochs} and steps={options.steps} were both given; give one.")
    batch_size = min(int(values["batch_size"]), examples)
    if batch_size < 1:
        raise fail_argument("batch_size", batch_size, "an integer of at least 1")
    if options.epochs is not None or "steps" not in values:
        if not 0 < values["epochs"] < float("inf"):
            raise fail_argument("epochs", values["epochs"], "a positive number")
        steps = max(1, round(values["epochs"] * (examples // batch_size)))
    else:
        steps = values["steps"]
    names = ("optimiser", "schedule", "learning_rate", "weight_decay", "averaging", "warm_up", "reduction")
    return OptimiserSettings(batch_size=batch_size, steps=steps, **{name: values[name] for name in names})
