"""The settings of the paper's authors and Veridical's own, per data set and objective, as two tables.

The tables are lists of rules; every rule that fits the data set and the objective is applied, later rules
overrule earlier ones, and what the user gives overrules all. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from veridical.runtime.errors import unknown_name_error

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
            "augment": "none",
            "balance": "none",
            "weight": 1.0,
            "training_radius": None,
            "radius_warm_up": None,
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
    # Their data: every class filled up with warped copies of its images, to one number.
    Rule(_RESNETS, values={"augment": "warp", "balance": "classes"}),
    # There their code takes the mean where there is no attribution term, and the sum with one.
    Rule(_RESNETS, ("natural", "adversarial"), {"reduction": "mean"}),
    Rule(("gtsrb",), values={"batch_size": 64, "beta": 1.0}),
    Rule(("flowers17",), values={"batch_size": 16, "train_examples": 1224}),
    Rule(("flowers17",), ("ig-norm",), {"weight": 0.1}),
    Rule(("flowers17",), ("ig-norm", "ig-sum-norm"), {"learning_rate": 1e-3}),
)

# Veridical's own. A radius or weight not named here is the paper's. inner_step_share: of the ball's
# radius in training.
FAST: tuple[Rule, ...] = (
    Rule(
        values={
            "augment": "none",
            "balance": "none",
            "beta_from": 0.0,
            "training_radius": None,
            "radius_warm_up": None,
            "inner_steps": 2,
            "inner_step_share": 0.7,
            "inner_start": "random",
            "inner_score": "loss",
            "inner_nodes": 1,
            "nodes": 1,
            "rule": "midpoint",
            "optimiser": "adam",
            "schedule": "one-cycle",
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "batch_size": 100,
            "epochs": 7.0,
            "averaging": 0.999,
            "warm_up": 0.15,
            "reduction": "mean",
        }
    ),
    # The paper's initial weights are large, and small rates leave them where they are.
    Rule(_IMAGES_28, values={"learning_rate": 3e-3}),
    Rule(("mnist", "fashion-mnist"), values={"epochs": 8.0}),
    Rule(("mnist", "fashion-mnist"), ("natural",), {"epochs": 7.0}),
    # A step with the L1 term takes twice the time of one without.
    Rule(("mnist", "fashion-mnist"), ("ig-norm",), {"epochs": 5.0}),
    Rule((), ("ig-sum-norm",), {"beta_from": 0.75}),
    Rule(("mnist-5k",), ("ig-sum-norm",), {"beta": 0.3, "beta_from": 0.6}),
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

_BALL = ("radius", "training_radius")
_ASCENT = ("radius_warm_up", "inner_steps", "inner_step_size", "inner_start")
_MAPS = ("inner_score", "inner_nodes", "nodes", "rule")
USED: Mapping[str, tuple[str, ...]] = {
    "natural": (),
    "adversarial": ("weight", *_BALL, *_ASCENT),
    "loss-change": ("weight", *_BALL, *_ASCENT),
    "input-gradient": ("weight", *_BALL),
    "ig-norm": ("weight", *_BALL, *_ASCENT, *_MAPS),
    "ig-sum-norm": ("weight", *_BALL, "beta", "beta_from", *_ASCENT, *_MAPS),
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
        raise unknown_name_error("recipe", recipe, _TABLES)
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
