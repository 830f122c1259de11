"""How a retraining trains: the original run's recipe, made explicit, and a fresh model to start from."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from torch import nn

from veridical.data import Dataset
from veridical.models import build, model_config
from veridical.runtime.errors import UsageError, unknown_name_error
from veridical.runtime.options import ObjectiveOptions, OptimiserOptions, RetrainObjectiveName, TrainOptions
from veridical.training.penalties import OBJECTIVES
from veridical.training.recipes import resolve
from veridical.training.settings import Settings
from veridical.training.task import OWN

SOURCES = (
    "veridical.training.loop",
    "veridical.training.objectives",
    "veridical.training.penalties",
    "veridical.training.optimisation",
    "veridical.faithfulness.unmasking",
    "veridical.faithfulness.fills",
    "veridical.faithfulness.imputation",
    "veridical.faithfulness.retraining",
)
"""Modules whose code, and not only whose settings, decides what a retraining gives."""

OVERRIDES = (*OptimiserOptions.__dataclass_fields__, "train_examples", "bf16")
"""Options of the recipe that a caller may set."""


def training_fields(
    data: Dataset,
    model: Mapping[str, Any],
    run: Settings | None,
    objective: RetrainObjectiveName,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of `TrainOptions` with which every retraining is called, explicit, as plain values.

    They are those of the run (of the recipe "fast" without one) for the same number of epochs, with the
    natural objective or the run's own, and nothing held out: the images that the run held out for validation
    are trained on. overrides: options of `OVERRIDES` in their place. model: the record of the architecture.
    """
    for name in overrides:
        if name not in OVERRIDES:
            raise unknown_name_error("option", name, OVERRIDES, "See veridical.diffroar.")
    if objective not in get_args(RetrainObjectiveName):
        raise unknown_name_error("retrain_objective", objective, get_args(RetrainObjectiveName))
    if objective == "same" and run is None:
        raise UsageError("retrain_objective=same is the run's objective, and no run was given.")
    chosen = {"recipe": "fast"} if run is None else _of_run(run, data, objective)
    given = {name: value for name, value in overrides.items() if value is not None}
    if "steps" in given and "epochs" not in given:
        chosen.pop("epochs", None)
    chosen = {"objective": "natural", **chosen, **given, "validation": 0}
    options = TrainOptions(out=".", **chosen)
    settings = resolve(options, data=data.describe(), model=model, train_size=len(data.train))
    explicit = {name: value for name, value in chosen.items() if name != "epochs"}
    explicit |= {name: getattr(settings, name) for name in _decided_elsewhere()}
    for name in OptimiserOptions.__dataclass_fields__:
        if name != "epochs":
            explicit[name] = getattr(settings.optimise, name)
    return {**explicit, "train_examples": settings.train_examples}


def _of_run(run: Settings, data: Dataset, objective: str) -> dict[str, Any]:
    """The options that would train the run's recipe again, from the seed on."""
    if objective == "same" and run.objective not in OBJECTIVES:
        raise UsageError(
            f"retrain_objective=same: the run's objective {run.objective} has no name to call it by."
        )
    optimise = (name for name in OptimiserOptions.__dataclass_fields__ if name not in ("epochs", "steps"))
    chosen: dict[str, Any] = {name: getattr(run.optimise, name) for name in optimise}
    # A retraining begins with fresh weights: it trains as long as the run and the run it began with together.
    before = run.initial["epochs"] if run.initial else 0.0
    chosen |= {"recipe": run.recipe, "epochs": run.epochs + before}
    chosen |= {name: getattr(run, name) for name in _decided_elsewhere()}
    limited = run.train_examples + run.validation < int(run.data["train"])
    if limited:
        chosen["train_examples"] = min(run.train_examples, len(data.train))
    if objective == "same":
        chosen["objective"] = run.objective
        for name in ObjectiveOptions.__dataclass_fields__:
            value = getattr(run.robust, name, None)
            if value is not None:
                chosen[name] = value
    return chosen


def _decided_elsewhere() -> list[str]:
    """What else decides a run's weights and is an option of the same name, such as augmentation."""
    own = {"data", "model", "objective", "recipe", "seed", "validation", "train_examples"}
    options = {field.name for field in fields(TrainOptions)} - own
    return [field.name for field in fields(Settings) if field.name in options]


def architecture(
    model: str | None,
    options: Mapping[str, Any],
    data: Dataset,
    run: Settings | None,
    *,
    trust_code: bool,
) -> dict[str, Any]:
    """The record of what is retrained: a named architecture, a "module:callable", or (None) the run's own."""
    if model is None:
        record = None if run is None else dict(run.model)
        if record is None or record["name"] == OWN:
            raise UsageError(
                "retrain_model: a retraining starts from a fresh model, which a module cannot give. Name an "
                'architecture, or "module:callable" of shape, num_classes and seed, with trust_code.'
            )
        if options:
            raise UsageError("retrain_model_options go with the name of an architecture, retrain_model.")
        return model_config(
            record["name"], shape=data.shape, num_classes=data.num_classes, **record["options"]
        )
    return model_config(
        model, shape=data.shape, num_classes=data.num_classes, trust_code=trust_code, **options
    )


def fresh_model(record: Mapping[str, Any], seed: int, *, trust_code: bool) -> nn.Module | None:
    """A new module from a record that names foreign code; None for one that `train` builds by its name."""
    if ":" not in record["name"]:
        return None
    return build(
        record["name"],
        shape=record["shape"],
        num_classes=record["num_classes"],
        seed=seed,
        trust_code=trust_code,
        **record["options"],
    )


@cache
def recipe_source() -> str:
    """SHA-256 of the code of `SOURCES`, as its syntax trees without docstrings: comments do not count."""
    digest = hashlib.sha256()
    for name in SOURCES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
        digest.update(f"{name}:{ast.dump(tree)}".encode())
    return digest.hexdigest()


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
