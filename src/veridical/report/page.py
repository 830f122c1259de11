"""A study's words, tables, figures and galleries -> one self-contained HTML file.

Give what was found in words first; a figure or table is what it stands on. The file loads nothing, runs no
script, and every text is escaped.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import jinja2
from markupsafe import Markup

from veridical.report.figures import Illustration, inline_svg
from veridical.report.formats import DASH, flatten_settings
from veridical.report.pictures import PictureGallery, PictureRow, colour_bar_uri
from veridical.report.table import Table, explained
from veridical.runtime.checking import record
from veridical.runtime.errors import argument_error, visible

# Figures up to this natural width stand side by side and fit a phone; wider ones scroll there.
_NARROW: Final = 440.0
_GROWTH: Final = 1.15
_LISTED_FROM: Final = 4
# Galleries of a page stay below this many bytes together: browsers and mail take no more with ease.
_LARGEST_GALLERY: Final = 15_000_000
_INTERVAL: Final = re.compile(r"([^()]+) (\([^()]+ to [^()]+\))")


@record
class Panel:
    """One part of a page: a heading, paragraphs, a table, figures and galleries, in this order.

    A folded one stands at the end of the page, closed until a reader opens it.
    """

    title: str
    text: Sequence[str] = ()
    illustrations: Sequence[Illustration] = ()
    table: Table | None = None
    folded: bool = False


@record
class Verdict:
    """The box on top of a page: what was found, on what it stands, and how far it goes.

    `headlines` are sentences, set large where there is one; `text` follows as paragraphs, `illustrations`
    stand beside them, and `caution` says in small print how to read this.
    """

    headlines: Sequence[str]
    text: Sequence[str] = ()
    caution: str = ""
    illustrations: Sequence[Illustration] = ()


def settings_panel(title: str, settings: Mapping[str, object]) -> Panel:
    """Settings as a folded table of names and values."""
    return Panel(title, table=Table(["Name", "Value"], flatten_settings(settings)), folded=True)


def study_page(
    title: str,
    lead: Sequence[str],
    panels: Sequence[Panel],
    facts: Mapping[str, object],
    *,
    question: str = "a study",
    verdict: Verdict | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The text of a page: title, lead, verdict, the panels, and the facts of how it was measured.

    `lead` is paragraphs: the first says under the title what the page is about; the others, if any, are the
    headlines of a verdict. What the columns of the tables mean stands once, below the panels. `facts`
    (settings, versions, seed) come last, as names and values; nested ones get dotted names. `notes` are
    deviations and cautions, a sentence each. `question` is the kind of page, above the title. Galleries that
    would pass 15 MB are shortened, and say so. Equal content gives equal bytes. Raises UsageError for a lead
    without a paragraph.
    """
    if isinstance(lead, str) or not lead:
        raise argument_error("lead", lead, "a list of one paragraph or more")
    about, *found = lead
    box = verdict or (Verdict(found) if found else None)
    pictures = _GalleryRenderer()
    entries = [_entry(panel, f"panel-{place}", pictures) for place, panel in enumerate(panels, start=1)]
    shown = [entry for entry in entries if not entry["folded"]]
    return _render(
        "page.html",
        question=question,
        title=title,
        lead=about,
        verdict=box,
        beside=list(_figures(box.illustrations, "verdict")) if box else [],
        panels=shown,
        folded=[entry for entry in entries if entry["folded"]],
        listed=len(shown) >= _LISTED_FROM,
        explained=explained(panel.table for panel in panels if panel.table is not None),
        details=flatten_settings(facts),
        notes=notes,
        colour_bar=colour_bar_uri(),
    )


def _render(template: str, **content: object) -> str:
    """Fill a template of this package's folder; every text is escaped, and a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("veridical.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # Text of others with every character visible; markup is our own.
        finalize=lambda value: visible(value, keep="\n\t") if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "report.css")[0]
    page = environment.get_template(template, globals={"style": Markup(style)})  # noqa: S704
    return page.render(**content)


def _entry(panel: Panel, key: str, pictures: "_GalleryRenderer") -> dict[str, Any]:
    """A panel as its template takes it, narrow figures apart from wide ones."""
    figures = list(_figures(panel.illustrations, key))
    return {
        "key": key,
        "title": panel.title,
        "folded": panel.folded,
        "text": panel.text,
        "table": None if panel.table is None else _table(panel.table),
        "narrow": [figure for figure in figures if not figure["wide"]],
        "wide": [figure for figure in figures if figure["wide"]],
        "galleries": [
            pictures.render(one.figure, one)
            for one in panel.illustrations
            if isinstance(one.figure, PictureGallery)
        ],
    }


def _figures(illustrations: Iterable[Illustration], key: str) -> Iterator[dict[str, Any]]:
    for number, illustration in enumerate(illustrations, start=1):
        if isinstance(illustration.figure, PictureGallery):
            continue
        drawn, width = inline_svg(illustration.figure, illustration.alt, f"{key}-{number}")
        yield {
            "drawn": drawn,
            "caption": illustration.caption,
            "alt": illustration.alt,
            "wide": width > _NARROW,
            "least": round(width),
            "most": round(_GROWTH * width),
        }


class _GalleryRenderer:
    """Galleries of one page, as long as there is room for them."""

    def __init__(self) -> None:
        self.left = _LARGEST_GALLERY

    def render(self, gallery: PictureGallery, illustration: Illustration) -> dict[str, Any]:
        """A gallery as its template takes it; rows of one heading are shown together or not at all."""
        starts = [place for place, row in enumerate(gallery.rows) if row.heading or place == 0]
        if not any(row.heading for row in gallery.rows):
            starts = list(range(len(gallery.rows)))
        shown: list[dict[str, Any]] = []
        # The pictures are made before they are counted: how well a PNG compresses is not known earlier.
        for start, end in itertools.pairwise([*starts, len(gallery.rows)]):
            group = [_row(gallery, row) for row in gallery.rows[start:end]]
            size = sum(len(tile["uri"]) + len(tile["outline"]) for row in group for tile in row["tiles"])
            if size > self.left:
                break
            self.left -= size
            shown += group
        short = ""
        if len(shown) < len(gallery.rows):
            short = (
                f"The first {len(shown):,} of {len(gallery.rows):,} rows are shown: with all of them this "
                f"page would pass {_LARGEST_GALLERY / 1e6:g} MB."
            )
        return {
            "rows": shown,
            "columns": len(gallery.columns),
            "legend": gallery.legend,
            "caption": illustration.caption,
            "alt": illustration.alt,
            "short": short,
        }


def _row(gallery: PictureGallery, row: PictureRow) -> dict[str, Any]:
    return {"heading": row.heading, "title": row.title, "tiles": gallery.tiles(row)}


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
