"""Decoded images and labels as numpy arrays: the checks of every format, division into parts, grey levels."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from math import prod

import numpy as np
import numpy.typing as npt

from veridical.data.registry import DatasetEntry
from veridical.runtime.checking import record
from veridical.runtime.errors import DataError, argument_error

# Largest decoded array; a header that asks for more is refused before anything is read.
MAX_BYTES = 8 * 2**30
# Largest height or width of an image, in pixels.
MAX_SIDE = 8192
_MAX_CLASSES = 65536
_CHUNK = 4096  # planes that are equalised at a time


@record
class Arrays:
    """One data set as decoded: images uint8 (N, H, W) or (N, H, W, C), labels integer (N,).

    classes: names that the source itself gives, or (). options: choices that shaped the arrays (size, split
    seed). train_mask, test_mask: bool (N, H, W), True where a pixel is evidence; both or neither.
    """

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.integer]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.integer]
    classes: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    train_mask: npt.NDArray[np.bool_] | None = None
    test_mask: npt.NDArray[np.bool_] | None = None


def corrupt_file_error(where: object, found: str, expected: str, hint: str = "") -> DataError:
    """Build (not raise) the error for a file that is not what it should be, in one wording for all."""
    message = f"{where}: expected {expected}, but found {found}."
    return DataError(f"{message} {hint}" if hint else message)


@contextmanager
def decoding(where: object, expected: str, *errors: type[Exception], hint: str = "") -> Iterator[None]:
    """Turn these errors of somebody else's decoder into a DataError; DataErrors pass as they are."""
    try:
        yield
    except DataError:
        raise
    except errors as error:
        found = f"a damaged or truncated file ({type(error).__name__}: {error})"
        raise corrupt_file_error(where, found, expected, hint) from error


def check_header(where: object, shape: Sequence[int], dtype: np.dtype[np.generic], kind: str) -> None:
    """Check shape and dtype of "images" or "labels" as a header gives them, before the content is decoded."""
    shape = tuple(shape)
    # Python's integers are exact, however large a header claims an array to be.
    if prod(int(size) for size in shape) * dtype.itemsize > MAX_BYTES:
        most = f"at most {MAX_BYTES // 2**30} GiB in one array"
        raise corrupt_file_error(where, f"shape {shape} of {dtype}", most)
    if kind == "images":
        _check_image_header(where, shape, dtype)
    elif dtype.kind not in "iu":
        hint = "Store y_train and y_test as integers."
        raise corrupt_file_error(where, f"dtype {dtype}", "integer class labels", hint)
    elif not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        hint = "One-hot labels: take argmax."
        raise corrupt_file_error(where, f"shape {shape}", "one label per image, shape (N,)", hint)


def _check_image_header(where: object, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    if dtype != np.uint8:
        hint = "Multiply images in [0, 1] by 255, round, and store them as uint8." * (dtype.kind == "f")
        raise corrupt_file_error(where, f"dtype {dtype}", "uint8 images with values 0 to 255", hint)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        looks_first = len(shape) == 4 and shape[1] in (1, 3)
        hint = "Channels come last: transpose with x.transpose(0, 2, 3, 1)." * looks_first
        expected = "images of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        raise corrupt_file_error(where, f"shape {shape}", expected, hint)
    if shape[0] < 1 or not all(1 <= side <= MAX_SIDE for side in shape[1:3]):
        expected = f"at least one image, sides from 1 to {MAX_SIDE} pixels"
        raise corrupt_file_error(where, f"shape {shape}", expected)


def check_arrays(where: object, arrays: Arrays, entry: DatasetEntry | None) -> tuple[str, ...]:
    """Check a decoded data set as a whole and return its class names.

    With an `entry` of the registry its number of classes, channels and (unless free) sizes are binding;
    without one the source's own class names are, or else the training labels, whose classes are then named by
    their numbers.
    """
    parts = (
        ("train", arrays.train_images, arrays.train_labels),
        ("test", arrays.test_images, arrays.test_labels),
    )
    for part, images, labels in parts:
        check_header(f"{where} ({part} images)", images.shape, images.dtype, "images")
        if len(images) != len(labels):
            found = f"{len(images)} {part} images and {len(labels)} {part} labels"
            raise corrupt_file_error(where, found, "as many labels as images")
        if int(images.max()) <= 1:
            found = f"{part} images with no value above {int(images.max())}"
            hint = "Images in [0, 1] have to be multiplied by 255 before rounding."
            raise corrupt_file_error(where, found, "values 0 to 255", hint)
    size, test = arrays.train_images.shape[1:], arrays.test_images.shape[1:]
    if size != test:
        found = f"training images of {size} and test images of {test}"
        raise corrupt_file_error(where, found, "one size and colour for both")
    classes = _class_names(where, arrays, entry)
    for part, _, labels in parts:
        _check_labels(where, part, labels, len(classes))
    shape = (size[2] if len(size) == 3 else 1, size[0], size[1])
    if entry and (shape[0] != entry.shape[0] or not (entry.free_size or shape == entry.shape)):
        expected = f"{entry.name}'s (channels, height, width), {entry.shape}"
        hint = "Check that the file is what its name says."
        raise corrupt_file_error(where, f"images of {shape}", expected, hint)
    return classes


def _check_labels(where: object, part: str, labels: npt.NDArray[np.integer], classes: int) -> None:
    """Check that every label is one of 0 .. classes - 1; the message gives the first that is not."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        found = f"label {int(labels[wrong[0]])} at {part} image {int(wrong[0])}"
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise corrupt_file_error(where, found + more, f"labels 0 to {classes - 1}")


def _class_names(where: object, arrays: Arrays, entry: DatasetEntry | None) -> tuple[str, ...]:
    names = arrays.classes or (entry.classes if entry else ())
    if entry and len(names) != len(entry.classes):
        expected = f"the {len(entry.classes)} classes of {entry.name}"
        raise corrupt_file_error(where, f"{len(names)} class names", expected)
    if not names:
        # Checked before as many names are made as the greatest label says.
        _check_labels(where, "train", arrays.train_labels, _MAX_CLASSES)
        names = tuple(str(label) for label in range(int(arrays.train_labels.max()) + 1))
        absent = sorted(set(range(len(names))) - set(np.unique(arrays.train_labels).tolist()))
        if absent:
            shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
            warnings.warn(
                f"{where}: labels number the classes from 0, so there are {len(names)} classes, "
                f"{len(absent)} of them without a training image ({shown}). If that is not meant, number the "
                "labels anew; `classes`, a name for each, says that it is.",
                stacklevel=2,
            )
    if len(names) < 2:
        raise corrupt_file_error(where, f"{len(names)} class", "at least two classes")
    return names


def hashed_order(indices: Iterable[int], seed: int, purpose: str) -> list[int]:
    """The indices in an order that depends on (seed, purpose) alone: by SHA-256 of (seed, purpose, index).

    A split is part of what a data set is: a generator whose algorithm changes with a library's version would
    move images between training and testing.
    """
    return sorted(indices, key=lambda index: hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest())


def held_out(count: int, size: int, seed: int, purpose: str) -> tuple[list[int], list[int]]:
    """Divide range(count) into (kept, held out), `size` of them held out; both ascending."""
    if not 0 < size < count:
        expected = f"an integer from 1 to {count - 1} ({count} examples, some must remain)"
        raise argument_error("size", size, expected)
    order = hashed_order(range(count), seed, purpose)
    return sorted(order[size:]), sorted(order[:size])


def stratified(
    labels: Sequence[int], fraction: float, seed: int, purpose: str
) -> tuple[list[int], list[int]]:
    """Divide the examples into (training, testing), the same fraction of every class for testing.

    Of n examples of a class round(n * fraction) are for testing, at least one and at most n - 1. Both lists
    are in hashed order, so that the first examples of a file sorted by class are not all of one class. Raises
    UsageError for a class of a single example, which cannot be on both sides.
    """
    if not 0.0 < fraction < 1.0:
        raise argument_error("fraction", fraction, "a number between 0 and 1, both excluded")
    members: dict[int, list[int]] = {}
    order = hashed_order(range(len(labels)), seed, purpose)
    for index in order:
        members.setdefault(int(labels[index]), []).append(index)
    held: set[int] = set()
    for label, indices in members.items():
        if len(indices) < 2:
            expected = "at least 2, so that training and testing get one each"
            raise argument_error(f"class {label}", "1 example", expected)
        # At least one on each side, whatever the fraction.
        held.update(indices[: min(max(round(len(indices) * fraction), 1), len(indices) - 1)])
    # Not in the order of the draw: there the classes whose share was complete first would come first.
    shuffled = hashed_order(order, seed, f"{purpose}/order")
    return [index for index in shuffled if index not in held], [index for index in shuffled if index in held]


def equalise_levels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Spread the grey levels of each plane evenly over 0 .. 255; planes are the last two axes, (..., H, W).

    Gives the very bytes of Pillow's ImageOps.equalize on each plane: level g becomes (step // 2 + number of
    pixels darker than g) // step, with step = (pixels - pixels of the brightest level present) // 255; a
    plane of one level, or with step 0, stays as it is. The argument is not changed.
    """
    planes = images.reshape(-1, images.shape[-2] * images.shape[-1]) if images.size else images.reshape(0, 1)
    result = np.empty_like(planes)
    for start in range(0, len(planes), _CHUNK):
        chunk = planes[start : start + _CHUNK]
        # Pixels per grey level, (n, 256): each plane counts in a range of keys of its own.
        keys = chunk.astype(np.int64) + 256 * np.arange(len(chunk))[:, None]
        histograms = np.bincount(keys.ravel(), minlength=256 * len(chunk)).reshape(-1, 256)
        brightest = 255 - np.argmax(histograms[:, ::-1] > 0, axis=1)
        step = (planes.shape[1] - histograms[np.arange(len(chunk)), brightest]) // 255
        darker = np.cumsum(histograms, axis=1) - histograms
        safe = np.maximum(step, 1)[:, None]
        # Small planes can reach beyond 255 (few pixels, step 1); Pillow clips there.
        spread = np.minimum((safe // 2 + darker) // safe, 255)
        table = np.where((step > 0)[:, None], spread, np.arange(256)).astype(np.uint8)
        result[start : start + _CHUNK] = np.take_along_axis(table, chunk.astype(np.intp), axis=1)
    return result.reshape(images.shape)
