"""A study's page: self-contained, escaped, complete; its figures fit a page's fonts, colours and ids."""

import itertools
import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from veridical.report.embedding import LINES, PALETTE, inline_svg
from veridical.report.page import (
    Curve,
    Illustration,
    Panel,
    PictureRow,
    Table,
    curves_figure,
    pictures_figure,
    study_page,
)
from veridical.report.rendering import render
from veridical.runtime.errors import UsageError

EVIL = '</title><script>alert("1")</script><b onclick=x>&amp;"\''


def a_figure(name: str = "natural") -> Figure:
    curve = Curve(name, [0.1, 0.2], [0.4, 0.5], [0.3, 0.4], [0.5, 0.6])
    return curves_figure([curve], x_label="x", y_label="y", title=name)


def some_pictures() -> Figure:
    row = PictureRow("Row", [np.eye(4), np.eye(4)], ["a", "b"], [np.eye(4) > 0, None])
    return pictures_figure([row], ["Image", "Map"], ["grey", "heat"])


def a_page(words: str = "words", panels: int = 2) -> str:
    table = Table(["Model", words], [[words, "1.5%"], ["Other", "\N{EM DASH}"]], words)
    drawn = [Illustration(a_figure(words), words, words), Illustration(some_pictures(), "pictures", "row")]
    return study_page(
        words,
        [words, f"found {words}", "more"],
        [Panel(f"{words} {number}", [words], drawn, table) for number in range(panels)],
        {words: words, "nested": {"seed": 0}},
    )


def the_tree(page: str) -> ET.Element:
    """The page as XML: fails on tags that do not nest. HTML's void elements are closed first."""
    closed = re.sub(r"<(meta|img)([^>]*)>", r"<\1\2/>", page.replace("<!doctype html>", ""))
    return ET.fromstring(closed.replace("&middot;", "·").replace("&rsquo;", "'"))


def test_the_page_loads_nothing_and_its_links_lead_somewhere() -> None:
    tree = the_tree(a_page(panels=4))
    names = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(names) == len(set(names))
    links = [element.attrib["href"] for element in tree.iter() if "href" in element.attrib]
    assert {link[1:] for link in links if link.startswith("#")} <= set(names)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    used = set(re.findall(r"url\(#([^)]+)\)", ET.tostring(tree, encoding="unicode")))
    assert used
    assert used <= set(names)
    assert not {element.tag for element in tree.iter()} & {"script", "link", "iframe", "object", "metadata"}
    # The page's own and no other: that of a drawing would hold for the whole page.
    assert len(list(tree.iter("style"))) == 1


def test_every_text_given_is_escaped() -> None:
    tree = the_tree(a_page(EVIL))
    assert not list(tree.iter("b"))
    assert not [e for e in tree.iter() if any(name.startswith("on") for name in e.attrib)]
    assert "".join(tree.itertext()).count(EVIL) >= 12


def test_the_page_holds_what_it_was_given_in_order() -> None:
    tree = the_tree(a_page("Words"))
    rows = [[cell.text for cell in row] for row in tree.iter("tr")]
    assert rows[:3] == [["Model", "Words"], ["Words", "1.5%"], ["Other", "\N{EM DASH}"]]
    text = " ".join("".join(tree.itertext()).split())
    parts = [
        "What was found",
        "found Words",
        "more",
        "Words 0",
        "Words 1",
        "How it was measured",
        "nested.seed",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    labels = [svg.attrib["aria-label"] for svg in tree.iter("svg") if svg.attrib["role"] == "img"]
    assert labels == ["Words", "row"] * 2


def test_headings_and_headers_can_be_read_aloud() -> None:
    tree = the_tree(a_page())
    levels = [int(element.tag[1]) for element in tree.iter() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(header.get("scope") for header in tree.iter("th"))
    assert len(list(tree.iter("caption"))) == len(list(tree.iter("table"))) == 2
    assert all(
        element.get("aria-label") for element in tree.iter() if element.get("role") in ("img", "group")
    )


def test_columns_of_numbers_are_set_flush_right() -> None:
    rows = [["a", "1.5%", "near 0", "\N{MINUS SIGN}3 (2 to 4)", "<0.1"], ["b", "\N{EM DASH}", "5", "", "2"]]
    page = the_tree(study_page("t", ["l"], [Panel("p", table=Table(["", *"nwmx"], rows))], {}))
    assert [cell.get("class") for cell in next(page.iter("tr"))] == [None, "number", None, "number", "number"]


def test_intervals_stand_below_their_values() -> None:
    cells = ["42.8% (40.1 to 45.0)", "a (b)", "(1 to 2)", "9 (1 to 2) more"]
    page = the_tree(study_page("t", ["l"], [Panel("p", table=Table([*"nwxyz"], [["(1 to 2)", *cells]]))], {}))
    _, row = page.iter("tr")
    assert ["".join(cell.itertext()) for cell in row] == ["(1 to 2)", *cells]
    assert [span.text for cell in row for span in cell.iter("span")] == ["(40.1 to 45.0)"]


def test_what_is_not_given_is_left_out() -> None:
    page = the_tree(study_page("t", ["lead"], [Panel("p")], {}))
    assert not [e for tag in ("svg", "table", "nav", "ul", "dl", "figure") for e in page.iter(tag)]
    assert "found" not in "".join(page.itertext())


def test_equal_content_gives_equal_bytes_and_figures_are_left_as_they_are() -> None:
    assert a_page() == a_page()
    figure = a_figure()
    figure.set_facecolor("red")
    assert inline_svg(figure, "a", "k") == inline_svg(figure, "a", "k")
    assert figure.get_facecolor() == (1.0, 0.0, 0.0, 1.0)


def test_the_palette_is_that_of_the_style_sheet() -> None:
    page = render(
        "study.html",
        question="",
        title="",
        lead="",
        found=[],
        panels=[],
        explained=[],
        listed=False,
        details=[],
        sections=(),
        tables={},
    )
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", page.split("@media")[0]))
    named = {name: colour for colour, name in PALETTE.items() if light.get(name) == colour}
    assert set(named) == set(PALETTE.values())
    assert {PALETTE[colour] for colour in LINES} == {f"m{number}" for number in range(6)}


def test_drawings_take_the_colours_and_the_font_of_the_page() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=LINES[1])
    axes.plot([0, 1], [1, 0], color="#123456")
    axes.set_title("a title", fontweight="bold")
    drawn, width = inline_svg(figure, "alt", "k")
    assert width == pytest.approx(6.4 * 72)
    assert "stroke: var(--m2)" in drawn
    assert "#123456" in drawn
    assert not re.search("#ffffff|#000000", drawn)
    families = re.findall(r"font(?:-family)?:[^;\"]*", drawn)
    assert families
    assert "DejaVu" not in drawn
    assert "var(--font)" in drawn
    assert "a title" in drawn


@pytest.mark.parametrize("shorthand", [True, False])
def test_fonts_are_replaced_in_both_ways_of_writing_them(shorthand: bool) -> None:
    from veridical.report.embedding import _styled

    family = "'DejaVu Sans', 'Bitstream Vera Sans', sans-serif"
    style = (
        f"font: 700 12px {family}; fill: #000000" if shorthand else f"font-size: 12px; font-family: {family}"
    )
    plain = (
        "font: 700 12px var(--font); fill: var(--ink)"
        if shorthand
        else "font-size: 12px; font-family: var(--font)"
    )
    assert _styled(style, "k") == plain


def test_wide_figures_scroll_and_narrow_ones_stand_side_by_side() -> None:
    wide = Figure(figsize=(9, 3))
    wide.subplots()
    drawn = [Illustration(wide, "wide", "wide"), Illustration(a_figure(), "narrow", "narrow")]
    tree = the_tree(study_page("t", ["l"], [Panel("p", (), drawn)], {}))
    scrolled = [div for div in tree.iter("div") if div.get("class") == "scroll"]
    assert [div.get("aria-label") for div in scrolled] == ["wide"]
    assert scrolled[0][0].get("style") == f"min-width: {9 * 72}px; max-width: {round(1.15 * 9 * 72)}px"
    beside = next(div for div in tree.iter("div") if div.get("class") == "charts")
    assert [svg.get("aria-label") for svg in beside.iter("svg")] == ["narrow"]


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Table\.rows.*2 cells"):
        Table(["a", "b"], [["1", "2"], ["1"]])
    with pytest.raises(UsageError, match=r"Table\.columns"):
        Table([], [])
    with pytest.raises(UsageError, match=r"Illustration\.alt"):
        Illustration(a_figure(), "caption", " ")
    leads: list[Sequence[str]] = [[], "a text"]
    for lead in leads:
        with pytest.raises(UsageError, match="lead"):
            study_page("t", lead, [], {})
