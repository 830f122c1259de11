"""A trained model: how its folder is read again, and how good the model is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from veridical.attacks.ascent import pgd
from veridical.attacks.ball import Ball
from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.method import predict_classes
from veridical.data import DATASETS, Dataset, Split
from veridical.data import load as load_data
from veridical.data.arrays import held_out
from veridical.data.dataset import without_masks
from veridical.metrics.intervals import Interval, proportion_interval
from veridical.models.external import ModelSource, build_examined
from veridical.runtime.checking import as_path, checked, record
from veridical.runtime.devices import fast_layout, resolve_device
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.files import CLAIM, Frame, read_bytes, read_claim, read_json, result_schema
from veridical.runtime.guards import private_copy
from veridical.runtime.seeds import stream
from veridical.training.checkpoint import check_finite, copy_tensors, unpack, weights
from veridical.training.log import read_log
from veridical.training.recipes import Settings

MODEL, RESULT = "model.safetensors", "result.json"
KIND = "train"
# Name in the settings of a model that a caller brought.
OWN = "own"
_ANEW = "Train the run again in a new folder."

# Images whose predictions are attacked in validation, the first of the split, and the attack's steps.
_ATTACKED, ATTACK_STEPS = 200, 10


class _Results(TypedDict):
    natural_accuracy: Interval
    adversarial_accuracy: Interval | None
    adversarial_attack: _Attack | None


class _Attack(TypedDict):
    norm: str
    radius: float
    steps: int


class _Timing(TypedDict):
    training_seconds: float
    examples_per_second: float


class _Result(Frame):
    """A training's result.json, as far as it is read again."""

    config: dict[str, Any]
    results: _Results
    timing: _Timing  # type: ignore[misc]


def run_schema() -> dict[str, Any]:
    """The JSON Schema of a run's result.json."""
    return result_schema("train", _Result)


@record
class Run:
    """A finished training.

    model: with the weights that are delivered (averaged, if the run averages), in eval mode. settings: all
    that decided them. history: one mapping per epoch, from log.jsonl. result: the content of result.json.
    """

    folder: Path
    model: nn.Module
    settings: Settings
    history: tuple[Mapping[str, Any], ...]
    result: Mapping[str, Any]

    def data(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        equalise: bool | None = None,
        download: bool = False,
        masks: str | os.PathLike[str] | None = None,
        trust_code: bool = False,
    ) -> Dataset:
        """Load the data set of the run again, or that of a name, equalised as its own was unless it is said.

        masks: as in `veridical.data.load`. A RunError if its own images are not those it was trained on; a
        UsageError for images of another shape or number of classes.
        """
        recorded = self.settings.data
        is_own = equalise is None and name in (None, recorded["name"])
        if equalise is None:
            equalise = bool(recorded["options"].get("equalise", False))
        name = name or recorded["name"]
        given: dict[str, Any] = {"download": download, "equalise": equalise, "trust_code": trust_code}
        data = load_data(name, root, masks=masks, **given | _resized(name, recorded))
        if is_own and not self.is_own(data):
            raise RunError(
                f"the data {name} from {data.source} are not those of {self.folder}: their "
                f"checksum is {data.checksum}, and the run recorded {recorded['checksum']}."
            )
        there = f"images {list(recorded['shape'])} of {recorded['num_classes']} classes"
        here = f"images {list(data.shape)} of {data.num_classes} classes"
        if here != there:
            raise UsageError(
                f"{self.folder} was trained on {recorded['name']}, {there}; {data.name} has {here}. "
                "Leave --data out, or name another."
            )
        return data

    def is_own(self, data: Dataset) -> bool:
        """Whether these are the images of the training, whatever is known of masks."""
        return self.settings.data["checksum"] in (data.checksum, without_masks(data).checksum)

    def validation_images(self, data: Dataset) -> Split:
        """The images of the training split that were held out; a UsageError if there were none."""
        _, held, _ = split_data(data.train, self.settings)
        if held is None:
            raise UsageError(f"{self.folder} was trained with validation=0: no images were held out.")
        return held


@checked("device")
def load(
    folder: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    device: str | torch.device = "cpu",
    trust_code: bool = False,
) -> Run:
    """Read a finished run.

    model: the architecture, for a run that was trained with a module of the caller's own; it is copied, and
    the copy gets the weights. trust_code: allow a network that is a module:callable. Raises RunError for a
    folder that is no run, is unfinished or does not fit.
    """
    path = as_path(folder, "run")
    if not isinstance(model, nn.Module | None):
        raise argument_error("model", model, "a torch.nn.Module of the run's architecture, or None")
    settings = read_settings(path)
    if not (path / RESULT).exists():
        raise RunError(f"{path} is not finished. Repeat the command that began it.")
    result = read_json(path / RESULT, _Result, hint=_ANEW)
    network = _architecture(path, settings, trust_code) if model is None else private_copy(model)
    # Before the weights are copied in, as in training: the layout then stays, and with it the last bits.
    network = network.to(resolve_device(str(device))).to(memory_format=fast_layout(network))
    source = path / MODEL
    content = read_bytes(source, hint=_ANEW, sha256=result["files"].get(MODEL, ""))
    copy_tensors(source, unpack(content, source, _ANEW), weights(network))
    check_finite(network, source, _ANEW)
    history = tuple(line for line in read_log(path) if line.get("kind") == "epoch")
    return Run(path, network.eval(), settings, history, result)


def read_settings(folder: Path) -> Settings:
    """The settings that a folder was claimed for; a RunError if no training claimed it."""
    hint = "Name the --out of a finished `veridical train`."
    if not (folder / CLAIM).exists():
        missing = f"it has no {CLAIM}" if folder.exists() else "there is no such folder"
        raise RunError(f"{folder} is not the folder of a run: {missing}. {hint}")
    claim = read_claim(folder)
    if claim["kind"] != KIND:
        found = f"the results of `veridical {claim['kind']}`"
        raise RunError(f"{folder} holds {found}, not of a training. {hint}")
    return Settings.from_dict(claim["config"], folder / CLAIM)


def _resized(name: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """How files of images are brought to the run's size, as options of `load`."""
    there, own = recorded["options"], name == recorded["name"]
    if name in DATASETS:
        size = there.get("size") if own else None
        return {} if size in (None, DATASETS.get(name).shape[1]) else {"size": size}
    if not as_path(name, "data").is_dir():
        return {}
    names = ("size", "crop_from", "interpolation", *(["split_seed"] if own else []))
    return {option: there[option] for option in names if option in there}


def split_data(split: Split, settings: Settings) -> tuple[Split, Split | None, Tensor]:
    """The training images of a run, its validation images (None if none), and the former's old numbers."""
    kept, held = list(range(len(split))), None
    if settings.validation:
        kept, out = held_out(len(split), settings.validation, settings.seed, "validation")
        held = split.subset(out)
    indices = torch.tensor(kept[: settings.train_examples], dtype=torch.int64)
    return split.subset(indices), held, indices


def build_recorded(
    record: Mapping[str, Any], seed: int, *, folder: Path = Path(), trust_code: bool = False
) -> nn.Module:
    """Build the network that a record describes, of a run in a folder, with the initial weights of a seed."""
    return build_examined(
        ModelSource.from_record(record, folder),
        shape=record["shape"],
        num_classes=record["num_classes"],
        trust_code=trust_code,
        seed=seed,
        fresh=True,
    )


def measure_accuracies(model: nn.Module, split: Split, ball: Ball | None, *, seed: int) -> dict[str, Any]:
    """natural_accuracy on all images and adversarial_accuracy on the first 200, with 95% intervals.

    ball: where predictions are attacked, from one random start in ten steps; None leaves adversarial_accuracy
    None. The attack's noise depends on the seed alone, so that epochs can be compared.
    """
    correct = int((predict_classes(model, split) == split.labels).sum())
    result = {"natural_accuracy": proportion_interval(correct, len(split)), "adversarial_accuracy": None}
    if ball is not None:
        attacked, held = min(_ATTACKED, len(split)), 0
        if attacked:
            like = parameter_like(model)
            inputs, target = split.batch(range(attacked), like.dtype, like.device)
            moved = pgd(model, inputs, target, ball, steps=ATTACK_STEPS, generator=stream(seed, "validation"))
            held = int((predict(model, moved).argmax(1) == target).sum())
        result["adversarial_accuracy"] = proportion_interval(held, attacked)
    return result


def _architecture(folder: Path, settings: Settings, trust_code: bool) -> nn.Module:
    record = settings.model
    if record["name"] == OWN:
        raise UsageError(
            f"{folder} was trained with a module of its own, {record['options']['class']}. "
            "Give one of that architecture: load(folder, model=...)."
        )
    try:
        return build_recorded(record, settings.seed, folder=folder, trust_code=trust_code)
    except UsageError as error:
        if ":" in record["name"]:  # code that is not trusted, or that cannot be imported here
            raise
        raise RunError(f"{folder / CLAIM} is damaged: {error} {_ANEW}") from error
