"""Data sets with known truth: which pixels of every image carry its label, or where its object is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from veridical.data.array_files import read_members
from veridical.data.arrays import Arrays, corrupt_file_error
from veridical.data.dataset import PARTS, Dataset, MaskedDataset, PartName, build_dataset, load
from veridical.runtime.checking import as_path, record
from veridical.runtime.errors import DataError, argument_error
from veridical.runtime.files import atomic, to_plain

_BOXES = ("box_train", "box_test")

# Grey level above which a pixel of Fashion-MNIST belongs to the garment. The ground is 0, but for faint
# traces of the images' reduction to 28 x 28 pixels.
THRESHOLD = 16


@record
class GeneratedPart:
    """One part as generated: uint8 (N, C, H, W), int64 (N,), bool (N, H, W), and int64 (N,) by name."""

    images: Tensor
    labels: Tensor
    mask: Tensor
    places: Mapping[str, Tensor]


def build_generated(
    name: str,
    source: Dataset,
    options: Mapping[str, object],
    classes: Sequence[str],
    train: GeneratedPart,
    test: GeneratedPart,
) -> MaskedDataset:
    """The data set that was generated from `source`; its options record both."""
    recorded = {**options, "source_checksum": source.checksum}
    halves = [(part.images.permute(0, 2, 3, 1).numpy(), part.labels.numpy()) for part in (train, test)]
    arrays = Arrays(*halves[0], *halves[1], tuple(classes), recorded)
    data = build_dataset(name, arrays, source.source)
    places = {key: (train.places[key], test.places[key]) for key in train.places}
    return MaskedDataset.of(data, train.mask, test.mask, places)


def check_limit(part: PartName, limit: int | None, available: int) -> None:
    """Raise a UsageError for a number of examples that is not None and that the source does not have."""
    if limit is not None and not 1 <= limit <= available:
        raise argument_error(f"{part}_examples", limit, f"an integer from 1 to {available}, or None")


def save_masked(path: str | os.PathLike[str], data: MaskedDataset) -> None:
    """Write the data set as an .npz file that `veridical.data.load` reads and `load_masked` reads in full.

    Members: x_train, y_train, x_test, y_test, classes; mask_train, mask_test; place_NAME_train and _test; and
    `made`, a JSON text with name and options. The same data set gives the same bytes.
    """
    target = as_path(path)
    if target.suffix != ".npz":
        raise argument_error("path", str(target), "a name that ends in .npz")
    made = {"name": data.name, "options": to_plain(dict(data.options), "options")}
    arrays: dict[str, Any] = {
        "classes": np.asarray(data.classes, dtype=np.str_),
        "made": np.asarray([json.dumps(made, ensure_ascii=False)], dtype=np.str_),
    }
    for part in PARTS:
        split = data.split(part)
        images = split.images.numpy().transpose(0, 2, 3, 1)
        arrays[f"x_{part}"] = np.ascontiguousarray(images[..., 0] if images.shape[3] == 1 else images)
        arrays[f"y_{part}"] = split.labels.numpy()
        arrays[f"mask_{part}"] = data.mask(part).numpy()
        arrays |= {f"place_{name}_{part}": data.place(name, part).numpy() for name in data.places}
    # savez writes members in this order with a fixed time, hence the same bytes for the same data.
    with atomic(target) as file:
        np.savez_compressed(file, **arrays)


def load_masked(path: str | os.PathLike[str]) -> MaskedDataset:
    """Read what `save_masked` wrote: the same images, labels, masks, places, checksum, name and options.

    `source` is the path. Raises DataError for a file without masks, or with masks that do not fit its images.
    """
    data = load(as_path(path).absolute())
    where = data.source
    members = read_members(Path(where), ("mask_", "place_", "made"))
    masks = [f"mask_{part}" for part in PARTS]
    missing = [name for name in masks if name not in members]
    if missing:
        expected = "a file with masks, as `veridical make-block-mnist` writes it"
        raise corrupt_file_error(where, f"no {' and no '.join(missing)}", expected)
    for name in masks:
        if members[name].dtype != np.bool_:
            raise corrupt_file_error(where, f"{name} of dtype {members[name].dtype}", "masks of dtype bool")
    tensors = {name: torch.from_numpy(array) for name, array in members.items() if array.dtype.kind in "bi"}
    # place_NAME_train and place_NAME_test, where NAME may hold underscores of its own.
    names = sorted({name[6:].rpartition("_")[0] for name in tensors if name.startswith("place_")})
    try:
        places = {name: (tensors[f"place_{name}_train"], tensors[f"place_{name}_test"]) for name in names}
        masked = MaskedDataset.of(data, tensors["mask_train"], tensors["mask_test"], places)
        made = json.loads(str(members["made"][0])) if "made" in members else {}
        changes: dict[str, Any] = {"name": made["name"], "options": made["options"]} if made else {}
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{where}: masks, places or `made` do not fit the images ({error}).") from error
    return replace(masked, **changes)


def with_foreground(data: Dataset, threshold: int = THRESHOLD) -> MaskedDataset:
    """The data set with masks of the object: a garment by its grey levels, a sign by its box.

    A `MaskedDataset` is returned as it is. Raises DataError for a data set of which no foreground is known.
    """
    if isinstance(data, MaskedDataset):
        return data
    if data.name == "fashion-mnist":
        train, test = (_garment_masks(split.images, threshold) for split in (data.train, data.test))
        return MaskedDataset.of(data, train, test)
    if data.name == "gtsrb":
        return _sign_boxes(data)
    raise DataError(
        f"{data.name}: no foreground is known. It is for fashion-mnist (the garment), gtsrb (the sign's box) "
        "and .npz files with masks. Name one of these with data (--data), or give class folders a folder of "
        "mask images (--masks)."
    )


def _garment_masks(images: Tensor, threshold: int = THRESHOLD) -> Tensor:
    """Pixels brighter than `threshold`, and whatever they enclose: uint8 (N, 1, H, W) -> bool (N, H, W).

    Dark parts of a garment, and holes such as that under a bag's handle, count as garment when no way over
    dark pixels leads from them to the border (by the four neighbours).
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 1:
        raise argument_error("images", images, "a uint8 tensor of shape (N, 1, H, W)")
    if not 0 <= threshold < 255:
        raise argument_error("threshold", threshold, "a grey level from 0 to 254")
    from scipy.ndimage import binary_fill_holes

    bright = images[:, 0].numpy() > threshold
    # Within the plane of each image alone: no connection along the first axis.
    neighbours = np.zeros((3, 3, 3), dtype=np.bool_)
    neighbours[1] = [[False, True, False], [True, True, True], [False, True, False]]
    return torch.from_numpy(binary_fill_holes(bright, neighbours))


def _sign_boxes(data: Dataset) -> MaskedDataset:
    """GTSRB with masks of the signs' bounding boxes, from the .npz file that the data set was loaded from.

    Its members box_train and box_test are integers (N, 6): width and height of the original image, then x1,
    y1, x2, y2 of the box in it, both ends inside (the official tables). Raises DataError for a data set from
    elsewhere, and for boxes that are missing or do not fit.
    """
    path = Path(data.source)
    if path.suffix != ".npz" or not path.is_file():
        hint = "Boxes are read from a gtsrb.npz with the members box_train and box_test."
        raise corrupt_file_error(path, "no boxes", "GTSRB as an .npz file", hint)
    members = read_members(path, _BOXES)
    masks = []
    for name, split in zip(_BOXES, (data.train, data.test), strict=True):
        if name not in members:
            hint = "Its rows are width, height, x1, y1, x2, y2 of each image, from the official tables."
            raise corrupt_file_error(path, f"no {name}", f"a member {name}", hint)
        boxes = members[name]
        if boxes.dtype.kind not in "iu" or boxes.shape != (len(split), 6):
            found = f"shape {boxes.shape} of {boxes.dtype}"
            raise corrupt_file_error(f"{path}, {name}", found, f"integers of shape ({len(split)}, 6)")
        masks.append(_box_masks(boxes, data.shape[1], data.shape[2], f"{path}, {name}"))
    return MaskedDataset.of(data, masks[0], masks[1])


def _box_masks(boxes: npt.NDArray[np.integer], height: int, width: int, where: object = "boxes") -> Tensor:
    """Boxes of original images as masks of the resized ones: integers (N, 6) -> bool (N, height, width).

    A pixel is in the box if its centre is. Raises DataError, naming `where`, for a box outside its image.
    """
    full_width, full_height, left, top, right, bottom = boxes.astype(np.int64).T
    # Both ends are inside the box, and so inside the image.
    fits = (left >= 0) & (left <= right) & (right < full_width)
    fits &= (top >= 0) & (top <= bottom) & (bottom < full_height)
    if not fits.all():
        row = int(np.flatnonzero(~fits)[0])
        found = f"the row {boxes[row].tolist()} at image {row}"
        raise corrupt_file_error(where, found, "a box inside its image")
    across = _centres_between(left, right, full_width, width)
    down = _centres_between(top, bottom, full_height, height)
    return torch.from_numpy(down[:, :, None] & across[:, None, :])


def _centres_between(
    first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], full: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.bool_]:
    """Which of `count` pixels have their centre between the first and last of `full` pixels, (N, count)."""
    # Twice the centre, (2 i + 1) * full / count, so that all numbers are integers.
    centres = (2 * np.arange(count) + 1) * full[:, None]
    return (centres >= 2 * count * first[:, None]) & (centres < 2 * count * (last[:, None] + 1))
