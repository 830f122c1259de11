"""Where the files of a data set lie, which data is there, and torchvision's downloads. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import platformdirs

from veridical.data.array_files import npz_shapes, read_npz
from veridical.data.registry import DATASETS, DatasetEntry, Place
from veridical.runtime.checking import as_path
from veridical.runtime.errors import DataError
from veridical.runtime.registry import load_factory


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of data sets: the argument, else VERIDICAL_DATA, else the system's cache folder.

    That is ~/.cache/veridical on Linux, ~/Library/Caches/veridical on macOS.
    """
    given = os.fspath(root) if root is not None else os.environ.get("VERIDICAL_DATA")
    cache = platformdirs.user_cache_dir("veridical", appauthor=False)
    return as_path(given or cache, "VERIDICAL_DATA" if root is None else "data_root")


def _list_places(entry: DatasetEntry, root: Path, size: int | None = None) -> list[Place]:
    """Every place of a registered data set, in the order of lookup; looks which files exist, opens none.

    size: height and width for original files that differ in size; None is the registry's.
    """
    originals = load_factory(entry.factory)(root, entry.shape[1] if size is None else size)
    return [_npz_place(root / f"{entry.name}.npz"), *originals]


def _npz_place(file: Path) -> Place:
    return Place(file.parent, [file.name], lambda: read_npz(file), "npz", str(file), lambda: npz_shapes(file))


def find_place(entry: DatasetEntry, root: Path, *, download: bool, size: int | None) -> Place:
    """The first place that is complete, after a download into the root if that is allowed and needed.

    Raises DataError with every place that was tried.
    """
    tried = _list_places(entry, root, size)
    outcome = "not asked for (`veridical train --download`, download=True)"
    if download and not _first_complete(tried):
        outcome = _download_original(entry, root)
        # A download is no promise: what counts is what lies there now.
        tried = _list_places(entry, root, size)
    place = _first_complete(tried)
    if place is not None:
        return place
    if not entry.download:
        outcome = "it does not offer this data set"
    lines = [*(one.describe() for one in tried), f"torchvision's download into {root}: {outcome}"]
    raise DataError(
        f"No data for {entry.name!r}. Tried, in this order:\n"
        + "".join(f"  {number}. {line}\n" for number, line in enumerate(lines, start=1))
        + "Put the data in one of these places, or name another root (--data-root, VERIDICAL_DATA)."
    )


def _first_complete(places: Sequence[Place]) -> Place | None:
    return next((place for place in places if not place.missing), None)


def _download_original(entry: DatasetEntry, root: Path) -> str:
    """Let torchvision fetch the original files, each archive checked against its MD5; say how it went."""
    if not entry.download:
        return ""
    try:
        from torchvision import datasets
    except ImportError as error:
        return f"torchvision is not installed ({error})"
    source = getattr(datasets, entry.download)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if entry.name == "cifar10":
            # Not constructed, as that would unpickle the batches: only its address and checksum are used.
            datasets.utils.download_and_extract_archive(
                source.url, str(root), filename=source.filename, md5=source.tgz_md5
            )
        else:
            for options in entry.download_calls:
                source(str(root), download=True, **options)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        # URLError and HTTPError are OSErrors; torchvision makes RuntimeErrors of some, and of bad checksums.
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"it failed ({reason}); is there a network?"
    return "it ended without these files"


@dataclass(frozen=True)
class Availability:
    """One data set as `veridical.data.load` would find it.

    kind: "npz", "original", "debian", "package", or None when nothing was found. where: its place, or "".
    train, test, shape: numbers of images and (C, H, W), where headers tell them quickly, else None. problem:
    why headers could not be read, or "". tried: one line for each place, in the order of lookup.
    """

    name: str
    title: str
    kind: str | None = None
    where: str = ""
    train: int | None = None
    test: int | None = None
    shape: tuple[int, int, int] | None = None
    problem: str = ""
    tried: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether `load` would find files; only loading checks them in full."""
        return self.kind is not None

    def to_dict(self) -> dict[str, object]:
        """Plain values for a result."""
        plain = {key: list(one) if isinstance(one, tuple) else one for key, one in asdict(self).items()}
        return {"found": self.found, **{key: one for key, one in plain.items() if key != "name"}}


def available(root: str | os.PathLike[str] | None = None) -> list[Availability]:
    """Look for every registered data set, then for other `.npz` files in the root.

    root: as in `veridical.data.load`. Only headers are read; nothing is downloaded. Does not import torch.
    """
    folder = data_root(root)
    rows = [_look(entry.name, entry.title, _list_places(entry, folder)) for entry in DATASETS.entries()]
    files = [path for path in sorted(folder.glob("*.npz")) if path.stem not in DATASETS]
    title = "your own file, loaded by its path"
    return rows + [_look(str(path), title, [_npz_place(path)]) for path in files]


def _look(name: str, title: str, places: Sequence[Place]) -> Availability:
    row = Availability(name, title, tried=tuple(place.describe() for place in places))
    place = _first_complete(places)
    if place is None:
        return row
    row = replace(row, kind=place.kind, where=place.where)
    try:
        shapes = place.shapes() if place.shapes else None
    except DataError as error:
        return replace(row, problem=str(error))
    if shapes is None:
        return row
    (train, height, width, *channels), (test, *_) = shapes
    return replace(row, train=train, test=test, shape=(channels[0] if channels else 1, height, width))
