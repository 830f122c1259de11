"""What a reproduction costs: counted passes of images through networks, times a short timing of one pass.

A pass is a forward and a backward pass of one image. What others cost beside it was measured for the paper's
CNN (docs/robust-attribution.md, "What a step costs"); other networks are taken to behave alike. Expect a
factor of two.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from statistics import median
from typing import Any, Final

import torch

from veridical.attacks.attribution import ROWS
from veridical.attacks.protocols import EvaluationSettings, Protocol, evaluation_settings, protocol
from veridical.data.registry import DATASETS
from veridical.jobs.pool import usable_cores
from veridical.models.registry import build, model_config
from veridical.runtime.options import TrainOptions
from veridical.studies.block_margin import BlockMargin
from veridical.studies.leakage import LeakageOptions
from veridical.studies.one_layer import OneLayer
from veridical.studies.reproductions import Part, Plan, Reproduction, ScaleName
from veridical.studies.shortcut import ShortcutStudyOptions
from veridical.training.penalties import supported_options
from veridical.training.recipes import Settings, resolve

# Of a gradient in the image alone, and of the gradient of a gradient, to a pass.
_INNER, _TWICE = 0.54, 1.2
# A process with torch and nothing else, in bytes.
_PROCESS: Final = 450 * 2**20
# Examples of a batch that is timed, fewer of large images.
_TIMED: Final = 32


@dataclass(frozen=True)
class Cost:
    """seconds: with all cores busy. memory: of one process, in bytes."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class _Images:
    """What is known of a data set before it is loaded."""

    name: str
    shape: tuple[int, ...]
    classes: int
    train: int
    test: int

    def describe(self) -> dict[str, Any]:
        """As a loaded data set describes itself, without a checksum."""
        sizes = {"train": self.train, "test": self.test, "num_classes": self.classes}
        return {"name": self.name, "shape": list(self.shape), **sizes, "checksum": "", "options": {}}


def estimate(plan: Plan, entry: Reproduction, scale: ScaleName) -> Cost:
    """What the steps of a plan cost on this machine's cores."""
    images = _images(entry.stand_in if scale == "smoke" else entry.data)
    units = [_time_pass(one.options, images.shape) for one in plan.trainings.values() if images is not None]
    units += [
        _time_pass(part.options, _grid_images(part, images).shape)
        for part in plan.parts
        if part.study in ("leakage", "shortcut")
    ]
    data = 0.0 if images is None else math.prod(images.shape) * (images.train + images.test)
    largest = max((unit.memory for unit in units), default=0.0)
    return Cost(sum(predict_steps(plan, entry, scale).values()), _PROCESS + data + largest)


def predict_steps(plan: Plan, entry: Reproduction, scale: ScaleName) -> dict[str, float]:
    """Seconds of every training and part by name, with all cores busy."""
    images, cores = _images(entry.stand_in if scale == "smoke" else entry.data), max(1, usable_cores())
    found, runs = {}, dict[str, Settings]()
    for name, one in plan.trainings.items():
        assert images is not None
        runs[name] = _settings(images, one.options, one.seed)
        found[name] = _training_passes(runs[name]) * _time_pass(one.options, images.shape).seconds / cores
    for part in plan.parts:
        found[part.name] = _PARTS[part.study](part, plan, runs, images) / cores
    return found


def _images(chosen: str | tuple[int, int]) -> _Images | None:
    if isinstance(chosen, tuple):
        channels, side = chosen
        return _Images("generated", (channels, side, side), 4, 160, 40)
    if not chosen:
        return None
    entry = DATASETS.get(chosen)
    return _Images(chosen, entry.shape, len(entry.classes), *entry.sizes)


def _settings(images: _Images, options: Mapping[str, Any], seed: int = 0) -> Settings:
    wanted = TrainOptions(out=".", seed=seed, **options)
    own: dict[str, Any] = dict(wanted.model_options)
    model = model_config(wanted.model, shape=images.shape, num_classes=images.classes, **own)
    return resolve(wanted, data=images.describe(), model=model, train_size=images.train)


def _training_passes(settings: Settings) -> float:
    """Passes of a whole training."""
    robust, examples = settings.robust, settings.optimise.steps * settings.optimise.batch_size
    if robust is None:
        return float(examples)
    each = 1.0
    nodes, inner_nodes = robust.nodes or 0, robust.inner_nodes or 0
    inner = inner_nodes * _TWICE if robust.inner_score == "size" and inner_nodes else _INNER
    each += (robust.inner_steps or 0) * inner
    share = 1.0 - (robust.beta_from or 0.0)
    return examples * (each + share * nodes * _TWICE)


def _attack_passes(plan: Protocol, settings: EvaluationSettings) -> float:
    """Passes to attack one image's prediction and explanation."""
    climbed, judged = plan.count_gradients(settings.steps)
    return climbed * _TWICE + (judged + settings.pgd_steps) * _INNER


def _attack_seconds(part: Part, plan: Plan, runs: Mapping[str, Settings], images: _Images | None) -> float:
    assert images is not None
    given = {name: part.options[name] for name in ("steps", "pgd_steps") if name in part.options}
    settings = evaluation_settings(images.name, images.shape, **given)
    (name,) = part.runs
    count = min(int(part.options["examples"]), images.test)
    passes = _attack_passes(protocol(part.options["protocol"]), settings) * count + images.test * 0.4
    return passes * _time_pass(plan.trainings[name].options, runs[name].data["shape"]).seconds


def _diffroar_seconds(part: Part, plan: Plan, runs: Mapping[str, Settings], images: _Images | None) -> float:
    """Retrainings; the baselines, which runs share, count for the first run of each network."""
    assert images is not None
    (name,) = part.runs
    options, settings = part.options, runs[name]
    first = next(
        one for one in plan.parts if one.study == "diffroar" and _model(one, plan) == _model(part, plan)
    )
    repeats = options["repeats"] + (1 if options.get("control", True) else 0)
    if part is first:
        repeats += options["repeats"] * len(options.get("baselines", ("random", "input-agnostic")))
    examples = min(options.get("train_examples", settings.train_examples), settings.train_examples)
    epochs = options.get("epochs", settings.epochs)
    # Beside each training its test images.
    each = epochs * examples + images.test * 0.4
    passes = 2 * len(options["levels"]) * repeats * each + images.train + images.test
    return float(passes * _time_pass(plan.trainings[name].options, settings.data["shape"]).seconds)


def _model(part: Part, plan: Plan) -> str:
    return str(plan.trainings[part.runs[0]].options["model"])


def _grid_images(part: Part, images: _Images | None) -> _Images:
    """What leakage and shortcut train on."""
    if part.study == "leakage":
        name = part.options.get("source", images and images.name)
        source = _images(str(name))
        assert source is not None
        channels, height, width = source.shape
        return replace(source, shape=(channels, 2 * height, width))
    assert images is not None
    return images


def _grid_seconds(part: Part, _plan: Plan, _runs: Mapping[str, Settings], images: _Images | None) -> float:
    """Trainings of a study that trains every objective itself, on two kinds of data."""
    kind: Any = LeakageOptions if part.study == "leakage" else ShortcutStudyOptions
    options, own = kind(out=".", **part.options), _grid_images(part, images)
    names = {one.name for one in fields(TrainOptions)} & {*part.options} - {"objective", "radius", "seed"}
    given = {name: part.options[name] for name in names}
    passes = 0.0
    for objective in options.objective:
        radius = (options.radius or [None])[0]
        chosen = {name: value for name, value in given.items() if name != "radius_warm_up"}
        robust = {"radius": radius, "radius_warm_up": given.get("radius_warm_up")}
        chosen |= supported_options(objective, {name: one for name, one in robust.items() if one is not None})
        chosen |= {"model": options.model, "objective": objective, "validation": 0}
        settings = _settings(own, chosen)
        explained = min(options.explained or own.test, own.test) * 4
        passes += (_training_passes(settings) + own.test + explained) * options.seeds * 2
    return (
        passes
        * _time_pass({"model": options.model, "model_options": options.model_options}, own.shape).seconds
    )


def _alignment_seconds(part: Part, plan: Plan, runs: Mapping[str, Settings], images: _Images | None) -> float:
    assert images is not None
    passes = min(1000, images.test) * (1 + 32)
    return sum(
        passes * _time_pass(plan.trainings[n].options, runs[n].data["shape"]).seconds for n in part.runs
    )


def _theory_seconds(part: Part, *_others: object) -> float:
    """What the study's own cases are predicted to take."""
    study: Any = OneLayer if part.study == OneLayer.name else BlockMargin
    return float(sum(case.cost for case in study(study.Options(out=".", **part.options)).cases()))


_PARTS: Final[Mapping[str, Callable[..., float]]] = {
    "attack": _attack_seconds,
    "diffroar": _diffroar_seconds,
    "leakage": _grid_seconds,
    "shortcut": _grid_seconds,
    "alignment": _alignment_seconds,
    "one-layer": _theory_seconds,
    "block-margin": _theory_seconds,
}


def _time_pass(options: Mapping[str, Any], shape: Iterable[int]) -> Cost:
    """Seconds of one image's pass through the network of these options, and bytes of the largest batch."""
    return _timed(
        str(options["model"]), json.dumps(options.get("model_options", {}), sort_keys=True), tuple(shape)
    )


@lru_cache(maxsize=64)
def _timed(name: str, model_options: str, shape: tuple[int, ...]) -> Cost:
    model = build(name, shape=shape, num_classes=10, seed=0, **json.loads(model_options)).eval()
    pixels, kept = math.prod(shape), [0]
    examples = max(2, min(_TIMED, _TIMED * 3072 // pixels))
    inputs = torch.full((examples, *shape), 0.5)

    def count(_module: object, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            kept[0] += output.numel() * output.element_size()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model(inputs).sum().backward()
    for hook in hooks:
        hook.remove()
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        model(inputs).logsumexp(1).sum().backward()
        seconds.append(time.perf_counter() - begun)
    # The second derivative keeps about three times what a forward pass leaves.
    rows = max(50, ROWS * 784 // max(784, pixels))
    return Cost(median(seconds) / examples, 3.0 * rows * kept[0] / examples)
