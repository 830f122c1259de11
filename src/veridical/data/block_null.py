"""What stands in the null blocks of BlockMNIST: contents that know nothing of the label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from veridical.data.masked import PartName
from veridical.runtime.options import BlockOptions
from veridical.runtime.seeds import per_example_uniform

_MARGIN, _LINE = 1 / 7, 1 / 14
"""Of a square, as shares of the block's sides: its distance from the border, and the width of its outline. In
28 x 28 pixels that is a square of 20 x 20, the size of MNIST's digits, with a line of 2."""


def null_blocks(
    options: BlockOptions,
    part: PartName,
    pool: npt.NDArray[np.uint8],
    numbers: Sequence[int],
    count: int,
) -> npt.NDArray[np.uint8]:
    """Null blocks uint8 (n, count, h, w) for the images with these numbers.

    pool: the source's images (N, h, w), whose pixels "scramble" shuffles. Each of an image's null blocks is
    drawn on its own, from (seed, part, number) alone.
    """
    height, width = pool.shape[1:]
    shape = (len(numbers), count, height, width)
    if options.null in ("square", "filled"):
        block = np.uint8(255) * square(height, width, filled=options.null == "filled")
        return np.broadcast_to(block, shape)
    if options.null == "noise":
        draws = _uniform(options, part, "noise-block", numbers, (count, height, width))
        levels = (draws * 256).astype(np.uint8)
        return np.where(square(height, width, filled=True), levels, np.uint8(0))
    # The image that is shuffled is any one of the part, of whatever class and perhaps the image itself: so
    # its class is independent of the label exactly.
    donors = (_uniform(options, part, "donor", numbers, (count,)) * len(pool)).astype(np.int64)
    tiles = (height // options.tile) * (width // options.tile)
    order = _uniform(options, part, "shuffle", numbers, (count, tiles)).argsort(axis=-1)
    return _shuffled(pool[donors], order, options.tile)


def square(height: int, width: int, *, filled: bool) -> npt.NDArray[np.bool_]:
    """A square in the middle of a block, bool (h, w): its outline, or all of it."""
    inside = np.zeros((height, width), dtype=np.bool_)
    top, left = max(1, round(height * _MARGIN)), max(1, round(width * _MARGIN))
    inside[top : height - top, left : width - left] = True
    if not filled:
        line = max(1, round(min(height, width) * _LINE))
        inside[top + line : height - top - line, left + line : width - left - line] = False
    return inside


def _shuffled(
    images: npt.NDArray[np.uint8], order: npt.NDArray[np.int64], tile: int
) -> npt.NDArray[np.uint8]:
    """Images (n, count, h, w) cut into tiles, which are put into an order (n, count, tiles)."""
    count, nulls, height, width = images.shape
    down, across = height // tile, width // tile
    tiles = images.reshape(count, nulls, down, tile, across, tile).transpose(0, 1, 2, 4, 3, 5)
    tiles = tiles.reshape(count, nulls, down * across, tile * tile)
    tiles = np.take_along_axis(tiles, order[..., None], axis=2)
    tiles = tiles.reshape(count, nulls, down, across, tile, tile).transpose(0, 1, 2, 4, 3, 5)
    return tiles.reshape(count, nulls, height, width)


def _uniform(
    options: BlockOptions, part: PartName, what: str, numbers: Sequence[int], shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    purpose = f"block-mnist/{part}/{what}"
    return per_example_uniform(shape, options.seed, purpose, numbers, dtype=torch.float64).numpy()
