"""Histogram equalisation of every channel of every image by itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_CHUNK = 4096


def equalise(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Spread the grey levels of each plane evenly over 0 .. 255; planes are the last two axes, (..., H, W).

    Gives the very bytes of Pillow's ImageOps.equalize on each plane: level g becomes (step // 2 + number of
    pixels darker than g) // step, with step = (pixels - pixels of the brightest level present) // 255; a
    plane of one level, or with step 0, stays as it is. The argument is not changed.
    """
    planes = images.reshape(-1, images.shape[-2] * images.shape[-1]) if images.size else images.reshape(0, 1)
    result = np.empty_like(planes)
    for start in range(0, len(planes), _CHUNK):
        chunk = planes[start : start + _CHUNK]
        table = _tables(_histograms(chunk))
        result[start : start + _CHUNK] = np.take_along_axis(table, chunk.astype(np.intp), axis=1)
    return result.reshape(images.shape)


def _histograms(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Pixels per grey level: (n, pixels) -> (n, 256)."""
    keys = planes.astype(np.int64) + 256 * np.arange(len(planes))[:, None]
    return np.bincount(keys.ravel(), minlength=256 * len(planes)).reshape(-1, 256)


def _tables(histograms: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The new level of every old level: (n, 256) -> (n, 256)."""
    pixels = histograms.sum(axis=1)
    brightest = 255 - np.argmax(histograms[:, ::-1] > 0, axis=1)
    step = (pixels - histograms[np.arange(len(histograms)), brightest]) // 255
    darker = np.cumsum(histograms, axis=1) - histograms
    safe = np.maximum(step, 1)[:, None]
    # Small planes can reach beyond 255 (few pixels, step 1); Pillow clips there.
    spread = np.minimum((safe // 2 + darker) // safe, 255)
    unchanged = np.broadcast_to(np.arange(256), spread.shape)
    return np.where((step > 0)[:, None], spread, unchanged).astype(np.uint8)
