"""Where jobs find their data: by name or path, loaded once per process, checked against its checksum."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from veridical.data import DATASETS, Dataset, load
from veridical.data.lookup import data_root
from veridical.faithfulness.stored import write_arrays
from veridical.runtime.checking import as_path
from veridical.runtime.errors import RunError, argument_error

CACHED = 2
"""Data sets that a process keeps in memory."""

_CHOICES = ("equalise", "size", "split_seed")
"""Options of `veridical.data.load` that shape the arrays."""


def source_by_name(name: str, root: str | None, options: Mapping[str, Any]) -> dict[str, str]:
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


def source_of_arrays(data: Dataset, path: Path) -> dict[str, str]:
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
        write_arrays(path, arrays)
    return {"data": str(path.absolute())}


def load_source(where: Mapping[str, str], checksum: str) -> Dataset:
    """The data set that `where` names, from memory if this process has loaded it before.

    Raises RunError if it is not the one with this checksum.
    """
    data = _loaded(where["data"], where.get("data_root"), where.get("data_options", "{}"))
    if data.checksum != checksum:
        raise RunError(
            f"the data {where['data']} from {data.source} are not those that were planned with: their "
            f"checksum is {data.checksum}, expected {checksum}. Give every machine the same files."
        )
    return data


@lru_cache(maxsize=CACHED)
def _loaded(name: str, root: str | None, options: str) -> Dataset:
    chosen: dict[str, Any] = json.loads(options)
    return load(name, root, **chosen)
