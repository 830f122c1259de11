"""The known regions of a data set's test images: where the sign, the garment or the signal is."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from veridical.data import DATASETS, Dataset
from veridical.data.foreground import THRESHOLD, with_foreground
from veridical.data.masked import MaskedDataset, load_masked

_KINDS = {
    "gtsrb": ("box", "the sign's bounding box"),
    "fashion-mnist": ("foreground", "the garment"),
}


_MASKS = {"block-mnist": "the block that carries the label", "shortcut": "the planted patch"}
"""What the masks of generated files mark."""


@lru_cache(maxsize=2)
def regions_of(data: Dataset) -> Tensor:
    """The region of every test image, bool (N, H, W); a process keeps those of the last two data sets.

    Raises DataError for a data set whose regions are not known: it must be gtsrb with boxes, fashion-mnist,
    or an .npz file with masks.
    """
    own = data.name not in DATASETS and data.source.endswith(".npz")
    return with_foreground(_masked(data.source) if own else data).test_mask


def region_record(data: Dataset) -> dict[str, Any]:
    """What the regions are, as plain values: their kind, and the digest of all of them."""
    packed = np.packbits(regions_of(data).numpy())  # first: it says so where none are known
    kind, words = _KINDS.get(data.name) or (
        "mask",
        _MASKS.get(_generator(data), "what the file's masks mark"),
    )
    record: dict[str, Any] = {
        "kind": kind,
        "words": words,
        "sha256": hashlib.sha256(packed.tobytes()).hexdigest(),
    }
    return record | ({"threshold": THRESHOLD} if kind == "foreground" else {})


def _generator(data: Dataset) -> str:
    """What made an .npz file with masks, as it says itself."""
    return str(_masked(data.source).options.get("generator", ""))


@lru_cache(maxsize=2)
def _masked(source: str) -> MaskedDataset:
    return load_masked(source)
