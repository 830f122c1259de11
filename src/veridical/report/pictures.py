"""Arrays -> small PNG pictures as data URIs: images, saliency maps, and which of the top k pixels stayed."""

import base64
import struct
import zlib
from typing import Final

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from veridical.report.content import Array

Pixels = NDArray[np.uint8]

# Sequential, perceptually uniform, readable with every colour vision: black is nothing, pale yellow most.
COLORMAP: Final = "inferno"
# White, amber and violet on near-black differ in lightness as well as in hue; the page's legend repeats them.
KEPT: Final = (255, 255, 255)
LOST: Final = (232, 163, 23)
GAINED: Final = (178, 102, 224)
_BACKGROUND: Final = 18
_GHOST: Final = 70
# One extreme pixel must not turn the rest of a map black, so the scale ends at this quantile of the map.
_TOP_QUANTILE: Final = 0.995


def image_uri(image: Array) -> str:
    """An image (H, W), (H, W, 1) or (H, W, 3) in [0, 1], clipped to that range."""
    return _png_uri(image_levels(image))


def image_levels(image: Array) -> Pixels:
    """The grey levels (H, W), or the colours (H, W, 3), of such an image."""
    return _levels(np.squeeze(np.asarray(image, dtype=np.float64), axis=_grey_axis(image)))


def map_uri(saliency: Array) -> str:
    """A saliency map (H, W), on a scale of its own from zero: the measures compare rankings, not sizes."""
    return _png_uri(map_colours(saliency))


def map_colours(saliency: Array) -> Pixels:
    """The colours (H, W, 3) of such a map."""
    values = np.clip(np.nan_to_num(np.asarray(saliency, dtype=np.float64)), 0.0, None)
    shares = np.clip(values / top_of_scale(values), 0.0, 1.0)
    return np.asarray(colormaps[COLORMAP](shares, bytes=True)[..., :3], dtype=np.uint8)


def top_of_scale(values: Array) -> float:
    """Where the scale of a map's sizes, none negative, ends: never zero."""
    return float(np.quantile(values, _TOP_QUANTILE)) or float(np.max(values)) or 1.0


def overlap_uri(image: Array, before: Array, after: Array, k: int) -> str:
    """The top k pixels of two maps over a faint image: kept white, only before amber, only after violet."""
    grey = np.asarray(image, dtype=np.float64)
    grey = grey.mean(axis=-1) if grey.ndim == 3 else grey
    ghost = (_BACKGROUND + (_GHOST - _BACKGROUND) * np.clip(np.nan_to_num(grey), 0.0, 1.0)).astype(np.uint8)
    picture = np.repeat(ghost[..., None], 3, axis=-1)
    then, now = top_mask(before, k), top_mask(after, k)
    for mask, colour in ((then & now, KEPT), (then & ~now, LOST), (now & ~then, GAINED)):
        picture[mask] = colour
    return _png_uri(picture)


def kept(before: Array, after: Array, k: int) -> int:
    """How many of the top k pixels of one map are among the top k of the other."""
    return int(np.count_nonzero(top_mask(before, k) & top_mask(after, k)))


def top_mask(saliency: Array, k: int) -> NDArray[np.bool_]:
    """The k most important pixels: the last k of a stable ascending sort, the rule of the top-k metrics."""
    flat = np.ravel(saliency)
    mask = np.zeros(flat.size, dtype=bool)
    mask[np.argsort(flat, kind="stable")[-k:]] = True
    return mask.reshape(np.shape(saliency))


def colour_bar_uri() -> str:
    """The saliency colours from none to most, one pixel high."""
    return _png_uri(colormaps[COLORMAP](np.linspace(0.0, 1.0, 128)[None, :], bytes=True)[..., :3])


def _grey_axis(image: Array) -> int | tuple[()]:
    return -1 if np.ndim(image) == 3 and np.shape(image)[-1] == 1 else ()


def _levels(values: Array) -> Pixels:
    return np.asarray(np.rint(255 * np.clip(np.nan_to_num(values), 0.0, 1.0)), dtype=np.uint8)


def _png_uri(pixels: Pixels) -> str:
    """Encode (H, W) grey or (H, W, 3) colour bytes; PNG (ISO/IEC 15948), 8 bits, no row filter."""
    height, width = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 else 0
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    filtered = np.concatenate([np.zeros((height, 1), dtype=np.uint8), rows], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    body = (
        _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9)) + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode("ascii")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
