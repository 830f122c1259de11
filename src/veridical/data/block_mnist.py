"""BlockMNIST: images of blocks, one of which carries the label while the others never do.

Shah, Jain and Netrapalli, "Do Input Gradients Highlight Discriminative Features?" (NeurIPS 2021), put a digit
(the signal block) and a square (the null block) one above the other. What is drawn for an image depends on
(seed, training or testing, the image's number in the source) alone, and nothing of it on the label.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import torch

from veridical.data.arrays import Arrays
from veridical.data.block_null import null_blocks
from veridical.data.dataset import Split, build_dataset, load
from veridical.data.masked import MaskedDataset, PartName
from veridical.runtime.errors import DataError, argument_error
from veridical.runtime.options import BlockOptions
from veridical.runtime.record import record
from veridical.runtime.seeds import per_example_normal, per_example_uniform

__all__ = ["BlockOptions", "block_mnist", "cells_of", "counterfactual"]

_CHUNK = 1024


def block_mnist(options: BlockOptions, root: str | os.PathLike[str] | None = None) -> MaskedDataset:
    """Make the data set: images of blocks, labels of the signal blocks, and masks of the signal blocks.

    root: where the source is looked up, as in `veridical.data.load`. `places` has "block", the signal block's
    number (row by row, from 0), and "example", the number of its image in the source's part. The mask covers
    the whole signal block. Fewer examples are the first ones of more. Raises UsageError for options that do
    not apply, DataError for a source that is not there or not grey.
    """
    return _generated(options, root, 0)


def counterfactual(
    options: BlockOptions, root: str | os.PathLike[str] | None = None, *, step: int = 1
) -> MaskedDataset:
    """The same images with the signal block elsewhere: image i here and in `block_mnist` differ in that.

    The signal block changes places with the one `step` blocks further, the last being followed by the first,
    so with two blocks they are swapped. Contents and labels stay; additive noise stays with its pixel. Also
    of BlockMNIST-Top, whose counterfactuals the model never saw.
    """
    cells = int(np.prod(cells_of(options)))
    if not 0 < step < cells:
        expected = f"an integer from 1 to {cells - 1}, since there are {cells} blocks"
        raise argument_error("step (moved)", step, expected)
    return _generated(options, root, step)


def cells_of(options: BlockOptions) -> tuple[int, int]:
    """Rows and columns of blocks."""
    layout = options.layout
    if layout == "vertical":
        return 2, 1
    if layout == "horizontal":
        return 1, 2
    return layout, layout


@record
class _Part:
    """The source's images of one part: `pool` (N, h, w), all of the classes wanted; `chosen` rows of it."""

    name: PartName
    pool: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    chosen: int


def _generated(options: BlockOptions, root: str | os.PathLike[str] | None, moved: int) -> MaskedDataset:
    source = load(options.source, root)
    channels, height, width = source.shape
    if channels != 1:
        raise DataError(f"{options.source}: expected grey images, but found {channels} channels.")
    if options.null == "scramble" and (height % options.tile or width % options.tile):
        raise argument_error("tile", options.tile, f"a divisor of the block's sides, {height} and {width}")
    classes = source.classes if options.classes == "ten" else source.classes[:2]
    parts = (
        _part("train", source.train, len(classes), options.train_examples),
        _part("test", source.test, len(classes), options.test_examples),
    )
    images, masks, blocks = zip(*(_composed(options, part, moved) for part in parts), strict=True)
    labels = [part.labels[: part.chosen] for part in parts]
    recorded = {
        "generator": "block-mnist",
        "version": 1,
        **asdict(options),
        "moved": moved,
        "source_checksum": source.checksum,
    }
    arrays = Arrays(images[0], labels[0], images[1], labels[1], classes, recorded)
    fixed = options.position if options.position in ("top", "bottom") else ""
    name = f"block-mnist-{fixed}" if fixed else "block-mnist"
    train, test = (torch.from_numpy(part.numbers[: part.chosen].copy()) for part in parts)
    places = {
        "block": (torch.from_numpy(blocks[0]), torch.from_numpy(blocks[1])),
        "example": (train, test),
    }
    data = build_dataset(name, arrays, source.source)
    return MaskedDataset.of(data, torch.from_numpy(masks[0]), torch.from_numpy(masks[1]), places)


def _part(name: PartName, split: Split, classes: int, limit: int | None) -> _Part:
    wanted = (split.labels < classes).nonzero().flatten()
    if not len(wanted):
        raise DataError(f"the source has no {name} images of its first {classes} classes.")
    if limit is not None and not 1 <= limit <= len(wanted):
        raise argument_error(f"{name}_examples", limit, f"an integer from 1 to {len(wanted)}, or None")
    pool = split.images[wanted, 0].numpy()
    return _Part(name, pool, split.labels[wanted].numpy(), wanted.numpy(), limit or len(wanted))


def _composed(
    options: BlockOptions, part: _Part, moved: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Images (n, H, W), masks (n, H, W) and the signal blocks' numbers (n,) of one part."""
    rows, columns = cells_of(options)
    height, width = part.pool.shape[1:]
    images = np.empty((part.chosen, rows * height, columns * width), dtype=np.uint8)
    masks = np.empty(images.shape, dtype=np.bool_)
    blocks = np.empty(part.chosen, dtype=np.int64)
    for start in range(0, part.chosen, _CHUNK):  # noise in floating point would be many times the images
        chunk = slice(start, min(start + _CHUNK, part.chosen))
        numbers = part.numbers[chunk].tolist()
        nulls = null_blocks(options, part.name, part.pool, numbers, rows * columns - 1)
        first = _positions(options, part.name, numbers, rows * columns)
        cells, blocks[chunk] = _arranged(options, part.pool[chunk], nulls, first, moved)
        levels = _as_images(cells, rows, columns)
        images[chunk] = _finished(options, part.name, numbers, levels)
        signal = np.arange(rows * columns) == blocks[chunk, None]
        masks[chunk] = _as_images(np.broadcast_to(signal[:, :, None, None], cells.shape), rows, columns)
    return images, masks, blocks


def _positions(
    options: BlockOptions, part: PartName, numbers: Sequence[int], cells: int
) -> npt.NDArray[np.int64]:
    """The signal block's number of each image, (n,)."""
    position = options.position
    if position in ("top", "bottom"):
        return np.full(len(numbers), 0 if position == "top" else cells - 1, dtype=np.int64)
    draws = per_example_uniform(
        (2,), options.seed, f"block-mnist/{part}/position", numbers, dtype=torch.float64
    ).numpy()
    if position == "random":
        return np.asarray(draws[:, 0] * cells, dtype=np.int64)
    others = 1 + np.asarray(draws[:, 1] * (cells - 1), dtype=np.int64)
    return np.where(draws[:, 0] < float(position), 0, others)


def _arranged(
    options: BlockOptions,
    signals: npt.NDArray[np.uint8],
    nulls: npt.NDArray[np.uint8],
    first: npt.NDArray[np.int64],
    moved: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Grey levels (n, cells, h, w) after contrast, and where the signal is, (n,)."""
    count, cells = len(signals), nulls.shape[1] + 1
    each = np.arange(count)
    null_contrast = options.contrast if options.null_contrast is None else options.null_contrast
    # Null blocks keep their order around the signal; then the signal changes places with one of them.
    order = np.arange(cells)[None] - (np.arange(cells)[None] > first[:, None])
    levels = nulls[each[:, None], np.minimum(order, cells - 2)].astype(np.float32)
    levels *= np.float32(null_contrast)
    last = (first + moved) % cells
    levels[each, first] = levels[each, last]
    levels[each, last] = signals.astype(np.float32) * np.float32(options.contrast)
    return levels, last


def _as_images(cells: npt.NDArray[np.generic], rows: int, columns: int) -> npt.NDArray[np.generic]:
    """(n, cells, h, w), row by row -> (n, rows * h, columns * w)."""
    count, _, height, width = cells.shape
    grid = cells.reshape(count, rows, columns, height, width).transpose(0, 1, 3, 2, 4)
    return grid.reshape(count, rows * height, columns * width)


def _finished(
    options: BlockOptions, part: PartName, numbers: Sequence[int], levels: npt.NDArray[np.generic]
) -> npt.NDArray[np.uint8]:
    """Add noise where it is asked for and round, once."""
    exact = levels.astype(np.float64)
    if options.noise:
        noise = per_example_normal(
            levels.shape[1:], options.seed, f"block-mnist/{part}/noise", numbers, dtype=torch.float64
        )
        exact += 255 * options.noise * noise.numpy()
    return np.rint(exact).clip(0, 255).astype(np.uint8)
