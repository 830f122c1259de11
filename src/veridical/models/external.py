"""Classifiers of other libraries: torchvision's and timm's, a transformers folder, an exported program.

Each takes images in [0, 1] and gives logits (N, K): what its library does to an image before the network sees
it, and what it wraps the logits in, is part of the module here.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from veridical.models.networks import Standardise
from veridical.models.registry import MODELS, build, model_config
from veridical.runtime.checking import as_path
from veridical.runtime.errors import RunError, UsageError, VeridicalError, argument_error, nearest
from veridical.runtime.guards import preserved_rng
from veridical.runtime.options import ModelDetails
from veridical.runtime.registry import TRUST_HINT, import_extra, import_trusted, source_digest
from veridical.runtime.seeds import seed_global

# What `--model` takes beside a name and module:callable.
SCHEMES: Mapping[str, str] = {
    "torchvision": "torchvision:NAME, a classifier of torchvision",
    "timm": 'timm:NAME, one of timm (extra "timm")',
    "hf": 'hf:DIR, an image classifier that transformers saved in a folder (extra "transformers")',
    "export": "export:FILE, a program that torch.export saved (with trust_code)",
}
# Where a run of an hf folder keeps what tells the architecture, and the file of that.
ARCHITECTURE, HF_CONFIG = "architecture", "config.json"


@dataclass(frozen=True)
class Preprocessing:
    """What a library does to an image before its network sees it.

    mean, std: of each channel, in units of images in [0, 1]; none are subtracted where they are empty. size:
    height and width that the network was made for. resize: length of the shorter side before `size` is cut
    from the middle; None resizes the whole image to `size`. interpolation: by Pillow's name. source: whose
    record it is.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: str = "bilinear"
    source: str = "none"

    def describe(self) -> dict[str, Any]:
        """Plain values for a result's record."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "size": None if self.size is None else list(self.size),
            "resize": self.resize,
            "interpolation": self.interpolation,
            "source": self.source,
        }


@dataclass(frozen=True)
class ModelSource:
    """How an examined model is built and read; of plain values, so that a job can build it again.

    spec: a name of the registry, one of SCHEMES, or module:callable. mean, std: in place of the library's
    record. output: the entry of a tuple (its place) or dict (its name) that holds the logits. one_logit: the
    model has one logit, whose sign tells two classes apart.
    """

    spec: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    output: str | None = None
    one_logit: bool = False

    @classmethod
    def from_options(cls, model: str, options: ModelDetails) -> Self:
        """The source that options name; paths become absolute, since workers start elsewhere."""
        spec, colon, rest = model.partition(":")
        if spec in ("hf", "export"):
            rest = str(as_path(rest, "model").absolute())
        return cls(
            f"{spec}{colon}{rest}",
            dict(options.model_options),
            options.input_mean,
            options.input_std,
            options.output,
            options.one_logit,
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any], folder: Path) -> Self:
        """The source of what `describe_architecture` recorded, for a run in a folder.

        What the library recorded for images then holds, whatever it records now. Raises RunError where the
        folder lost an hf architecture.
        """
        spec, images = record["name"], record.get("preprocessing", {})
        if spec == "hf":
            file = folder / ARCHITECTURE / HF_CONFIG
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != record["sha256"]:
                raise RunError(f"{file} is missing or not what the run was trained with. Restore it.")
            spec = f"hf:{file.parent}"
        return cls(
            spec,
            dict(record["options"]),
            images.get("mean"),
            images.get("std"),
            record.get("output"),
            record.get("one_logit", False),
        )

    def describe(self) -> dict[str, Any]:
        """What decides the model, as plain values for a result's record; a path is none of them."""
        plain: dict[str, Any] = {"name": self.spec, "options": dict(self.options)}
        if self.scheme in ("hf", "export"):
            file = as_path(self.rest, "model")
            file = file / HF_CONFIG if self.scheme == "hf" else file
            # What the weights do not tell: the program, or the architecture.
            plain |= {"name": self.scheme, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        preprocessing = preprocessing_of(self)
        if preprocessing != Preprocessing():
            plain["preprocessing"] = preprocessing.describe()
        own = {"output": self.output, "one_logit": self.one_logit or None}
        return plain | {key: value for key, value in own.items() if value is not None}

    @property
    def scheme(self) -> str | None:
        """Which of SCHEMES the spec is of; None for a name and for module:callable."""
        head, colon, _ = self.spec.partition(":")
        return head if colon and head in SCHEMES else None

    @property
    def rest(self) -> str:
        """What follows the scheme."""
        return self.spec.partition(":")[2]

    @property
    def has_initial_weights(self) -> bool:
        """Whether the architecture can be built with fresh weights of a seed."""
        if self.scheme is None and self.spec in MODELS:
            return not MODELS.get(self.spec).has_weights
        return self.scheme in ("torchvision", "timm", "hf")

    @property
    def brings_weights(self) -> bool:
        """Whether the spec names weights too, so that no file of them is needed."""
        if self.scheme is None and self.spec in MODELS:
            return MODELS.get(self.spec).has_weights
        return self.scheme in ("hf", "export") or (self.scheme is None and ":" in self.spec)


class Examined(nn.Module):
    """A network between its preprocessing and its logits: images in [0, 1] -> logits (N, K)."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, output: str | None, one_logit: bool
    ) -> None:
        super().__init__()
        self.standardise = Standardise(preprocessing.mean or 0.0, preprocessing.std or 1.0)
        self.model = model
        self.output, self.one_logit = output, one_logit

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        logits = _select(self.model(self.standardise(inputs)), self.output)
        if not self.one_logit:
            return logits
        if logits.shape[1:] not in ((), (1,)):
            found = f"logits of shape {tuple(logits.shape)}"
            raise argument_error("one_logit", found, "a model of one logit, (N,) or (N, 1)")
        # The difference is the logit, so that softmax gives its sigmoid, and each class has a gradient.
        half = logits.reshape(-1, 1) / 2
        return torch.cat([-half, half], dim=1)


def _select(outputs: Any, output: str | None) -> Tensor:
    """The logits among what a model returned; a UsageError that lists what there is."""
    if isinstance(outputs, Tensor):
        if output is None:
            return outputs
        raise argument_error("output", output, "None, as the model returns one tensor")
    entries: dict[str, Any] = {}
    if isinstance(outputs, Mapping):  # transformers' outputs are one
        entries = {str(name): value for name, value in outputs.items()}
    elif isinstance(outputs, tuple | list):
        entries = {str(place): value for place, value in enumerate(outputs)}
    wanted = "logits" if output is None and "logits" in entries else output
    chosen = entries.get(wanted) if wanted is not None else None
    if isinstance(chosen, Tensor):
        return chosen
    known = ", ".join(name for name, value in entries.items() if isinstance(value, Tensor)) or "no tensors"
    raise UsageError(
        f"output: the model returned a {type(outputs).__name__} of {known}, and {output!r} was asked for. "
        "Name the entry that holds the logits, --output NAME or its place, from 0."
    )


def preprocessing_of(source: ModelSource) -> Preprocessing:
    """What is recorded for a model; options of the source win. Nothing is built: data can be read first.

    Raises UsageError for a name that the library does not have, or a folder that is none of transformers.
    """
    recorded = {"torchvision": _torchvision_record, "timm": _timm_record, "hf": _hf_record}
    found = recorded[source.scheme](source.rest) if source.scheme in recorded else Preprocessing()
    own = {name: tuple(value) for name in ("mean", "std") if (value := getattr(source, name)) is not None}
    if all(getattr(found, name) == value for name, value in own.items()):
        return found
    return Preprocessing(**{**vars(found), **own, "source": "options"})


def describe_architecture(
    source: ModelSource,
    *,
    shape: Sequence[int],
    num_classes: int,
    trust_code: bool = False,
    seeded: bool = False,
) -> dict[str, Any]:
    """What `build_examined` builds, as plain values for a run's record: see `ModelSource.from_record`.

    seeded: refuse a callable that does not take a seed (nor shape and num_classes): nobody knows whether its
    weights are fresh. Raises UsageError as `build_examined` does, and for an exported program.
    """
    if source.scheme == "export":
        hint = "It has the mode that it was exported in. Give the architecture, and its weights as --init."
        raise argument_error("model", source.spec, "a model that can be trained", hint)
    sizes = {"shape": list(shape), "num_classes": num_classes}
    record = source.describe() | sizes
    if source.scheme is not None:
        return record
    if ":" not in source.spec or seeded:
        config = model_config(source.spec, **sizes, trust_code=trust_code, **source.options)  # type: ignore[arg-type]
        return record | config
    return record | {
        "source": source_digest(import_trusted("model", source.spec, trust_code=trust_code, positional=None))
    }


def build_examined(
    source: ModelSource,
    *,
    shape: Sequence[int],
    num_classes: int,
    trust_code: bool = False,
    seed: int = 0,
    fresh: bool = False,
) -> nn.Module:
    """The model of a source for images (N, *shape) in [0, 1], on the CPU, its logits unwrapped.

    seed: of initial weights; global generators are left alone. fresh: also of an hf folder.
    Raises UsageError for what the library does not have or does not take, and for code that is not trusted.
    """
    makers: Mapping[str | None, Callable[[], nn.Module]] = {
        "torchvision": lambda: _build_torchvision(source, num_classes),
        "timm": lambda: _build_timm(source, shape, num_classes),
        "hf": lambda: _fresh_hf(source) if fresh else _load_hf(source, trust_code),
        "export": lambda: _load_exported(source, trust_code),
        None: lambda: _build_own(source, shape, num_classes, trust_code, seed),
    }
    with preserved_rng():
        seed_global(seed)
        model = makers[source.scheme]()
    preprocessing = _for_channels(preprocessing_of(source), shape[0], source.scheme)
    plain = preprocessing.mean == () and preprocessing.std == () and source.output is None
    # A network of ours standardises inside; one that needs nothing around it keeps the names of its weights.
    if plain and not source.one_logit and source.scheme != "hf":
        return model
    return Examined(model, preprocessing, source.output, source.one_logit)


def _for_channels(record: Preprocessing, channels: int, scheme: str | None) -> Preprocessing:
    """The record of a network that timm built for another number of channels: one mean and std for all."""
    if scheme != "timm" or len(record.mean) in (0, 1, channels):
        return record
    mean, std = ((sum(values) / len(values),) for values in (record.mean, record.std))
    return replace(record, mean=mean, std=std)


def _build_own(
    source: ModelSource, shape: Sequence[int], num_classes: int, trust_code: bool, seed: int
) -> nn.Module:
    """A network by name, or what a module:callable returns."""
    sizes: dict[str, Any] = {"shape": tuple(shape), "num_classes": num_classes, "seed": seed}
    if ":" not in source.spec:
        return build(source.spec, **sizes, **source.options)
    factory = import_trusted("model", source.spec, trust_code=trust_code, positional=None)
    # Who writes a factory for one data set need not ask for what it knows.
    known = {key: sizes[key] for key in sizes.keys() & inspect.signature(factory).parameters}
    return _call(source, factory, known)


def _call(source: ModelSource, factory: Callable[..., Any], known: Mapping[str, Any]) -> nn.Module:
    for name in source.options:
        if name.startswith(("pretrained", "checkpoint_path", "weights")):
            hint = "Weights come from --weights alone: a library may run code when it reads them."
            raise argument_error("model_options", name, f"options of the architecture of {source.spec}", hint)
    try:
        model = factory(**known, **source.options)
    except VeridicalError:
        raise
    except Exception as error:  # a library says in its own way what it does not take
        expected = f"options that {source.spec} takes"
        raise argument_error("model_options", dict(source.options), expected, f"{error}.") from error
    if not isinstance(model, nn.Module):
        raise argument_error(
            "model", source.spec, f"a callable that returns an nn.Module, not a {type(model).__name__}"
        )
    return model


def _build_torchvision(source: ModelSource, num_classes: int) -> nn.Module:
    from torchvision import models

    _check_torchvision(source.rest)

    def make(**options: Any) -> Any:
        return models.get_model(source.rest, weights=None, **options)

    # GoogLeNet and Inception have heads for training alone, without which their weights do not load strictly.
    auxiliary = (
        {"aux_logits": False, "init_weights": False} if source.rest in ("googlenet", "inception_v3") else {}
    )
    known = {"num_classes": num_classes, **auxiliary}
    return _call(source, make, {key: value for key, value in known.items() if key not in source.options})


@cache
def _torchvision_names() -> tuple[str, ...]:
    from torchvision import models

    return tuple(models.list_models(module=models))


def _check_torchvision(name: str) -> None:
    if name not in _torchvision_names():
        raise _unknown("torchvision", name, _torchvision_names())


def _unknown(library: str, name: str, known: Sequence[str]) -> UsageError:
    near = nearest(name, known)
    hint = f"Did you mean {library}:{near}?" if near else ""
    return argument_error("model", f"{library}:{name}", f"a classifier that {library} has", hint)


def _torchvision_record(name: str) -> Preprocessing:
    from torchvision import models

    _check_torchvision(name)
    # Of the newest weights, as torchvision's own DEFAULT is.
    transforms: Any = models.get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        tuple(transforms.mean),
        tuple(transforms.std),
        size=(transforms.crop_size[0], transforms.crop_size[0]),
        resize=transforms.resize_size[0],
        interpolation=str(transforms.interpolation.value),
        source=f"torchvision's transforms of {name}",
    )


def _build_timm(source: ModelSource, shape: Sequence[int], num_classes: int) -> nn.Module:
    timm = import_extra("timm", "timm")
    _check_timm(timm, source.rest)
    known: dict[str, Any] = {"num_classes": num_classes}
    size = preprocessing_of(source).size
    # A transformer has a place for each patch: it has to be built for the images' size.
    if size is not None and tuple(shape[1:]) != size and _takes_size(timm, source.rest):
        known["img_size"] = list(shape[1:])
    if shape[0] != 3:
        known["in_chans"] = shape[0]

    def make(**options: Any) -> Any:
        return timm.create_model(source.rest, pretrained=False, **options)

    return _call(source, make, {key: value for key, value in known.items() if key not in source.options})


def _takes_size(timm: Any, name: str) -> bool:
    config = timm.get_pretrained_cfg(name)
    return bool(config is not None and config.fixed_input_size)


def _check_timm(timm: Any, name: str) -> None:
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())


def _timm_record(name: str) -> Preprocessing:
    timm = import_extra("timm", "timm")
    _check_timm(timm, name)
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    _, height, width = config["input_size"]
    # timm cuts the crop's share out of the middle, as torchvision does by two sizes.
    resize = None if config["crop_mode"] == "squash" else int(height / config["crop_pct"])
    return Preprocessing(
        tuple(config["mean"]),
        tuple(config["std"]),
        size=(height, width),
        resize=resize,
        # "random" chooses between the two in training.
        interpolation=config["interpolation"].replace("random", "bilinear"),
        source=f"timm's data config of {name}",
    )


def _hf_folder(name: str) -> Path:
    folder = as_path(name, "model")
    if not (folder / HF_CONFIG).is_file():
        expected = (
            "hf:DIR, a folder that save_pretrained of transformers wrote (config.json, model.safetensors)"
        )
        raise argument_error("model", f"hf:{name}", expected)
    return folder


def _load_hf(source: ModelSource, trust_code: bool) -> nn.Module:
    transformers = import_extra("transformers", "transformers")
    folder = _hf_folder(source.rest)
    if source.options:
        raise argument_error("model_options", dict(source.options), f"none: {folder} says what it is")
    logs: Any = transformers.utils.logging
    shown = logs.is_progress_bar_enabled()
    logs.disable_progress_bar()
    try:
        model, report = transformers.AutoModelForImageClassification.from_pretrained(
            folder,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            # Pickled weights run code when they are read.
            use_safetensors=None if trust_code else True,
            # The fused kernels have no second derivative.
            attn_implementation="eager",
        )
    except Exception as error:  # a damaged file ends in nearly any error
        hint = "" if (folder / "model.safetensors").is_file() else f" Weights as a pickle: {TRUST_HINT}"
        raise RunError(
            f"hf:{folder} is no image classifier that transformers reads: {error}.{hint}"
        ) from error
    finally:
        if shown:
            logs.enable_progress_bar()
    wrong = {what: sorted(map(str, names)) for what, names in report.items() if names}
    if wrong:  # a body without its head, say, would get a random one
        told = "; ".join(f"{what} {', '.join(names[:4])}" for what, names in wrong.items())
        raise RunError(f"{folder} holds the weights of another model: {told}.")
    examined: nn.Module = model
    return examined.float()


def _fresh_hf(source: ModelSource) -> nn.Module:
    transformers = import_extra("transformers", "transformers")
    config = transformers.AutoConfig.from_pretrained(_hf_folder(source.rest), local_files_only=True)
    model: nn.Module = transformers.AutoModelForImageClassification.from_config(
        config, attn_implementation="eager"
    )
    return model.float()


# Pillow's numbers of the ways to resize, which processors keep.
_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def _hf_record(name: str) -> Preprocessing:
    transformers = import_extra("transformers", "transformers")
    folder = _hf_folder(name)
    if not (folder / "preprocessor_config.json").is_file():
        return Preprocessing(source="none: the folder has no preprocessor_config.json")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).to_dict()
        return _processor_record(processor)
    except Exception as error:  # a damaged file ends in nearly any error
        where = folder / "preprocessor_config.json"
        raise RunError(f"{where} says nothing that can be done here: {error}.") from error


def _processor_record(processor: Mapping[str, Any]) -> Preprocessing:
    """What a processor of transformers does; a UsageError for what is more than resize, cut, standardise."""
    scale = processor.get("rescale_factor", 1 / 255)
    if (
        not processor.get("do_rescale", True)
        or abs(scale * 255 - 1) > 1e-6
        or processor.get("rescale_offset")
    ):
        raise argument_error("rescale", scale, "images in [0, 1], a factor of 1/255 without an offset")
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    cuts = bool(processor.get("do_center_crop") and crop)
    shortest, share = size.get("shortest_edge"), processor.get("crop_pct")
    resize = shortest if cuts else None
    edge = crop.get("height") if cuts else size.get("height")
    if not cuts and shortest is not None:
        # ConvNeXt's cuts a share out of the middle below 384 pixels; others keep the shape of each image.
        if share is None:
            raise argument_error("size", dict(size), "images of one size: height and width, or a crop")
        edge, resize = shortest, int(shortest / share) if shortest < 384 else None
    wide = (crop if cuts else size).get("width", edge)
    resized = bool(processor.get("do_resize", True)) and edge is not None and wide is not None
    standardised = processor.get("do_normalize", True)
    return Preprocessing(
        tuple(processor["image_mean"]) if standardised else (),
        tuple(processor["image_std"]) if standardised else (),
        size=(int(edge), int(wide)) if edge is not None and wide is not None and resized else None,
        resize=resize if resized else None,
        interpolation=_PILLOW.get(int(processor["resample"]), "bilinear")
        if processor.get("resample") is not None
        else "bilinear",
        source="the folder's preprocessor_config.json",
    )


def _load_exported(source: ModelSource, trust_code: bool) -> nn.Module:
    path = as_path(source.rest, "model")
    if not trust_code:
        raise argument_error("model", source.spec, "a model that runs no foreign code", TRUST_HINT)
    if not path.is_file():
        raise argument_error("model", source.spec, "export:FILE, an archive of torch.export", "No such file.")
    if source.options:
        raise argument_error("model_options", dict(source.options), f"none: {path} says what it is")
    try:
        return _Exported(torch.export.load(path).module())
    except Exception as error:  # its reader fails in nearly any way on what is no archive
        raise RunError(
            f"{path} is no archive of torch.export.save ({type(error).__name__}: {error})."
        ) from error


class _Exported(nn.Module):
    """A program of torch.export, which has the mode that it was exported in and refuses `eval()`."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        for module in self.modules():
            module.training = False

    def train(self, mode: bool = True) -> Self:
        """Change nothing: the mode is part of the program."""
        del mode
        return self

    def forward(self, inputs: Tensor) -> Any:
        """What the program returns; a UsageError for a number of images that it does not take."""
        try:
            return self.program(inputs)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(
                f"the exported program does not take inputs of shape {tuple(inputs.shape)} ({error}). Export "
                "it for any number of images: dynamic_shapes=({0: torch.export.Dim('n')},)."
            ) from error
