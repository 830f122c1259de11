"""Images, maps and masks -> one figure of rows and columns, drawn pixel by pixel."""

import textwrap
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final, Literal, get_args

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from veridical.report import pictures
from veridical.report.content import Array
from veridical.report.embedding import INK, SOFT
from veridical.runtime.errors import argument_error, visible
from veridical.runtime.record import record

# "grey": an image in [0, 1], in its colours where it has some. "heat": a map without signs, on a scale of its
# own from zero. "signed": a map with signs, red above and blue below zero, on a scale of its own.
Colours = Literal["grey", "heat", "signed"]
# Bright cyan is on no grey level and nowhere on the scale of the maps.
OUTLINE: Final = "#19d3e6"
# In points: the longer side of every picture, the least width of a column, the space between two.
_LONGEST, _NARROWEST, _GAP = 120.0, 84.0, 10.0
# The mean widths of a letter, and of a bold one, are those of matplotlib's own font, wider than most.
_TEXT_SIZE, _LINE, _LETTER, _BOLD_LETTER = 10.5, 14.0, 6.4, 7.2
_BELOW_TITLE, _ABOVE_CAPTION, _BELOW_ROW = 3.0, 3.0, 14.0


@record
class PictureRow:
    """Pictures beside each other: (H, W), (H, W, 1) or, for images, (H, W, 3), one for each column.

    `title` stands over the row, `captions` below its pictures (empty strings for none); `outlines` are
    boolean masks (H, W) whose border is drawn, or None. Captions and outlines may be left out altogether.
    """

    title: str
    pictures: Sequence[Array]
    captions: Sequence[str] = ()
    outlines: Sequence[NDArray[np.bool_] | None] = ()

    def __post_init__(self) -> None:
        for part in ("captions", "outlines"):
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


def pictures_figure(
    rows: Sequence[PictureRow], column_titles: Sequence[str], cmap_by_column: Sequence[Colours]
) -> Figure:
    """Rows of pictures under common column titles; `cmap_by_column` says how each column is coloured.

    Maps have no common scale: each runs from zero to its own 99.5th percentile (of the size, where signed).
    Raises UsageError where a row does not have one picture for each column, or a "heat" map is negative.
    """
    for name, parts in (("column_titles", column_titles), ("cmap_by_column", cmap_by_column)):
        sizes = [len(row.pictures) for row in rows]
        if not parts or set(sizes) != {len(parts)}:
            raise argument_error(name, len(parts), f"one for each picture of every row (rows of {sizes})")
    wrong = [colours for colours in cmap_by_column if colours not in get_args(Colours)]
    if wrong:
        raise argument_error("cmap_by_column", wrong, " or ".join(get_args(Colours)))
    cell = max(_NARROWEST, *(_size(picture)[1] for row in rows for picture in row.pictures))
    heads = [_lines(title, cell) for title in column_titles]
    head = _LINE * max(map(len, heads)) + 6
    width = len(heads) * (cell + _GAP) - _GAP
    sheet = _Sheet(cell, width, head + sum(_row_height(row, cell, width) for row in rows))
    for column, lines in enumerate(heads):
        sheet.write(sheet.left(column), sheet.height, lines, color=SOFT)
    top = sheet.height - head
    for row in rows:
        _draw_row(sheet, row, cmap_by_column, top)
        top -= _row_height(row, cell, width)
    return sheet.figure


def mask_borders(mask: NDArray[np.bool_]) -> Path:
    """The pixel edges between a mask and what is not in it, a stroke of x and y for each.

    Pixel centres lie on whole numbers; beyond the picture's border is outside.
    """
    padded = np.pad(np.asarray(mask, dtype=bool), 1)
    level = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]) - 0.5
    upright = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]) - 0.5
    starts = np.concatenate([level, upright])[:, ::-1]
    steps = np.concatenate([np.tile((1.0, 0.0), (len(level), 1)), np.tile((0.0, 1.0), (len(upright), 1))])
    strokes = np.stack([starts, starts + steps], axis=1).reshape(-1, 2)
    return Path(strokes, [Path.MOVETO, Path.LINETO] * len(starts))


class _Sheet:
    """A figure whose places are points, counted from its lower left; a column starts every cell and gap."""

    def __init__(self, cell: float, width: float, height: float) -> None:
        self.cell, self.width, self.height = cell, width, height
        self.figure = Figure(figsize=(width / 72, height / 72))

    def left(self, column: int) -> float:
        return column * (self.cell + _GAP)

    def write(self, left: float, top: float, lines: Sequence[str], **style: Any) -> None:
        place = (left / self.width, top / self.height)
        text = "\n".join(lines)
        self.figure.text(*place, text, fontsize=_TEXT_SIZE, va="top", parse_math=False, **style)

    def axes(self, left: float, top: float, height: float, width: float) -> Axes:
        place = (left / self.width, (top - height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place, frameon=False)
        axes.set_axis_off()
        return axes


def _draw_row(sheet: _Sheet, row: PictureRow, colours: Sequence[Colours], top: float) -> None:
    """One row with its title at `top`."""
    title = _lines(row.title, sheet.width, _BOLD_LETTER)
    sheet.write(0, top, title, color=INK, weight="bold")
    top -= _LINE * len(title) + _BELOW_TITLE
    tallest = max(_size(picture)[0] for picture in row.pictures)
    for column, picture in enumerate(row.pictures):
        axes = sheet.axes(sheet.left(column), top, *_size(picture))
        # Without interpolation the pixels themselves are written, and the reader's program enlarges them.
        axes.imshow(_coloured(row, column, colours[column]), interpolation="none", aspect="auto")
        outline = row.outlines[column] if row.outlines else None
        if outline is not None:
            # Not clipped: a border that runs along the picture's edge would lose half its width.
            axes.add_patch(
                PathPatch(mask_borders(outline), edgecolor=OUTLINE, lw=1.4, fill=False, clip_on=False)
            )
        if row.captions:
            lines = _lines(row.captions[column], sheet.cell)
            sheet.write(sheet.left(column), top - tallest - _ABOVE_CAPTION, lines, color=SOFT)


def _coloured(row: PictureRow, column: int, colours: Colours) -> Array:
    """A picture's colours (H, W, 3) as bytes."""
    picture = np.asarray(row.pictures[column], dtype=np.float64)
    if colours == "grey":
        grey = pictures.image_levels(picture)
        return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=-1)
    picture = np.nan_to_num(picture[..., 0] if picture.shape[2:] == (1,) else picture)
    if picture.ndim != 2:
        raise row.refusal("pictures", picture, f'a map (H, W) for "{colours}"', "Sum over channels.")
    if colours == "signed":
        shares = 0.5 + picture / (2 * pictures.top_of_scale(np.abs(picture)))
        return np.asarray(colormaps["RdBu_r"](np.clip(shares, 0.0, 1.0), bytes=True)[..., :3])
    if picture.min() < 0:
        least = f"values down to {picture.min():.3g}"
        raise row.refusal("pictures", least, 'no value below zero for "heat"', 'Pass sizes, or use "signed".')
    return pictures.map_colours(picture)


def _size(picture: Array) -> tuple[float, float]:
    """Height and width in points."""
    height, width = np.shape(picture)[:2]
    return _LONGEST * height / max(height, width), _LONGEST * width / max(height, width)


def _lines(text: str, width: float, letter: float = _LETTER) -> list[str]:
    most = int(width / letter)
    return list(chain.from_iterable(textwrap.wrap(visible(part), most) for part in text.split("\n")))


def _row_height(row: PictureRow, cell: float, width: float) -> float:
    captions = max((len(_lines(words, cell)) for words in row.captions), default=0)
    lines = len(_lines(row.title, width, _BOLD_LETTER)) + captions
    tallest = max(_size(picture)[0] for picture in row.pictures)
    return tallest + _LINE * lines + _BELOW_TITLE + _ABOVE_CAPTION + _BELOW_ROW
