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

from veridical.data.dataset import MaskedDataset, PartName, Split, load
from veridical.data.masked import GeneratedPart, build_generated, check_limit
from veridical.runtime.checking import record
from veridical.runtime.errors import DataError, argument_error
from veridical.runtime.options import BlockOptions
from veridical.runtime.seeds import per_example_normal, per_example_uniform

__all__ = ["BlockOptions", "block_mnist"]

_CHUNK = 1024
# Of a square, as shares of the block's sides: its distance from the border, and the width of its outline. In
# 28 x 28 pixels that is a square of 20 x 20, the size of MNIST's digits, with a line of 2.
_MARGIN, _LINE = 1 / 7, 1 / 14

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def block_mnist(
    options: BlockOptions, root: str | os.PathLike[str] | None = None, *, moved: int = 0
) -> MaskedDataset:
    """Make the data set: images of blocks, labels of the signal blocks, and masks of the signal blocks.

    root: where the source is looked up, as in `veridical.data.load`. `places` has "block", the signal block's
    number (row by row, from 0), and "example", the number of its image in the source's part. The mask covers
    the whole signal block. Fewer examples are the first ones of more.
    moved: for counterfactuals, image by image. The signal block changes places with the one so many blocks
    further, the last being followed by the first: with two blocks, 1 swaps them. Contents and labels stay;
    additive noise stays with its pixel.
    Raises UsageError for options that do not apply, DataError for a source that is not there or not grey.
    """
    rows, columns = _cells_of(options)
    if not 0 <= moved < rows * columns:
        expected = f"an integer from 0 to {rows * columns - 1}, since there are {rows * columns} blocks"
        raise argument_error("moved", moved, expected)
    source = load(options.source, root)
    channels, height, width = source.shape
    if channels != 1:
        raise DataError(f"{options.source}: expected grey images, but found {channels} channels.")
    if options.null == "scramble" and (height % options.tile or width % options.tile):
        raise argument_error("tile", options.tile, f"a divisor of the block's sides, {height} and {width}")
    classes = source.classes if options.classes == "ten" else source.classes[:2]
    train = _select("train", source.train, len(classes), options.train_examples)
    test = _select("test", source.test, len(classes), options.test_examples)
    made_of = {"generator": "block-mnist", "version": 1, **asdict(options), "moved": moved}
    fixed = f"-{options.position}" if options.position in ("top", "bottom") else ""
    parts = (_compose(options, part, moved) for part in (train, test))
    return build_generated(f"block-mnist{fixed}", source, made_of, classes, *parts)


def _cells_of(options: BlockOptions) -> tuple[int, int]:
    """Rows and columns of blocks."""
    layout = options.layout
    return {"vertical": (2, 1), "horizontal": (1, 2)}[layout] if isinstance(layout, str) else (layout, layout)


@record
class _Part:
    """The source's images of one part, `pool` (N, h, w), of the wanted classes; `count` are used."""

    name: PartName
    pool: Bytes
    labels: Integers
    numbers: Integers
    count: int


def _select(name: PartName, split: Split, classes: int, limit: int | None) -> _Part:
    wanted = (split.labels < classes).nonzero().flatten()
    if not len(wanted):
        raise DataError(f"the source has no {name} images of its first {classes} classes.")
    check_limit(name, limit, len(wanted))
    pool = split.images[wanted, 0].numpy()
    return _Part(name, pool, split.labels[wanted].numpy(), wanted.numpy(), limit or len(wanted))


def _compose(options: BlockOptions, part: _Part, moved: int) -> GeneratedPart:
    rows, columns = _cells_of(options)
    height, width = part.pool.shape[1:]
    images = np.empty((part.count, rows * height, columns * width), dtype=np.uint8)
    masks = np.empty(images.shape, dtype=np.bool_)
    blocks = np.empty(part.count, dtype=np.int64)
    for start in range(0, part.count, _CHUNK):  # noise in floating point would be many times the images
        chunk = slice(start, min(start + _CHUNK, part.count))
        numbers = part.numbers[chunk].tolist()
        nulls = _draw_nulls(options, part, numbers, rows * columns - 1)
        first = _draw_positions(options, part.name, numbers, rows * columns)
        cells, blocks[chunk] = _arrange(options, part.pool[chunk], nulls, first, moved)
        images[chunk] = _round(options, part.name, numbers, _join_cells(cells, rows, columns))
        signal = np.arange(rows * columns) == blocks[chunk, None]
        masks[chunk] = _join_cells(np.broadcast_to(signal[:, :, None, None], cells.shape), rows, columns)
    labels, numbers = (torch.from_numpy(one[: part.count].copy()) for one in (part.labels, part.numbers))
    places = {"block": torch.from_numpy(blocks), "example": numbers}
    return GeneratedPart(torch.from_numpy(images[:, None]), labels, torch.from_numpy(masks), places)


def _draw_positions(options: BlockOptions, part: PartName, numbers: Sequence[int], cells: int) -> Integers:
    """The signal block's number of each image, (n,)."""
    position = options.position
    if position in ("top", "bottom"):
        return np.full(len(numbers), 0 if position == "top" else cells - 1, dtype=np.int64)
    draws = _uniform(options, part, "position", numbers, (2,))
    if position == "random":
        return np.asarray(draws[:, 0] * cells, dtype=np.int64)
    others = 1 + np.asarray(draws[:, 1] * (cells - 1), dtype=np.int64)
    return np.where(draws[:, 0] < float(position), 0, others)


def _arrange(
    options: BlockOptions, signals: Bytes, nulls: Bytes, first: Integers, moved: int
) -> tuple[npt.NDArray[np.float32], Integers]:
    """Grey levels (n, cells, h, w) after contrast, and where the signal is, (n,)."""
    cells, each = nulls.shape[1] + 1, np.arange(len(signals))
    null_contrast = options.contrast if options.null_contrast is None else options.null_contrast
    # Null blocks keep their order around the signal; then the signal changes places with one of them.
    order = np.arange(cells)[None] - (np.arange(cells)[None] > first[:, None])
    levels = nulls[each[:, None], np.minimum(order, cells - 2)].astype(np.float32)
    levels *= np.float32(null_contrast)
    last = (first + moved) % cells
    levels[each, first] = levels[each, last]
    levels[each, last] = signals.astype(np.float32) * np.float32(options.contrast)
    return levels, last


def _join_cells(cells: npt.NDArray[np.generic], rows: int, columns: int) -> npt.NDArray[np.generic]:
    """(n, cells, h, w), row by row -> (n, rows * h, columns * w)."""
    count, _, height, width = cells.shape
    grid = cells.reshape(count, rows, columns, height, width).transpose(0, 1, 3, 2, 4)
    return grid.reshape(count, rows * height, columns * width)


def _round(
    options: BlockOptions, part: PartName, numbers: Sequence[int], levels: npt.NDArray[np.generic]
) -> Bytes:
    """Add noise where it is asked for and round, once."""
    exact = levels.astype(np.float64)
    if options.noise:
        purpose = f"block-mnist/{part}/noise"
        noise = per_example_normal(levels.shape[1:], options.seed, purpose, numbers, dtype=torch.float64)
        exact += 255 * options.noise * noise.numpy()
    return np.rint(exact).clip(0, 255).astype(np.uint8)


def _draw_nulls(options: BlockOptions, part: _Part, numbers: Sequence[int], count: int) -> Bytes:
    """Null blocks (n, count, h, w) for the images with these numbers, each drawn on its own.

    "scramble" shuffles the pixels of the source's images.
    """
    height, width = part.pool.shape[1:]
    if options.null in ("square", "filled"):
        block = np.uint8(255) * _square(height, width, filled=options.null == "filled")
        return np.broadcast_to(block, (len(numbers), count, height, width))
    if options.null == "noise":
        draws = _uniform(options, part.name, "noise-block", numbers, (count, height, width))
        return np.where(_square(height, width, filled=True), (draws * 256).astype(np.uint8), np.uint8(0))
    # The image that is shuffled is any one of the part, of whatever class and perhaps the image itself: so
    # its class is independent of the label exactly.
    draws = _uniform(options, part.name, "donor", numbers, (count,))
    images = part.pool[(draws * len(part.pool)).astype(np.int64)]
    tile, down, across = options.tile, height // options.tile, width // options.tile
    order = _uniform(options, part.name, "shuffle", numbers, (count, down * across)).argsort(axis=-1)
    # Cut into tiles, put these into the order, and join them.
    tiles = images.reshape(-1, count, down, tile, across, tile).transpose(0, 1, 2, 4, 3, 5)
    tiles = tiles.reshape(-1, count, down * across, tile * tile)
    tiles = np.take_along_axis(tiles, order[..., None], axis=2)
    tiles = tiles.reshape(-1, count, down, across, tile, tile).transpose(0, 1, 2, 4, 3, 5)
    return tiles.reshape(-1, count, height, width)


def _square(height: int, width: int, *, filled: bool) -> npt.NDArray[np.bool_]:
    """A square in the middle of a block, bool (h, w): its outline, or all of it."""
    inside = np.zeros((height, width), dtype=np.bool_)
    top, left = max(1, round(height * _MARGIN)), max(1, round(width * _MARGIN))
    inside[top : height - top, left : width - left] = True
    if not filled:
        line = max(1, round(min(height, width) * _LINE))
        inside[top + line : height - top - line, left + line : width - left - line] = False
    return inside


def _uniform(
    options: BlockOptions, part: PartName, what: str, numbers: Sequence[int], shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    purpose = f"block-mnist/{part}/{what}"
    return per_example_uniform(shape, options.seed, purpose, numbers, dtype=torch.float64).numpy()
