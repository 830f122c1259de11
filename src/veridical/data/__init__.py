"""Images and labels: uint8 tensors in memory, found by name, file or folder.

Importing this package does not import torch: the table of names is available to the command line at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from veridical.data.registry import DATASETS, DatasetEntry

if TYPE_CHECKING:
    from veridical.data.availability import Availability, available
    from veridical.data.dataset import Dataset, Split, split_validation
    from veridical.data.lookup import load

__all__ = [
    "DATASETS",
    "Availability",
    "Dataset",
    "DatasetEntry",
    "Split",
    "available",
    "load",
    "split_validation",
]

_HOMES = {
    "Availability": "availability",
    "available": "availability",
    "Dataset": "dataset",
    "Split": "dataset",
    "split_validation": "dataset",
    "load": "lookup",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
