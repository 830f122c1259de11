"""Image files in class folders, a caller's own or those of GTSRB, Oxford's 17 flowers and Imagenette."""

from __future__ import annotations

import csv
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from veridical.data.arrays import (
    MAX_SIDE,
    Arrays,
    check_header,
    corrupt_file_error,
    decoding,
    hashed_order,
    stratified,
)
from veridical.data.registry import IMAGENETTE_FOLDERS, Place
from veridical.runtime.errors import visible

FLOWER_FILES = tuple(f"image_{number:04d}.jpg" for number in range(1, 1361))
# What Pillow knows and cannot decode, or not without running another program.
_NO_PIXELS = frozenset(("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"))
_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")
_TEST_FRACTION = 0.2
_HINT = "Folders are <folder>/train/<class>/* and <folder>/test/<class>/* (or val), or <folder>/<class>/*."

Labels = npt.NDArray[np.int64]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Resizing(NamedTuple):
    """How image files become images of one size: height and width `size`.

    crop_from: the shorter side is brought to this length, and the middle is cut out, as torchvision's weights
    ask for; None resizes the whole image, whatever its shape. interpolation: by Pillow's name, antialiased.
    """

    size: int
    crop_from: int | None = None
    interpolation: Interpolation = "bilinear"

    def describe(self) -> dict[str, object]:
        """Plain values, of which those that are usual are left out."""
        return {name: value for name, value in self._asdict().items() if value not in (None, "bilinear")}

    def apply(self, picture: Image.Image) -> Image.Image:
        """The picture at that size."""
        kind = Image.Resampling[self.interpolation.upper()]
        if self.crop_from is None:
            return picture.resize((self.size, self.size), kind)
        shorter = min(picture.size)
        # torchvision's lengths: the longer side is cut to whole pixels, the middle rounded half to even.
        width, height = (
            self.crop_from if side == shorter else int(self.crop_from * side / shorter)
            for side in picture.size
        )
        left, top = (round((side - self.size) / 2) for side in (width, height))
        resized = picture.resize((width, height), kind)
        return resized.crop((left, top, left + self.size, top + self.size))


def read_folder(folder: Path, how: Resizing | None, split_seed: int) -> Arrays:
    """Read any folder of class folders; labels number the class names in alphabetical order.

    Without train and test folders a fifth of every class is for testing, chosen by `split_seed`. Files come
    in a hashed order, the same each time, so that the first ones are not all of one class. Folders within a
    class folder belong to the class, as torchvision has it. A UserWarning names files that are no images and
    images outside the class folders, none of which are read. Raises DataError.
    """
    if not (folder / "train").is_dir():
        names = _class_folders(folder)
        if "test" in names or "val" in names:
            found = "a folder test or val, but none named train"
            raise corrupt_file_error(folder, found, "both or neither", _HINT)
        return _read_one_level(folder, names, how, split_seed)
    for part in ("test", "val"):
        if (folder / part).is_dir():
            return _read_two_parts(folder / "train", folder / part, _class_folders(folder / "train"), how)
    raise corrupt_file_error(folder, "a folder train, but none named test or val", "both or neither", _HINT)


def _class_folders(folder: Path) -> list[str]:
    """The names of the class folders, sorted, without hidden ones. Raises DataError below two."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise corrupt_file_error(folder, f"{len(names)} class folder(s)", "at least two", _HINT)
    return names


def _read_two_parts(train: Path, test: Path, names: Sequence[str], how: Resizing | None) -> Arrays:
    """Read class folders for training and testing; `names` are all classes, in the order of the labels."""
    extra = sorted(set(_class_folders(test)) - set(names))
    if extra:
        found = f"class folder(s) {', '.join(extra[:5])}"
        raise corrupt_file_error(test, found, f"only the classes of {train}")
    paths, labels = _list_images(train, names)
    test_paths, test_labels = _list_images(test, names)
    # One call, so that size and colour are one for both.
    images = _read_images([*paths, *test_paths], how)
    count, options = len(paths), {} if how is None else how.describe()
    return Arrays(images[:count], labels, images[count:], test_labels, tuple(names), options)


def _read_one_level(folder: Path, names: Sequence[str], how: Resizing | None, split_seed: int) -> Arrays:
    paths, labels = _list_images(folder, names)
    # A class of one image cannot be on both sides.
    alone = np.flatnonzero(np.bincount(labels, minlength=len(names)) < 2)
    if len(alone):
        expected = "at least 2, one each for training and testing"
        raise corrupt_file_error(folder / names[alone[0]], "1 image", expected)
    images = _read_images(paths, how)
    train, test = stratified(labels.tolist(), _TEST_FRACTION, split_seed, "folder")
    options: dict[str, object] = {"split_seed": split_seed, "test_fraction": _TEST_FRACTION}
    options |= {} if how is None else how.describe()
    return Arrays(images[train], labels[train], images[test], labels[test], tuple(names), options)


def _list_images(folder: Path, names: Sequence[str]) -> tuple[list[Path], Labels]:
    """Every image file below `folder` in hashed order, and the label of each; a warning names other files."""
    paths: list[Path] = []
    labels: list[int] = []
    # Images beside the class folders have no class: they are named, not read.
    skipped = [path for path in folder.iterdir() if path.suffix.lower() in _formats()[1]]
    for label, name in enumerate(names):
        files, others = _image_files(folder / name) if (folder / name).is_dir() else ([], [])
        if not files:
            expected = "at least one PNG, JPEG, TIFF or other image"
            raise corrupt_file_error(folder / name, "no image files", expected)
        paths += files
        labels += [label] * len(files)
        skipped += others
    skipped = sorted(path for path in skipped if not path.name.startswith("."))
    if skipped:
        kinds = Counter(path.suffix.lower() or "no suffix" for path in skipped).most_common(5)
        counted = ", ".join(f"{count} {suffix}" for suffix, count in kinds)
        warnings.warn(
            visible(
                f"{folder}: {len(paths)} images are read, and {len(skipped)} files skipped ({counted}), such "
                f"as {skipped[0].relative_to(folder)}: only image files inside the class folders are read."
            ),
            stacklevel=2,
        )
    order = hashed_order(range(len(paths)), 0, "folder")
    return [paths[index] for index in order], np.array(labels, dtype=np.int64)[order]


@lru_cache(maxsize=1)
def _formats() -> tuple[tuple[str, ...], frozenset[str]]:
    """The formats that are read, all that Pillow decodes by itself, and the suffixes of their files."""
    Image.init()
    known = set(Image.OPEN) - _NO_PIXELS
    suffixes = (suffix for suffix, name in Image.registered_extensions().items() if name in known)
    return tuple(sorted(known)), frozenset(suffixes)


def _image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The image files in `folder` and in the folders within it, and the files that are none, both by path.

    An image is a regular file with a suffix of an image format. Hidden files and folders are neither, and a
    folder that is linked into itself is entered once.
    """
    files: tuple[list[Path], list[Path]] = ([], [])
    entered: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in entered else [name for name in folders if not name.startswith(".")]
        for path in () if real in entered else (Path(where, name) for name in names):
            if not path.name.startswith("."):
                files[not (path.suffix.lower() in _formats()[1] and path.is_file())].append(path)
        entered.add(real)
    return sorted(files[0]), sorted(files[1])


def _read_images(paths: Sequence[Path], how: Resizing | None) -> npt.NDArray[np.uint8]:
    """Decode all files: (N, H, W) when all are grey, else (N, H, W, 3).

    how: None wants files of one size. EXIF orientation is not applied, as torchvision does
    not; of several pictures in a file the first is read. Raises DataError, naming the file, for one that
    cannot be read, has transparency, or differs in size.
    """
    # All headers first: nothing is decoded for a set of which one file cannot be used.
    (width, height), mode = _survey(paths, None if how is None else how.size)
    shape = (len(paths), height, width) if mode == "L" else (len(paths), height, width, 3)
    check_header(paths[0].parent, shape, np.dtype(np.uint8), "images")
    images = np.empty(shape, dtype=np.uint8)
    for target, path in zip(images, paths, strict=True):
        with _open_image(path) as picture:
            # Palettes and bitmaps have to become levels before they can be resized.
            levels = picture.convert(mode)
            if levels.size != (width, height):
                assert how is not None  # or the survey had refused it
                levels = how.apply(levels)
            target[...] = np.asarray(levels)
    return images


def _survey(paths: Sequence[Path], size: int | None) -> tuple[tuple[int, int], str]:
    """Read every header: the (width, height) of the result and its mode, "L" or "RGB"."""
    mode, first = "L", (0, 0)
    for number, path in enumerate(paths):
        with _open_image(path) as picture:
            transparency = " with transparency" * ("transparency" in picture.info)
            if picture.mode not in _GREY + _COLOUR or transparency:
                found = f"an image of mode {picture.mode}{transparency}"
                expected = "8-bit grey or RGB without transparency"
                raise corrupt_file_error(path, found, expected, "Convert the file.")
            if max(picture.size) > MAX_SIDE:
                expected = f"sides of at most {MAX_SIDE} pixels"
                raise corrupt_file_error(path, f"an image of {picture.size}", expected)
            first = picture.size if number == 0 else first
            if size is None and picture.size != first:
                found = f"width and height {picture.size}, where {paths[0]} has {first}"
                hint = "Resize the files, or give a size (size=, --image-size), to which all are resized."
                raise corrupt_file_error(path, found, "images of one size", hint)
            mode = mode if picture.mode in _GREY else "RGB"
    return (first if size is None else (size, size)), mode


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    """Open one file; whatever Pillow finds wrong with it, now or while decoding, is a DataError."""
    errors = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
    expected = "a PNG, JPEG, TIFF or another image that Pillow reads"
    with decoding(path, expected, *errors), warnings.catch_warnings():
        # A picture large enough for this warning is refused by its size, with a message of ours.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path, formats=_formats()[0]) as picture:
            yield picture


def gtsrb_places(root: Path, size: int) -> list[Place]:
    """Where GTSRB may lie: as torchvision unpacks it."""
    names = ("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv")
    return [Place(root / "gtsrb", names, partial(_read_gtsrb, root / "gtsrb", size))]


def _read_gtsrb(folder: Path, size: int) -> Arrays:
    """Read GTSRB/Training/<00000 .. 00042>/*.ppm, GTSRB/Final_Test/Images/*.ppm and GT-final_test.csv.

    Whole images resized to `size`, as the RAR paper's data. Test images keep the order of the table.
    """
    training = folder / "GTSRB" / "Training"
    names = [f"{label:05d}" for label in range(43)]
    if _class_folders(training) != names:
        expected = f"the {len(names)} folders {names[0]} to {names[-1]}"
        raise corrupt_file_error(training, "other class folders", expected)
    files = [(path, label) for label, name in enumerate(names) for path in _image_files(training / name)[0]]
    train = [files[index] for index in hashed_order(range(len(files)), 0, "gtsrb")]
    test = _read_gtsrb_table(folder / "GT-final_test.csv", folder / "GTSRB" / "Final_Test" / "Images")
    if not train:
        raise corrupt_file_error(training, "no image files", "PPM images")
    images = _read_images([path for path, _ in train + test], Resizing(size))
    labels = np.array([label for _, label in train + test], dtype=np.int64)
    count = len(train)
    return Arrays(images[:count], labels[:count], images[count:], labels[count:], options={"size": size})


def _read_gtsrb_table(path: Path, folder: Path) -> list[tuple[Path, int]]:
    """The test images and labels that the official table lists."""
    errors = (OSError, UnicodeDecodeError, csv.Error)
    with (
        decoding(path, "GTSRB's GT-final_test.csv", *errors),
        open(path, newline="", encoding="utf-8") as stream,
    ):
        table = list(csv.DictReader(stream, delimiter=";", skipinitialspace=True))
    if not table:
        raise corrupt_file_error(path, "no rows", "one row per test image")
    files = []
    for row in table:
        name, label = row.get("Filename"), row.get("ClassId")
        if not name or Path(name).name != name or not label or not label.isdecimal():
            expected = "columns Filename (a plain name) and ClassId, separated by ;"
            raise corrupt_file_error(path, f"the row {row}", expected)
        if not (folder / name).is_file():
            raise corrupt_file_error(folder / name, "no file", f"the image that {path} lists")
        files.append((folder / name, int(label)))
    return files


def flower_places(root: Path, size: int) -> list[Place]:
    """Where the 17 flowers may lie: their archive's images, with or without its folder."""
    folders = [root / "17flowers", root / "17flowers" / "jpg"]
    return [Place(folder, FLOWER_FILES, partial(_read_flowers, folder, size)) for folder in folders]


def _read_flowers(folder: Path, size: int) -> Arrays:
    """Read image_0001.jpg to image_1360.jpg, 80 of each class in turn: 72 for training, 8 for testing.

    Whole images resized to `size`, as the RAR paper's. The division is always the same; the paper's own
    draw of 72 and 8 is not published.
    """
    images = _read_images([folder / name for name in FLOWER_FILES], Resizing(size))
    labels = np.arange(len(FLOWER_FILES)) // 80
    train, test = stratified(labels.tolist(), 0.1, seed=0, purpose="flowers17")
    return Arrays(images[train], labels[train], images[test], labels[test], options={"size": size})


def imagenette_places(root: Path, size: int) -> list[Place]:
    """Where Imagenette may lie: its three archives; the smallest that need not be enlarged comes first."""
    sides = {"imagenette2-160": 160, "imagenette2-320": 320, "imagenette2": MAX_SIDE}
    ordered = sorted(sides, key=lambda name: sides[name] < size)
    return [
        Place(root / name, ("train", "val"), partial(_read_imagenette, root / name, size)) for name in ordered
    ]


def _read_imagenette(folder: Path, size: int) -> Arrays:
    """Read train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, whole images resized to `size`."""
    arrays = _read_two_parts(folder / "train", folder / "val", tuple(IMAGENETTE_FOLDERS), Resizing(size))
    return replace(arrays, classes=())  # the registry's names, not the folders'
