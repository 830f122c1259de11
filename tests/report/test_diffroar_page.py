"""The DiffROAR page: self-contained, escaped, complete, and true to the numbers it was given."""

import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.report import DiffRoarSection, UnmaskedItem, write_diffroar_report
from veridical.runtime.errors import UsageError

from .conftest import curve_of, judged, unmasked_item

Build = Callable[..., DiffRoarSection]
VOID = {"meta", "img"}


class Elements(HTMLParser):
    """Elements with their attributes, rows of tables and words; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self._words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._words.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += f" {data}"

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def cells(self, first: str, count: int) -> list[list[str]]:
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return [row for row in rows if row and row[0] == first and len(row) == count]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).split())


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Elements]:
    def write(sections: list[DiffRoarSection], title: str = "Title", **options: Any) -> Elements:
        path = write_diffroar_report(tmp_path / "page.html", title, "Lead.", sections, **options)
        return Elements(path.read_text(encoding="utf-8"))

    return write


OPTIONS: dict[str, Any] = {
    "details": {"Data": "fashion-mnist", "Repeats": 5},
    "notes": ["A caution."],
    "config": {"measured": {"levels": [0.05, 0.5], "seed": 0}},
    "environment": {"torch": "2.9"},
}


def test_the_page_loads_nothing_from_elsewhere(
    page: Callable[..., Elements], diffroar_section: Build
) -> None:
    written = page([diffroar_section(), diffroar_section("Robust")], **OPTIONS)
    for tag, attributes in written.elements:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)


def test_every_text_given_is_escaped(page: Callable[..., Elements], diffroar_section: Build) -> None:
    evil = '</title><script>alert("1")</script><b onclick=x>&amp;"\''
    item = unmasked_item(0)
    gallery = [UnmaskedItem(item.image, item.order, evil, item.unmasked)]
    hostile = diffroar_section(
        evil, subtitle=evil, gallery=gallery, baselines={evil: curve_of((0.5, 0.6), (0.5, 0.6))}
    )
    options = {"details": {evil: evil}, "notes": [evil], "config": {evil: evil}, "environment": {evil: evil}}
    written = page([hostile, diffroar_section("Other", gallery=gallery)], title=evil, **options)
    assert not written.all("script")
    assert not written.all("b")
    assert written.text.count(evil) >= 10


def test_the_table_holds_the_numbers_and_the_verdicts_interval(
    page: Callable[..., Elements], diffroar_section: Build
) -> None:
    # Wider than the curve's own interval of a point: test images vary too.
    verdicts = judged([-0.08, 0.05], ["violated", "satisfied"], half=0.03)
    low, high = page([diffroar_section(verdicts=verdicts)]).cells("Natural", 8)
    assert low[1:4] == ["62.0%", "70.0%", "\u22128.0 \u221211.0 to \u22125.0"]
    assert low[5:] == ["violated", "0.0 \u22121.0 to +1.0", "+15.0 +14.0 to +16.0"]
    assert high[1:4] == ["90.0%", "85.0%", "+5.0 +2.0 to +8.0"]
    assert high[5] == "satisfied"


def test_every_repeat_is_on_the_page(page: Callable[..., Elements], diffroar_section: Build) -> None:
    rows = page([diffroar_section()]).cells("Natural", 7)
    # Attribution, two baselines and the masks: two levels with top, bottom and difference.
    assert len(rows) == 4 * 2 * 3
    assert rows[0][1:6] == ["this attribution", "5%", "top", "62.00%", "61.00% to 63.00%"]
    assert rows[0][6] == ", ".join(["62.00%"] * 5)
    assert {row[1] for row in rows} == {"this attribution", "random", "input-agnostic", "masks alone"}


def test_several_outputs_are_overlaid_and_each_has_its_part(
    page: Callable[..., Elements], diffroar_section: Build
) -> None:
    alone = page([diffroar_section()])
    both = page([diffroar_section(), diffroar_section("Robust")])
    charts = [[svg for svg in written.all("svg") if svg.get("class") == "chart"] for written in (alone, both)]
    # One main chart; both ends overlaid where there are several; four charts of each output.
    assert [len(found) for found in charts] == [1 + 4, 1 + 2 + 2 * 4]
    assert "Robust: from" in charts[1][0]["aria-label"]
    assert "Natural: from" in charts[1][0]["aria-label"]
    assert "beside that of \u201cNatural\u201d" in both.text
    assert "beside that of \u201cNatural\u201d" not in alone.text


def test_the_gallery_shows_each_image_with_both_ends_of_every_output(
    page: Callable[..., Elements], diffroar_section: Build
) -> None:
    written = page([diffroar_section(), diffroar_section("Robust")])
    images = written.all("img")
    # Two examples, two outputs: image, order and two ends at two levels; and the colour scale.
    assert len(images) == 2 * 2 * (2 + 2 * 2) + 1
    assert sum("top 5%" in image["alt"] for image in images) == 4
    colours = [unmasked_item(0, (3,))]
    assert len(page([diffroar_section(gallery=colours)]).all("img")) == 7


def test_many_levels_show_the_first_and_the_last(
    page: Callable[..., Elements], diffroar_section: Build
) -> None:
    item = unmasked_item(0)
    levels = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    many = UnmaskedItem(item.image, item.order, "0", dict.fromkeys(levels, item.unmasked[0.05]))
    shown = [image["alt"] for image in page([diffroar_section(gallery=[many])]).all("img")]
    assert [re.search(r"top (\d+)%", alt)[1] for alt in shown if "top " in alt] == ["5", "20", "50", "90"]  # type: ignore[index]


@pytest.mark.parametrize("missing", ["baselines", "control", "roar", "gallery"])
def test_what_was_not_measured_is_left_out(
    page: Callable[..., Elements], diffroar_section: Build, missing: str
) -> None:
    whole, less = (
        page([diffroar_section()]),
        page([diffroar_section(**{missing: () if missing != "baselines" else {}})]),
    )
    counts = [[len(written.all(tag)) for tag in ("svg", "img", "section")] for written in (whole, less)]
    assert counts[0] != counts[1]
    assert "nan" not in less.text.lower()
    assert "none" not in less.text.lower()


def test_one_repeat_and_one_level_are_enough(page: Callable[..., Elements], diffroar_section: Build) -> None:
    section = diffroar_section(
        curve=curve_of((0.62,), (0.7,), half=None, repeats=1),
        verdicts=judged([-0.08], ["undecided"], half=None),
        baselines={"random": curve_of((0.66,), (0.66,), half=None, repeats=1)},
        control=[],
        gallery=[],
    )
    written = page([section])
    assert "undecided at 5%" in written.text
    assert "a single repeat, which has no interval" in written.text
    assert "beside that of" not in written.text


def test_charts_and_tables_can_be_read_aloud(page: Callable[..., Elements], diffroar_section: Build) -> None:
    written = page([diffroar_section(), diffroar_section("Robust")], **OPTIONS)
    assert all(image["alt"] for image in written.all("img"))
    for svg in written.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    assert all(header.get("scope") for header in written.all("th"))
    assert len(written.all("caption")) == len(written.all("table")) == 4
    headings = [int(tag[1]) for tag, _ in written.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    names = [attributes["id"] for _, attributes in written.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert {a["aria-labelledby"] for _, a in written.elements if "aria-labelledby" in a} <= set(names)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, diffroar_section: Build) -> None:
    pages = [
        write_diffroar_report(tmp_path / name, "Title", "Lead.", [diffroar_section()], **OPTIONS).read_bytes()
        for name in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]


def test_sections_that_do_not_compare_are_refused(tmp_path: Path, diffroar_section: Build) -> None:
    other = diffroar_section("Robust", gallery=[unmasked_item(place) for place in (1, 0)])
    refused = {
        "1 to 6": [],
        "a different title": [diffroar_section(), diffroar_section()],
        "one mode": [diffroar_section(), diffroar_section("Robust", mode="remove")],
        "does not show the images": [diffroar_section(), other],
        "several pages": [diffroar_section(str(number)) for number in range(7)],
    }
    for message, sections in refused.items():
        with pytest.raises(UsageError, match=message):
            write_diffroar_report(tmp_path / "page.html", "Title", "Lead.", sections)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"curve": []}, "one point or more"),
        ({"curve": curve_of((0.6, 0.7), (0.5, 0.6))[::-1]}, "levels rising"),
        ({"verdicts": judged([0.1], ["satisfied"])}, "for each of the levels"),
        ({"verdicts": judged([0.1, 0.1], ["satisfied", "perhaps"])}, "satisfied, violated, undecided"),
        ({"mode": "both"}, "keep"),
    ],
)
def test_a_section_is_checked(diffroar_section: Build, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        diffroar_section(**parts)


def test_pictures_of_other_shapes_are_refused() -> None:
    item = unmasked_item(0)
    with pytest.raises(UsageError, match=r"UnmaskedItem\.order"):
        UnmaskedItem(item.image, np.zeros(36), "0", item.unmasked)
    with pytest.raises(UsageError, match="channels last"):
        UnmaskedItem(np.zeros((3, 6, 6)), item.order, "0", item.unmasked)
