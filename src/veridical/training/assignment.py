"""From options, or a caller's own model, data and objective, to all that a training needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from veridical.attacks.ball import Ball
from veridical.attribution.classifier import check_climbable, parameter_like, predict
from veridical.data import DATASETS, Dataset, Split, load
from veridical.data.augmentation import Augmentation, balanced_order
from veridical.data.splits import held_out
from veridical.models import build, model_config
from veridical.runtime.config import TrainOptions
from veridical.runtime.devices import fast_layout
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error
from veridical.runtime.guards import private_copy
from veridical.runtime.record import record
from veridical.training.beginning import Beginning
from veridical.training.checkpoint import weights
from veridical.training.named import evaluation_ball, named_objective
from veridical.training.objectives import Objective, RobustAttribution
from veridical.training.precision import arithmetic
from veridical.training.recipes import MODEL_OPTIONS
from veridical.training.resolution import resolve
from veridical.training.settings import Settings
from veridical.training.warm import starts_warm

OWN = "own"
"""Name in the settings of a model that a caller brought."""


@record
class Assignment:
    """What is trained on what.

    train, validation: the divided training split (None: nothing held out). indices: each training image's
    number in the data set's training split. model: a module of this training's own, on its device. objective:
    progress from 0 to 1 -> what is minimised then. ball: where predictions are attacked in validation.
    augment: how training images are changed (None: not at all). warm: whether the inner ascent starts where
    it ended for the image before.
    """

    settings: Settings
    data: Dataset
    train: Split
    validation: Split | None
    indices: Tensor
    model: nn.Module
    layout: torch.memory_format
    objective: Callable[[float], Objective]
    ball: Ball | None
    augment: Augmentation | None
    warm: bool

    def order(self, generator: torch.Generator) -> Tensor:
        """Positions of the training images of one epoch, as many as there are, in random order."""
        if self.settings.balance == "classes":
            return balanced_order(self.train.labels, generator)
        return torch.randperm(len(self.train), generator=generator)


def assign(
    options: TrainOptions,
    device: torch.device,
    model: nn.Module | None = None,
    data: Dataset | None = None,
    objective: Objective | None = None,
    beginning: Beginning | None = None,
) -> Assignment:
    """Load, build and resolve what `options` names, and take what is given in place of a name.

    beginning: the weights to begin with in place of the model's own.
    """
    if data is None:
        data = load(options.data, options.data_root, download=options.download, equalise=options.equalise)
    elif options.equalise or options.download:
        raise UsageError("equalise and download are for data sets by name; a Dataset is taken as it is.")
    module, record = _model(options, data, model)
    settings = resolve(
        options,
        data=data.describe(),
        model=record,
        train_size=len(data.train),
        objective=None if objective is None else described(objective),
    )
    if beginning is not None:
        beginning.check(settings)
        beginning.put_into(module)
        settings = replace(settings, initial=beginning.record())
    train, validation, indices = divide(data.train, settings)
    layout = fast_layout(module)
    module = module.to(device).to(memory_format=layout)
    if objective is None:
        at = partial(_named, settings)
        ball = None if settings.robust is None else evaluation_ball(settings.robust)
    else:
        at, ball = partial(_same, objective), getattr(objective, "ball", None)
    if model is not None:
        _check_outputs(module, data, device, climbed=isinstance(at(1.0), RobustAttribution))
    augment, warm = _augmentation(settings, data), starts_warm(at(0.0), settings)
    return Assignment(settings, data, train, validation, indices, module, layout, at, ball, augment, warm)


def divide(split: Split, settings: Settings) -> tuple[Split, Split | None, Tensor]:
    """The training images of a run, its validation images (None if none), and the former's old numbers."""
    kept, held = list(range(len(split))), None
    if settings.validation:
        kept, out = held_out(len(split), settings.validation, settings.seed, "validation")
        held = split.subset(out)
    indices = torch.tensor(kept[: settings.train_examples], dtype=torch.int64)
    return split.subset(indices), held, indices


def gather(options: TrainOptions | None, given: Mapping[str, Any]) -> TrainOptions:
    """Options from keyword arguments, or the given ones with some replaced; UsageError for unknown names."""
    if options is not None and not isinstance(options, TrainOptions):
        raise argument_error("options", options, "TrainOptions", "Model and data are given by name: data=...")
    known = [field.name for field in fields(TrainOptions)]
    for name in given:
        if name not in known:
            raise unknown_name_error("option", name, known, "See veridical.TrainOptions.")
    if options is not None:
        return replace(options, **given)
    if "out" not in given:
        raise argument_error("out", None, "the folder of the run")
    return TrainOptions(**given)


def described(objective: Objective) -> str:
    """A caller's own objective as text: its class and, for a dataclass, its values."""
    kind = type(objective)
    if is_dataclass(objective):
        return f"{kind.__module__}.{objective!r}"
    name = getattr(objective, "__qualname__", kind.__qualname__)
    return f"{getattr(objective, '__module__', kind.__module__)}.{name}"


def own_model_record(model: nn.Module, data: Dataset) -> dict[str, Any]:
    """A caller's model as plain values: its class, and a digest of the names and shapes of its weights."""
    forms = [(name, tuple(value.shape), str(value.dtype)) for name, value in weights(model).items()]
    return {
        "name": OWN,
        "shape": list(data.shape),
        "num_classes": data.num_classes,
        "options": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "weights": hashlib.sha256(repr(forms).encode()).hexdigest(),
        },
    }


def _model(options: TrainOptions, data: Dataset, model: nn.Module | None) -> tuple[nn.Module, dict[str, Any]]:
    if model is not None:
        if options.model_options:
            raise UsageError("model_options are for networks by name; a module is taken as it is.")
        lazy = [name for name, value in model.named_parameters() if is_lazy(value)]
        if lazy:
            raise UsageError(f"model: {', '.join(lazy[:3])} have no shape yet. Call the model once before.")
        return private_copy(model), own_model_record(model, data)
    chosen = MODEL_OPTIONS.get(options.recipe, {}).get(options.model, {})
    given: dict[str, Any] = {**chosen, **options.model_options}
    record = model_config(options.model, shape=data.shape, num_classes=data.num_classes, **given)
    return build_recorded(record, options.seed), record


def _check_outputs(model: nn.Module, data: Dataset, device: torch.device, *, climbed: bool) -> None:
    """Raise a UsageError unless a caller's model has a logit, no probability, for each class of the data."""
    image, _ = data.train.batch([0], parameter_like(model).dtype, device)
    with arithmetic(device):
        logits = predict(model, image)
    if climbed:
        check_climbable(logits)
    if logits.shape[1] < data.num_classes:
        raise argument_error(
            "model",
            f"{type(model).__name__} with {logits.shape[1]} logits",
            f"one logit for each of the {data.num_classes} classes of {data.name}",
        )


def build_recorded(record: Mapping[str, Any], seed: int) -> nn.Module:
    """Build the network that a record describes, with the initial weights of a seed."""
    shape, classes = record["shape"], record["num_classes"]
    return build(record["name"], shape=shape, num_classes=classes, seed=seed, **record["options"])


def _augmentation(settings: Settings, data: Dataset) -> Augmentation | None:
    if settings.augment == "none":
        return None
    entry = DATASETS.get(data.name)
    return Augmentation(settings.augment, () if entry is None else entry.mirrored(data.num_classes))


def _named(settings: Settings, progress: float) -> Objective:
    return named_objective(settings.objective, settings.robust, progress=progress)


def _same(objective: Objective, progress: float) -> Objective:  # noqa: ARG001 - the signature of _named
    return objective
