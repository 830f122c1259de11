"""Images, maps and masks -> galleries of small PNG pictures, each pixel of which is drawn as it is."""

import base64
import io
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave
from numpy.typing import NDArray

from veridical.runtime.checking import record
from veridical.runtime.errors import argument_error

Array = NDArray[Any]
Pixels = NDArray[np.uint8]

# "grey": an image in [0, 1], in its colours where it has some. "heat": a map without signs, on a scale of its
# own from zero. "signed": a map with signs, red above and blue below zero, on a scale of its own.
Colours = Literal["grey", "heat", "signed"]
# Sequential, perceptually uniform, readable with every colour vision: black is nothing, pale yellow most.
COLORMAP: Final = "inferno"
# White, amber and violet on near-black differ in lightness as well as in hue; the page's legend repeats them.
KEPT: Final = (255, 255, 255)
LOST: Final = (232, 163, 23)
GAINED: Final = (178, 102, 224)
_BACKGROUND, _GHOST = 18, 70
# One extreme pixel must not turn the rest of a map black, so the scale ends at this quantile of the map.
_TOP_QUANTILE: Final = 0.995
# Beyond this many pixels a side a picture is drawn smooth; it is kept no larger than screens show it.
_LARGE, _LARGEST = 64, 448


@record
class PictureRow:
    """Pictures beside each other: (H, W), (H, W, 1) or, for images, (H, W, 3), one for each column.

    `title` stands over the row, `captions` below its pictures (empty strings for none); `outlines` are
    boolean masks (H, W) whose border is drawn, or None; `alts` say what each picture shows, else its column
    and caption do. Captions, outlines and alts may be left out altogether. `heading` begins a group of rows.
    """

    title: str
    pictures: Sequence[Array]
    captions: Sequence[str] = ()
    outlines: Sequence[NDArray[np.bool_] | None] = ()
    alts: Sequence[str] = ()
    heading: str = ""

    def __post_init__(self) -> None:
        for part in ("captions", "outlines", "alts"):
            given = len(getattr(self, part))
            if given not in (0, len(self.pictures)):
                raise self.refusal(part, given, f"none, or {len(self.pictures)} as there are pictures")
        for place, picture in enumerate(self.pictures):
            if np.ndim(picture) not in (2, 3) or 0 in np.shape(picture):
                raise self.refusal("pictures", picture, "pictures (H, W) or (H, W, 3)")
            outline = self.outlines[place] if self.outlines else None
            if outline is not None and np.shape(outline) != np.shape(picture)[:2]:
                raise self.refusal("outlines", outline, f"a mask of the picture's {np.shape(picture)[:2]}")

    def refusal(self, part: str, given: object, expected: str, advice: str = "") -> Exception:
        """The error for a part of this row that cannot be drawn."""
        return argument_error(f"PictureRow({self.title!r}).{part}", given, expected, advice)


@record
class PictureGallery:
    """Rows of pictures under common column titles; `colours` says how each column is coloured.

    Maps have no common scale: each runs from zero to its own 99.5th percentile (of the size, where signed).
    `legend` explains colours: (red, green, blue) in [0, 255], or None for the scale of maps, and the words.
    Raises UsageError where a row does not have one picture for each column, or a "heat" map is negative.
    """

    rows: Sequence[PictureRow]
    columns: Sequence[str]
    colours: Sequence[Colours]
    legend: Sequence[tuple[tuple[int, int, int] | None, str]] = ()

    def __post_init__(self) -> None:
        for name in ("columns", "colours"):
            sizes, given = [len(row.pictures) for row in self.rows], len(getattr(self, name))
            if not given or set(sizes) != {given}:
                raise argument_error(name, given, f"one for each picture of every row (rows of {sizes})")
        wrong = [colours for colours in self.colours if colours not in get_args(Colours)]
        if wrong:
            raise argument_error("colours", wrong, " or ".join(get_args(Colours)))
        for row in self.rows:
            for picture, colours in zip(row.pictures, self.colours, strict=True):
                _check_map(row, picture, colours)

    def tiles(self, row: PictureRow) -> list[dict[str, Any]]:
        """What a page needs of each picture of a row."""
        captions, outlines, alts = (
            getattr(row, part) or [None] * len(row.pictures) for part in ("captions", "outlines", "alts")
        )
        parts = zip(self.columns, row.pictures, self.colours, captions, outlines, alts, strict=True)
        return [
            {
                "column": column,
                "caption": caption or "",
                "alt": alt or ", ".join(part for part in (row.heading, row.title, column, caption) if part),
                "uri": _png_uri(colour_pixels(picture, colours)),
                "crisp": max(np.shape(picture)[:2]) <= _LARGE,
                "size": np.shape(picture)[1::-1],
                "outline": "" if outline is None else _mask_borders(outline),
            }
            for column, picture, colours, caption, outline, alt in parts
        ]


def colour_pixels(picture: Array, colours: Colours) -> Pixels:
    """The colours (H, W, 3) of a picture as bytes; what is not a number is black, or zero in a map."""
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    if values.shape[2:] == (1,):
        values = values[..., 0]
    if colours == "grey":
        levels = np.rint(255 * np.clip(values, 0.0, 1.0)).astype(np.uint8)
        return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=-1)
    shares = values / _top_of_scale(np.abs(values))
    name = COLORMAP
    if colours == "signed":
        shares, name = 0.5 + shares / 2, "RdBu_r"
    return np.asarray(colormaps[name](np.clip(shares, 0.0, 1.0), bytes=True)[..., :3], dtype=np.uint8)


def _top_of_scale(values: Array) -> float:
    """Where the scale of a map's sizes, none negative, ends: never zero."""
    return float(np.quantile(values, _TOP_QUANTILE)) or float(np.max(values)) or 1.0


def overlap(image: Array, before: Array, after: Array, k: int) -> Array:
    """The top k pixels of two maps over a faint image, (H, W, 3) in [0, 1].

    Kept ones are white, those only before amber, only after violet.
    """
    grey = np.asarray(image, dtype=np.float64)
    grey = grey.mean(axis=-1) if grey.ndim == 3 else grey
    ghost = _BACKGROUND + (_GHOST - _BACKGROUND) * np.clip(np.nan_to_num(grey), 0.0, 1.0)
    picture = np.repeat(np.floor(ghost)[..., None], 3, axis=-1)
    then, now = top_mask(before, k), top_mask(after, k)
    for mask, colour in ((then & now, KEPT), (then & ~now, LOST), (now & ~then, GAINED)):
        picture[mask] = colour
    return np.asarray(picture / 255)


def top_mask(saliency: Array, k: int) -> NDArray[np.bool_]:
    """The k most important pixels: the last k of a stable ascending sort, the rule of the top-k metrics."""
    flat = np.ravel(saliency)
    mask = np.zeros(flat.size, dtype=bool)
    mask[np.argsort(flat, kind="stable")[-k:]] = True
    return mask.reshape(np.shape(saliency))


def channels_last(image: Array) -> Array:
    """(C, H, W) -> (H, W), or (H, W, 3) in colours; bytes become numbers in [0, 1]."""
    values = image.astype(np.float64) / 255 if image.dtype == np.uint8 else image
    return np.asarray(values[0] if len(values) == 1 else np.moveaxis(values, 0, -1))


def _mask_borders(mask: NDArray[np.bool_]) -> str:
    """The pixel edges between a mask and what is not in it, as strokes of an SVG path.

    Pixel corners lie on whole numbers; beyond the picture's border is outside.
    """
    padded = np.pad(np.asarray(mask, dtype=bool), 1)
    level = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    strokes = [f"M{x} {y}h1" for y, x in level.tolist()] + [f"M{x} {y}v1" for y, x in upright.tolist()]
    return "".join(strokes)


def _png_uri(pixels: Pixels) -> str:
    """(H, W, 3) bytes as a data URI; a picture larger than screens show it is averaged down."""
    step = -(-max(pixels.shape[:2]) // _LARGEST)
    if step > 1:
        height, width = (side // step for side in pixels.shape[:2])
        blocks = pixels[: height * step, : width * step].reshape(height, step, width, step, -1)
        pixels = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    content = io.BytesIO()
    imsave(content, np.ascontiguousarray(pixels), format="png", metadata={"Software": ""})
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def colour_bar_uri() -> str:
    """The colours of maps from none to most, one pixel high."""
    return _png_uri(colormaps[COLORMAP](np.linspace(0.0, 1.0, 128)[None, :], bytes=True)[..., :3])


def _check_map(row: PictureRow, picture: Array, colours: Colours) -> None:
    if colours == "grey":
        return
    if np.ndim(picture) == 3 and np.shape(picture)[2] != 1:
        raise row.refusal("pictures", picture, f'a map (H, W) for "{colours}"', "Sum over channels.")
    if colours == "heat" and (lowest := float(np.nan_to_num(picture).min())) < 0:
        least = f"values down to {lowest:.3g}"
        raise row.refusal("pictures", least, 'no value below zero for "heat"', 'Pass sizes, or use "signed".')
