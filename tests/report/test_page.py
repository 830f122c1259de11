"""The page: self-contained, escaped, complete, of bounded size; figures fit its fonts, colours and ids."""

import base64
import hashlib
import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

import veridical.report.page as page_module
from veridical.report import (
    Column,
    Curve,
    Illustration,
    Panel,
    PictureGallery,
    PictureRow,
    Table,
    Verdict,
    curves_figure,
    curves_illustration,
    settings_panel,
    study_page,
)
from veridical.report.figures import PALETTE, SERIES_COLOURS, _styled, inline_svg
from veridical.runtime.errors import UsageError

EVIL = '</title><script>alert("1")</script><b onclick=x>&amp;"\''


def a_figure(name: str = "natural") -> Figure:
    curve = Curve(name, [0.1, 0.2], [0.4, 0.5], [0.3, 0.4], [0.5, 0.6])
    return curves_figure([curve], x_label="x", y_label="y", title=name)


def some_pictures(words: str = "Row", rows: int = 1, size: int = 4) -> PictureGallery:
    noise = np.random.default_rng(0).random((size, size))
    row = PictureRow(words, [noise, noise], [words, "b"], [noise > 0.5, None], heading=words)
    return PictureGallery(
        [row] * rows, [words, "Map"], ["grey", "heat"], [(None, words), ((255, 0, 0), "red")]
    )


def a_page(words: str = "words", panels: int = 2) -> str:
    columns: list[Column | str] = ["Model", Column(words, words, "share", "higher", f"meaning {words}")]
    table = Table(columns, [[words, "1.5%"], ["Other", None]], words)
    drawn = [
        curves_illustration([Curve(words, [0.1], [0.4])], words, x_label=words, y_label="y"),
        Illustration(some_pictures(words), words, words),
    ]
    return study_page(
        words,
        [words],
        [
            *(Panel(f"{words} {number}", [words], drawn, table) for number in range(panels)),
            settings_panel(words, {words: {"a": [0.1, 0.2], "b": None, "c": False}}),
        ],
        {words: words, "nested": {"seed": 0}},
        question=words,
        verdict=Verdict([f"found {words}", "more"], [words], words, drawn[:1]),
        notes=[words],
    )


def the_tree(page: str) -> ET.Element:
    """The page as XML: fails on tags that do not nest. HTML's void elements are closed first."""
    closed = re.sub(r"<(meta|img|input)([^>]*)>", r"<\1\2/>", page.replace("<!doctype html>", ""))
    closed = closed.replace(" hidden>", ' hidden="">')
    return ET.fromstring(closed.replace("&middot;", "·").replace("&rsquo;", "'"))


def drawn_page(*panels: Panel) -> ET.Element:
    """A page of these panels, and of hardly anything else."""
    return the_tree(study_page("t", ["lead"], panels, {}))


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
    assert rows[-3:] == [["Words.a", "0.1, 0.2"], ["Words.b", "\N{EM DASH}"], ["Words.c", "no"]]
    text = " ".join("".join(tree.itertext()).split())
    parts = [
        "What was found",
        "found Words",
        "more",
        "Words 0",
        "Words 1",
        "meaning Words Higher is better.",
        "How it was measured",
        "nested.seed",
        "Words.a",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    labels = [svg.attrib["aria-label"] for svg in tree.iter("svg") if svg.get("role") == "img"]
    assert labels == ["y against Words. Words: from 0.40 at 0.1."] * 3
    assert text.count("meaning Words") == 1


def test_headings_and_headers_can_be_read_aloud() -> None:
    tree = the_tree(a_page())
    levels = [int(element.tag[1]) for element in tree.iter() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(header.get("scope") for header in tree.iter("th"))
    assert len(list(tree.iter("caption"))) == len(list(tree.iter("table"))) == 3
    assert all(image.get("alt") for image in tree.iter("img"))
    assert all(
        element.get("aria-label") for element in tree.iter() if element.get("role") in ("img", "group")
    )


def test_an_empty_corner_of_a_table_is_no_header() -> None:
    tree = drawn_page(Panel("p", table=Table(["", "b"], [["a", "1"]])))
    assert [cell.tag for cell in next(tree.iter("tr"))] == ["td", "th"]


def test_columns_of_numbers_are_set_flush_right_and_intervals_below_their_values() -> None:
    rows = [["a", "1.5%", "near 0", "\N{MINUS SIGN}3 (2 to 4)", "<0.1"], ["b", "\N{EM DASH}", "5", "", "2"]]
    page = drawn_page(Panel("p", table=Table(["", *"nwmx"], rows)))
    assert [cell.get("class") for cell in next(page.iter("tr"))] == [None, "number", None, "number", "number"]
    cells = ["(1 to 2)", "42.8% (40.1 to 45.0)", "a (b)", "(1 to 2)", "9 (1 to 2) more"]
    page = drawn_page(Panel("p", table=Table([*"nwxyz"], [cells])))
    _, row = page.iter("tr")
    assert ["".join(cell.itertext()) for cell in row] == cells
    assert [span.text for cell in row for span in cell.iter("span")] == ["(40.1 to 45.0)"]


def test_equal_content_gives_equal_bytes_and_figures_are_left_as_they_are() -> None:
    assert a_page() == a_page()
    figure = a_figure()
    figure.set_facecolor("red")
    assert inline_svg(figure, "a", "k") == inline_svg(figure, "a", "k")
    assert figure.get_facecolor() == (1.0, 0.0, 0.0, 1.0)


def test_the_palette_is_that_of_the_style_sheet() -> None:
    page = study_page("", [""], [], {})
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", page.split("@media")[0]))
    named = {name: colour for colour, name in PALETTE.items() if light.get(name) == colour}
    assert set(named) == set(PALETTE.values())
    assert {PALETTE[colour] for colour in SERIES_COLOURS} == {f"m{number}" for number in range(6)}


def test_drawings_take_the_colours_and_the_font_of_the_page() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=SERIES_COLOURS[1])
    axes.plot([0, 1], [1, 0], color="#123456")
    axes.set_title("a title", fontweight="bold")
    drawn, width = inline_svg(figure, "alt", "k")
    assert width == pytest.approx(6.4 * 72)
    for part in ("stroke: var(--m2)", "#123456", "var(--font)", "a title"):
        assert part in drawn
    assert not re.search("#ffffff|#000000|DejaVu", drawn)
    # Matplotlib has written fonts in two ways.
    family = "'DejaVu Sans', 'Bitstream Vera Sans', sans-serif"
    for style in ("font: 700 12px {}; fill: var(--ink)", "font-size: 12px; font-family: {}"):
        given = style.format(family).replace("var(--ink)", "#000000")
        assert _styled(given, "k") == style.format("var(--font)")


def test_wide_figures_scroll_and_narrow_ones_stand_side_by_side() -> None:
    wide = Figure(figsize=(9, 3))
    wide.subplots()
    drawn = [Illustration(wide, "wide", "wide"), Illustration(a_figure(), "narrow", "narrow")]
    tree = drawn_page(Panel("p", (), drawn))
    scrolled = [div for div in tree.iter("div") if div.get("class") == "scroll"]
    assert [div.get("aria-label") for div in scrolled] == ["wide"]
    assert scrolled[0][0].get("style") == f"min-width: {9 * 72}px; max-width: {round(1.15 * 9 * 72)}px"
    beside = next(div for div in tree.iter("div") if div.get("class") == "charts")
    assert [svg.get("aria-label") for svg in beside.iter("svg")] == ["narrow"]


def test_what_is_not_given_is_left_out_and_what_has_no_words_refused() -> None:
    page = drawn_page(Panel("p"))
    assert not [e for tag in ("svg", "table", "nav", "ul", "dl", "figure") for e in page.iter(tag)]
    assert "found" not in "".join(page.itertext())
    with pytest.raises(UsageError, match=r"Illustration\.alt"):
        Illustration(a_figure(), "caption", " ")
    leads: list[Sequence[str]] = [[], "a text"]
    for lead in leads:
        with pytest.raises(UsageError, match="lead"):
            study_page("t", lead, [], {})
    # Further paragraphs of a lead are headlines, and a single one is set large.
    for shown in (
        study_page("t", ["l", "found"], [], {}),
        study_page("t", ["l"], [], {}, verdict=Verdict(["found"])),
    ):
        assert [p.text for p in the_tree(shown).iter("p") if p.get("class") == "headline"] == ["found"]


def test_outlines_are_drawn_over_their_pictures_and_captions_below() -> None:
    page = drawn_page(Panel("p", (), [Illustration(some_pictures(), "", "alt")]))
    figures = [figure for figure in page.iter("figure") if figure.get("class") == "tile"]
    assert [len(list(figure.iter("path"))) for figure in figures] == [1, 0]
    assert [span.text for span in figures[1].iter("span")] == ["Map", "b"]
    assert [image.get("alt") for image in page.iter("img")][1:] == ["Row, Row, Row, Row", "Row, Row, Map, b"]


def test_five_hundred_photographs_with_three_maps_stay_below_15_mb() -> None:
    draws = np.random.default_rng(0)
    # As rough as photographs are: smooth shapes and some noise in all colours; maps of noise alone.
    shapes = np.kron(draws.random((14, 14, 3)), np.ones((16, 16, 1)))
    photo = np.clip(shapes + 0.1 * draws.standard_normal((224, 224, 3)), 0, 1)
    row = PictureRow("", [photo, *np.abs(draws.standard_normal((3, 224, 224)))], label="a", score=0.0)
    gallery = PictureGallery([row] * 500, [*"abcd"], ["grey", "heat", "heat", "heat"], explorable=True)
    page = study_page("t", ["l"], [Panel("p", (), [Illustration(gallery, "", "alt")])], {})
    assert len(page.encode()) < 15_000_000
    assert page.count('class="picture-row"') == 500
    assert "rows are shown" not in page
    assert "Pictures are stored with at most 95 pixels a side" in page


def test_a_gallery_that_would_make_the_page_too_large_is_shortened_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page_module, "_LARGEST_PAGE", 2_000_000)
    drawn = [Illustration(some_pictures(rows=200, size=64), "", "alt")]
    page = study_page("t", ["l"], [Panel("p", (), drawn), Panel("q", (), drawn)], {})
    assert 900_000 < len(page) < 2_000_000
    found = re.findall(
        r"The first (\d+) of 200 rows are shown: with all of them this page would pass 2 MB", page
    )
    assert page.count('class="picture-row"') == int(found[0])
    assert page.count("The first 0 of 200 rows are shown") == 1
    assert "stored with at most" not in page
    assert "rows are shown" not in study_page(
        "t", ["l"], [Panel("p", (), [Illustration(some_pictures(), "", "alt")])], {}
    )


def explorable_page(label: str) -> str:
    rows = [PictureRow("", [np.eye(2)] * 2, label=name, score=n) for n, name in enumerate((label, "b"))]
    gallery = PictureGallery(rows, [label, "m"], ["grey", "heat"], explorable=True, worst=label)
    return study_page("t", ["l"], [Panel("p", (), [Illustration(gallery, "", "alt")])], {})


def test_only_our_script_may_run_and_it_holds_nothing_of_the_study() -> None:
    pages = explorable_page("a"), explorable_page(EVIL)
    scripts = {re.findall("<script>(.*?)</script>", page, re.DOTALL)[0] for page in pages}
    (script,) = scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for page in pages:
        policy = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', page)
        assert policy == [f"{allowed}; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"]
        assert page.count("<script") == 1
        assert "runs one script, its own" in page
        assert "runs no script" not in page
    assert len(script.splitlines()) < 60
    assert not re.search(r"innerHTML|eval|Function|insertAdjacent|document\.write|fetch|import|<", script)
    # Where nothing can be explored no script runs, and none is allowed.
    plain = a_page()
    assert f'content="{allowed}"' in plain
    assert "runs no script" in plain
    # As a page with an explorable gallery of which nothing can be chosen.
    alone = PictureGallery([PictureRow("", [np.eye(2)])], ["a"], ["grey"], explorable=True)
    assert "<script" not in study_page("t", ["l"], [Panel("p", (), [Illustration(alone, "", "alt")])], {})


def test_what_can_be_chosen_stands_in_attributes_escaped_and_hidden() -> None:
    tree = the_tree(explorable_page(EVIL))
    assert not list(tree.iter("b"))
    rows = [div for div in tree.iter("div") if div.get("class") == "picture-row"]
    assert [(row.get("data-label"), row.get("data-rank")) for row in rows] == [(EVIL, "0"), ("b", "1")]
    (controls,) = (div for div in tree.iter("div") if div.get("class") == "controls")
    assert controls.get("hidden") is not None
    options = [(option.get("value"), option.text) for option in controls.iter("option")]
    assert options == [
        ("", "all"),
        (EVIL, f"{EVIL} (1)"),
        ("b", "b (1)"),
        ("examined", "as examined"),
        ("worst", f"worst first ({EVIL})"),
    ]
    assert "".join(next(controls.iter("output")).itertext()) == "2 of 2 shown"


def test_small_numbers_stay_on_one_line_and_settings_are_named_in_words() -> None:
    text = "at most 5.8e-16, not run-1e-05 nor a1e-4b"
    panel = Panel("p", [text], table=Table(["n", "v"], [[text, "1e-07"]]))
    tree = the_tree(study_page("t", ["l"], [panel], {"batch_size": "1e-3"}))
    kept = [span.text for span in tree.iter("span") if span.get("class") == "unbroken"]
    assert kept == ["5.8e-16", "1e-07", "1e-3"]
    assert text in "".join(tree.itertext())
    assert [term.text for term in tree.iter("dt")] == ["batch size"]


def test_rows_of_one_heading_are_shown_together_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).random((32, 32))
    rows = [PictureRow("", [noise], heading="" if place % 3 else f"image {place}") for place in range(12)]
    drawn = [Illustration(PictureGallery(rows, [""], ["grey"]), "", "alt")]
    size = len(study_page("t", ["l"], [Panel("p", (), drawn)], {}))
    monkeypatch.setattr(page_module, "_LARGEST_PAGE", size // 2)
    monkeypatch.setattr(page_module, "_BESIDE_PICTURES", 0)
    short = study_page("t", ["l"], [Panel("p", (), drawn)], {})
    assert short.count('class="picture-row"') % 3 == 0
    assert 3 <= short.count('class="picture-row"') < 12


def test_characters_without_a_glyph_are_shown() -> None:
    odd = "a\x1b[31m\u202eb\ud800"
    text = "".join(the_tree(a_page(odd)).itertext())
    assert not {"\x1b", "\u202e", "\ud800"} & set(text)
    assert text.count(r"a\x1b[31m\u202eb\ud800") >= 12


def test_the_report_needs_neither_torch_nor_pyplot() -> None:
    script = f"import sys; sys.path[:] = {sys.path}\n"
    script += "import veridical.report; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "veridical.report.page" in loaded
    assert not {"torch", "matplotlib.pyplot"} & set(loaded)
