"""Reading CIFAR-10's original batches: the binary ones, and the pickled ones without trusting them."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridical.data.arrays import Arrays, corrupt_file_error

PICKLED = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
BINARY = tuple(f"{name}.bin" for name in PICKLED)
IMAGES_A_BATCH = 10000
_PIXELS, _CLASSES = 3 * 32 * 32, 10
_MAX_FILE = 2**26
_MAX_TUPLES = 1000

_Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def read_cifar(folder: Path) -> Arrays:
    """Read the six batches of `folder`, binary or pickled: 50,000 and 10,000 images (N, 32, 32, 3).

    Raises DataError for a file that is missing, damaged, or holds anything but bytes and labels.
    """
    binary = (folder / BINARY[0]).is_file()
    batches = [
        read_binary_batch(folder / name) if binary else read_pickled_batch(folder / name)
        for name in (BINARY if binary else PICKLED)
    ]
    images = [pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for pixels, _ in batches]
    labels = [part for _, part in batches]
    return Arrays(np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1])


def read_binary_batch(path: Path) -> _Batch:
    """Read 10,000 records of a label and 3,072 pixels: uint8 pixels (10000, 3072) and labels (10000,)."""
    records = np.frombuffer(_bytes(path), dtype=np.uint8)
    if records.size != IMAGES_A_BATCH * (_PIXELS + 1):
        raise corrupt_file_error(
            path, f"{records.size} bytes", f"{IMAGES_A_BATCH} records of {_PIXELS + 1} bytes"
        )
    table = records.reshape(IMAGES_A_BATCH, _PIXELS + 1)
    return table[:, 1:], table[:, 0]


def read_pickled_batch(path: Path) -> _Batch:
    """Read one pickled batch, which torchvision downloads, as `read_binary_batch` does.

    The file is never trusted: of all names that a pickle can ask for, the three of a numpy array are
    answered, by the inert records below, so that neither foreign code nor numpy's own unpickling runs. It is
    read at all because torchvision downloads, and most people have, only this form of CIFAR-10.
    """
    content = _bytes(path)
    try:
        _check_opcodes(content)
        batch = _Restricted(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in nearly any way
        raise corrupt_file_error(
            path, f"a damaged file ({error})", "a batch of CIFAR-10", "Copy it again."
        ) from error
    pixels = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(b"labels") if isinstance(batch, dict) else None
    if not isinstance(pixels, _ArrayRecord) or not isinstance(labels, list):
        raise corrupt_file_error(
            path, "a pickle of something else", "a batch of CIFAR-10, with data and labels"
        )
    sound = all(type(label) is int and 0 <= label < _CLASSES for label in labels)
    if len(labels) != IMAGES_A_BATCH or not sound:
        found = f"{len(labels)} labels{'' if sound else ', some out of range'}"
        raise corrupt_file_error(path, found, f"{IMAGES_A_BATCH} labels 0 to {_CLASSES - 1}")
    return pixels.content(path, (IMAGES_A_BATCH, _PIXELS)), np.array(labels, dtype=np.uint8)


def _bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise corrupt_file_error(path, "no regular file", "a batch of CIFAR-10")
        if path.stat().st_size > _MAX_FILE:
            raise corrupt_file_error(path, f"{path.stat().st_size} bytes", f"at most {_MAX_FILE}")
        return path.read_bytes()
    except OSError as error:
        raise corrupt_file_error(path, f"an unreadable file ({error})", "a batch of CIFAR-10") from error


def _check_opcodes(content: bytes) -> None:
    """Refuse a pickle that would take memory or depth out of proportion to its length.

    Python's unpickler makes its memo as long as the largest number in it, and hashes nested tuples without a
    limit of depth.
    """
    tuples = 0
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"a memo of {argument} entries")
        tuples += "TUPLE" in opcode.name
        if tuples > _MAX_TUPLES:
            raise pickle.UnpicklingError(f"more than {_MAX_TUPLES} tuples")


class _TypeRecord:
    """Stands for numpy.dtype: keeps the code, e.g. b"u1"."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and flags say nothing for single bytes."""


class _ArrayRecord:
    """Stands for numpy.ndarray: keeps what the pickle says about the array, builds nothing from it."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def content(self, path: Path, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The content as uint8 of this very shape, or a DataError."""
        match self.state:
            case (_, tuple(given), _TypeRecord(code=b"u1"), fortran, bytes(content)):
                if given == shape and len(content) == shape[0] * shape[1]:
                    flat = np.frombuffer(content, dtype=np.uint8)
                    return flat.reshape(shape, order="F" if fortran else "C")
        raise corrupt_file_error(
            path, "an array of another kind, shape or length", f"uint8 pixels of shape {shape}"
        )


def _reconstruct(*_: object) -> _ArrayRecord:
    """Stands for numpy's function of this name: an empty array, whose state follows."""
    return _ArrayRecord()


class _Restricted(pickle.Unpickler):
    """Refuses every name but those of a numpy array, and answers these with the records above."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return _reconstruct
            case ("numpy", "ndarray"):
                return _ArrayRecord
            case ("numpy", "dtype"):
                return _TypeRecord
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is never loaded")
