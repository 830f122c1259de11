"""Reading the original files of SVHN, GTSRB, Oxford's 17 flowers and Imagenette."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridical.data.arrays import Arrays, check_header, corrupt_file_error
from veridical.data.folders import class_folders, read_two_parts
from veridical.data.images import image_files, read_images
from veridical.data.registry import DATASETS, IMAGENETTE_FOLDERS
from veridical.data.splits import hashed_order, stratified
from veridical.runtime.errors import DataError

SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
FLOWER_FILES = tuple(f"image_{number:04d}.jpg" for number in range(1, 1361))
_FLOWERS_A_CLASS = 80


def read_svhn(root: Path) -> Arrays:
    """Read train_32x32.mat and test_32x32.mat (MATLAB 5): images (N, 32, 32, 3); label 10 is the digit 0."""
    train, test = (_read_mat(root / name) for name in SVHN_FILES)
    return Arrays(*train, *test)


def _read_mat(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    from scipy.io import loadmat, whosmat

    try:
        header = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        _check_mat(path, header)
        content = loadmat(path, variable_names=["X", "y"])
    except DataError:
        raise
    except Exception as error:  # scipy's reader fails in nearly any way on a damaged file
        found = f"a damaged or truncated file ({type(error).__name__}: {error})"
        raise corrupt_file_error(path, found, "SVHN's MATLAB 5 file", "Copy it again.") from error
    images, labels = content["X"].transpose(3, 0, 1, 2), content["y"].reshape(-1)
    if labels.dtype.kind not in "iuf" or not np.isin(labels, np.arange(1, 11)).all():
        raise corrupt_file_error(
            path, "a label outside 1 to 10", "SVHN's labels, 1 to 10 (10 is the digit 0)"
        )
    return images, labels.astype(np.int64) % 10


def _check_mat(path: Path, header: dict[str, tuple[tuple[int, ...], str]]) -> None:
    for name, dimensions in (("X", 4), ("y", 2)):
        shape, kind = header.get(name, ((), "nothing"))
        if len(shape) != dimensions or (name == "X" and kind != "uint8"):
            raise corrupt_file_error(
                f"{path}, {name}", f"{kind} of shape {shape}", "uint8 X (32, 32, 3, N) and y (N, 1)"
            )
        if name == "X":
            check_header(f"{path}, X", (shape[3], *shape[:3]), np.dtype(np.uint8), "images")


def read_gtsrb(folder: Path, size: int) -> Arrays:
    """Read GTSRB/Training/<00000 .. 00042>/*.ppm, GTSRB/Final_Test/Images/*.ppm and GT-final_test.csv.

    Whole images resized to `size`, as the RAR paper's data. Test images keep the order of the table.
    """
    training = folder / "GTSRB" / "Training"
    names = [f"{label:05d}" for label in range(len(DATASETS["gtsrb"].classes))]
    if class_folders(training) != names:
        raise corrupt_file_error(
            training, "other class folders", f"the {len(names)} folders {names[0]} to {names[-1]}"
        )
    files = [(path, label) for label, name in enumerate(names) for path in image_files(training / name)[0]]
    train = [files[index] for index in hashed_order(range(len(files)), 0, "gtsrb")]
    test = _gtsrb_table(folder / "GT-final_test.csv", folder / "GTSRB" / "Final_Test" / "Images")
    if not train:
        raise corrupt_file_error(training, "no image files", "PPM images")
    images = read_images([path for path, _ in train + test], size)
    labels = np.array([label for _, label in train + test], dtype=np.int64)
    count = len(train)
    return Arrays(images[:count], labels[:count], images[count:], labels[count:], options={"size": size})


def _gtsrb_table(path: Path, folder: Path) -> list[tuple[Path, int]]:
    """The test images and labels that the official table lists."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            table = list(csv.DictReader(stream, delimiter=";", skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise corrupt_file_error(
            path, f"an unreadable table ({error})", "GTSRB's GT-final_test.csv"
        ) from error
    if not table:
        raise corrupt_file_error(path, "no rows", "one row per test image")
    return [_gtsrb_row(path, folder, row) for row in table]


def _gtsrb_row(path: Path, folder: Path, row: dict[str, Any]) -> tuple[Path, int]:
    name, label = row.get("Filename"), row.get("ClassId")
    if not name or Path(name).name != name or not label or not label.isdecimal():
        raise corrupt_file_error(
            path, f"the row {row}", "columns Filename (a plain name) and ClassId, separated by ;"
        )
    if not (folder / name).is_file():
        raise corrupt_file_error(folder / name, "no file", f"the image that {path} lists")
    return folder / name, int(label)


def read_flowers(folder: Path, size: int) -> Arrays:
    """Read image_0001.jpg to image_1360.jpg, 80 of each class in turn: 72 for training, 8 for testing.

    Whole images resized to `size`, as the RAR paper's. The division is always the same; the paper's own
    draw of 72 and 8 is not published.
    """
    images = read_images([folder / name for name in FLOWER_FILES], size)
    labels = np.arange(len(FLOWER_FILES)) // _FLOWERS_A_CLASS
    train, test = stratified(labels.tolist(), 0.1, seed=0, purpose="flowers17")
    return Arrays(images[train], labels[train], images[test], labels[test], options={"size": size})


def read_imagenette(folder: Path, size: int) -> Arrays:
    """Read train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, whole images resized to `size`."""
    arrays = read_two_parts(folder / "train", folder / "val", tuple(IMAGENETTE_FOLDERS), size)
    return Arrays(
        arrays.train_images,
        arrays.train_labels,
        arrays.test_images,
        arrays.test_labels,
        options=arrays.options,
    )
