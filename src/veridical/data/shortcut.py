"""A planted shortcut: a small patch that agrees with the class in training and need not in testing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from veridical.data.dataset import Dataset, MaskedDataset, PartName, load
from veridical.data.masked import GeneratedPart, build_generated, check_limit
from veridical.runtime.errors import argument_error
from veridical.runtime.options import ShortcutOptions, ShortcutTestName
from veridical.runtime.seeds import per_example_uniform

__all__ = ["ABSENT", "ShortcutOptions", "shortcut", "shortcut_variants"]

# In `places["place"]`: no patch.
ABSENT = -1


def shortcut(options: ShortcutOptions, root: str | os.PathLike[str] | None = None) -> MaskedDataset:
    """Plant the patch: images, labels of the source, and masks of the patch's pixels (all False without one).

    root: where the source is looked up, as in `veridical.data.load`. `places` has "place", the number of the
    patch's place (ABSENT for none), "agrees", 1 where place or presence is that of the class, and "example",
    the number in the source's part. What is drawn depends on (seed, training or testing, example) alone, and
    fewer examples are the first ones of more. Raises UsageError for options that do not apply.
    """
    source = load(options.source, root)
    return _generate(options, source, _plant(options, source, "train"))


def shortcut_variants(
    options: ShortcutOptions, root: str | os.PathLike[str] | None = None
) -> Mapping[ShortcutTestName, MaskedDataset]:
    """The data set with each kind of test images, "agreeing", "moved" and "gone"; `options.test` is not used.

    Training images are the same in all, and the i-th test images differ in the patch alone.
    """
    source = load(options.source, root)
    train = _plant(options, source, "train")
    names: tuple[ShortcutTestName, ...] = get_args(ShortcutTestName)
    return {name: _generate(replace(options, test=name), source, train) for name in names}


def _patch_places(options: ShortcutOptions, height: int, width: int, count: int) -> npt.NDArray[np.int64]:
    """Upper left corners (count, 2), row and column, of places that lie evenly along the border.

    The first is the upper left corner of the image, the others follow clockwise. Raises UsageError where they
    would overlap or do not fit.
    """
    low, down, right = options.margin, height - options.margin, width - options.margin
    last_row, last_column = down - options.size, right - options.size
    if options.size < 1 or low < 0 or last_row <= low or last_column <= low:
        given = f"a patch of {options.size} pixels, {options.margin} from the border"
        raise argument_error("size and margin", given, f"one that fits into {height} x {width} pixels")
    # The ring of corners that touch the border, clockwise; each side leaves its end to the next.
    top = [(low, column) for column in range(low, last_column)]
    side = [(row, last_column) for row in range(low, last_row)]
    bottom = [(last_row, column) for column in range(last_column, low, -1)]
    ring = top + side + bottom + [(row, low) for row in range(last_row, low, -1)]
    corners = np.array([ring[round(number * len(ring) / count) % len(ring)] for number in range(count)])
    # Two squares overlap where both distances of their corners are below their side.
    gaps = np.abs(corners[:, None] - corners[None]).max(axis=2)
    if count > 1 and int(gaps[~np.eye(count, dtype=np.bool_)].min()) < options.size:
        hint = "Take a smaller one, or the code presence, which needs one place."
        raise argument_error("size", options.size, f"a patch that has {count} places along the border", hint)
    return corners


def _generate(options: ShortcutOptions, source: Dataset, train: GeneratedPart) -> MaskedDataset:
    test = _plant(options, source, "test")
    made_of = {"generator": "shortcut", "version": 1, **asdict(options)}
    return build_generated(f"shortcut-{Path(source.name).stem}", source, made_of, source.classes, train, test)


def _plant(options: ShortcutOptions, source: Dataset, part: PartName) -> GeneratedPart:
    is_train = part == "train"
    split = source.train if is_train else source.test
    limit = options.train_examples if is_train else options.test_examples
    check_limit(part, limit, len(split))
    used = split.subset(slice(limit))
    variant: ShortcutTestName = "agreeing" if is_train else options.test
    place, agrees = _draw_places(options, used.labels, part, variant, source.num_classes)
    images, mask = _paint(options, used.images, place, source.num_classes)
    example = torch.arange(len(used))
    return GeneratedPart(images, used.labels, mask, {"place": place, "agrees": agrees, "example": example})


def _draw_places(
    options: ShortcutOptions, labels: Tensor, part: PartName, variant: ShortcutTestName, classes: int
) -> tuple[Tensor, Tensor]:
    """Number of each patch's place, and 1 where it agrees with the class: both int64 (N,)."""
    draws = per_example_uniform(
        (3,), options.seed, f"shortcut/{part}", range(len(labels)), dtype=torch.float64
    )
    agrees = draws[:, 0] < options.rate
    if options.code == "place":
        # A place that does not agree is any of the other classes' with the same probability.
        other = (labels + 1 + (draws[:, 1] * (classes - 1)).long()) % classes
        place = torch.where(agrees, labels, other)
        if variant == "moved":
            place = (draws[:, 2] * classes).long()
    else:
        marked = labels % 2 == 1
        present = draws[:, 2] < 0.5 if variant == "moved" else marked == agrees
        place = torch.where(present, 0, ABSENT)
    if variant == "gone":
        place = torch.full_like(labels, ABSENT)
    expected = labels if options.code == "place" else torch.where(labels % 2 == 1, 0, ABSENT)
    return place, (place == expected).long()


def _paint(options: ShortcutOptions, images: Tensor, place: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Images with the patch at these places, and masks of its pixels."""
    height, width = images.shape[2:]
    count = classes if options.code == "place" else 1
    corners = torch.from_numpy(_patch_places(options, height, width, count))
    stencils = torch.zeros(count, height, width, dtype=torch.bool)
    for stencil, (row, column) in zip(stencils, corners.tolist(), strict=True):
        stencil[row : row + options.size, column : column + options.size] = True
    # A place of -1 would be the last one's: without a patch nothing is masked.
    mask = stencils[place.clamp(min=0)] & (place != ABSENT)[:, None, None]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    white = torch.ones(height, width, dtype=torch.bool)
    if options.pattern == "checks":
        white = (rows + columns) % 2 == 0
    # Mixed in floating point and rounded once.
    patch = 255 * options.contrast * white + (1 - options.contrast) * images.float()
    return torch.where(mask[:, None], patch.round().to(torch.uint8), images), mask
