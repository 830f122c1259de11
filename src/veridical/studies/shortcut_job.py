"""One training on images with a planted shortcut as a job, and how far the model and its maps rely on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.attribution.classifier import parameter_like
from veridical.attribution.maps import batch_maps
from veridical.attribution.registry import create_attribution
from veridical.data.masked import MaskedDataset
from veridical.data.shortcut import ABSENT, shortcut_variants
from veridical.faithfulness.randomisation import predicted
from veridical.runtime.data_config import CodeName, ShortcutOptions, ShortcutTestName
from veridical.runtime.errors import RunError
from veridical.runtime.files import Arrays, pack_arrays, write_atomic
from veridical.studies.map_measures import joined, map_measures
from veridical.studies.shown_examples import first_of_each_class, scaled_saliency
from veridical.training.loop import train

RUN_JOB = "veridical.studies.shortcut_job:run"

TRAINED, ARRAYS = "run", "measured.npz"
"""What a job leaves in its folder: the run, and what was measured."""

VARIANTS: tuple[ShortcutTestName, ...] = ("agreeing", "moved", "gone")
"""The test images: the patch as in training, independent of the class, and not there."""

PICTURES = 10
"""Test images whose maps are kept, the first ones of each class."""


def run(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train on images with a shortcut, then test and explain with the patch there, elsewhere and gone.

    values: what `ShortcutPlan.job` makes. where: data_root, device and batch. Killed at any moment, it
    continues from its checkpoint. Leaves the run in TRAINED, and in ARRAYS `label` (N,),
    `correct/VARIANT` and `predicted/VARIANT` (N,), `follows` (N,), and for the first images the
    `map_measures` of every attribution as `maps/ATTRIBUTION/VARIANT/MEASURE`, with what `_pictures` gives.
    """
    root, device = where.get("data_root"), where.get("device", "auto")
    variants = planted(values["shortcut"], root)
    data = variants["gone"]
    if data.checksum != values["data"]["checksum"]:
        raise RunError(
            f"{data.source} holds other images than were planned with. Give all machines the same."
        )
    trained = train(
        data=data,
        out=str(folder / TRAINED),
        seed=values["seed"],
        device=device,
        progress=False,
        **values["training"],
    )
    arrays: Arrays = {"label": data.test.labels.numpy()}
    for variant, tested in variants.items():
        arrays[f"predicted/{variant}"] = predicted(trained.model, tested.test).numpy()
        arrays[f"correct/{variant}"] = arrays[f"predicted/{variant}"] == arrays["label"]
    arrays["follows"] = follows(arrays["predicted/moved"], variants["moved"], values["shortcut"]["code"])
    for name in values["attributions"]:
        arrays |= _explained(trained.model, variants, name, values, int(where.get("batch", "100")))
    arrays |= _pictures(trained.model, variants, values)
    write_atomic(folder / ARRAYS, pack_arrays(arrays))
    found, timing = trained.result["results"], trained.result["timing"]
    return {"adversarial_accuracy": found["adversarial_accuracy"], "timing": timing}


Planted = Mapping[ShortcutTestName, MaskedDataset]
"""One data set with each kind of test images."""


def planted(options: Mapping[str, Any], root: str | None) -> Planted:
    """The data set of some `ShortcutOptions` with each kind of test images; a process keeps the last one."""
    return _planted(json.dumps(dict(options), sort_keys=True), root)


@lru_cache(maxsize=1)
def _planted(options: str, root: str | None) -> Planted:
    return shortcut_variants(ShortcutOptions(**json.loads(options)), root)


def follows(predicted: NDArray[np.int64], moved: MaskedDataset, code: CodeName) -> NDArray[np.float64]:
    """1 where the prediction is what the moved patch stands for, else 0, (N,); NaN where that is the label.

    A place stands for its class, the patch's presence for a class of odd label, its absence for an even one.
    """
    place = moved.place("place", "test").numpy()
    hit = predicted == place if code == "place" else (predicted % 2 == 1) == (place != ABSENT)
    agrees = moved.place("agrees", "test").numpy() == 1
    return np.where(agrees, np.nan, hit.astype(np.float64))


def regions(variants: Planted, variant: ShortcutTestName) -> Tensor:
    """Where maps are measured, bool (N, H, W): on the patch, or where it was in agreement if it is gone."""
    return variants["agreeing" if variant == "gone" else variant].test_mask


def _maps(model: nn.Module, data: MaskedDataset, name: str, indices: range | list[int], seed: int) -> Tensor:
    """Attributions of the predicted class, float32 (n, C, H, W) on the CPU."""
    device = next(model.parameters()).device
    inputs, _ = data.test.batch(indices, parameter_like(model).dtype, device)
    return batch_maps(create_attribution(name, seed=seed), model, inputs, None, indices, seed).cpu().float()


def _explained(
    model: nn.Module,
    variants: Planted,
    name: str,
    values: Mapping[str, Any],
    batch: int,
) -> Arrays:
    """The measures of the maps of the first images, for every variant."""
    found: Arrays = {}
    seed, images = values["map_seed"], values["explained"]
    for variant, data in variants.items():
        parts = []
        for first in range(0, images, batch):
            numbers = range(first, min(first + batch, images))
            maps = _maps(model, data, name, numbers, seed)
            masks = regions(variants, variant)[numbers.start : numbers.stop]
            parts.append(map_measures(maps, masks, levels=values["levels"], seed=seed, indices=numbers))
        for measure, whole in joined(parts).items():
            found[f"maps/{name}/{variant}/{measure}"] = whole
    return found


def _pictures(model: nn.Module, variants: Planted, values: Mapping[str, Any]) -> Arrays:
    """What the page shows of the first images of each class.

    `index` (n,), and of every variant image/ uint8 (n, C, H, W), region/ bool (n, H, W) and, for every
    attribution, saliency/ATTRIBUTION/ float16 (n, H, W), each map divided by its maximum.
    """
    labels = variants["gone"].test.labels[: values["explained"]]
    index = first_of_each_class(labels, PICTURES)
    found: Arrays = {"index": np.asarray(index, dtype=np.int64)}
    for variant, data in variants.items():
        found[f"image/{variant}"] = data.test.images[index].numpy()
        found[f"region/{variant}"] = regions(variants, variant)[index].numpy()
        for name in values["attributions"]:
            maps = _maps(model, data, name, index, values["map_seed"])
            found[f"saliency/{name}/{variant}"] = scaled_saliency(maps)
    return found
