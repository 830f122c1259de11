"""The ranking of a whole data set: attributions batch by batch, or maps that somebody computed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from veridical.attribution.classifier import parameter_like
from veridical.attribution.maps import batch_maps
from veridical.attribution.method import Attribution
from veridical.attribution.registry import describe_attribution
from veridical.data import Dataset, Split
from veridical.data.arrays import corrupt_file_error
from veridical.faithfulness.ranking import Part, Ranking, Ranks, importances, rank
from veridical.faithfulness.stored import headers, read_array
from veridical.faithfulness.unmasking import first_images
from veridical.runtime.errors import argument_error
from veridical.runtime.options import OrderName, PerName, TargetName, TiesName

ProgressCallback = Callable[[int, int], object]
"""(images done, images in total)."""

Maps = Callable[[Part, range], Tensor]
"""Attributions (n, C, H, W) of a stretch of one part's images."""


def rank_dataset(
    model: nn.Module,
    data: Dataset,
    attribution: Attribution,
    *,
    order: OrderName = "absolute",
    per: PerName = "value",
    ties: TiesName = "random",
    target: TargetName = "predicted",
    seed: int = 0,
    batch: int = 200,
    record: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank the coordinates of every training and test image by an attribution of the model's output.

    target: explain the predicted class, or the label; the latter's masks know the label, in testing too.
    order, per, ties, seed: see `rank`. batch: images at a time, which changes nothing beyond rounding. The
    record holds the attribution, these choices, what `record` adds, and the share of importances that are
    exactly zero, whose order is the ties'.
    """
    if target not in ("predicted", "label"):
        raise argument_error("target", target, "predicted or label")
    dtype = parameter_like(model).dtype
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def maps(part: Part, numbers: range) -> Tensor:
        split = _split(data, part)
        inputs, labels = split.batch(numbers, dtype, device)
        return batch_maps(attribution, model, inputs, labels if target == "label" else None, numbers, seed)

    made = {"attribution": describe_attribution(attribution), "target": target, **(record or {})}
    return ranking_from(
        maps, data, made, order=order, per=per, ties=ties, seed=seed, batch=batch, progress=progress
    )


def rank_maps(
    path: Path,
    data: Dataset,
    *,
    order: OrderName = "absolute",
    per: PerName = "value",
    ties: TiesName = "random",
    seed: int = 0,
    batch: int = 1000,
    train: int | None = None,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank by attributions in an .npz file: attribution_train and attribution_test, floating (N, C, H, W).

    (N, H, W) will do for images of one channel, or with per="pixel". train: rank only so many training
    images; the file has all. Raises DataError for a file that does not fit the data set.
    """
    arrays: dict[Part, np.ndarray[Any, Any]] = {}
    shapes = headers(path)
    for part in ("train", "test"):
        name = f"attribution_{part}"
        # Without the member read_array says what is there.
        ndim = len(shapes[name].shape) if name in shapes and len(shapes[name].shape) == 3 else 4
        arrays[part] = array = read_array(path, name, kinds="f", ndim=ndim)
        channels = 1 if per == "pixel" and ndim == 3 else data.shape[0]
        wanted = (len(_split(data, part)), channels, *data.shape[1:])
        if (
            array.size != np.prod(wanted, dtype=object)
            or array.shape[-2:] != wanted[-2:]
            or len(array) != wanted[0]
        ):
            raise corrupt_file_error(
                f"{path}, {name}", f"shape {array.shape}", f"{wanted}, for the {part} images of {data.name}"
            )

    def maps(part: Part, numbers: range) -> Tensor:
        chosen = np.array(arrays[part][numbers.start : numbers.stop])
        whole = torch.from_numpy(chosen.astype(chosen.dtype.newbyteorder("="), copy=False))
        return whole[:, None] if whole.ndim == 3 else whole

    made = {"attribution": {"method": "maps", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}
    used = data if train is None else first_images(data, train)
    return ranking_from(
        maps, used, made, order=order, per=per, ties=ties, seed=seed, batch=batch, progress=progress
    )


def ranking_from(
    maps: Maps,
    data: Dataset,
    record: Mapping[str, Any],
    *,
    order: OrderName,
    per: PerName,
    ties: TiesName,
    seed: int,
    batch: int,
    purpose: str = "ties",
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank what `maps` gives, stretch by stretch, and record how, and the share of exact zeros."""
    if batch < 1:
        raise argument_error("batch", batch, "a number of at least 1")
    total, done, zeros, values = len(data.train) + len(data.test), 0, 0, 0
    tell = progress or (lambda _done, _total: None)
    tell(0, total)
    ranked: dict[Part, Any] = {}
    for part in ("train", "test"):
        rows: list[Ranks] = []
        count = len(_split(data, part))
        for first in range(0, count, batch):
            numbers = range(first, min(first + batch, count))
            found = maps(part, numbers)
            importance = importances(found, order=order, per=per)
            zeros, values = zeros + int((importance == 0).sum()), values + importance.numel()
            chosen = rank(
                found,
                order=order,
                per=per,
                ties=ties,
                seed=seed,
                indices=numbers,
                purpose=f"{purpose} of {part}",
            )
            rows.append(chosen.numpy())
            done += len(numbers)
            tell(done, total)
        ranked[part] = np.concatenate(rows, dtype=rows[0].dtype)
    choices = {"order": order, "per": per, "ties": ties, "seed": seed, "data": data.checksum}
    return Ranking(
        ranked["train"], ranked["test"], data.shape, {**record, **choices, "zero_share": zeros / values}
    )


def _split(data: Dataset, part: Part) -> Split:
    return data.train if part == "train" else data.test
