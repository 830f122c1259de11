"""The networks by name: what exists, with which options, and how to build one. Only `build` imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from veridical.runtime.checking import Limit, Pixel, Share, check_value, checked
from veridical.runtime.errors import argument_error, unknown_name_error
from veridical.runtime.registry import Registry, check_signature, load_factory, source_digest

if TYPE_CHECKING:
    from torch import nn

# What a factory is called with, beside its options.
_FORM = ("shape", "num_classes", "seed")
# Greatest of all numbers here: far from where float32 ends.
# Of an image in channels, rows or columns, or a number of classes.
Extent = Annotated[int, Limit(1, 10**5)]
_Scale = Annotated[float, Limit(1e-6, 1e6)]


@dataclass(frozen=True)
class Option:
    """One option of a network: its default, its meaning, and the annotation of what it takes.

    form: as `veridical.runtime.checking` reads it; a list has one number for each channel.
    """

    default: Any
    meaning: str
    form: Any


@dataclass(frozen=True)
class ModelEntry:
    """One network: what it is, what makes it, its options, and which sizes fit it.

    factory: called with shape (C, H, W), num_classes, seed and the options, all by name, it returns a module
    from inputs (N, C, H, W) in [0, 1] to logits (N, num_classes); "package.module:attribute" is imported
    late. divisor: height and width have to be multiples of it. options: None is any, checked by the factory.
    has_weights: what it makes is trained, so that it can be examined without a file of weights.
    """

    name: str
    summary: str
    factory: str | Callable[..., nn.Module]
    divisor: int = 1
    options: Mapping[str, Option] | None = field(default_factory=dict)
    has_weights: bool = False


def _normalisation(mean: float, std: float) -> dict[str, Option]:
    return {
        "mean": Option(mean, "subtracted from the [0, 1] input, inside the network", Pixel | list[Pixel]),
        "std": Option(std, "the difference is divided by it, inside the network", _Scale | list[_Scale]),
    }


_ACTIVATION = Option(
    "relu",
    "relu, silu or gelu; a number is the sharpness beta of a softplus, which tends to relu as it grows",
    Literal["relu", "silu", "gelu"] | Annotated[float, Limit(0.01, 1000)],
)

# The table of networks; iterating gives the names, and it needs no torch.
MODELS = Registry(
    "model",
    "veridical.models",
    ModelEntry,
    [
        ModelEntry(
            "cnn",
            "the RAR paper's network for 28x28: two 5x5 convolutions with max-pooling, 1024 hidden units",
            "veridical.models.networks:PaperCNN",
            divisor=4,
            options={
                **_normalisation(0.0, 1.0),
                "initialisation": Option(
                    "paper",
                    "weights as the paper's, by He et al., or paper-he, the paper's convolutions and biases "
                    "with dense layers by He; a number stands between, 0 for He and 1 for the paper",
                    Literal["paper", "he", "paper-he"] | Share,
                ),
                "activation": _ACTIVATION,
            },
        ),
        ModelEntry(
            "rar-resnet",
            "the RAR paper's pre-activation ResNet without batch norm, standardising each image inside",
            "veridical.models.networks:RARResNet",
            divisor=4,
            options={
                "units": Option(
                    2,
                    "residual units a stage (paper: 2 for 32x32, 1 for 128x128)",
                    Annotated[int, Limit(1, 100)],
                ),
                "width": Option(16, "filters of the first stage", Annotated[int, Limit(1, 512)]),
            },
        ),
        ModelEntry(
            "mlp",
            "two hidden layers",
            "veridical.models.networks:MLP",
            options={
                "width": Option(256, "units of each hidden layer", Annotated[int, Limit(1, 16_384)]),
                **_normalisation(0.5, 0.5),
                "activation": _ACTIVATION,
            },
        ),
        ModelEntry(
            "resnet18",
            "ResNet-18 with GroupNorm, by default with CIFAR's 3x3 stem",
            "veridical.models.networks:ResNet18",
            options={
                "width": Option(
                    64,
                    "channels of the first stage, doubled in each later one",
                    Annotated[int, Limit(1, 512)],
                ),
                "norm": Option("group", "normalisation layers", Literal["group", "none", "batch"]),
                "stem": Option("3x3", "7x7 has stride 2 and a max-pool", Literal["3x3", "7x7"]),
                **_normalisation(0.5, 0.5),
            },
        ),
    ],
    wrap=lambda name, factory: ModelEntry(name, "the caller's own", factory, options=None),
    named=_FORM,
    hint="A network of your own needs no name: every function takes any nn.Module.",
)


def build(
    name: str, *, shape: Sequence[int], num_classes: int, seed: int, trust_code: bool = False, **options: Any
) -> nn.Module:
    """Build the network `name` for inputs (N, *shape) in [0, 1], giving logits (N, num_classes).

    name: one of `MODELS`, or with trust_code "package.module:callable", see `ModelEntry.factory`. shape:
    (C, H, W). seed: the weights depend on nothing else, and the global random state is left alone. options:
    see the entry's options. The module is float32, on the CPU, in train mode.
    Raises UsageError for an unknown name, an unknown or impossible option, or sizes that do not fit.
    """
    config = model_config(name, shape=shape, num_classes=num_classes, trust_code=trust_code, **options)
    factory = load_factory(MODELS.get(name, trust_code=trust_code).factory)
    network: nn.Module = factory(
        shape=tuple(config["shape"]), num_classes=num_classes, seed=seed, **config["options"]
    )
    if not hasattr(network, "named_parameters"):
        raise argument_error("model", network, f"an nn.Module from {name}")
    return network


@checked()
def model_config(
    name: str, *, shape: Sequence[Extent], num_classes: Extent, trust_code: bool = False, **options: Any
) -> dict[str, Any]:
    """What `build` would build, as plain values for a run's record: name, shape, num_classes, all options.

    Defaults are filled in, so `build` of these gives the same architecture after a default has changed.
    "source" is the digest of the code of a "package.module:callable". Checks and errors are build's.
    """
    entry = MODELS.get(name, trust_code=trust_code)
    sizes = list(shape)
    if len(sizes) != 3:
        raise argument_error("shape", shape, "(channels, height, width), three integers of at least 1")
    if any(size % entry.divisor for size in sizes[1:]):
        free = ", ".join(other.name for other in MODELS.entries() if other.divisor == 1)
        expected = f"a height and width divisible by {entry.divisor} for model {name!r}"
        raise argument_error("shape", shape, expected, f"Pad or resize the images, or use {free} (any size).")
    # Whatever else the factory takes: it says so itself, by its signature.
    if entry.options is None:
        check_signature("model", name, load_factory(entry.factory), named=[*_FORM, *options])
        values = dict(options)
    else:
        values = _fill_options(entry.options, name, options, sizes[0])
    config = {"name": name, "shape": sizes, "num_classes": num_classes, "options": values}
    return config if ":" not in name else config | {"source": source_digest(entry.factory)}


def _fill_options(
    known: Mapping[str, Option], model: str, given: Mapping[str, Any], channels: int
) -> dict[str, Any]:
    """The defaults with the given values put in, each checked."""
    for key in given:
        if key not in known:
            possible = "; ".join(f"{name} ({option.meaning})" for name, option in known.items())
            raise unknown_name_error(f"option of model {model!r}", key, known, f"They are {possible}.")
    values: dict[str, Any] = {}
    for key, option in known.items():
        argument = f"option {key} of model {model!r}"
        value = check_value(argument, given.get(key, option.default), option.form)
        if isinstance(value, list) and len(value) not in (1, channels):
            raise argument_error(argument, value, f"a number, or one per channel ({channels} here)")
        # One form of each value, as 1.0 for 1, so that equal networks have equal records.
        if isinstance(value, list):
            value = [float(number) for number in value]
        elif isinstance(value, int) and not isinstance(option.default, int):
            value = float(value)
        values[key] = value
    return values
