"""Finished parts of a long measurement on disk, so that the same command continues after an interruption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from veridical.runtime.files import Arrays, pack_arrays, read_arrays, to_plain, write_atomic


class PartStore:
    """Arrays by key in `folder`/<digest>/<key>.npz, where the digest is that of all the numbers depend on.

    A part is whole or absent. Parts of another configuration (other weights, images or settings) have another
    digest and are never taken for this one's.
    """

    def __init__(self, folder: Path, config: Mapping[str, object]) -> None:
        plain = json.dumps(to_plain(dict(config), "config"), sort_keys=True, allow_nan=False)
        self.folder = folder / hashlib.sha256(plain.encode()).hexdigest()[:16]

    def get(self, key: str, forms: Mapping[str, str] | None = None) -> Arrays | None:
        """The arrays kept under `key`, or None; a RunError if it is damaged. forms: see `read_arrays`."""
        path = self._path(key)
        if not path.exists():
            return None
        return read_arrays(path, forms)

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the arrays under `key`, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(key), pack_arrays(arrays))

    def has(self, key: str) -> bool:
        """Whether a part is there."""
        return self._path(key).exists()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"
