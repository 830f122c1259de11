"""Reading `.npz` data sets: headers first, every member decoded once, no pickles."""

from __future__ import annotations

import io
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from veridical.data.arrays import MAX_BYTES, Arrays, check_header, corrupt_file_error, decoding
from veridical.data.registry import Shapes
from veridical.runtime.files import read_array_header

_MEMBERS = {"x_train": "images", "y_train": "labels", "x_test": "images", "y_test": "labels"}
_MAX_NAME_BYTES = 2**24
# More than numpy parses.
_MOST_HEADER = 2**14
# zipfile also raises RuntimeError for an encrypted member, its subclass NotImplementedError for an unknown
# compression, and ValueError and struct.error for damaged tables.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
_BROKEN = (*_DAMAGE, EOFError, OSError, RuntimeError, ValueError)


class _Header(NamedTuple):
    """What the header of one array says; size is that of the content in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int


def read_npz(path: Path) -> Arrays:
    """Read x_train, y_train, x_test, y_test and, where it is there, `classes` (text).

    Images are uint8 (N, H, W) or (N, H, W, C), labels integers (N,) or (N, 1). Shapes and dtypes of all four
    members are checked before the content of any is decoded. Nothing that would need unpickling is read (the
    rule of numpy.load with allow_pickle=False). Raises DataError, naming file and member.
    """
    with _opened(path) as archive:
        # All headers before any content: a wrong last member is found before gigabytes are decoded.
        for name in _MEMBERS:
            _check_member(path, archive, name)
        x_train, y_train, x_test, y_test = (_content(archive, name) for name in _MEMBERS)
        classes = _classes(path, archive)
    return Arrays(x_train, y_train.reshape(-1), x_test, y_test.reshape(-1), classes)


def npz_shapes(path: Path) -> Shapes:
    """The shapes of x_train and x_test, from their headers alone. Raises DataError as `read_npz` does."""
    with _opened(path) as archive:
        return _check_member(path, archive, "x_train"), _check_member(path, archive, "x_test")


def _check_member(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """The shape of a data set's member, once its header was checked."""
    header = _read_header(path, archive, name)
    check_header(f"{path}, {name}", header.shape, header.dtype, _MEMBERS[name])
    return header.shape


def read_members(path: Path, prefixes: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Read further members as they are: all those whose names start with one of `prefixes`, by name.

    Pickles are refused and sizes are limited as in `read_npz`. Raises DataError, naming file and member.
    """
    with _opened(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.startswith(prefixes)]
        for name in names:
            header = _read_header(path, archive, name)
            if header.size > MAX_BYTES:
                found = f"shape {header.shape} of {header.dtype}"
                most = f"at most {MAX_BYTES // 2**30} GiB in one array"
                raise corrupt_file_error(f"{path}, {name}", found, most)
        return {name: _content(archive, name) for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with (
        decoding(path, "a readable .npz file", *_BROKEN, hint="Make or copy it again."),
        zipfile.ZipFile(path) as archive,
    ):
        yield archive


def _read_header(path: Path, archive: zipfile.ZipFile, name: str) -> _Header:
    """Parse one array's `.npy` header (numpy.lib.format); as much content has to follow as it says."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        present = ", ".join(member.removesuffix(".npy") for member in archive.namelist()) or "nothing"
        found = f"no {name} (the file holds {present})"
        raise corrupt_file_error(path, found, "x_train, y_train, x_test and y_test") from None
    where = f"{path}, {name}"
    with archive.open(info) as stream:
        start = io.BytesIO(stream.read(_MOST_HEADER))
    try:
        shape, dtype = read_array_header(start)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:  # all of them from numpy's parser
        found = f"an unreadable header ({error})"
        raise corrupt_file_error(where, found, "an array as numpy.savez writes it") from error
    if dtype.hasobject:
        hint = "Pickles are never loaded."
        raise corrupt_file_error(where, "an array of Python objects", "plain numbers", hint)
    # Python's integers are exact, however large the header claims the array to be.
    size, content = prod(map(int, shape)) * dtype.itemsize, info.file_size - start.tell()
    if content != size:
        expected = f"{size} for shape {shape} of {dtype}"
        raise corrupt_file_error(where, f"{content} bytes of content", expected)
    return _Header(shape, dtype, size)


def _content(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(f"{name}.npy") as stream:
        # Numpy reads in small pieces: of an LZMA member zipfile unpacks all it has read, however much it is.
        array = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # zipfile compares the checksum only when the end is reached
    # Files of another byte order are turned here; for others astype copies nothing.
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _classes(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    """The names in the optional member `classes`, one line of text each."""
    if "classes.npy" not in archive.namelist():
        return ()
    header = _read_header(path, archive, "classes")
    if header.dtype.kind != "U" or len(header.shape) != 1 or header.size > _MAX_NAME_BYTES:
        found = f"shape {header.shape} of {header.dtype}"
        raise corrupt_file_error(f"{path}, classes", found, "a short list of class names (text)")
    return tuple(str(name) for name in _content(archive, "classes"))
