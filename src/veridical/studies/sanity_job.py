"""The work of a sanity check as jobs: a training on randomised data, and maps compared with a run's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from veridical.attribution.maps import dataset_maps
from veridical.attribution.method import Attribution
from veridical.attribution.registry import create_attribution
from veridical.data import Dataset, Split
from veridical.faithfulness.invariance import compare_unrelated
from veridical.faithfulness.randomisation import (
    model_randomisation,
    permute_labels,
    predict_classes,
    replace_by_noise,
    shorten_training,
)
from veridical.faithfulness.retraining import train_fresh
from veridical.faithfulness.sources import load_source
from veridical.metrics.intervals import proportion_interval
from veridical.metrics.maps import pictures
from veridical.metrics.registry import compare_maps, measures
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError
from veridical.runtime.files import Arrays, pack_arrays, write_atomic
from veridical.studies.maps import first_of_each_class
from veridical.training.run import Run, build_recorded, load, weights_digest

TRAIN = "veridical.studies.sanity_job:train_on_random"
EXPLAIN = "veridical.studies.sanity_job:explain"

TRAINED, ARRAYS = "run", "compared.npz"
"""What the jobs leave in their folders: the run that was trained, and the comparisons."""


def randomised_data(data: Dataset, kind: str, examples: int, seed: int) -> Dataset:
    """The training data of one kind: "true", with permuted "labels", or with noise for "data"."""
    part = shorten_training(data, examples, seed)
    change = {"labels": permute_labels, "data": replace_by_noise}.get(kind)
    return part if change is None else change(part, seed)


def train_on_random(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train the run's architecture on randomised data; leaves the run in TRAINED.

    values: kind, data (the checksum of the true ones), examples, random_seed, model, training and seed.
    where: the data (see `sources`) and device. Returns {"training_accuracy", "test_accuracy"} as intervals.
    """
    true = load_source(where, values["data"]["checksum"])
    data = randomised_data(true, values["kind"], values["examples"], values["random_seed"])
    run = train_fresh(values, data, folder / TRAINED, where)
    right = predict_classes(run.model, data.train) == data.train.labels
    return {
        "training_accuracy": proportion_interval(int(right.sum()), len(right)),
        "test_accuracy": run.result["results"]["natural_accuracy"],
    }


def explain(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: compare a run's maps of some test images with those of one kind of other network.

    values: weights (the digest of the run's), data, attribution (a name) and method (its description),
    target, examples, seed, gallery, and against: {"kind": "unrelated"}, {"kind": "cascading" or
    "independent", "draw": seed of the fresh weights} or {"kind": "trained", "job": id}. where: run, the data,
    device, batch, trust_code, and trained (a folder). Leaves ARRAYS: similarities float64 (states, N) by
    measure, agrees bool (states, N), and pictures float16 (states, gallery, H, W).
    Returns {"states": [name, ...]}.
    """
    device = resolve_device(where.get("device", "auto"))
    run = load(where["run"], device=device)
    if weights_digest(run.folder) != values["weights"]:
        raise RunError(f"{run.folder} has other weights than were planned with. Repeat the command.")
    data = load_source(where, values["data"]["checksum"])
    split = data.test.subset(range(values["examples"]))
    method = create_attribution(
        values["attribution"], seed=values["seed"], trust_code=where.get("trust_code") == "yes"
    )
    seen = predict_classes(run.model, split)
    target = seen if values["target"] == "predicted" else split.labels
    asked = _Asked(run, split, method, target, values["seed"], int(where.get("batch", "100")))
    shown = first_of_each_class(split.labels, values["gallery"])
    states = asked.states(values["against"], where, shown)
    arrays: Arrays = {
        name: np.stack([state.similarity[name].cpu().numpy() for state in states])
        for name in measures("sanity")
    }
    arrays["agrees"] = np.stack([(state.predicted == seen).numpy() for state in states])
    arrays["pictures"] = np.stack([state.pictures for state in states])
    write_atomic(folder / ARRAYS, pack_arrays(arrays))
    return {"states": [state.name for state in states]}


class _State:
    """One other network (or map): its name, similarities by measure (N,), predictions, and some pictures."""

    def __init__(
        self, name: str, similarity: Mapping[str, Tensor], seen: Tensor, maps: Tensor, shown: list[int]
    ) -> None:
        self.name, self.similarity, self.predicted = name, similarity, seen
        self.pictures = pictures(maps[shown]).cpu().numpy().astype(np.float16)


class _Asked:
    """The run, its images, and how they are explained."""

    def __init__(
        self, run: Run, split: Split, method: Attribution, target: Tensor, seed: int, batch: int
    ) -> None:
        self.run, self.split, self.method, self.target = run, split, method, target
        self.seed, self.batch = seed, batch

    def states(self, against: Mapping[str, Any], where: Mapping[str, str], shown: list[int]) -> list[_State]:
        """What the run's maps are compared with."""
        model = self.run.model
        if against["kind"] in ("cascading", "independent"):
            return [
                _State(one.stage.name, one.similarity, one.predicted, one.maps, shown)
                for one in model_randomisation(
                    model,
                    self.split,
                    self.method,
                    order=against["kind"],
                    fresh=self._fresh,
                    target=self.target,
                    seed=against["draw"],
                    map_seed=self.seed,
                    batch_size=self.batch,
                )
            ]
        maps = self._maps(model)
        if against["kind"] == "unrelated":
            seen = predict_classes(model, self.split, self.batch)
            found = compare_unrelated(maps, self.target, self.seed)
            return [_State(name, similarity, seen, maps, shown) for name, similarity in found.items()]
        device = next(model.parameters()).device
        other = load(where["trained"], device=device).model
        others = self._maps(other)
        seen = predict_classes(other, self.split, self.batch)
        return [_State("trained", compare_maps(maps, others, "sanity"), seen, others, shown)]

    def _fresh(self, seed: int) -> torch.nn.Module:
        """A network of the run's architecture with the initial weights that the registry draws."""
        return build_recorded(self.run.settings.model, seed)

    def _maps(self, model: torch.nn.Module) -> Tensor:
        return dataset_maps(
            model, self.split, self.method, target=self.target, batch_size=self.batch, seed=self.seed
        )
