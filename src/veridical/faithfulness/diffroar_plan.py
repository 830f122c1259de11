"""What a DiffROAR measurement takes, resolved before anything is computed: retrainings, images, recipe."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from veridical.attribution.classifier import check_attribution
from veridical.attribution.method import Attribution
from veridical.attribution.registry import create_attribution, describe_attribution
from veridical.data import Dataset, load
from veridical.data.dataset import describe_source, take_first, write_source
from veridical.faithfulness.ranking import describe_maps
from veridical.faithfulness.retraining import hash_recipe, resolve_architecture, resolve_training
from veridical.faithfulness.unmasking import ENDS, Fill, Kept, Shown, resolve_fill, resolve_kept
from veridical.runtime.checking import as_path, record
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.options import (
    DiffRoarChoice,
    RetrainObjectiveName,
)
from veridical.training.checkpoint import digest_weights
from veridical.training.recipes import Settings
from veridical.training.run import Run, read_settings
from veridical.training.run import load as load_run
from veridical.training.subject import Subject

# Seeds of two measurements, s and s + 1, give their repeats seeds that are this far apart.
SEEDS_APART = 1000

RankingName = Literal["judged", "random", "input-agnostic"]


class Retraining(NamedTuple):
    """One model to train anew: on which unmasked instances, and from which seed."""

    ranking: RankingName
    shown: Shown
    kept: Kept
    seed: int


@dataclass(frozen=True, kw_only=True)
class Design(DiffRoarChoice):
    """What is measured, and the retrainings that this takes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels:
            raise argument_error("levels", self.levels, "shares of the coordinates, one or more")
        object.__setattr__(self, "levels", sorted(set(self.levels)))
        object.__setattr__(self, "baselines", list(dict.fromkeys(self.baselines)))

    @property
    def rankings(self) -> tuple[RankingName, ...]:
        """The attribution's and the baselines'."""
        return ("judged", *self.baselines)

    def describe(self) -> dict[str, Any]:
        """These choices alone, as plain values."""
        return {one.name: getattr(self, one.name) for one in fields(Design)}

    def repeated(self, ranking: RankingName, shown: Shown, kept: Kept) -> list[Retraining]:
        """The repeats on what is kept, by ascending seed; the control has its own number of them."""
        repeats = self.repeats if shown == "images" else self.control_repeats
        first = self.seed * SEEDS_APART
        return [Retraining(ranking, shown, kept, first + repeat) for repeat in range(repeats)]

    def check(self, coordinates: int) -> None:
        """Refuse levels of which two mean the same number of coordinates, or one means all of them."""
        counts = [resolve_kept(level, coordinates).count for level in self.levels]
        if len(set(counts)) < len(counts) or counts[-1] >= coordinates:
            expected = f"levels that differ in the number of coordinates out of {coordinates}, fewer than all"
            raise argument_error("levels", f"{self.levels}, which are {counts}", expected)

    def retrainings(self, coordinates: int) -> list[Retraining]:
        """All of them, each once, by curve and level."""
        self.check(coordinates)
        curves: list[tuple[RankingName, Shown]] = [(name, "images") for name in self.rankings]
        curves += [("judged", "masks")] if self.control else []
        wanted = [
            (*curve, resolve_kept(level, coordinates, end, self.mode))
            for curve in curves
            for level in self.levels
            for end in ENDS
        ]
        if self.roar:
            removed = (resolve_kept(level, coordinates, "top", "remove") for level in self.levels)
            wanted += [("judged", "images", kept) for kept in removed]
        # In mode "remove" ROAR's are among the others.
        return list(dict.fromkeys(one for what in wanted for one in self.repeated(*what)))


# What explains: a run, its folder, or a module from images in [0, 1] to logits.
Judged = Subject | Run | nn.Module | str | os.PathLike[str]

# Where the images of a caller's own data set go, inside the folder of the results.
ARRAYS = "data.npz"


@record
class Measurement:
    """One measurement, before anything is computed.

    model: the network that explains. weights: the SHA-256 of its weights. attribution: a method, or the file
    of maps that were computed before. architecture, training: what every retraining starts from and how it
    trains, as plain values. where: how jobs find the data, and on which device they run. loading_seconds:
    what it took to load the data, which every process does once.
    """

    model: nn.Module
    weights: str
    data: Dataset
    attribution: Attribution | Path
    design: Design
    fill: Fill
    architecture: Mapping[str, Any]
    training: Mapping[str, Any]
    where: Mapping[str, str]
    loading_seconds: float = 0.0

    @property
    def coordinates(self) -> int:
        """How many coordinates of an image are ranked."""
        channels, height, width = self.data.shape
        return height * width * (channels if self.design.per == "value" else 1)

    @property
    def retrainings(self) -> list[Retraining]:
        """All that are trained anew."""
        return self.design.retrainings(self.coordinates)

    @cached_property
    def ranked(self) -> Dataset:
        """The images that are ranked: all test images, and those that the retrainings train on."""
        return take_first(self.data, self.training["train_examples"])

    @property
    def chance(self) -> float:
        """The share of the largest class among the test images: what a model reaches that sees nothing."""
        labels = self.data.test.labels
        return float(labels.bincount().max()) / len(labels)

    def describe(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        judged = self.attribution
        return {
            "weights": self.weights,
            "data": self.data.describe(),
            "attribution": describe_maps(judged)
            if isinstance(judged, Path)
            else describe_attribution(judged),
            "measured": self.design.describe(),
            "fill": self.fill.describe(),
            "model": dict(self.architecture),
            "training": dict(self.training),
        }

    def values(self, retraining: Retraining, ranking: Mapping[str, Any]) -> dict[str, Any]:
        """The values of one retraining's job: all that its accuracy depends on. ranking: its description."""
        return {
            "data": {"checksum": self.data.checksum, "name": self.data.name},
            "ranking": dict(ranking),
            "kept": asdict(retraining.kept),
            "shown": retraining.shown,
            "fill": self.fill.describe() if retraining.shown == "images" else None,
            "model": dict(self.architecture),
            "training": dict(self.training),
            "recipe_source": hash_recipe(),
            "seed": retraining.seed,
        }

    def place_data(self, folder: Path) -> Measurement:
        """The same with its images where jobs find them: a data set in memory is written to the folder.

        Raises RunError if the folder holds other images under that name.
        """
        if "data" in self.where:
            return self
        where = write_source(self.data, folder / ARRAYS)
        stored = load(where["data"])
        for here, there in ((self.data.train, stored.train), (self.data.test, stored.test)):
            if not (torch.equal(here.images, there.images) and torch.equal(here.labels, there.labels)):
                raise RunError(f"{where['data']} holds other images than were given. Name another folder.")
        # Its own name stays, by which people know it; the checksum is that of what jobs will load.
        whole = replace(self.data, train=stored.train, test=stored.test, checksum=stored.checksum)
        return replace(self, data=whole, where={**self.where, **where})


def plan_diffroar(
    judged: Judged,
    data: Dataset | str | None,
    *,
    attribution: str | os.PathLike[str] | Attribution,
    design: Design,
    overrides: Mapping[str, Any],
    retrain_model: str | Run | None = None,
    retrain_model_options: Mapping[str, Any] | None = None,
    retrain_objective: RetrainObjectiveName = "natural",
    data_root: str | os.PathLike[str] | None = None,
    trust_code: bool = False,
    device: str = "auto",
) -> Measurement:
    """Load the run and its images and fill every gap; nothing is written.

    Arguments as in `diffroar`. Raises UsageError for what does not fit together.
    """
    if isinstance(judged, str | os.PathLike):
        judged = load_run(judged, device=resolve_device(device))
    run = judged if isinstance(judged, Run) else judged.run if isinstance(judged, Subject) else None
    model = judged.model if isinstance(judged, Subject | Run) else judged
    if not isinstance(model, nn.Module):
        raise argument_error("run_or_model", judged, "a run, its folder, or an nn.Module")
    start = time.perf_counter()
    root = None if data_root is None else os.fspath(data_root)
    # A subject's images are found by name.
    images = judged.data if isinstance(judged, Subject) else _load_images(run, data, root)
    # Where jobs find a data set in memory is known when `place_data` has written it.
    where = {} if isinstance(data, Dataset) else describe_source(images.name, root, images.options)
    # Masks, if there are any, are of no use here, and do not fit a part of the images.
    images = Dataset(**{field.name: getattr(images, field.name) for field in fields(Dataset)})
    loading = time.perf_counter() - start
    method = _resolve_attribution(attribution, design.seed, images, trust_code=trust_code)
    retrained = _read_retrained(retrain_model)
    recipe = retrained or (None if run is None else run.settings)
    named = retrain_model if isinstance(retrain_model, str) and retrained is None else None
    record = resolve_architecture(named, retrain_model_options or {}, images, recipe, trust_code=trust_code)
    where |= {"device": device} | ({"trust_code": "yes"} if trust_code else {})
    result = Measurement(
        model=model,
        weights=digest_weights(model),
        data=images,
        attribution=method,
        design=design,
        fill=resolve_fill(design.fill, images.train, design.seed, trust_code=trust_code),
        architecture=record,
        training=resolve_training(images, record, recipe, retrain_objective, overrides),
        where=where,
        loading_seconds=loading,
    )
    design.check(result.coordinates)
    return result


def _resolve_attribution(
    given: str | os.PathLike[str] | Attribution, seed: int, images: Dataset, *, trust_code: bool
) -> Attribution | Path:
    if isinstance(given, os.PathLike) or (isinstance(given, str) and given.endswith(".npz")):
        path = as_path(given, "attribution")
        if not path.is_file():
            raise argument_error("attribution", str(path), "an .npz file of maps", "There is no such file.")
        return path
    if isinstance(given, str):
        return create_attribution(given, seed=seed, trust_code=trust_code, background=images.train)
    check_attribution(given, create_graph=False)
    return given


def _read_retrained(model: str | Run | None) -> Settings | None:
    """The settings of what is retrained, if that is a run and not the name of an architecture."""
    if isinstance(model, Run):
        return model.settings
    is_run = model is not None and ":" not in model and (Path(model) / "claim.json").exists()
    return read_settings(Path(model)) if model is not None and is_run else None


def _load_images(run: Run | None, data: Dataset | str | None, root: str | None) -> Dataset:
    """The images that were given, or the run's; UsageError where they cannot be the run's."""
    if isinstance(data, Dataset):
        return data
    if run is not None:
        return run.data(root, name=data)
    if data is None:
        raise argument_error("data", data, "a data set or its name", "A module does not know its images.")
    return load(data, root)
