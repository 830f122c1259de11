"""The networks by name: what exists, with which options, and how to build one. Only `build` imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from veridical.runtime.checking import Limit, checked
from veridical.runtime.errors import argument_error, unknown_name_error
from veridical.runtime.registry import Registry, load_factory
from veridical.runtime.trusted_import import check_signature, source_digest

if TYPE_CHECKING:
    from torch import nn

# What a factory is called with, beside its options.
_FORM = ("shape", "num_classes", "seed")
# Greatest of all numbers here: far from where float32 ends.
Extent = Annotated[int, Limit(1, 10**5)]
"""Of an image in channels, rows or columns, or a number of classes."""
_GREATEST = 1e6


@dataclass(frozen=True)
class Option:
    """One option of a network: its default, what it means, and which values are possible.

    kind is "count" (an integer from 1 to `most`), "choice" (one of choices), "blend" (one of choices, or a
    number from 0 to 1), "channels" (a number, or one per channel) or "scale" (the same, positive).
    """

    default: Any
    meaning: str
    kind: str
    choices: tuple[str, ...] = ()
    most: int = 1

    def describe(self) -> str:
        """The possible values, in words, for messages and help texts."""
        return {
            "count": f"an integer from 1 to {self.most:,}",
            "choice": "one of " + ", ".join(self.choices),
            "blend": "one of " + ", ".join(self.choices) + ", or a number from 0 to 1",
            "channels": "a number up to a million, or one per channel",
            "scale": "a number from a millionth to a million, or one per channel",
        }[self.kind]

    def accepts(self, value: Any, channels: int) -> bool:
        """Whether `value` is possible for this option on images of `channels` channels."""
        if self.kind == "count":
            return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= self.most
        if self.kind == "choice" or (self.kind == "blend" and isinstance(value, str)):
            return value in self.choices
        if self.kind == "blend":
            return _is_number(value) and 0 <= value <= 1
        numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if len(numbers) not in (1, channels) or not all(map(_is_number, numbers)):
            return False
        return self.kind == "channels" or min(numbers) >= 1 / _GREATEST


@dataclass(frozen=True)
class ModelEntry:
    """One network: what it is, what makes it, its options, and which sizes fit it.

    factory: called with shape (C, H, W), num_classes, seed and the options, all by name, it returns a module
    from inputs (N, C, H, W) in [0, 1] to logits (N, num_classes); "package.module:attribute" is imported
    late. divisor: height and width have to be multiples of it. options: None is any, checked by the factory.
    """

    name: str
    summary: str
    factory: str | Callable[..., nn.Module]
    divisor: int = 1
    options: Mapping[str, Option] | None = field(default_factory=dict)


def _normalisation(mean: float, std: float) -> dict[str, Option]:
    return {
        "mean": Option(mean, "subtracted from the [0, 1] input, inside the network", "channels"),
        "std": Option(std, "the difference is divided by it, inside the network", "scale"),
    }


INITIALISATION = Option(
    "paper",
    "weights as the paper's, by He et al., or paper-he, the paper's convolutions and biases with dense "
    "layers by He; a number stands between, 0 for He and 1 for the paper",
    "blend",
    ("paper", "he", "paper-he"),
)

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
            options={**_normalisation(0.0, 1.0), "initialisation": INITIALISATION},
        ),
        ModelEntry(
            "rar-resnet",
            "the RAR paper's pre-activation ResNet without batch norm, standardising each image inside",
            "veridical.models.resnets:RARResNet",
            divisor=4,
            options={
                "units": Option(
                    2, "residual units a stage (paper: 2 for 32x32, 1 for 128x128)", "count", most=100
                )
            },
        ),
        ModelEntry(
            "mlp",
            "two hidden layers with ReLU",
            "veridical.models.networks:MLP",
            options={
                "width": Option(256, "units of each hidden layer", "count", most=16_384),
                **_normalisation(0.5, 0.5),
            },
        ),
        ModelEntry(
            "resnet18",
            "CIFAR-style ResNet-18 (3x3 stem, no max-pooling) with GroupNorm",
            "veridical.models.resnets:ResNet18",
            options={
                "width": Option(
                    64, "channels of the first stage, doubled in each later one", "count", most=512
                ),
                "norm": Option("group", "normalisation layers", "choice", ("group", "none", "batch")),
                **_normalisation(0.5, 0.5),
            },
        ),
    ],
    wrap=lambda name, factory: ModelEntry(name, "the caller's own", factory, options=None),
    named=_FORM,
    hint="A network of your own needs no name: every function takes any nn.Module.",
)
"""The table of networks; iterating gives the names, and it needs no torch."""


def build(
    name: str,
    *,
    shape: Sequence[int],
    num_classes: int,
    seed: int,
    trust_code: bool = False,
    **options: Any,
) -> nn.Module:
    """Build the network `name` for inputs (N, *shape) in [0, 1], giving logits (N, num_classes).

    name: one of `MODELS`, or with trust_code "package.module:callable", see `ModelEntry.factory`. shape:
    (C, H, W). seed: the weights depend on nothing else, and the global random state is left alone. options:
    see the entry's options. The module is float32, on the CPU, in train mode.
    Raises UsageError for an unknown name, an unknown or impossible option, or sizes that do not fit.
    """
    config = model_config(name, shape=shape, num_classes=num_classes, trust_code=trust_code, **options)
    factory = load_factory(MODELS.get(name, trust_code=trust_code).factory)
    network = factory(shape=tuple(config["shape"]), num_classes=num_classes, seed=seed, **config["options"])
    if not hasattr(network, "named_parameters"):
        raise argument_error("model", network, f"an nn.Module from {name}")
    built: nn.Module = network
    return built


@checked()
def model_config(
    name: str, *, shape: Sequence[Extent], num_classes: Extent, trust_code: bool = False, **options: Any
) -> dict[str, Any]:
    """What `build` would build, as plain values for a run's record: name, shape, num_classes, all options.

    Defaults are filled in, so `build(c["name"], shape=c["shape"], num_classes=c["num_classes"], seed=0,
    **c["options"])` gives the same architecture after a default has changed. "source" is the digest of the
    code of a "package.module:callable". Checks and errors are build's.
    """
    entry = MODELS.get(name, trust_code=trust_code)
    sizes = list(shape)
    if len(sizes) != 3:
        raise argument_error("shape", shape, "(channels, height, width), three integers of at least 1")
    if sizes[1] % entry.divisor or sizes[2] % entry.divisor:
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _GREATEST


def _fill_options(
    known: Mapping[str, Option], model: str, given: Mapping[str, Any], channels: int
) -> dict[str, Any]:
    """The defaults with the given values put in, each checked."""
    for key in given:
        if key not in known:
            possible = "; ".join(f"{name} ({option.describe()})" for name, option in known.items())
            raise unknown_name_error(f"option of model {model!r}", key, known, f"They are {possible}.")
    values: dict[str, Any] = {}
    for key, option in known.items():
        value = given.get(key, option.default)
        per_channel = option.kind in ("channels", "scale")
        if not option.accepts(value, channels):
            expected = option.describe() + f" ({channels} here)" * per_channel
            raise argument_error(f"option {key} of model {model!r}", value, expected)
        if per_channel and isinstance(value, Sequence):
            value = [float(number) for number in value]
        if option.kind == "blend" and not isinstance(value, str):
            value = float(value)  # so that 1 and 1.0 are one record
        values[key] = value
    return values
