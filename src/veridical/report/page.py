"""A study's words, tables, figures and galleries -> one self-contained HTML file.

Give what was found in words first; a figure or table is what it stands on. The file loads nothing, and every
text is escaped. It runs no script, but for one of ours where a gallery can be explored: its policy names that
script by digest, so that nothing else runs, and without it the page is complete.
"""

import base64
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import jinja2
from markupsafe import Markup

from veridical.report.figures import Illustration, inline_svg
from veridical.report.formats import DASH, flatten_settings
from veridical.report.pictures import PictureGallery, PictureRow, colour_bar_uri, largest_side
from veridical.report.table import Table, explained
from veridical.runtime.checking import record
from veridical.runtime.errors import argument_error, visible

# Figures up to this natural width stand side by side and fit a phone; wider ones scroll there.
_NARROW: Final = 440.0
_GROWTH: Final = 1.15
_LISTED_FROM: Final = 4
# A page stays below this many bytes, some of which are for all but pictures: browsers and mail take no more
# with ease.
_LARGEST_PAGE, _BESIDE_PICTURES = 15_000_000, 1_000_000
_INTERVAL: Final = re.compile(r"([^()]+) (\([^()]+ to [^()]+\))")
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Browsers break a line after the hyphen of 5.8e-16.
_POWER: Final = re.compile(r"(?<![\w.-])[\d.]+e-\d+(?!\w)")


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
    deviations and cautions, a sentence each. `question` is the kind of page, above the title. Where pictures
    would pass 15 MB they are stored smaller (`largest_side`), and galleries for which that is not enough are
    shortened; both say so. Equal content gives equal bytes. Raises UsageError for a lead
    without a paragraph.
    """
    if isinstance(lead, str) or not lead:
        raise argument_error("lead", lead, "a list of one paragraph or more")
    about, *found = lead
    box = verdict or (Verdict(found) if found else None)
    pictures = _GalleryRenderer(
        [
            one.figure
            for panel in panels
            for one in panel.illustrations
            if isinstance(one.figure, PictureGallery)
        ]
    )
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
        details=[(name.replace("_", " "), text) for name, text in flatten_settings(facts)],
        notes=notes,
        colour_bar=colour_bar_uri(),
        explorable=any(gallery["controls"] for entry in entries for gallery in entry["galleries"]),
    )


def _render(template: str, **content: object) -> str:
    """Fill a template of this package's folder; every text is escaped, and a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("veridical.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        # Text of others with every character visible; markup is our own.
        finalize=lambda value: _visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    environment.filters["unbroken"] = _unbroken
    style, script = (
        Markup("\n".join(environment.loader.get_source(environment, name)[0].splitlines()))  # noqa: S704
        for name in ("report.css", "explore.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripted = f"{_POLICY}; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    page = environment.get_template(
        template,
        globals={"style": style, "script": script, "policy": Markup(_POLICY), "scripted": Markup(scripted)},  # noqa: S704
    )
    return page.render(**content)


def _visible(text: str) -> str:
    return visible(text, keep="\n\t")


def _unbroken(text: str) -> Markup:
    """Text, escaped, in which a number like 5.8e-16 stays on one line."""
    safe = str(Markup.escape(_visible(text)))
    return Markup(_POWER.sub(r'<span class="unbroken">\g<0></span>', safe))  # noqa: S704


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

    def __init__(self, galleries: Sequence[PictureGallery]) -> None:
        self.left = _LARGEST_PAGE - _BESIDE_PICTURES
        self.side = largest_side(galleries, self.left)

    def render(self, gallery: PictureGallery, illustration: Illustration) -> dict[str, Any]:
        """A gallery as its template takes it; rows of one heading are shown together or not at all."""
        starts = [place for place, row in enumerate(gallery.rows) if row.heading or place == 0]
        if not any(row.heading for row in gallery.rows):
            starts = list(range(len(gallery.rows)))
        shown: list[dict[str, Any]] = []
        # The pictures are made before they are counted: how well a PNG compresses is not known earlier.
        for start, end in itertools.pairwise([*starts, len(gallery.rows)]):
            group = [self._row(gallery, row) for row in gallery.rows[start:end]]
            size = sum(len(tile["uri"]) + len(tile["outline"]) for row in group for tile in row["tiles"])
            if size > self.left:
                break
            self.left -= size
            shown += group
        return {
            "rows": shown,
            "controls": _controls(gallery, shown) if gallery.explorable and shown else None,
            "columns": len(gallery.columns),
            "legend": gallery.legend,
            "caption": illustration.caption,
            "alt": illustration.alt,
            "short": self._cautions(gallery, shown),
        }

    def _row(self, gallery: PictureGallery, row: PictureRow) -> dict[str, Any]:
        tiles = gallery.tiles(row, self.side)
        return {"heading": row.heading, "title": row.title, "label": row.label, "rank": None, "tiles": tiles}

    def _cautions(self, gallery: PictureGallery, shown: Sequence[Mapping[str, Any]]) -> str:
        """What is not shown as it was given, so that the page stays small."""
        said, limit = [], f"{_LARGEST_PAGE / 1e6:g} MB"
        if len(shown) < len(gallery.rows):
            said.append(
                f"The first {len(shown):,} of {len(gallery.rows):,} rows are shown: with all of them this "
                f"page would pass {limit}."
            )
        if self.side is not None and any(not tile["crisp"] for row in shown for tile in row["tiles"]):
            said.append(
                f"Pictures are stored with at most {self.side} pixels a side, and maps in 16 colours, so "
                f"that this page stays below {limit}."
            )
        return " ".join(said)


def _controls(gallery: PictureGallery, shown: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What can be chosen for the rows shown, which get their ranks; None where there is nothing to choose."""
    controls = gallery.controls(gallery.rows[: len(shown)])
    for row, rank in zip(shown, controls["ranks"], strict=False):
        row["rank"] = rank
    return {**controls, "worst": gallery.worst} if any(controls.values()) else None


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
