"""Images and labels: uint8 tensors in memory, found by name, file or folder.

Importing this package does not import torch: the table of names is available to the command line at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from veridical.data.registry import DATASETS, DatasetEntry

if TYPE_CHECKING:
    from veridical.data.dataset import Dataset, Split, load, split_validation
    from veridical.data.lookup import Availability, available

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "lookup" if name.lower().startswith("avail") else "dataset"
    return getattr(import_module(f"{__name__}.{home}"), name)
