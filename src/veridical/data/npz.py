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
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from veridical.data.arrays import MAX_BYTES, Arrays, check_header, corrupt_file_error, decoding

_MEMBERS = {"x_train": "images", "y_train": "labels", "x_test": "images", "y_test": "labels"}
_MAX_NAME_BYTES = 2**24
# zipfile also raises RuntimeError for an encrypted member, its subclass NotImplementedError for an unknown
# compression, and ValueError and struct.error for damaged tables.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
_BROKEN = (*_DAMAGE, EOFError, OSError, RuntimeError, ValueError)


class _Header(NamedTuple):
    """What the header of one array says; size is that of the content in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    size: int


def read_npz(path: Path) -> Arrays:
    """Read x_train, y_train, x_test, y_test and, where it is there, `classes` (text).

    Images are uint8 (N, H, W) or (N, H, W, C), labels integers (N,) or (N, 1). Shapes and dtypes of all four
    members are checked before the content of any is decoded. Nothing that would need unpickling is read (the
    rule of numpy.load with allow_pickle=False). Raises DataError, naming file and member.
    """
    with _opened(path) as archive:
        # All headers before any content: a wrong last member is found before gigabytes are decoded.
        for name, kind in _MEMBERS.items():
            with _member(path, archive, name) as (_, header):
                check_header(f"{path}, {name}", header.shape, header.dtype, kind)
        x_train, y_train, x_test, y_test = (_content(path, archive, name) for name in _MEMBERS)
        classes = _classes(path, archive)
    return Arrays(x_train, y_train.reshape(-1), x_test, y_test.reshape(-1), classes)


def npz_shapes(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of x_train and x_test, from their headers alone. Raises DataError as `read_npz` does."""
    shapes = []
    with _opened(path) as archive:
        for name in ("x_train", "x_test"):
            with _member(path, archive, name) as (_, header):
                check_header(f"{path}, {name}", header.shape, header.dtype, "images")
                shapes.append(header.shape)
    return shapes[0], shapes[1]


def read_members(path: Path, prefixes: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Read further members as they are: all those whose names start with one of `prefixes`, by name.

    Pickles are refused and sizes are limited as in `read_npz`. Raises DataError, naming file and member.
    """
    with _opened(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.startswith(prefixes)]
        for name in names:
            with _member(path, archive, name) as (_, header):
                if header.size > MAX_BYTES:
                    found = f"shape {header.shape} of {header.dtype}"
                    most = f"at most {MAX_BYTES // 2**30} GiB in one array"
                    raise corrupt_file_error(f"{path}, {name}", found, most)
        return {name: _content(path, archive, name) for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with (
        decoding(path, "a readable .npz file", *_BROKEN, hint="Make or copy it again."),
        zipfile.ZipFile(path) as archive,
    ):
        yield archive


@contextmanager
def _member(path: Path, archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], _Header]]:
    """Open one array and read its header; the stream is left at the first byte of the content."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        present = ", ".join(member.removesuffix(".npy") for member in archive.namelist()) or "nothing"
        found = f"no {name} (the file holds {present})"
        raise corrupt_file_error(path, found, "x_train, y_train, x_test and y_test") from None
    where = f"{path}, {name}"
    with archive.open(info) as stream:
        header, length = _read_header(where, stream)
        if header.dtype.hasobject:
            hint = "Pickles are never loaded."
            raise corrupt_file_error(where, "an array of Python objects", "plain numbers", hint)
        if length + header.size != info.file_size:
            found = f"{info.file_size - length} bytes of content"
            expected = f"{header.size} for shape {header.shape} of {header.dtype}"
            raise corrupt_file_error(where, found, expected)
        yield stream, header


def _read_header(where: str, stream: IO[bytes]) -> tuple[_Header, int]:
    """Parse the `.npy` header (numpy.lib.format) and return it with its length in bytes."""
    start = stream.read(12)
    try:
        version = np.lib.format.read_magic(io.BytesIO(start))
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        # The length field is 2 bytes in version 1 and 4 bytes in version 2, from byte 8 on.
        width = 2 if version == (1, 0) else 4
        length = 8 + width + int.from_bytes(start[8 : 8 + width], "little")
        if length > 2**16:
            raise ValueError(f"a header of {length} bytes")
        text = io.BytesIO(start[8:] + stream.read(length - len(start)))
        read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(text)
    except (ValueError, SyntaxError, tokenize.TokenError) as error:  # all of them from numpy's parser
        found = f"an unreadable header ({error})"
        raise corrupt_file_error(where, found, "an array as numpy.savez writes it") from error
    # Python's integers are exact, however large the header claims the array to be.
    return _Header(shape, dtype, fortran, prod(map(int, shape)) * dtype.itemsize), length


def _content(path: Path, archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with _member(path, archive, name) as (stream, header):
        flat = np.empty(header.size, dtype=np.uint8)
        view, filled = memoryview(flat.data), 0
        while filled < header.size:
            # In small pieces: of an LZMA member zipfile unpacks all it has read, however much that becomes.
            piece = stream.read(min(header.size - filled, 2**17))
            if not piece:
                expected = f"{header.size}; the file is truncated"
                raise corrupt_file_error(f"{path}, {name}", f"{filled} bytes of content", expected)
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
        stream.read(1)  # zipfile compares the checksum only when the end is reached
    # Files of another byte order are turned here; for others astype copies nothing.
    array = flat.view(header.dtype)
    shaped = array.reshape(header.shape, order="F" if header.fortran else "C")
    return shaped.astype(header.dtype.newbyteorder("="), copy=False)


def _classes(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    """The names in the optional member `classes`, one line of text each."""
    if "classes.npy" not in archive.namelist():
        return ()
    with _member(path, archive, "classes") as (_, header):
        if header.dtype.kind != "U" or len(header.shape) != 1 or header.size > _MAX_NAME_BYTES:
            found = f"shape {header.shape} of {header.dtype}"
            raise corrupt_file_error(f"{path}, classes", found, "a short list of class names (text)")
    return tuple(str(name) for name in _content(path, archive, "classes"))
