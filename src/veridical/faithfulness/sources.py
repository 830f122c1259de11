"""Where data, maps and ranks come from: data sets by name or path, arrays in .npz files."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from veridical.data import DATASETS, Dataset, Split, load
from veridical.data.arrays import MAX_BYTES, corrupt_file_error
from veridical.data.lookup import data_root
from veridical.runtime.checking import as_path
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import atomic

# Bytes of a member's header in a zip file; the last four are the lengths of name and extra field.
_LOCAL_HEADER = 30
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Header(NamedTuple):
    """What a member says about itself, and where its content begins (None if it is compressed)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int | None


def read_headers(path: Path) -> dict[str, _Header]:
    """The members' headers by name, from the first bytes of each; a DataError for any other file."""
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise corrupt_file_error(path, "something that is no file", "an .npz file")
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            result = {}
            for info in archive.infolist():
                with archive.open(info) as stream:
                    version = np.lib.format.read_magic(stream)
                    if version not in _READERS:
                        raise ValueError(f"array format version {version}")
                    shape, fortran, dtype = _READERS[version](stream)
                    length = stream.tell()
                offset = None
                if info.compress_type == zipfile.ZIP_STORED:
                    raw.seek(info.header_offset)
                    local = raw.read(_LOCAL_HEADER)
                    name, extra = (int.from_bytes(local[place : place + 2], "little") for place in (26, 28))
                    offset = info.header_offset + _LOCAL_HEADER + name + extra + length
                result[info.filename.removesuffix(".npy")] = _Header(shape, dtype, fortran, offset)
            return result
    except FileNotFoundError:
        raise corrupt_file_error(path, "no file", "an .npz file", "Check the path.") from None
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError) as error:
        raise corrupt_file_error(path, f"a damaged file ({error})", "a readable .npz file") from error


def read_array(path: Path, name: str, *, kinds: str, ndim: int) -> npt.NDArray[Any]:
    """One member, mapped read-only from the disk if it can be; kinds: allowed letters of numpy's dtype.kind.

    Raises DataError, before any content is decoded, for a missing member, another dtype or number of
    dimensions, an array of objects, or one of more than `MAX_BYTES`.
    """
    result = read_headers(path)
    if name not in result:
        raise corrupt_file_error(path, f"only {', '.join(result) or 'nothing'}", f"an array {name}")
    shape, dtype, fortran, offset = result[name]
    where = f"{path}, {name}"
    if dtype.hasobject or dtype.kind not in kinds:
        raise corrupt_file_error(where, f"dtype {dtype}", f"a dtype of kind {' or '.join(kinds)}")
    if len(shape) != ndim:
        raise corrupt_file_error(where, f"shape {shape}", f"{ndim} dimensions")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > MAX_BYTES:
        limit = f"at most {MAX_BYTES // 2**30} GiB in one array"
        raise corrupt_file_error(where, f"shape {shape} of {dtype}", limit)
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
        fault = f"damaged content ({error})"
        raise corrupt_file_error(where, fault, "an array as numpy.savez writes it") from error


# Data sets that a process keeps in memory.
CACHED = 2

# Options of `veridical.data.load` that shape the arrays.
_CHOICES = ("equalise", "size", "split_seed")


def describe_source(name: str, root: str | None, options: Mapping[str, Any]) -> dict[str, str]:
    """The part of a job's `where` that names a data set; paths become absolute: workers start elsewhere.

    options: `Dataset.options`, of which those that `load` takes are kept.
    """
    path = as_path(name, "data")
    # A registered name wins over a folder of that name, as in `load`.
    by_path = name not in DATASETS and path.exists()
    where = {"data": str(path.absolute()) if by_path else name}
    if root is not None or "VERIDICAL_DATA" in os.environ:
        where["data_root"] = str(data_root(root).absolute())
    chosen = {key: options[key] for key in _CHOICES if key in options}
    if chosen:
        where["data_options"] = json.dumps(chosen, sort_keys=True)
    return where


def write_source(data: Dataset, path: Path) -> dict[str, str]:
    """Write a data set that exists in memory alone to an .npz file, if it is not there, and name that.

    Workers are other processes and load by path. Raises UsageError for images of neither 1 nor 3 channels.
    """
    if data.shape[0] not in (1, 3):
        raise argument_error("data", f"images of shape {data.shape}", "1 or 3 channels")
    if not path.exists():
        arrays: dict[str, Any] = {"classes": np.asarray(data.classes, dtype=np.str_)}
        for part, split in (("train", data.train), ("test", data.test)):
            arrays[f"x_{part}"] = np.ascontiguousarray(split.images.numpy().transpose(0, 2, 3, 1))
            arrays[f"y_{part}"] = split.labels.numpy()
        with atomic(path) as file:
            np.savez(file, allow_pickle=False, **arrays)
    return {"data": str(path.absolute())}


def load_source(where: Mapping[str, str], checksum: str) -> Dataset:
    """The data set that `where` names, from memory if this process has loaded it before.

    Raises RunError if it is not the one with this checksum.
    """
    trust = where.get("trust_code") == "yes"
    data = _loaded(where["data"], where.get("data_root"), where.get("data_options", "{}"), trust)
    if data.checksum != checksum:
        raise RunError(
            f"the data {where['data']} from {data.source} are not those that were planned with: their "
            f"checksum is {data.checksum}, expected {checksum}. Give every machine the same files."
        )
    return data


@lru_cache(maxsize=CACHED)
def _loaded(name: str, root: str | None, options: str, trust_code: bool) -> Dataset:
    chosen: dict[str, Any] = json.loads(options)
    return load(name, root, trust_code=trust_code, **chosen)


def take_first(data: Dataset, train: int, test: int | None = None) -> Dataset:
    """The data set with its first so many images of each part, which are not copied; None is all of them."""

    def first(split: Split, count: int | None) -> Split:
        whole = count is None or count >= len(split)
        return split if whole else Split(split.images[:count], split.labels[:count])

    return replace(data, train=first(data.train, train), test=first(data.test, test))
