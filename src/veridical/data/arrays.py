"""Decoded images and labels as numpy arrays, and the checks that every file format shares."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from veridical.data.registry import DatasetEntry
from veridical.runtime.errors import DataError
from veridical.runtime.record import record

MAX_BYTES = 8 * 2**30
"""Largest decoded array; a header that asks for more is refused before anything is read."""
MAX_SIDE = 8192
"""Largest height or width of an image, in pixels."""
MAX_CLASSES = 65536


@record
class Arrays:
    """One data set as decoded: images uint8 (N, H, W) or (N, H, W, C), labels integer (N,).

    classes: names that the source itself gives, or (). options: choices that shaped the arrays (size, split
    seed).
    """

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.integer]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.integer]
    classes: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)


def corrupt_file_error(where: object, found: str, expected: str, hint: str = "") -> DataError:
    """Build (not raise) the error for a file that is not what it should be, in one wording for all."""
    message = f"{where}: expected {expected}, but found {found}."
    return DataError(f"{message} {hint}" if hint else message)


def check_header(where: object, shape: Sequence[int], dtype: np.dtype[np.generic], kind: str) -> None:
    """Check shape and dtype of "images" or "labels" as a header gives them, before the content is decoded."""
    count = int(np.prod([int(size) for size in shape], dtype=object)) if len(shape) else 1
    if count * dtype.itemsize > MAX_BYTES:
        raise corrupt_file_error(
            where, f"shape {tuple(shape)} of {dtype}", f"at most {MAX_BYTES // 2**30} GiB in one array"
        )
    if kind == "images":
        _check_image_header(where, tuple(shape), dtype)
        return
    if dtype.kind not in "iu":
        raise corrupt_file_error(
            where, f"dtype {dtype}", "integer class labels", "Store y_train and y_test as integers."
        )
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise corrupt_file_error(
            where, f"shape {tuple(shape)}", "one label per image, shape (N,)", "One-hot labels: take argmax."
        )


def _check_image_header(where: object, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    if dtype != np.uint8:
        hint = (
            "Multiply images in [0, 1] by 255, round, and store them as uint8." if dtype.kind == "f" else ""
        )
        raise corrupt_file_error(where, f"dtype {dtype}", "uint8 images with values 0 to 255", hint)
    channels = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or channels not in (1, 3):
        looks_first = len(shape) == 4 and shape[1] in (1, 3)
        hint = "Channels come last: transpose with x.transpose(0, 2, 3, 1)." if looks_first else ""
        raise corrupt_file_error(
            where, f"shape {shape}", "images of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)", hint
        )
    if shape[0] < 1 or not all(1 <= side <= MAX_SIDE for side in shape[1:3]):
        raise corrupt_file_error(
            where, f"shape {shape}", f"at least one image, sides from 1 to {MAX_SIDE} pixels"
        )


def check_pair(
    where: object, part: str, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer]
) -> None:
    """Check that images and labels of one part ("train" or "test") fit, and that the images show anything."""
    if len(images) != len(labels):
        raise corrupt_file_error(
            where, f"{len(images)} {part} images and {len(labels)} {part} labels", "as many labels as images"
        )
    if int(images.max()) <= 1:
        found = f"{part} images with no value above {int(images.max())}"
        raise corrupt_file_error(
            where, found, "values 0 to 255", "Images in [0, 1] have to be multiplied by 255 before rounding."
        )


def check_labels(where: object, part: str, labels: npt.NDArray[np.integer], classes: int) -> None:
    """Check that every label is one of 0 .. classes - 1; the message gives the first that is not."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        found = f"label {int(labels[wrong[0]])} at {part} image {int(wrong[0])}"
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise corrupt_file_error(where, found + more, f"labels 0 to {classes - 1}")


def check_arrays(where: Path | str, arrays: Arrays, entry: DatasetEntry | None) -> tuple[str, ...]:
    """Check a decoded data set as a whole and return its class names.

    With an `entry` of the registry its number of classes, channels and (unless free) sizes are binding;
    without one the source's own class names are, or else the training labels, whose classes are then named by
    their numbers.
    """
    for part, images, labels in (
        ("train", arrays.train_images, arrays.train_labels),
        ("test", arrays.test_images, arrays.test_labels),
    ):
        check_header(f"{where} ({part} images)", images.shape, images.dtype, "images")
        check_pair(where, part, images, labels)
    train, test = arrays.train_images.shape[1:], arrays.test_images.shape[1:]
    if train != test:
        raise corrupt_file_error(
            where, f"training images of {train} and test images of {test}", "one size and colour for both"
        )
    classes = _class_names(where, arrays, entry)
    check_labels(where, "train", arrays.train_labels, len(classes))
    check_labels(where, "test", arrays.test_labels, len(classes))
    if entry is not None:
        _check_entry(where, train, entry)
    return classes


def _class_names(where: object, arrays: Arrays, entry: DatasetEntry | None) -> tuple[str, ...]:
    given = arrays.classes or (entry.classes if entry is not None else ())
    if entry is not None and len(given) != len(entry.classes):
        raise corrupt_file_error(
            where, f"{len(given)} class names", f"the {len(entry.classes)} classes of {entry.name}"
        )
    if not given:
        check_labels(where, "train", arrays.train_labels, MAX_CLASSES)
        given = tuple(str(label) for label in range(int(arrays.train_labels.max()) + 1))
        absent = sorted(set(range(len(given))) - set(np.unique(arrays.train_labels).tolist()))
        if absent:
            shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
            warnings.warn(
                f"{where}: labels number the classes from 0, so there are {len(given)} classes, "
                f"{len(absent)} of them without a training image ({shown}). If that is not meant, number the "
                "labels anew; `classes`, a name for each, says that it is.",
                stacklevel=2,
            )
    if len(given) < 2:
        raise corrupt_file_error(where, f"{len(given)} class", "at least two classes")
    return given


def _check_entry(where: object, size: tuple[int, ...], entry: DatasetEntry) -> None:
    channels = size[2] if len(size) == 3 else 1
    shape = (channels, size[0], size[1])
    if channels != entry.shape[0] or not (entry.free_size or shape == entry.shape):
        expected = f"{entry.name}'s (channels, height, width), {entry.shape}"
        raise corrupt_file_error(
            where, f"images of {shape}", expected, "Check that the file is what its name says."
        )
