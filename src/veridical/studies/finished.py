"""What a finished command left in its folder, as it is read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, eq=False)
class Finished:
    """The content of a result.json, and the arrays of the examples.npz beside it."""

    folder: Path
    document: Mapping[str, Any]
    arrays: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """What the numbers depend on."""
        config: Mapping[str, Any] = self.document["config"]
        return config

    @property
    def results(self) -> Mapping[str, Any]:
        """What was measured."""
        results: Mapping[str, Any] = self.document["results"]
        return results
