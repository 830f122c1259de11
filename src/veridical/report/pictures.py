"""Images, maps and masks -> galleries of pictures: a PNG of every pixel, or smaller where there are many."""

import base64
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

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
# What a pixel takes in a data URI, in bytes, four of which hold three: at most three channels of a PNG; or,
# stored smaller, half a byte of a map in 16 colours, which a JPEG of a photograph hardly passes.
_EXACT_BYTES, _SMALL_BYTES = 4.0, 0.7
# The tags around a picture, its words, and the headers of its file.
_TILE_BYTES: Final = 600
_JPEG_QUALITY: Final = 80


@record
class PictureRow:
    """Pictures beside each other: (H, W), (H, W, 1) or, for images, (H, W, 3), one for each column.

    `title` stands over the row, `captions` below its pictures (empty strings for none); `outlines` are
    boolean masks (H, W) whose border is drawn, or None; `alts` say what each picture shows, else its column
    and caption do. Captions, outlines and alts may be left out altogether. `heading` begins a group of rows.
    An explorable gallery shows rows of one `label` alone, and orders them by `score`: higher is better, and
    rows without one come last.
    """

    title: str
    pictures: Sequence[Array]
    captions: Sequence[str] = ()
    outlines: Sequence[NDArray[np.bool_] | None] = ()
    alts: Sequence[str] = ()
    heading: str = ""
    label: str = ""
    score: float | None = None

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
    An `explorable` one has controls, where scripts run: rows of one label, worst first (`worst` says in words
    which these are), and maps laid over the image of their row, which is its first picture. Raises UsageError
    where a row does not have one picture for each column, a "heat" map is negative, or rows of an explorable
    gallery have headings.
    """

    rows: Sequence[PictureRow]
    columns: Sequence[str]
    colours: Sequence[Colours]
    legend: Sequence[tuple[tuple[int, int, int] | None, str]] = ()
    explorable: bool = False
    worst: str = ""

    def __post_init__(self) -> None:
        for name in ("columns", "colours"):
            sizes, given = [len(row.pictures) for row in self.rows], len(getattr(self, name))
            if not given or set(sizes) != {given}:
                raise argument_error(name, given, f"one for each picture of every row (rows of {sizes})")
        wrong = [colours for colours in self.colours if colours not in get_args(Colours)]
        if wrong:
            raise argument_error("colours", wrong, " or ".join(get_args(Colours)))
        headed = [row.heading for row in self.rows if row.heading]
        if self.explorable and headed:
            hint = "Rows that are sorted leave their group: put its name into `label` or `title`."
            raise argument_error("explorable", headed, "rows without a heading", hint)
        for row in self.rows:
            for picture, colours in zip(row.pictures, self.colours, strict=True):
                _check_map(row, picture, colours)

    def tiles(self, row: PictureRow, side: int | None = None) -> list[dict[str, Any]]:
        """What a page needs of each picture of a row.

        side: where given, large pictures are stored with at most so many pixels a side, images as JPEG and
        maps in 16 colours (15 where signed).
        """
        captions, outlines, alts = (
            getattr(row, part) or [None] * len(row.pictures) for part in ("captions", "outlines", "alts")
        )
        parts = zip(self.columns, row.pictures, self.colours, captions, outlines, alts, strict=True)
        return [
            {
                "column": column,
                "caption": caption or "",
                "alt": alt or ", ".join(part for part in (row.heading, row.title, column, caption) if part),
                "uri": _picture_uri(picture, colours, side),
                # A map that can be laid over the image of its row.
                "map": self.explorable and colours != "grey" and self.colours[0] == "grey",
                "crisp": max(np.shape(picture)[:2]) <= _LARGE,
                "size": np.shape(picture)[1::-1],
                "outline": "" if outline is None else _mask_borders(outline),
            }
            for column, picture, colours, caption, outline, alt in parts
        ]

    def controls(self, rows: Sequence[PictureRow]) -> dict[str, Any]:
        """What can be chosen for these rows: (label, count) in natural order, ranks from the worst, overlay.

        What would change nothing is left out: `labels` and `ranks` are empty.
        """
        labels = Counter(row.label for row in rows if row.label)
        scores = [_known_score(row) for row in rows]
        order = sorted(range(len(rows)), key=scores.__getitem__)
        ranks = {place: rank for rank, place in enumerate(order)} if len(set(scores)) > 1 else {}
        return {
            "labels": sorted(labels.items(), key=lambda pair: _natural(pair[0])) if len(labels) > 1 else [],
            "ranks": [ranks[place] for place in sorted(ranks)],
            "overlay": self.colours[0] == "grey" and set(self.colours) != {"grey"},
        }


def largest_side(galleries: Iterable[PictureGallery], room: float) -> int | None:
    """The longest side, in pixels, at which all pictures take no more than `room` bytes; None: exact ones do.

    Reckoned from the numbers of pictures and pixels alone, before anything is drawn. Pictures of up to 64
    pixels a side stay as they are, and no picture is made smaller than that.
    """
    shapes = Counter(
        np.shape(picture)[:2] for one in galleries for row in one.rows for picture in row.pictures
    )
    room -= _TILE_BYTES * shapes.total()
    large = Counter({shape: count for shape, count in shapes.items() if max(shape) > _LARGE})
    small = shapes - large
    room -= _EXACT_BYTES * sum(math.prod(shape) * count for shape, count in small.items())

    def pixels(side: int) -> int:
        return sum(math.prod(_shrunk(shape, side)) * count for shape, count in large.items())

    if not large or _EXACT_BYTES * pixels(_LARGEST) <= room:
        return None
    fitting = (side for side in range(_LARGEST, _LARGE, -1) if _SMALL_BYTES * pixels(side) <= room)
    return next(fitting, _LARGE)


def _shrunk(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Height and width of a picture of this shape with at most `side` pixels a side."""
    share = min(1.0, side / max(shape))
    return max(1, round(share * shape[0])), max(1, round(share * shape[1]))


def _known_score(row: PictureRow) -> float:
    return math.inf if row.score is None or math.isnan(row.score) else float(row.score)


def _natural(label: str) -> list[str | int]:
    """A key by which class 2 comes before class 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", label))]


def colour_pixels(picture: Array, colours: Colours) -> Pixels:
    """The colours (H, W, 3) of a picture as bytes; what is not a number is black, or zero in a map."""
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    if values.shape[2:] == (1,):
        values = values[..., 0]
    if colours == "grey":
        levels = np.rint(255 * np.clip(values, 0.0, 1.0)).astype(np.uint8)
        return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=-1)
    return _colour(_shares_of_scale(values, colours), colours)


def _shares_of_scale(values: Array, colours: Colours) -> Array:
    """Where finite values (H, W) lie on the map's own scale of colours, in [0, 1]."""
    shares = values / _top_of_scale(np.abs(values))
    return np.clip(0.5 + shares / 2 if colours == "signed" else shares, 0.0, 1.0)


def _colour(shares: Array, colours: Colours) -> Pixels:
    """The colours (..., 3) of places in [0, 1] on a scale."""
    scale = colormaps["RdBu_r" if colours == "signed" else COLORMAP]
    return np.asarray(scale(shares, bytes=True)[..., :3], dtype=np.uint8)


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
    level = _runs(padded[1:, 1:-1] != padded[:-1, 1:-1])
    upright = _runs((padded[1:-1, 1:] != padded[1:-1, :-1]).T)
    strokes = [f"M{x} {y}h{length}" for y, x, length in level]
    return "".join(strokes + [f"M{x} {y}v{length}" for x, y, length in upright])


def _runs(edges: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """(line, start, length) of what is connected along the lines of `edges` (lines, places)."""
    ends = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))))
    pairs = zip(np.argwhere(ends == 1).tolist(), np.argwhere(ends == -1).tolist(), strict=True)
    return [(line, start, stop - start) for (line, start), (_, stop) in pairs]


def _picture_uri(picture: Array, colours: Colours, side: int | None) -> Markup:
    """A picture as a data URI: of every pixel, or of at most `side` a side in fewer colours."""
    shape = np.shape(picture)[:2]
    if side is None or max(shape) <= _LARGE:
        return _png_uri(colour_pixels(picture, colours))
    size = _shrunk(shape, side)[::-1]
    if colours == "grey":
        image = Image.fromarray(colour_pixels(picture, colours)).resize(size, Image.Resampling.BOX)
        # Marks of one pixel keep their colour.
        return _uri(image, "jpeg", quality=_JPEG_QUALITY, subsampling=0, optimize=True)
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64)).reshape(shape)
    # The map is averaged, not its colours; an odd number of signed colours has one for zero.
    shares = Image.fromarray(_shares_of_scale(values, colours).astype(np.float32))
    last = 14 if colours == "signed" else 15
    places = np.rint(last * np.asarray(shares.resize(size, Image.Resampling.BOX))).astype(np.uint8)
    image = Image.fromarray(places)
    image.putpalette(_colour(np.linspace(0.0, 1.0, last + 1), colours).tobytes())
    return _uri(image, "png")


def _png_uri(pixels: Pixels) -> Markup:
    """(H, W, 3) bytes as a data URI; a picture larger than screens show it is averaged down."""
    step = -(-max(pixels.shape[:2]) // _LARGEST)
    if step > 1:
        height, width = (side // step for side in pixels.shape[:2])
        blocks = pixels[: height * step, : width * step].reshape(height, step, width, step, -1)
        pixels = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return _uri(Image.fromarray(np.ascontiguousarray(pixels)), "png")


def _uri(image: Image.Image, form: Literal["png", "jpeg"], **settings: Any) -> Markup:
    """An image as a data URI, which a template need not look through for what to escape."""
    content = io.BytesIO()
    image.save(content, form, **settings)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return Markup(f"data:image/{form};base64,{encoded}")  # noqa: S704


def colour_bar_uri() -> Markup:
    """The colours of maps from none to most, one pixel high."""
    return _png_uri(_colour(np.linspace(0.0, 1.0, 128)[None, :], "heat"))


def _check_map(row: PictureRow, picture: Array, colours: Colours) -> None:
    if colours == "grey":
        return
    if np.ndim(picture) == 3 and np.shape(picture)[2] != 1:
        raise row.refusal("pictures", picture, f'a map (H, W) for "{colours}"', "Sum over channels.")
    if colours == "heat" and (lowest := float(np.nan_to_num(picture).min())) < 0:
        least = f"values down to {lowest:.3g}"
        raise row.refusal("pictures", least, 'no value below zero for "heat"', 'Pass sizes, or use "signed".')
