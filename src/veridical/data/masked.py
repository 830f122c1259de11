"""Data sets with known truth: which pixels of every image carry its label."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from veridical.data.arrays import corrupt_file_error
from veridical.data.dataset import Dataset, Split, load
from veridical.data.npz import read_members
from veridical.runtime.checking import as_path
from veridical.runtime.errors import DataError, argument_error, unknown_name_error
from veridical.runtime.files import atomic, to_plain
from veridical.runtime.record import record

PartName = Literal["train", "test"]
_PARTS: tuple[PartName, PartName] = ("train", "test")


@record(kw_only=True)
class MaskedDataset(Dataset):
    """A data set in which the truth is known; it can stand wherever a `Dataset` can.

    train_mask, test_mask: bool (N, H, W), True where the pixel carries the label (the signal). places:
    integers by name, int64 (N,) for training and for testing, such as the number of the signal block.
    """

    train_mask: Tensor
    test_mask: Tensor
    places: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in _PARTS:
            count, _, height, width = self.split(part).images.shape
            mask = self.mask(part)
            if mask.dtype != torch.bool or mask.shape != (count, height, width):
                expected = f"a bool tensor of shape {(count, height, width)}"
                raise argument_error(f"{part}_mask", mask, expected)
            for name in self.places:
                place = self.place(name, part)
                if place.dtype != torch.int64 or place.shape != (count,):
                    raise argument_error(f"places[{name!r}]", place, f"an int64 tensor of shape ({count},)")

    @classmethod
    def of(
        cls,
        data: Dataset,
        train_mask: Tensor,
        test_mask: Tensor,
        places: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> MaskedDataset:
        """The same data set with masks."""
        known = {one.name: getattr(data, one.name) for one in fields(Dataset)}
        return cls(**known, train_mask=train_mask, test_mask=test_mask, places=places or {})

    def split(self, part: PartName) -> Split:
        """The images and labels of "train" or "test"."""
        return self.train if part == "train" else self.test

    def mask(self, part: PartName) -> Tensor:
        """The masks of "train" or "test", bool (N, H, W)."""
        return self.train_mask if part == "train" else self.test_mask

    def place(self, name: str, part: PartName) -> Tensor:
        """The integers of that name of "train" or "test", int64 (N,)."""
        if name not in self.places:
            raise unknown_name_error("name", name, self.places or ["(there are none)"])
        return self.places[name][_PARTS.index(part)]


def save_masked(path: str | os.PathLike[str], data: MaskedDataset) -> None:
    """Write the data set as an .npz file that `veridical.data.load` reads and `load_masked` reads in full.

    Members: x_train, y_train, x_test, y_test, classes; mask_train, mask_test; place_NAME_train and _test; and
    `made`, a JSON text with name and options. The same data set gives the same bytes.
    """
    target = as_path(path)
    if target.suffix != ".npz":
        raise argument_error("path", str(target), "a name that ends in .npz")
    made = {"name": data.name, "options": to_plain(dict(data.options), "options")}
    arrays: dict[str, Any] = {
        "classes": np.asarray(data.classes, dtype=np.str_),
        "made": np.asarray([json.dumps(made, ensure_ascii=False)], dtype=np.str_),
    }
    for part in _PARTS:
        split = data.split(part)
        images = split.images.numpy().transpose(0, 2, 3, 1)
        arrays[f"x_{part}"] = np.ascontiguousarray(images[..., 0] if images.shape[3] == 1 else images)
        arrays[f"y_{part}"] = split.labels.numpy()
        arrays[f"mask_{part}"] = data.mask(part).numpy()
        arrays |= {f"place_{name}_{part}": data.place(name, part).numpy() for name in data.places}
    with atomic(target) as file:
        np.savez_compressed(file, **arrays)


def load_masked(path: str | os.PathLike[str]) -> MaskedDataset:
    """Read what `save_masked` wrote: the same images, labels, masks, places, checksum, name and options.

    `source` is the path. Raises DataError for a file without masks, or with masks that do not fit its images.
    """
    data = load(as_path(path).absolute())
    where = data.source
    members = read_members(Path(where), ("mask_", "place_", "made"))
    missing = [f"mask_{part}" for part in _PARTS if f"mask_{part}" not in members]
    if missing:
        raise corrupt_file_error(
            where,
            f"no {' and no '.join(missing)}",
            "a file with masks, as `veridical make-block-mnist` writes it",
        )
    for name in (f"mask_{part}" for part in _PARTS):
        if members[name].dtype != np.bool_:
            raise corrupt_file_error(where, f"{name} of dtype {members[name].dtype}", "masks of dtype bool")
    tensors = {name: torch.from_numpy(array) for name, array in members.items() if array.dtype.kind in "bi"}
    names = sorted({name[6:].rpartition("_")[0] for name in tensors if name.startswith("place_")})
    try:
        places = {name: (tensors[f"place_{name}_train"], tensors[f"place_{name}_test"]) for name in names}
        masked = MaskedDataset.of(data, tensors["mask_train"], tensors["mask_test"], places)
        made = json.loads(str(members["made"][0])) if "made" in members else {}
        changes: dict[str, Any] = {"name": made["name"], "options": made["options"]} if made else {}
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{where}: masks, places or `made` do not fit the images ({error}).") from error
    return replace(masked, **changes)
