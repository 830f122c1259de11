"""Decoding image files of one data set into one array, with their headers checked first."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from veridical.data.arrays import MAX_SIDE, check_header, corrupt_file_error

_NO_PIXELS = frozenset(("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"))
"""What Pillow knows and cannot decode, or not without running another program."""
_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "CMYK", "YCbCr")


@lru_cache(maxsize=1)
def formats() -> tuple[tuple[str, ...], frozenset[str]]:
    """The formats that are read, all that Pillow decodes by itself, and the suffixes of their files."""
    Image.init()
    known = set(Image.OPEN) - _NO_PIXELS
    suffixes = (suffix for suffix, name in Image.registered_extensions().items() if name in known)
    return tuple(sorted(known)), frozenset(suffixes)


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The image files in `folder` and in the folders within it, and the files that are none, both by path.

    An image is a regular file with a suffix of an image format. Hidden files and folders are neither, and a
    folder that is linked into itself is entered once.
    """
    found: tuple[list[Path], list[Path]] = ([], [])
    entered: set[str] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        folders[:] = [] if real in entered else [name for name in folders if not name.startswith(".")]
        for path in () if real in entered else (Path(where, name) for name in names):
            if not path.name.startswith("."):
                found[not (path.suffix.lower() in formats()[1] and path.is_file())].append(path)
        entered.add(real)
    return sorted(found[0]), sorted(found[1])


def read_images(paths: Sequence[Path], size: int | None) -> npt.NDArray[np.uint8]:
    """Decode all files: (N, H, W) when all are grey, else (N, H, W, 3).

    size: height and width of the result; each whole image is resized to it (bilinear with antialiasing,
    aspect ratio not kept). None wants files of one size. EXIF orientation is not applied, as torchvision does
    not; of several pictures in a file the first is read. Raises DataError, naming the file, for one that
    cannot be read, has transparency, or differs in size.
    """
    (width, height), mode = _survey(paths, size)
    shape = (len(paths), height, width) if mode == "L" else (len(paths), height, width, 3)
    check_header(paths[0].parent, shape, np.dtype(np.uint8), "images")
    images = np.empty(shape, dtype=np.uint8)
    for target, path in zip(images, paths, strict=True):
        with _opened(path) as picture:
            # Palettes and bitmaps have to become levels before they can be resized.
            levels = picture.convert(mode)
            if levels.size != (width, height):
                levels = levels.resize((width, height), Image.Resampling.BILINEAR)
            target[...] = np.asarray(levels)
    return images


def _survey(paths: Sequence[Path], size: int | None) -> tuple[tuple[int, int], str]:
    """Read every header: the (width, height) of the result and its mode, "L" or "RGB"."""
    mode, first = "L", (0, 0)
    for number, path in enumerate(paths):
        with _opened(path) as picture:
            if picture.mode not in _GREY + _COLOUR or "transparency" in picture.info:
                found = f"an image of mode {picture.mode}" + (
                    " with transparency" if "transparency" in picture.info else ""
                )
                raise corrupt_file_error(
                    path, found, "8-bit grey or RGB without transparency", "Convert the file."
                )
            if max(picture.size) > MAX_SIDE:
                raise corrupt_file_error(
                    path, f"an image of {picture.size}", f"sides of at most {MAX_SIDE} pixels"
                )
            first = picture.size if number == 0 else first
            if size is None and picture.size != first:
                found = f"width and height {picture.size}, where {paths[0]} has {first}"
                hint = "Resize the files, or load them from Python: load(..., size=...) resizes all."
                raise corrupt_file_error(path, found, "images of one size", hint)
            mode = mode if picture.mode in _GREY else "RGB"
    return (first if size is None else (size, size)), mode


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open one file; whatever Pillow finds wrong with it, now or while decoding, is a DataError."""
    try:
        with warnings.catch_warnings():
            # A picture large enough for this warning is refused by its size, with a message of ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats()[0]) as picture:
                yield picture
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        found = f"a damaged or truncated file ({error})"
        raise corrupt_file_error(
            path, found, "a PNG, JPEG, TIFF or another image that Pillow reads"
        ) from error
