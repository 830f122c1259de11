"""The networks by name: what exists, with which options, and how to build one. Only build() imports torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from veridical.runtime.checking import checked
from veridical.runtime.errors import argument_error, unknown_name_error

if TYPE_CHECKING:
    from torch import nn


_GREATEST = 1e6
"""Of all numbers here: far from where float32 ends."""


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

    @property
    def per_channel(self) -> bool:
        """Whether a list with one number per channel is possible."""
        return self.kind in ("channels", "scale")

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
            return _is_count(value) and value <= self.most
        if self.kind == "choice" or (self.kind == "blend" and isinstance(value, str)):
            return value in self.choices
        if self.kind == "blend":
            return _is_number(value) and 0 <= value <= 1
        numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if len(numbers) not in (1, channels):
            return False
        if not all(map(_is_number, numbers)):
            return False
        return self.kind == "channels" or all(n >= 1 / _GREATEST for n in numbers)


@dataclass(frozen=True)
class ModelEntry:
    """One network of the registry: where its class lives, what it is, its options, and which sizes fit it."""

    name: str
    summary: str
    module: str
    class_name: str
    divisor: int = 1
    options: Mapping[str, Option] = field(default_factory=dict)


def _normalisation(mean: float, std: float) -> dict[str, Option]:
    return {
        "mean": Option(mean, "subtracted from the [0, 1] input, inside the network", "channels"),
        "std": Option(std, "the difference is divided by it, inside the network", "scale"),
    }


_ENTRIES = (
    ModelEntry(
        "cnn",
        "the RAR paper's network for 28x28: two 5x5 convolutions with max-pooling, 1024 hidden units",
        "veridical.models.cnn",
        "PaperCNN",
        divisor=4,
        options={
            **_normalisation(0.0, 1.0),
            "initialisation": Option(
                "paper",
                "weights as the paper's, by He et al., or paper-he, the paper's convolutions and biases with "
                "dense layers by He; a number stands between, 0 for He and 1 for the paper",
                "blend",
                ("paper", "he", "paper-he"),
            ),
        },
    ),
    ModelEntry(
        "rar-resnet",
        "the RAR paper's pre-activation ResNet without batch norm, standardising each image inside",
        "veridical.models.rar_resnet",
        "RARResNet",
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
        "veridical.models.mlp",
        "MLP",
        options={
            "width": Option(256, "units of each hidden layer", "count", most=16_384),
            **_normalisation(0.5, 0.5),
        },
    ),
    ModelEntry(
        "resnet18",
        "CIFAR-style ResNet-18 (3x3 stem, no max-pooling) with GroupNorm",
        "veridical.models.resnet18",
        "ResNet18",
        options={
            "width": Option(64, "channels of the first stage, doubled in each later one", "count", most=512),
            "norm": Option("group", "normalisation layers", "choice", ("group", "none", "batch")),
            **_normalisation(0.5, 0.5),
        },
    ),
)

MODELS: Mapping[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}
"""The table of names; iterating gives the names, and it needs no torch."""


def build(name: str, *, shape: Sequence[int], num_classes: int, seed: int, **options: Any) -> "nn.Module":
    """Build the network `name` for inputs (N, *shape) in [0, 1], giving logits (N, num_classes).

    shape: (C, H, W). seed: the weights depend on nothing else, and the global random state is left alone.
    options: see MODELS[name].options. The module is float32, on the CPU, in train mode.
    Raises UsageError for an unknown name, an unknown or impossible option, or sizes that do not fit.
    """
    config = model_config(name, shape=shape, num_classes=num_classes, **options)
    entry = MODELS[name]
    network: nn.Module = getattr(import_module(entry.module), entry.class_name)(
        shape=tuple(config["shape"]), num_classes=num_classes, seed=seed, **config["options"]
    )
    return network


@checked()
def model_config(name: str, *, shape: Sequence[int], num_classes: int, **options: Any) -> dict[str, Any]:
    """What `build` would build, as plain values for a run's record: name, shape, num_classes, all options.

    Defaults are filled in, so `build(c["name"], shape=c["shape"], num_classes=c["num_classes"], seed=0,
    **c["options"])` gives the same architecture after a default has changed. Checks and errors are build's.
    """
    if name not in MODELS:
        hint = "A network of your own needs no name: every function takes any nn.Module."
        raise unknown_name_error("model", name, MODELS, hint)
    entry = MODELS[name]
    sizes = _shape(entry, shape)
    return {
        "name": name,
        "shape": sizes,
        "num_classes": num_classes,
        "options": _options(entry, options, channels=sizes[0]),
    }


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _GREATEST


def _shape(entry: ModelEntry, shape: Sequence[int]) -> list[int]:
    sizes = list(shape)
    if len(sizes) != 3:
        raise argument_error("shape", shape, "(channels, height, width), three integers of at least 1")
    if sizes[1] % entry.divisor or sizes[2] % entry.divisor:
        free = ", ".join(other.name for other in MODELS.values() if other.divisor == 1)
        expected = f"a height and width divisible by {entry.divisor} for model {entry.name!r}"
        raise argument_error("shape", shape, expected, f"Pad or resize the images, or use {free} (any size).")
    return sizes


def _options(entry: ModelEntry, given: Mapping[str, Any], *, channels: int) -> dict[str, Any]:
    """The entry's defaults with the given values put in, each checked."""
    for key in given:
        if key not in entry.options:
            possible = "; ".join(f"{known} ({option.describe()})" for known, option in entry.options.items())
            raise unknown_name_error(
                f"option of model {entry.name!r}", key, entry.options, f"They are {possible}."
            )
    values = {key: given.get(key, option.default) for key, option in entry.options.items()}
    for key, value in values.items():
        option = entry.options[key]
        if not option.accepts(value, channels):
            expected = f"{option.describe()} ({channels} here)" if option.per_channel else option.describe()
            raise argument_error(f"option {key} of model {entry.name!r}", value, expected)
        if option.per_channel and isinstance(value, Sequence):
            values[key] = [float(number) for number in value]
        if option.kind == "blend" and not isinstance(value, str):
            values[key] = float(value)  # so that 1 and 1.0 are one record
    return values
