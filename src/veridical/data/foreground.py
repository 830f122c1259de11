"""Where people see the object: the garment's pixels on Fashion-MNIST, the sign's box on GTSRB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from veridical.data.arrays import corrupt_file_error
from veridical.data.dataset import Dataset
from veridical.data.masked import MaskedDataset
from veridical.data.npz import read_members
from veridical.runtime.errors import DataError, argument_error

THRESHOLD = 16
"""Grey level above which a pixel of Fashion-MNIST belongs to the garment. The ground is 0, but for faint
traces of the images' reduction to 28 x 28 pixels."""

BOXES = ("box_train", "box_test")
"""Members of an .npz file that hold boxes."""


def with_foreground(data: Dataset, threshold: int = THRESHOLD) -> MaskedDataset:
    """The data set with masks of the object: `garment_masks` or `sign_boxes`, whichever it has.

    A `MaskedDataset` is returned as it is. Raises DataError for a data set of which no foreground is known.
    """
    if isinstance(data, MaskedDataset):
        return data
    if data.name == "fashion-mnist":
        train, test = (garment_masks(split.images, threshold) for split in (data.train, data.test))
        return MaskedDataset.of(data, train, test)
    if data.name == "gtsrb":
        return sign_boxes(data)
    raise DataError(
        f"{data.name}: no foreground is known. It is for fashion-mnist (the garment), gtsrb (the sign's box) "
        "and .npz files with masks. Name one of these with data (--data)."
    )


def garment_masks(images: Tensor, threshold: int = THRESHOLD) -> Tensor:
    """Pixels brighter than `threshold`, and whatever they enclose: uint8 (N, 1, H, W) -> bool (N, H, W).

    Dark parts of a garment, and holes such as that under a bag's handle, count as garment when no way over
    dark pixels leads from them to the border (by the four neighbours).
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 1:
        raise argument_error("images", images, "a uint8 tensor of shape (N, 1, H, W)")
    if not 0 <= threshold < 255:
        raise argument_error("threshold", threshold, "a grey level from 0 to 254")
    bright = images[:, 0].numpy() > threshold
    # Within the plane of each image alone: no connection along the first axis.
    neighbours = np.zeros((3, 3, 3), dtype=np.bool_)
    neighbours[1] = [[False, True, False], [True, True, True], [False, True, False]]
    return torch.from_numpy(binary_fill_holes(bright, neighbours))


def sign_boxes(data: Dataset) -> MaskedDataset:
    """GTSRB with masks of the signs' bounding boxes, from the .npz file that the data set was loaded from.

    Its members box_train and box_test are integers (N, 6): width and height of the original image, then x1,
    y1, x2, y2 of the box in it, both ends inside (the official tables). Raises DataError for a data set from
    elsewhere, and for boxes that are missing or do not fit.
    """
    path = Path(data.source)
    if path.suffix != ".npz" or not path.is_file():
        hint = "Boxes are read from a gtsrb.npz with the members box_train and box_test."
        raise corrupt_file_error(path, "no boxes", "GTSRB as an .npz file", hint)
    members = read_members(path, BOXES)
    masks = []
    for name, split in zip(BOXES, (data.train, data.test), strict=True):
        if name not in members:
            hint = "Its rows are width, height, x1, y1, x2, y2 of each image, from the official tables."
            raise corrupt_file_error(path, f"no {name}", f"a member {name}", hint)
        boxes = members[name]
        if boxes.dtype.kind not in "iu" or boxes.shape != (len(split), 6):
            found = f"shape {boxes.shape} of {boxes.dtype}"
            raise corrupt_file_error(f"{path}, {name}", found, f"integers of shape ({len(split)}, 6)")
        masks.append(box_masks(boxes, data.shape[1], data.shape[2], f"{path}, {name}"))
    return MaskedDataset.of(data, masks[0], masks[1])


def box_masks(boxes: npt.NDArray[np.integer], height: int, width: int, where: object = "boxes") -> Tensor:
    """Boxes of original images as masks of the resized ones: integers (N, 6) -> bool (N, height, width).

    A pixel is in the box if its centre is. Raises DataError, naming `where`, for a box outside its image.
    """
    full_width, full_height, left, top, right, bottom = boxes.astype(np.int64).T
    fits = (left >= 0) & (left <= right) & (right < full_width)
    fits &= (top >= 0) & (top <= bottom) & (bottom < full_height)
    if not fits.all():
        row = int(np.flatnonzero(~fits)[0])
        raise corrupt_file_error(
            where, f"the row {boxes[row].tolist()} at image {row}", "a box inside its image"
        )
    across = _inside(left, right, full_width, width)
    down = _inside(top, bottom, full_height, height)
    return torch.from_numpy(down[:, :, None] & across[:, None, :])


def _inside(
    first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], full: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.bool_]:
    """Which of `count` pixels have their centre between the first and last of `full` pixels, (N, count)."""
    # Twice the centre, (2 i + 1) * full / count, so that all numbers are integers.
    centres = (2 * np.arange(count) + 1) * full[:, None]
    return (centres >= 2 * count * first[:, None]) & (centres < 2 * count * (last[:, None] + 1))
