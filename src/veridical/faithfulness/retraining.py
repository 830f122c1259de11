"""One retraining as a job: its recipe made explicit, a fresh model, and its accuracy on unmasked images."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from veridical.data import Dataset
from veridical.data.dataset import load_source, take_first
from veridical.faithfulness.ranking import Ranking
from veridical.faithfulness.unmasking import ConstantFill, Fill, Kept, restore_fill, unmask_dataset
from veridical.models.external import ModelSource, describe_architecture
from veridical.runtime.checking import check_value
from veridical.runtime.errors import RunError, UsageError, unknown_name_error
from veridical.runtime.files import read_json, write_sealed
from veridical.runtime.options import ObjectiveOptions, OptimiserOptions, RetrainObjectiveName, TrainOptions
from veridical.training.loop import train
from veridical.training.penalties import OBJECTIVES
from veridical.training.recipes import Settings, resolve
from veridical.training.run import MODEL, OWN, Run, build_recorded

# Modules whose code, and not only whose settings, decides what a retraining gives.
SOURCES = (
    "veridical.training.loop",
    "veridical.training.objectives",
    "veridical.training.penalties",
    "veridical.training.optimisation",
    "veridical.faithfulness.unmasking",
    "veridical.faithfulness.retraining",
)

# Options of the recipe that a caller may set.
OVERRIDES = (*OptimiserOptions.__dataclass_fields__, "train_examples", "bf16")


def resolve_training(
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
    check_value("retrain_objective", objective, RetrainObjectiveName)
    if objective == "same" and run is None:
        raise UsageError("retrain_objective=same is the run's objective, and no run was given.")
    chosen = {"recipe": "fast"} if run is None else _of_run(run, data, objective)
    given = {name: value for name, value in overrides.items() if value is not None}
    # A length in steps replaces one in epochs.
    if "steps" in given and "epochs" not in given:
        chosen.pop("epochs", None)
    chosen = {"objective": "natural", **chosen, **given, "validation": 0}
    if run is not None and chosen.get("epochs") is None and chosen.get("steps") is None:
        raise UsageError(
            "epochs: a retraining starts from fresh weights, and the run began with those of a file, which "
            "does not say how long they were trained. Give epochs, or steps."
        )
    options = TrainOptions(out=".", **chosen)
    settings = resolve(options, data=data.describe(), model=model, train_size=len(data.train))
    chosen.pop("epochs", None)  # the number of steps says how long
    return {**chosen, **_options_of(settings), "train_examples": settings.train_examples}


def _of_run(run: Settings, data: Dataset, objective: str) -> dict[str, Any]:
    """The options that would train the run's recipe again, from the seed on."""
    # A retraining begins with fresh weights: it trains as long as the run and the run it began with together.
    before = run.initial["epochs"] if run.initial else 0.0
    chosen = {**_options_of(run), "steps": None, "recipe": run.recipe}
    chosen["epochs"] = None if before is None else run.epochs + before
    # Images held out for validation do not make a run limited: they are trained on here.
    if run.train_examples + run.validation < int(run.data["train"]):
        chosen["train_examples"] = min(run.train_examples, len(data.train))
    if objective == "same":
        if run.objective not in OBJECTIVES:
            raise UsageError(
                f"retrain_objective=same: the run's objective {run.objective} has no name to call it by."
            )
        own = {name: getattr(run.robust, name, None) for name in ObjectiveOptions.__dataclass_fields__}
        chosen |= {"objective": run.objective}
        chosen |= {name: value for name, value in own.items() if value is not None}
    return chosen


def _options_of(settings: Settings) -> dict[str, Any]:
    """How the weights move, and what else decides them and is an option, such as augmentation."""
    own = {"data", "model", "objective", "recipe", "seed", "validation", "train_examples"}
    others = TrainOptions.__dataclass_fields__.keys() - own
    optimise = OptimiserOptions.__dataclass_fields__.keys() - {"epochs"}
    return {
        **{name: getattr(settings, name) for name in Settings.__dataclass_fields__ if name in others},
        **{name: getattr(settings.optimise, name) for name in optimise},
    }


def resolve_architecture(
    model: str | None,
    options: Mapping[str, Any],
    data: Dataset,
    run: Settings | None,
    *,
    trust_code: bool,
) -> dict[str, Any]:
    """The record of what is retrained: a named architecture, a "module:callable", or (None) the run's own."""
    source = None if model is None else ModelSource(model, dict(options))
    if source is None and run is not None and run.model["name"] not in (OWN, "hf"):
        if options:
            raise UsageError("retrain_model_options go with the name of an architecture, retrain_model.")
        # What a run names without foreign code needs no trust.
        source, trust_code = ModelSource.from_record(run.model, Path()), False
    if source is None or source.scheme == "hf":
        raise UsageError(
            "retrain_model: a retraining starts from a fresh model, which neither a module nor a saved "
            'folder gives. Name an architecture, or "module:callable" of shape, num_classes and seed, with '
            "trust_code."
        )
    return describe_architecture(
        source, shape=data.shape, num_classes=data.num_classes, trust_code=trust_code, seeded=True
    )


class _WithoutTexts(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


@cache
def hash_recipe() -> str:
    """SHA-256 of the code of `SOURCES`, as its syntax trees without docstrings: comments do not count."""
    digest = hashlib.sha256()
    for name in SOURCES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        digest.update(f"{name}:{ast.dump(_WithoutTexts().visit(tree))}".encode())
    return digest.hexdigest()


RETRAIN = "veridical.faithfulness.retraining:retrain"

# What a job leaves in its folder: the training's claim, log and result (no weights), and its own result.
RUN, ACCURACY = "run", "accuracy.json"


def retrain(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train a fresh model on unmasked training images, return its accuracy on unmasked test images.

    values: what `Measurement.values` makes. where: the data (`describe_source`), the ranking
    (`ranking_place`), device, and trust_code for an architecture of the caller's. Killed at any moment, it
    continues from its checkpoint.
    Returns {"accuracy", "correct", "examples", "training_seconds", "examples_per_second"}.
    """
    if (folder / ACCURACY).exists():
        kept: dict[str, Any] = read_json(folder / ACCURACY, sealed=True)
        return kept
    run = train_fresh(values, load_unmasked(values, where), folder / RUN, where)
    results, timing = run.result["results"]["natural_accuracy"], run.result["timing"]
    result = {
        "accuracy": results["value"],
        "correct": round(results["value"] * results["n"]),
        "examples": results["n"],
        "training_seconds": timing["training_seconds"],
        "examples_per_second": timing["examples_per_second"],
    }
    # Hundreds of models would fill a disk, and nothing asks for them; first the number, then the weights.
    write_sealed(folder / ACCURACY, result)
    (folder / RUN / MODEL).unlink()
    return result


def load_unmasked(values: Mapping[str, Any], where: Mapping[str, str]) -> Dataset:
    """The unmasked data set that a job's values describe."""
    data, checksum = load_source(where, values["data"]["checksum"]), values["ranking"]["checksum"]
    return unmask_as_planned(values, data, _ranking(where[ranking_place(checksum)], checksum), where)


def ranking_place(checksum: str) -> str:
    """The name in a job's `where` of the path of a ranking."""
    return f"ranking:{checksum}"


def unmask_as_planned(
    values: Mapping[str, Any], data: Dataset, ranking: Ranking, where: Mapping[str, str]
) -> Dataset:
    """`data` unmasked by `ranking` as a job's values say, whichever images and order those name.

    Where only the first training images are ranked, these are all there are.
    """
    if len(ranking.train) > 1:
        data = take_first(data, len(ranking.train))
    fill: Fill = ConstantFill((0.0,) * data.shape[0])
    if values["fill"] is not None:  # masks are shown as they are: nothing is filled in
        fill = restore_fill(values["fill"], trust_code=where.get("trust_code") == "yes")
    return unmask_dataset(data, ranking, Kept(**values["kept"]), fill, shown=values["shown"])


def train_fresh(values: Mapping[str, Any], data: Dataset, out: Path, where: Mapping[str, str]) -> Run:
    """Train the architecture and recipe of a job's values, from its seed, on `data`."""
    record, seed = values["model"], values["seed"]
    source = ModelSource.from_record(record, Path())
    model: dict[str, Any] = {
        "model": source.spec,
        "model_options": source.options,
        "input_mean": source.mean,
        "input_std": source.std,
        "output": source.output,
        "one_logit": source.one_logit,
    }
    if source.scheme is None and ":" in source.spec:  # foreign code, which `train` takes as a module
        model = {"model": build_recorded(record, seed, trust_code=where.get("trust_code") == "yes")}
    return train(
        **model,
        data=data,
        out=str(out),
        seed=seed,
        device=where.get("device", "auto"),
        progress=False,
        **values["training"],
    )


@lru_cache(maxsize=8)
def _ranking(path: str, checksum: str) -> Ranking:
    """A ranking, mapped from its file; its content is compared with the checksum once per process."""
    ranking = Ranking.load(Path(path))
    if ranking.checksum != checksum:
        raise RunError(
            f"{path} is not the ranking that was planned with: its checksum is {ranking.checksum}, expected "
            f"{checksum}. Delete the file and repeat the command."
        )
    return ranking
