"""Reading class folders: train/<class>/* with test/<class>/*, or <class>/* divided by seed."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from veridical.data.arrays import Arrays, corrupt_file_error
from veridical.data.images import formats, image_files, read_images
from veridical.data.splits import hashed_order, stratified
from veridical.runtime.errors import visible

TEST_FRACTION = 0.2
_MOST_NAMED = 5
_HINT = "Folders are <folder>/train/<class>/* and <folder>/test/<class>/* (or val), or <folder>/<class>/*."


def read_folder(folder: Path, size: int | None, split_seed: int) -> Arrays:
    """Read any folder of class folders; labels number the class names in alphabetical order.

    Without train and test folders a fifth of every class is for testing, chosen by `split_seed`. Files come
    in a hashed order, the same each time, so that the first ones are not all of one class. Folders within a
    class folder belong to the class, as torchvision has it. A UserWarning names files that are no images and
    images outside the class folders, none of which are read. Raises DataError.
    """
    if not (folder / "train").is_dir():
        names = class_folders(folder)
        if "test" in names or "val" in names:
            raise corrupt_file_error(
                folder, "a folder test or val, but none named train", "both or neither", _HINT
            )
        return _one_level(folder, names, size, split_seed)
    for part in ("test", "val"):
        if (folder / part).is_dir():
            return read_two_parts(folder / "train", folder / part, class_folders(folder / "train"), size)
    raise corrupt_file_error(folder, "a folder train, but none named test or val", "both or neither", _HINT)


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders, sorted, without hidden ones. Raises DataError below two."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise corrupt_file_error(folder, f"{len(names)} class folder(s)", "at least two", _HINT)
    return names


def read_two_parts(train: Path, test: Path, names: Sequence[str], size: int | None) -> Arrays:
    """Read class folders for training and testing; `names` are all classes, in the order of the labels."""
    extra = sorted(set(class_folders(test)) - set(names))
    if extra:
        raise corrupt_file_error(
            test, f"class folder(s) {', '.join(extra[:5])}", f"only the classes of {train}"
        )
    trained, labels = _listed(train, names)
    tested, test_labels = _listed(test, names)
    # One call, so that size and colour are one for both.
    images = read_images([*trained, *tested], size)
    options = {} if size is None else {"size": size}
    count = len(trained)
    return Arrays(images[:count], labels, images[count:], test_labels, tuple(names), options)


def _one_level(folder: Path, names: Sequence[str], size: int | None, split_seed: int) -> Arrays:
    paths, labels = _listed(folder, names)
    alone = np.flatnonzero(np.bincount(labels, minlength=len(names)) < 2)
    if len(alone):
        raise corrupt_file_error(
            folder / names[alone[0]], "1 image", "at least 2, one each for training and testing"
        )
    images = read_images(paths, size)
    train, test = stratified(labels.tolist(), TEST_FRACTION, split_seed, "folder")
    options: dict[str, object] = {"split_seed": split_seed, "test_fraction": TEST_FRACTION}
    options |= {} if size is None else {"size": size}
    return Arrays(images[train], labels[train], images[test], labels[test], tuple(names), options)


def _listed(
    folder: Path, names: Sequence[str]
) -> tuple[list[Path], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Every image file below `folder` in hashed order, and the label of each."""
    found = []
    skipped = [path for path in folder.iterdir() if path.suffix.lower() in formats()[1]]
    for label, name in enumerate(names):
        files, others = image_files(folder / name) if (folder / name).is_dir() else ([], [])
        if not files:
            raise corrupt_file_error(
                folder / name, "no image files", "at least one PNG, JPEG, TIFF or other image"
            )
        found += [(path, label) for path in files]
        skipped += others
    _say_skipped(folder, skipped, len(found))
    order = hashed_order(range(len(found)), 0, "folder")
    return [found[index][0] for index in order], np.array(
        [found[index][1] for index in order], dtype=np.int64
    )


def _say_skipped(folder: Path, skipped: Sequence[Path], read: int) -> None:
    """Warn of files that were passed over, by suffix and with the first of them; nothing for none."""
    files = sorted(path for path in skipped if not path.name.startswith("."))
    if not files:
        return
    kinds = Counter(path.suffix.lower() or "no suffix" for path in files).most_common(_MOST_NAMED)
    named = ", ".join(f"{count} {suffix}" for suffix, count in kinds)
    warnings.warn(
        visible(
            f"{folder}: {read} images are read, and {len(files)} files skipped ({named}), such as "
            f"{files[0].relative_to(folder)}: only image files inside the class folders are read."
        ),
        stacklevel=2,
    )
