"""A stretch of the test images as a job: how much of a run's maps lies inside the known regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.maps import batch_maps
from veridical.attribution.registry import create_attribution
from veridical.faithfulness.sources import load_source
from veridical.metrics.maps import saliency
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError
from veridical.runtime.files import Arrays, pack_arrays, write_atomic
from veridical.studies.maps import joined, map_measures, regions_of
from veridical.training.run import load, weights_digest

MEASURE = "veridical.studies.alignment_job:measure"

ARRAYS = "measured.npz"
"""What a job leaves in its folder: the measures of its images, by name."""


def measure(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: explain some test images by one attribution of one run and compare the maps with the regions.

    values: weights (their digest), data (its checksum), attribution (its name), first, last,
    levels and seed. where: run, the data (see `sources`), device, batch and trust_code. Leaves ARRAYS: the
    measures of `map_measures`, predicted int64 (n,), correct bool (n,), and `average`, float64 (H, W), the
    sum of the maps after each was divided by its own sum.
    """
    device = resolve_device(where.get("device", "auto"))
    run = load(where["run"], device=device)
    if weights_digest(run.folder) != values["weights"]:
        raise RunError(f"{run.folder} has other weights than were planned with. Repeat the command.")
    data = load_source(where, values["data"]["checksum"])
    regions = regions_of(data)[values["first"] : values["last"]]
    trusted = where.get("trust_code") == "yes"
    method = create_attribution(values["attribution"], seed=values["seed"], trust_code=trusted)
    dtype, batch = parameter_like(run.model).dtype, int(where.get("batch", "100"))
    parts: list[Arrays] = []
    average = np.zeros(regions.shape[1:], dtype=np.float64)
    for start in range(values["first"], values["last"], batch):
        numbers = range(start, min(start + batch, values["last"]))
        inputs, target = data.test.batch(numbers, dtype, device)
        predicted = predict(run.model, inputs).argmax(1)
        maps = batch_maps(method, run.model, inputs, predicted, numbers, values["seed"]).cpu().float()
        masks = regions[start - values["first"] :][: len(numbers)]
        found = map_measures(maps, masks, levels=values["levels"], seed=values["seed"], indices=numbers)
        found |= {"predicted": predicted.cpu().numpy(), "correct": (predicted == target).cpu().numpy()}
        parts.append(found)
        average += _normalised(maps).sum(0).numpy()
    write_atomic(folder / ARRAYS, pack_arrays(joined(parts) | {"average": average}))
    return {"examples": len(regions)}


def _normalised(maps: torch.Tensor) -> torch.Tensor:
    """Each map's |values| summed over channels and divided by their sum, float64; a zero map stays zero."""
    whole = saliency(maps.double())
    total = whole.sum(dim=(1, 2), keepdim=True)
    return whole / torch.where(total == 0, torch.ones_like(total), total)
