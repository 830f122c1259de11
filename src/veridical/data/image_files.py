"""Image files in class folders, with masks beside them: a caller's own, or GTSRB, 17 flowers, Imagenette."""

from __future__ import annotations

import csv
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from io import BytesIO
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
from veridical.runtime.errors import argument_error, visible

FLOWER_FILES = tuple(f"image_{number:04d}.jpg" for number in range(1, 1361))
# What Pillow knows and cannot decode, or not without running another program.
_NO_PIXELS = frozenset(("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"))
_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")
_TEST_FRACTION = 0.2
# Half of the range of 8 bits: what is brighter in a mask is evidence.
_HALF = 127
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


@dataclass(frozen=True)
class Embedded:
    """A picture inside another file: where it is, for messages, and what reads its bytes."""

    where: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.where


Picture = Path | Embedded


class Part(NamedTuple):
    """The images of one part of a data set, the label of each, and the mask of each, None for one without.

    masks: None where nothing is said of masks.
    """

    images: Sequence[Picture]
    labels: Labels
    masks: Sequence[Picture | None] | None = None

    def take(self, indices: Sequence[int]) -> Part:
        """The images with these numbers, in this order."""
        masks = None if self.masks is None else [self.masks[index] for index in indices]
        return Part([self.images[index] for index in indices], self.labels[list(indices)], masks)


class _Masks(NamedTuple):
    """A folder of mask images: its files by their name below it, without the suffix."""

    folder: Path
    files: Mapping[Path, Sequence[Path]]

    @classmethod
    def of(cls, folder: Path) -> _Masks:
        files: dict[Path, list[Path]] = {}
        for path in _image_files(folder)[0]:
            files.setdefault(path.relative_to(folder).with_suffix(""), []).append(path)
        return cls(folder, files)

    def find(self, names: Sequence[Path]) -> list[Path | None]:
        """The mask of each image, by its name below the data's folder; None: it has none.

        Of several that differ in their suffix it is the one with the image's own. Raises DataError where that
        does not decide, and where two images would share one.
        """
        found: dict[Path, Path] = {}
        for name in names:
            alike = self.files.get(name.with_suffix(""), [])
            own = [path for path in alike if path.suffix == name.suffix] or alike
            if len(own) > 1:
                both = f"{own[0].name} and {own[1].name}"
                raise corrupt_file_error(self.folder / name.parent, both, f"one mask for the image {name}")
            if own and (other := found.get(own[0])) is not None:
                raise corrupt_file_error(own[0], f"the images {other} and {name}", "one image of this name")
            found |= {own[0]: name} if own else {}
        masks = {name: mask for mask, name in found.items()}
        return [masks.get(name) for name in names]


def read_folder(
    folder: Path, how: Resizing | None, split_seed: int, masks_folder: Path | None = None
) -> Arrays:
    """Read any folder of class folders; labels number the class names in alphabetical order.

    Without train and test folders a fifth of every class is for testing, chosen by `split_seed`. Files come
    in a hashed order, the same each time, so that the first ones are not all of one class. Folders within a
    class folder belong to the class, as torchvision has it. A UserWarning names files that are no images and
    images outside the class folders, none of which are read.

    masks_folder: mask images with the images' names below `folder`, whatever the suffix; see `read_parts`.
    Raises DataError; UsageError for masks that would be read as images.
    """
    if masks_folder is not None:
        _check_apart(masks_folder, folder)
    masks = None if masks_folder is None else _Masks.of(masks_folder)
    if not (folder / "train").is_dir():
        names = _class_folders(folder)
        if "test" in names or "val" in names:
            found = "a folder test or val, but none named train"
            raise corrupt_file_error(folder, found, "both or neither", _HINT)
        return _read_one_level(folder, names, how, split_seed, masks)
    for part in ("test", "val"):
        if (folder / part).is_dir():
            train = folder / "train"
            return _read_two_parts(train, folder / part, _class_folders(train), how, masks)
    raise corrupt_file_error(folder, "a folder train, but none named test or val", "both or neither", _HINT)


def _check_apart(masks: Path, folder: Path) -> None:
    """Raise a UsageError unless the masks lie where no images are read."""
    if not masks.is_dir():
        hint = "There is no such folder."
        raise argument_error("masks", str(masks), f"a folder of mask images for {folder}", hint)
    own, parts = folder.resolve(), [folder / part for part in ("train", "test", "val")]
    read = [part.resolve() for part in parts if part.is_dir()] or [own]
    if masks.resolve() == own or any(masks.resolve().is_relative_to(part) for part in read):
        expected = "a folder outside that of the images"
        raise argument_error("masks", str(masks), expected, "Move it: its pictures would be read as images.")


def _class_folders(folder: Path) -> list[str]:
    """The names of the class folders, sorted, without hidden ones. Raises DataError below two."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise corrupt_file_error(folder, f"{len(names)} class folder(s)", "at least two", _HINT)
    return names


def _read_two_parts(
    train: Path, test: Path, names: Sequence[str], how: Resizing | None, masks: _Masks | None = None
) -> Arrays:
    """Read class folders for training and testing; `names` are all classes, in the order of the labels."""
    extra = sorted(set(_class_folders(test)) - set(names))
    if extra:
        found = f"class folder(s) {', '.join(extra[:5])}"
        raise corrupt_file_error(test, found, f"only the classes of {train}")
    where = train.parent if masks is None else masks.folder
    parts = [_list_part(folder, names, folder.parent, masks) for folder in (train, test)]
    return read_parts(where, parts[0], parts[1], names, how)


def _read_one_level(
    folder: Path, names: Sequence[str], how: Resizing | None, split_seed: int, masks: _Masks | None
) -> Arrays:
    part = _list_part(folder, names, folder, masks)
    # A class of one image cannot be on both sides.
    alone = np.flatnonzero(np.bincount(part.labels, minlength=len(names)) < 2)
    if len(alone):
        expected = "at least 2, one each for training and testing"
        raise corrupt_file_error(folder / names[alone[0]], "1 image", expected)
    return read_one_part(folder if masks is None else masks.folder, part, names, how, split_seed)


def read_one_part(
    where: Path, part: Part, classes: Sequence[str], how: Resizing | None, split_seed: int
) -> Arrays:
    """As `read_parts`, of images of which a fifth of every class is for testing, chosen by `split_seed`."""
    train, test = stratified(part.labels.tolist(), _TEST_FRACTION, split_seed, "folder")
    options = {"split_seed": split_seed, "test_fraction": _TEST_FRACTION}
    return read_parts(where, part.take(train), part.take(test), classes, how, options)


def read_parts(
    where: Path,
    train: Part,
    test: Part,
    classes: Sequence[str],
    how: Resizing | None,
    options: Mapping[str, object] | None = None,
) -> Arrays:
    """Decode the images of both parts to one size and colour, and their masks to the images' size.

    A mask is a picture of its image's size, whose pixels brighter than half of the range (in any channel) are
    evidence; it is resized and cut as its image, by the nearest pixel. A UserWarning counts the images
    without one, whose masks are empty. where: the masks' place, for messages. Raises DataError for files
    that cannot be used, masks that do not fit, and where no test image has one.
    """
    # One call, so that size and colour are one for both.
    images = _read_images([*train.images, *test.images], how)
    count, chosen = len(train.images), dict(options or {}) | ({} if how is None else how.describe())
    arrays = Arrays(images[:count], train.labels, images[count:], test.labels, tuple(classes), chosen)
    if train.masks is None or test.masks is None:
        return arrays
    _tell_missing(where, train, test)
    height, width = images.shape[1:3]
    masks = [_read_masks(part.images, part.masks or (), how, (height, width)) for part in (train, test)]
    return replace(arrays, train_mask=masks[0], test_mask=masks[1])


def _tell_missing(where: Path, train: Part, test: Part) -> None:
    """Warn of images without a mask; a DataError where all test images are."""
    parts = {"training": train, "test": test}
    missing = {
        name: [image for image, mask in zip(part.images, part.masks or (), strict=True) if mask is None]
        for name, part in parts.items()
    }
    if len(missing["test"]) == len(test.images):
        found = f"none for any of the {len(test.images)} test images, such as {test.images[0]}"
        hint = "Masks have the images' names, below the data's folder: train/cat/1.png, or cat/1.png."
        raise corrupt_file_error(where, found, "masks of the test images", hint)
    some = [*missing["test"], *missing["training"]]
    if some:
        counted = " and ".join(
            f"{len(images)} of {len(parts[name].images)} {name} images" for name, images in missing.items()
        )
        warnings.warn(
            visible(
                f"{where}: {counted} have no mask, such as {some[0]}: their masks are empty, and measures of "
                "regions leave them out."
            ),
            stacklevel=2,
        )


def _read_masks(
    images: Sequence[Picture], masks: Sequence[Picture | None], how: Resizing | None, shape: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """The masks of images, bool (N, height, width); shape: height and width after resizing."""
    result = np.zeros((len(images), *shape), dtype=np.bool_)
    exact = None if how is None else how._replace(interpolation="nearest")
    for target, image, mask in zip(result, images, masks, strict=True):
        if mask is None:
            continue
        with _open_image(image) as picture, _open_image(mask) as drawn:
            if drawn.size != picture.size:
                found = f"width and height {drawn.size}"
                raise corrupt_file_error(mask, found, f"those of its image {image}, {picture.size}")
            _check_mode(mask, drawn)
            levels = np.asarray(drawn.convert("L" if drawn.mode in _GREY else "RGB"))
        brightest = levels if levels.ndim == 2 else levels.max(axis=2)
        if 0 < brightest.max() <= _HALF:
            found = f"a picture without a level above {brightest.max()}"
            hint = "Multiply masks of 0 and 1 by 255; rename what is no mask."
            raise corrupt_file_error(mask, found, f"black, and evidence brighter than {_HALF}", hint)
        evidence = Image.fromarray(np.where(brightest > _HALF, 255, 0).astype(np.uint8))
        target[...] = np.asarray(evidence if exact is None else exact.apply(evidence)) > _HALF
    return result


def _list_part(folder: Path, names: Sequence[str], root: Path, masks: _Masks | None) -> Part:
    """Every image file below `folder` in hashed order, with labels and masks; a warning names other files.

    root: the data's folder, below which masks have the images' names.
    """
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
    found = None if masks is None else masks.find([path.relative_to(root) for path in paths])
    whole = Part(paths, np.array(labels, dtype=np.int64), found)
    return whole.take(hashed_order(range(len(paths)), 0, "folder"))


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


def _read_images(pictures: Sequence[Picture], how: Resizing | None) -> npt.NDArray[np.uint8]:
    """Decode all pictures: (N, H, W) when all are grey, else (N, H, W, 3).

    how: None wants pictures of one size. EXIF orientation is not applied, as torchvision does
    not; of several pictures in a file the first is read. Raises DataError, naming the file, for one that
    cannot be read, has transparency, or differs in size.
    """
    # All headers first: nothing is decoded for a set of which one file cannot be used.
    (width, height), mode = _survey(pictures, None if how is None else how.size)
    shape = (len(pictures), height, width) if mode == "L" else (len(pictures), height, width, 3)
    check_header(pictures[0], shape, np.dtype(np.uint8), "images")
    images = np.empty(shape, dtype=np.uint8)
    for target, picture in zip(images, pictures, strict=True):
        with _open_image(picture) as image:
            # Palettes and bitmaps have to become levels before they can be resized.
            levels = image.convert(mode)
            target[...] = np.asarray(levels if how is None else how.apply(levels))
    return images


def _survey(pictures: Sequence[Picture], size: int | None) -> tuple[tuple[int, int], str]:
    """Read every header: the (width, height) of the result and its mode, "L" or "RGB"."""
    mode, first = "L", (0, 0)
    for number, picture in enumerate(pictures):
        with _open_image(picture) as image:
            _check_mode(picture, image)
            if max(image.size) > MAX_SIDE:
                expected = f"sides of at most {MAX_SIDE} pixels"
                raise corrupt_file_error(picture, f"an image of {image.size}", expected)
            first = image.size if number == 0 else first
            if size is None and image.size != first:
                found = f"width and height {image.size}, where {pictures[0]} has {first}"
                hint = "Resize the files, or give a size (size=, --image-size), to which all are resized."
                raise corrupt_file_error(picture, found, "images of one size", hint)
            mode = mode if image.mode in _GREY else "RGB"
    return (first if size is None else (size, size)), mode


def _check_mode(where: Picture, image: Image.Image) -> None:
    """Raise a DataError for a picture that is neither grey nor colour of 8 bits, or that has transparency."""
    transparency = " with transparency" * ("transparency" in image.info)
    if image.mode not in _GREY + _COLOUR or transparency:
        found = f"an image of mode {image.mode}{transparency}"
        expected = "8-bit grey or RGB without transparency"
        raise corrupt_file_error(where, found, expected, "Convert the file.")


@contextmanager
def _open_image(picture: Picture) -> Iterator[Image.Image]:
    """Open one picture; whatever Pillow finds wrong with it, now or while decoding, is a DataError."""
    errors = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
    expected = "a PNG, JPEG, TIFF or another image that Pillow reads"
    with decoding(picture, expected, *errors), warnings.catch_warnings():
        # A picture large enough for this warning is refused by its size, with a message of ours.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        file = picture if isinstance(picture, Path) else BytesIO(picture.read())
        with Image.open(file, formats=_formats()[0]) as image:
            yield image


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
