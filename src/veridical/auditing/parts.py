"""Finished parts of a long measurement on disk, so that the same command continues after an interruption."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.runtime.errors import RunError, fail_argument
from veridical.runtime.files import to_plain, write_atomic

Arrays = dict[str, NDArray[Any]]


class PartStore:
    """Arrays by key in `folder`/<digest>/<key>.npz, where the digest is that of all the numbers depend on.

    A part is whole or absent. Parts of another configuration (other weights, images or settings) have another
    digest and are never taken for this one's.
    """

    def __init__(self, folder: Path, config: Mapping[str, object]) -> None:
        plain = json.dumps(to_plain(dict(config), "config"), sort_keys=True, allow_nan=False)
        self.folder = folder / hashlib.sha256(plain.encode()).hexdigest()[:16]

    def get(self, key: str) -> Arrays | None:
        """The arrays kept under `key`, or None; a RunError if the file cannot be read."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            # From memory: numpy leaves a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(f"{path} is damaged ({error}). Delete it and repeat the command.") from error

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the arrays under `key`, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(key), packed_arrays(arrays))

    def has(self, key: str) -> bool:
        """Whether a part is there."""
        return self._path(key).exists()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def packed_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An .npz file, compressed; numbers, booleans and text only (a UsageError for objects)."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise fail_argument(name, array, "numbers, booleans or text")
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()
