"""Reading the IDX files of MNIST and Fashion-MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from veridical.data.arrays import Arrays, check_header, corrupt_file_error

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find_idx(folder: Path) -> tuple[list[Path], list[str]]:
    """The four files in `folder`, each plain or else as `.gz`, and the names of those that are missing."""
    found, missing = [], []
    for stem in STEMS:
        paths = [path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()]
        found += paths[:1]
        missing += [] if paths else [f"{stem}[.gz]"]
    return found, missing


def read_idx_set(folder: Path) -> Arrays:
    """Read the four files: images (N, H, W) and labels (N,), all uint8. Raises DataError."""
    found, missing = find_idx(folder)
    if missing:
        raise corrupt_file_error(folder, "no " + ", ".join(missing), "the four IDX files")
    x_train, y_train, x_test, y_test = (read_idx(path, _dimensions(path)) for path in found)
    return Arrays(x_train, y_train, x_test, y_test)


def idx_shapes(folder: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes (N, H, W) of training and test images, from the headers alone. Raises DataError."""
    shapes = []
    for path in find_idx(folder)[0]:
        if _dimensions(path) == 3:
            with _opened(path) as stream:
                shapes.append(_header(path, stream, 3))
    return shapes[0], shapes[1]


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read one file of unsigned bytes with that many dimensions (Y. LeCun's format: magic, sizes, bytes).

    Raises DataError, naming the file, when magic, sizes and length do not agree.
    """
    with _opened(path) as stream:
        shape = _header(path, stream, dimensions)
        count = int(np.prod(shape))
        # One byte more than the header announces shows a file that is too long, without reading all of it.
        content = stream.read(count + 1)
    if len(content) != count:
        found = "more bytes" if len(content) > count else f"{len(content)} bytes"
        raise corrupt_file_error(
            path, f"{found} of content", f"{count} for shape {shape}", "The file is truncated or damaged."
        )
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)


def _dimensions(path: Path) -> int:
    return 3 if "images" in path.name else 1


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            yield stream
    except (OSError, zlib.error, EOFError) as error:
        found = f"a damaged or truncated file ({error})"
        raise corrupt_file_error(path, found, "a readable IDX file", "Copy it again.") from error


def _header(path: Path, stream: IO[bytes] | gzip.GzipFile, dimensions: int) -> tuple[int, ...]:
    magic = stream.read(4)
    if magic != bytes((0, 0, 8, dimensions)):
        expected = f"an IDX file of bytes with {dimensions} dimension(s), magic 0000080{dimensions}"
        raise corrupt_file_error(path, f"magic {magic.hex() or '(nothing)'}", expected)
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise corrupt_file_error(
            path, "the end of the file within its header", "a whole IDX file", "Copy it again."
        )
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    check_header(path, shape, np.dtype(np.uint8), "images" if dimensions == 3 else "labels")
    return shape
