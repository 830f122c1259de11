"""Arrays in .npz files: headers first, uncompressed members mapped instead of read, no pickles."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from veridical.data.arrays import MAX_BYTES, corrupt_file_error
from veridical.runtime.files import atomic

_LOCAL_HEADER = 30
"""Bytes of a member's header in a zip file; the last four are the lengths of name and extra field."""


class Header(NamedTuple):
    """What a member says about itself, and where its content begins (None if it is compressed)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int | None


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an uncompressed .npz file that appears whole or not at all; the folder must exist."""
    with atomic(path) as file:
        # Straight to the disk: hundreds of megabytes need not be in memory twice.
        np.savez(file, allow_pickle=False, **dict(arrays))


def headers(path: Path) -> dict[str, Header]:
    """The members' headers by name, from the first bytes of each; a DataError for any other file."""
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise corrupt_file_error(path, "something that is no file", "an .npz file")
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            found = {}
            for info in archive.infolist():
                with archive.open(info) as stream:
                    shape, fortran, dtype = _array_header(stream)
                    length = stream.tell()
                offset = None
                if info.compress_type == zipfile.ZIP_STORED:
                    raw.seek(info.header_offset)
                    local = raw.read(_LOCAL_HEADER)
                    name, extra = (int.from_bytes(local[place : place + 2], "little") for place in (26, 28))
                    offset = info.header_offset + _LOCAL_HEADER + name + extra + length
                found[info.filename.removesuffix(".npy")] = Header(shape, dtype, fortran, offset)
            return found
    except FileNotFoundError:
        raise corrupt_file_error(path, "no file", "an .npz file", "Check the path.") from None
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError) as error:
        raise corrupt_file_error(path, f"a damaged file ({error})", "a readable .npz file") from error


def read_array(path: Path, name: str, *, kinds: str, ndim: int) -> npt.NDArray[Any]:
    """One member, mapped read-only from the disk if it can be; kinds: allowed letters of numpy's dtype.kind.

    Raises DataError, before any content is decoded, for a missing member, another dtype or number of
    dimensions, an array of objects, or one of more than `MAX_BYTES`.
    """
    found = headers(path)
    if name not in found:
        raise corrupt_file_error(path, f"only {', '.join(found) or 'nothing'}", f"an array {name}")
    shape, dtype, fortran, offset = found[name]
    where = f"{path}, {name}"
    if dtype.hasobject or dtype.kind not in kinds:
        raise corrupt_file_error(where, f"dtype {dtype}", f"a dtype of kind {' or '.join(kinds)}")
    if len(shape) != ndim:
        raise corrupt_file_error(where, f"shape {shape}", f"{ndim} dimensions")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > MAX_BYTES:
        raise corrupt_file_error(
            where, f"shape {shape} of {dtype}", f"at most {MAX_BYTES // 2**30} GiB in one array"
        )
    if offset is not None and 0 not in shape and ndim:
        try:
            order: Literal["C", "F"] = "F" if fortran else "C"
            mapped: npt.NDArray[Any] = np.memmap(path, dtype, "r", offset, shape, order)
            return mapped
        except ValueError as error:
            raise corrupt_file_error(where, f"a truncated array ({error})", "the whole of it") from error
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: npt.NDArray[Any] = archive[name]
            return array
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise corrupt_file_error(
            where, f"damaged content ({error})", "an array as numpy.savez writes it"
        ) from error


def _array_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"array format version {version}")
