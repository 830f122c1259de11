"""From options, or a caller's own model, data and objective, to all that a training needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from veridical.attacks.ball import Ball, ball
from veridical.attribution.classifier import check_climbable, parameter_like, predict
from veridical.data import DATASETS, Dataset, load
from veridical.data.augmentation import Augmentation, balanced_order
from veridical.models.external import (
    ARCHITECTURE,
    HF_CONFIG,
    Examined,
    ModelSource,
    build_examined,
    describe_architecture,
)
from veridical.runtime.checking import as_path
from veridical.runtime.devices import fast_layout
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.files import write_atomic
from veridical.runtime.guards import private_copy
from veridical.runtime.options import (
    ModelDetails,
    NormName,
    ObjectiveOptions,
    OptimiserOptions,
    TrainingGrid,
    TrainOptions,
)
from veridical.training.checkpoint import check_finite, copy_tensors, digest_weights, weights
from veridical.training.objectives import (
    Objective,
    RobustObjective,
    WarmStarts,
    build_objective,
)
from veridical.training.optimisation import arithmetic
from veridical.training.penalties import OBJECTIVES, supported_options
from veridical.training.recipes import InitialWeights, Settings, resolve
from veridical.training.run import OWN, Run, split_data
from veridical.training.subject import check_fits, load_weights, resize_options


class Task:
    """What is trained on what: all that `options` name loaded, built and resolved, or taken as it is given.

    source: how the model is built, None for a caller's module. data: the whole data set. train, validation:
    its divided training split. indices: each training image's number in the undivided one. model: a module of
    this training's own, on its device, in `layout`. ball: where predictions are attacked in validation.
    starts: of the inner ascent, if it goes on where it ended.
    """

    def __init__(
        self,
        options: TrainOptions,
        device: torch.device,
        model: nn.Module | None = None,
        data: Dataset | None = None,
        objective: Objective | None = None,
        initial: Run | None = None,
    ) -> None:
        source = ModelSource.from_options(options.model, options) if model is None else None
        data = _load_images(options, source) if data is None else _as_it_is(data, options)
        own = None if objective is None else _describe_objective(objective)
        network = _describe_named(options, data) if model is None else _describe_model(model, data, options)
        count = len(data.train)
        settings = resolve(options, data=data.describe(), model=network, train_size=count, objective=own)
        self.data, self.source = data, source
        self.trust_code, self._own_objective = options.trust_code, objective
        module = _build(source, options, data) if model is None else private_copy(model)
        # Before the model moves to its device and layout, and before the settings are claimed.
        settings = replace(settings, initial=_begin(options, source, initial, module, settings))
        self.settings, self.layout = settings, fast_layout(module)
        self.model = module.to(device).to(memory_format=self.layout)
        # Built once at both ends: what cannot be built is refused before a folder is claimed.
        first, last = self.objective(0.0), self.objective(1.0)
        # Of our own networks it is known.
        if source is None or ":" in source.spec or isinstance(module, Examined):
            _check_outputs(self.model, data, device, climbed=isinstance(last, RobustObjective))
        self.augment = None
        if settings.augment != "none":
            mirrored = DATASETS.get(data.name).mirrored(data.num_classes) if data.name in DATASETS else ()
            self.augment = Augmentation(settings.augment, mirrored)
        self.train, self.validation, self.indices = split_data(data.train, settings)
        robust = settings.robust
        self.ball: Ball | None = getattr(last, "ball", None)
        if robust is not None:
            self.ball = ball(robust.norm, robust.radius)
        self.starts = WarmStarts.of(first, settings, data.shape)

    def keep_architecture(self, folder: Path) -> None:
        """Copy what tells the architecture into the run's folder, where it is a file of another folder."""
        if self.source is not None and self.source.scheme == "hf":
            (folder / ARCHITECTURE).mkdir(exist_ok=True)
            content = (Path(self.source.rest) / HF_CONFIG).read_bytes()
            write_atomic(folder / ARCHITECTURE / HF_CONFIG, content)

    def objective(self, progress: float) -> Objective:
        """What is minimised at a point of the training, from 0 to 1."""
        if self._own_objective is not None:
            return self._own_objective
        name, robust = self.settings.objective, self.settings.robust
        return build_objective(name, robust, progress=progress, trust_code=self.trust_code)

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Positions of the training images of one epoch, as many as there are, in random order."""
        if self.settings.balance == "classes":
            return balanced_order(self.train.labels, generator)
        return torch.randperm(len(self.train), generator=generator)


def _load_images(options: TrainOptions, source: ModelSource | None) -> Dataset:
    """The data set that options name, its files resized as the model's library does."""
    return load(
        options.data,
        options.data_root,
        download=options.download,
        equalise=options.equalise,
        trust_code=options.trust_code,
        **resize_options(options.data, options.image_size, source),
    )


def _as_it_is(data: Dataset, options: TrainOptions) -> Dataset:
    if options.equalise or options.download or options.image_size:
        names = "equalise, download and image_size"
        raise UsageError(f"{names} are for data sets by name; a Dataset is taken as it is.")
    return data


def _build(source: ModelSource | None, options: TrainOptions, data: Dataset) -> nn.Module:
    """The network of a source, with the weights that it has before any are loaded."""
    assert source is not None
    sizes: dict[str, Any] = {"shape": data.shape, "num_classes": data.num_classes}
    model = build_examined(source, **sizes, trust_code=options.trust_code, seed=options.seed)
    if ":" in source.spec:
        check_fits(source, model, data)
    return model


def _begin(
    options: TrainOptions,
    source: ModelSource | None,
    initial: Run | None,
    model: nn.Module,
    settings: Settings,
) -> InitialWeights | None:
    """Give a model the weights that the options begin with; what decides them, None for fresh ones."""
    if initial is not None:
        if options.init is not None:
            raise UsageError("init and initial_run both say what weights to begin with; give one.")
        return _begin_with(initial, model, settings)
    if options.init is not None:
        load_weights(path := as_path(options.init, "init"), model, "init")
        check_finite(model, path, "Name another file of weights.")
    elif source is None or source.scheme != "hf":
        return None
    return {"weights": digest_weights(model), "objective": None, "epochs": None}


def _begin_with(initial: Run, model: nn.Module, settings: Settings) -> InitialWeights:
    """Give a model the weights of a run; what decides them, as plain values."""
    _check_split(initial, settings)
    copy_tensors(initial.folder, weights(initial.model), weights(model))
    before = initial.settings
    earlier = before.initial["epochs"] if before.initial else 0.0
    return {
        "weights": digest_weights(initial.model),
        "objective": before.objective,
        # All that led to them.
        "epochs": None if earlier is None else before.epochs + earlier,
    }


def _check_split(initial: Run, settings: Settings) -> None:
    """Raise a UsageError if images that the new training holds out were trained on in the initial run."""
    before = initial.settings
    same_data = before.data["checksum"] == settings.data["checksum"]
    same_split = (before.validation, before.seed) == (settings.validation, settings.seed)
    if settings.validation and same_data and not same_split:
        raise UsageError(
            f"initial_run: {initial.folder} held out {before.validation} images by seed {before.seed}, this "
            f"training would hold out {settings.validation} by seed {settings.seed}, and validate on images "
            "that the weights have seen. Give the run's own seed and validation, or validation=0."
        )


def _describe_objective(objective: Objective) -> str:
    """A caller's own objective as text: its class and, for a dataclass, its values."""
    kind = type(objective)
    if is_dataclass(objective):
        return f"{kind.__module__}.{objective!r}"
    name = getattr(objective, "__qualname__", kind.__qualname__)
    return f"{getattr(objective, '__module__', kind.__module__)}.{name}"


def _describe_named(options: TrainOptions, data: Dataset) -> dict[str, Any]:
    """The network that the options name as plain values."""
    return describe_architecture(
        ModelSource.from_options(options.model, options),
        shape=data.shape,
        num_classes=data.num_classes,
        trust_code=options.trust_code,
    )


def _describe_model(model: nn.Module, data: Dataset, options: TrainOptions) -> dict[str, Any]:
    """A caller's model as plain values: its class, and a digest of the names and shapes of its weights."""
    for name in ModelDetails.__dataclass_fields__.keys() - {"image_size"}:
        if getattr(options, name):
            raise UsageError(f"{name}: this is for networks by name; a module is taken as it is.")
    # Their digest and the optimiser need shapes.
    if lazy := [name for name, value in model.named_parameters() if is_lazy(value)]:
        raise UsageError(f"model: {', '.join(lazy[:3])} have no shape yet. Call the model once before.")
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


def _check_outputs(model: nn.Module, data: Dataset, device: torch.device, *, climbed: bool) -> None:
    """Raise a UsageError unless a caller's model has a logit, no probability, for each class of the data."""
    image, _ = data.train.batch([0], parameter_like(model).dtype, device)
    with arithmetic():
        logits = predict(model, image)
    if climbed:
        check_climbable(logits)
    if logits.shape[1] < data.num_classes:
        raise argument_error(
            "model",
            f"{type(model).__name__} with {logits.shape[1]} logits",
            f"one logit for each of the {data.num_classes} classes of {data.name}",
        )


def study_settings(
    options: TrainingGrid, balls: Sequence[tuple[NormName, float | None]], data: Dataset
) -> Iterator[Settings]:
    """What a study trains, nothing held out: every objective in every ball that it takes."""
    optimise = {name: getattr(options, name) for name in OptimiserOptions.__dataclass_fields__}
    names = [name for name in ObjectiveOptions.__dataclass_fields__ if hasattr(options, name)]
    robust = {name: getattr(options, name) for name in names}
    for objective in options.objective:
        # Natural training has no ball, so it is trained once however many there are.
        for norm, radius in balls[:1] if objective == "natural" else balls:
            wanted = TrainOptions(
                out=".",
                model=options.model,
                model_options=options.model_options,
                objective=objective,
                recipe=options.recipe,
                validation=0,
                **optimise,
                **supported_options(objective, robust | {"norm": norm, "radius": radius}),
            )
            described = _describe_named(wanted, data)
            if described["name"] == "hf":
                expected = "an architecture whose weights are fresh, as a study trains them several times"
                raise argument_error("model", options.model, expected)
            yield resolve(wanted, data=data.describe(), model=described, train_size=len(data.train))


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
