"""Folders that Hugging Face's library `datasets` saved: images, labels and masks, each by its feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from veridical.data.arrays import Arrays, corrupt_file_error, decoding, hashed_order
from veridical.data.image_files import Embedded, Part, Resizing, read_one_part, read_parts
from veridical.runtime.errors import UsageError
from veridical.runtime.registry import import_extra

_EXPECTED = "a folder as `Dataset.save_to_disk` or `DatasetDict.save_to_disk` writes it"
# Columns of pictures that are masks, not images.
_MASKS = ("mask", "segmentation")


class _Columns(NamedTuple):
    """Which column is what, and the names of the classes."""

    image: str
    label: str
    mask: str | None
    classes: tuple[str, ...]


def is_saved(folder: Path) -> bool:
    """Whether the library wrote the folder, by its files."""
    single = ("dataset_info.json", "state.json")
    return (folder / "dataset_dict.json").is_file() or all((folder / name).is_file() for name in single)


def read_saved(folder: Path, how: Resizing | None, split_seed: int) -> Arrays:
    """Read a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Images are the column of feature Image (of several the one named image), labels that of feature ClassLabel
    (named label), masks an Image column named mask or segmentation, where there is one. Splits are train and
    test, or else validation; of a single one a fifth of every class is for testing, chosen by `split_seed`.
    Rows come in a hashed order, as class folders' files do. Nothing is downloaded, and no code is run. Raises
    DataError; UsageError where columns do not tell, and without the extra "datasets".
    """
    datasets = import_extra("datasets", "datasets")
    with decoding(folder, _EXPECTED, OSError, ValueError, LookupError, TypeError, AttributeError):
        loaded = datasets.load_from_disk(str(folder.absolute()))
    splits = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    names = _choose_splits(folder, list(splits))
    columns = [_columns(datasets, folder, splits[name].features) for name in names]
    if len({(one.image, one.label, one.classes) for one in columns}) > 1:
        expected = f"the image, label and classes of {names[0]} in {names[1]}"
        raise corrupt_file_error(folder, "other columns or classes", expected)
    pairs = zip(names, columns, strict=True)
    parts = [_part(datasets, folder, name, splits[name], one) for name, one in pairs]
    # Masks count where test images have them; a split without the column has none.
    is_masked = any(mask is not None for mask in parts[-1].masks or ())
    masks = [(part.masks or [None] * len(part.images)) if is_masked else None for part in parts]
    parts = [part._replace(masks=own) for part, own in zip(parts, masks, strict=True)]
    classes = columns[0].classes
    if len(parts) == 1:
        return read_one_part(folder, parts[0], classes, how, split_seed)
    return read_parts(folder, parts[0], parts[1], classes, how)


def _choose_splits(folder: Path, names: Sequence[str]) -> list[str]:
    """The splits for training and testing, or the only one."""
    held = next((name for name in ("test", "validation") if name in names), None)
    if len(names) == 1:
        return [names[0]]
    if "train" not in names or held is None:
        found = f"the splits {', '.join(names)}" if names else "no splits"
        raise corrupt_file_error(folder, found, "the splits train and test (or validation), or a single one")
    return ["train", held]


def _columns(datasets: Any, folder: Path, features: Mapping[str, Any]) -> _Columns:
    """The columns by their features' types."""
    pictures = [name for name, one in features.items() if isinstance(one, datasets.Image)]
    labels = [name for name, one in features.items() if isinstance(one, datasets.ClassLabel)]
    mask = next((name for name in _MASKS if name in pictures), None)

    def choose(kind: str, names: Sequence[str], preferred: str) -> str:
        if preferred in names or len(names) == 1:
            return preferred if preferred in names else names[0]
        known = ", ".join(f"{name} ({type(one).__name__})" for name, one in features.items())
        raise UsageError(
            f"data: expected one column of feature {kind} in {folder}, or one named {preferred}, but got "
            f"{len(names)}. Its columns are {known}. Rename or cast one (rename_column, cast_column), and "
            "save it again."
        )

    image = choose("Image", [name for name in pictures if name not in _MASKS], "image")
    label = choose("ClassLabel", labels, "label")
    return _Columns(image, label, mask, tuple(features[label].names))


def _part(datasets: Any, folder: Path, split: str, rows: Any, columns: _Columns) -> Part:
    """The rows of one split, in hashed order."""
    where, rows = f"{folder}, {split}" if split else str(folder), rows.with_format(None)
    labels = list(rows[columns.label])
    if not labels or None in labels:
        found = f"none in row {labels.index(None)}" if labels else "no rows"
        raise corrupt_file_error(f"{where}, column {columns.label}", found, "a label in every row")

    def pictures(column: str) -> list[Embedded]:
        # Alone and encoded: a row gives the bytes of one picture.
        alone = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        places = [f"{where}, row {row}, {column}" for row in range(len(labels))]
        return [Embedded(place, partial(_content, alone, row, place)) for row, place in enumerate(places)]

    masks = None
    if columns.mask is not None:
        masks = [mask if mask.read() else None for mask in pictures(columns.mask)]
    whole = Part(pictures(columns.image), np.asarray(labels, dtype=np.int64), masks)
    return whole.take(hashed_order(range(len(labels)), 0, "folder"))


def _content(rows: Any, row: int, where: str) -> bytes:
    """The bytes of one picture, none for an empty cell; a DataError for a path, which is not followed."""
    (cell,) = rows[row].values()
    content, path = (cell or {}).get("bytes"), (cell or {}).get("path")
    if content is None and path:
        hint = "Save the data again with `save_to_disk`, which puts the pictures in."
        raise corrupt_file_error(where, f"the path {path}", "a picture's bytes", hint)
    return content or b""
