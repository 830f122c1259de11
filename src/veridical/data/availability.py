"""What data is there: every registered name with its place, and other `.npz` files in the root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from veridical.data.npz import npz_shapes, read_npz
from veridical.data.places import Place, Shapes, data_root, places
from veridical.data.registry import DATASETS, DatasetEntry
from veridical.runtime.errors import DataError


@dataclass(frozen=True)
class Availability:
    """One data set as `veridical.data.load` would find it.

    kind: "npz", "original", "debian", "package", or None when nothing was found. where: its place, or "".
    train, test, shape: numbers of images and (C, H, W), where headers tell them quickly, else None. problem:
    why headers could not be read, or "". tried: one line for each place, in the order of lookup.
    """

    name: str
    title: str
    kind: str | None
    where: str
    train: int | None
    test: int | None
    shape: tuple[int, int, int] | None
    problem: str
    tried: tuple[str, ...]

    @property
    def found(self) -> bool:
        """Whether `load` would find files; only loading checks them in full."""
        return self.kind is not None

    def to_dict(self) -> dict[str, object]:
        """Plain values for a result."""
        return {
            "found": self.found,
            "title": self.title,
            "kind": self.kind,
            "where": self.where,
            "train": self.train,
            "test": self.test,
            "shape": None if self.shape is None else list(self.shape),
            "problem": self.problem,
            "tried": list(self.tried),
        }


def available(root: str | os.PathLike[str] | None = None) -> list[Availability]:
    """Look for every registered data set, then for other `.npz` files in the root.

    root: as in `veridical.data.load`. Only headers are read; nothing is downloaded. Does not import torch.
    """
    folder = data_root(root)
    rows = [_registered(entry, places(entry, folder)) for entry in DATASETS.values()]
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    return rows + [_file(path) for path in files if path.stem not in DATASETS]


def _registered(entry: DatasetEntry, tried: list[Place]) -> Availability:
    lines = tuple(place.describe() for place in tried)
    chosen = next((place for place in tried if place.complete), None)
    if chosen is None:
        return Availability(entry.name, entry.title, None, "", None, None, None, "", lines)
    return _row(entry.name, entry.title, chosen, lines)


def _file(path: Path) -> Availability:
    place = Place("npz", str(path), (), True, lambda: read_npz(path), lambda: npz_shapes(path))
    return _row(str(path), "your own file, loaded by its path", place, (place.describe(),))


def _row(name: str, title: str, place: Place, tried: tuple[str, ...]) -> Availability:
    shapes: Shapes | None = None
    problem = ""
    try:
        shapes = place.shapes() if place.shapes is not None else None
    except DataError as error:
        problem = str(error)
    if shapes is None:
        return Availability(name, title, place.kind, place.where, None, None, None, problem, tried)
    train, test = shapes
    shape = (train[3] if len(train) == 4 else 1, train[1], train[2])
    return Availability(name, title, place.kind, place.where, train[0], test[0], shape, problem, tried)
