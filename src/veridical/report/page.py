"""A study's words, tables and figures -> one self-contained HTML file, in the look of the other reports.

Give what was found in words first; a figure or table is what it stands on. The file loads nothing, runs no
script, and every text is escaped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from veridical.report.curves import Curve, curves_figure
from veridical.report.embedding import inline_svg
from veridical.report.formats import DASH, flatten_settings
from veridical.report.picture_rows import PictureRow, pictures_figure
from veridical.report.rendering import render
from veridical.report.table import Column, Table, explained
from veridical.runtime.errors import argument_error
from veridical.runtime.record import record

__all__ = [
    "Column",
    "Curve",
    "Illustration",
    "Panel",
    "PictureRow",
    "Table",
    "curves_figure",
    "pictures_figure",
    "study_page",
]

# Figures up to this natural width stand side by side and fit a phone; wider ones scroll there.
_NARROW: Final = 440.0
_GROWTH: Final = 1.15
_LISTED_FROM: Final = 4
_INTERVAL: Final = re.compile(r"([^()]+) (\([^()]+ to [^()]+\))")


@record
class Illustration:
    """A figure with the words below it, and in `alt` what it shows for who cannot see it."""

    figure: Figure
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise argument_error("Illustration.alt", self.alt, "what the figure shows, in words")


@record
class Panel:
    """One part of a page: a heading, paragraphs, a table and figures, in this order."""

    title: str
    text: Sequence[str] = ()
    illustrations: Sequence[Illustration] = ()
    table: Table | None = None


def study_page(
    title: str,
    lead: Sequence[str],
    panels: Sequence[Panel],
    facts: Mapping[str, object],
    *,
    question: str = "a study",
) -> str:
    """The text of a page: title, lead, what was found, the panels, and the facts of how it was measured.

    `lead` is paragraphs: the first says under the title what the page is about; the others, if any, stand in
    a box as what was found. What the columns of the tables mean stands once, below the panels. `facts`
    (settings, versions, seed) come last, as names and values; nested ones get dotted names. `question` is the
    kind of page, above the title. Equal content gives equal bytes. Raises UsageError for a lead without a
    paragraph.
    """
    if isinstance(lead, str) or not lead:
        raise argument_error("lead", lead, "a list of one paragraph or more")
    about, *found = lead
    return render(
        "study.html",
        question=question,
        title=title,
        lead=about,
        found=found,
        panels=[_entry(panel, f"panel-{number}") for number, panel in enumerate(panels, start=1)],
        listed=len(panels) >= _LISTED_FROM,
        explained=explained(panel.table for panel in panels if panel.table is not None),
        details=flatten_settings(facts),
        sections=(),
        tables={},
    )


def _entry(panel: Panel, key: str) -> dict[str, Any]:
    """A panel as its template takes it, narrow figures apart from wide ones."""
    figures = list(_figures(panel.illustrations, key))
    return {
        "key": key,
        "title": panel.title,
        "text": panel.text,
        "table": None if panel.table is None else _table(panel.table),
        "narrow": [figure for figure in figures if not figure["wide"]],
        "wide": [figure for figure in figures if figure["wide"]],
    }


def _figures(illustrations: Sequence[Illustration], key: str) -> Iterator[dict[str, Any]]:
    for number, illustration in enumerate(illustrations, start=1):
        drawn, width = inline_svg(illustration.figure, illustration.alt, f"{key}-{number}")
        yield {
            "drawn": drawn,
            "caption": illustration.caption,
            "alt": illustration.alt,
            "wide": width > _NARROW,
            "least": round(width),
            "most": round(_GROWTH * width),
        }


def _table(table: Table) -> dict[str, Any]:
    columns, rows = table.drawn()
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    numeric = [place > 0 and all(map(_is_number, cells[place])) for place in range(len(columns))]
    split = [(name, [_value_and_interval(cell) for cell in others]) for name, *others in rows]
    heads = [column.heading for column in columns]
    return {"columns": heads, "rows": split, "caption": table.caption, "numeric": numeric}


def _value_and_interval(cell: str) -> tuple[str, str]:
    """The two parts of "42% (40 to 44)"; any other cell is a value without an interval."""
    found = _INTERVAL.fullmatch(cell)
    return (found[1], found[2]) if found else (cell, "")


def _is_number(cell: str) -> bool:
    """Whether a cell begins like a number, or is empty; such columns are set flush right."""
    start = cell.lstrip("+-\N{MINUS SIGN}<>\N{ALMOST EQUAL TO} ")[:1]
    return start.isdigit() or cell.strip() in ("", "-", DASH)
