"""The whole page: self-contained, escaped, complete, and honest about what was not measured."""

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.report import GalleryItem, ModelSection, Protocol, write_report
from veridical.runtime.errors import UsageError

Build = Callable[..., ModelSection]
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects elements, their attributes and the cells of tables; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        """What a reader sees: the style sheet is not part of it."""
        return " ".join(" ".join(word for word in self.words if "--paper" not in word).split())


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Page]:
    def write(sections: list[ModelSection], title: str = "Title", **options: Any) -> Page:
        path = write_report(tmp_path / "report.html", title, "Lead.", sections, **options)
        return Page(path.read_text(encoding="utf-8"))

    return write


def full_options() -> dict[str, Any]:
    log = [
        {"epoch": e, "loss": 2.0 / e, "parts": {"size": 1.0 / e}, "validation_accuracy": 0.9}
        for e in (1, 2, 3)
    ]
    return {
        "protocol": Protocol(0.1, details={"Iterations": 100}),
        "notes": ["Five inner steps."],
        "config": {"ball": {"norm": "linf"}, "radii": [0.1, 0.2], "device": None, "download": False},
        "environment": {"torch": "2.9"},
        "training": {"Natural": log, "Robust": log},
        "citation": "Chen et al.",
    }


def measure_rows(page: Page, title: str) -> list[list[str]]:
    """The rows of the results table about one model: name, measured, bar, images, published, recalled."""
    return [
        [" ".join(cell.split()) for cell in row] for row in page.rows if len(row) == 6 and row[0] == title
    ]


def test_page_loads_nothing_from_elsewhere(page: Callable[..., Page], section: Build) -> None:
    written = page([section(), section("Robust", 0.72, 0.61)], **full_options())
    for tag, attributes in written.elements:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert "url(" not in (attributes.get("style") or "")
    style = written.words[[tag for tag, _ in written.elements].index("style")]
    assert "@import" not in style
    assert "url(" not in "".join(written.words)
    policy = [meta for meta in written.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert (policy[0]["content"] or "").startswith("default-src 'none'")


def test_every_text_given_is_escaped(page: Callable[..., Page], section: Build) -> None:
    evil = '</title><script>alert("1")</script><b onclick=x>&amp;"\''
    item = section().gallery[0]
    item = GalleryItem(item.image, item.map, item.perturbed, item.perturbed_map, evil, 0.6, 0.5)
    hostile = section(evil, subtitle=evil, gallery=[item], metrics={evil: 0.5})
    options = {
        "protocol": Protocol(0.1, details={evil: evil}),
        "notes": [evil],
        "config": {evil: {evil: evil}},
        "environment": {evil: evil},
        "training": {evil: [{"epoch": 1, "loss": 1.0, "parts": {evil: 1.0}}, {"epoch": 2, "loss": 0.5}]},
        "citation": evil,
    }
    written = page([hostile, section("Other", gallery=[item])], title=evil, **options)
    assert not written.all("script")
    assert not written.all("b") or all("onclick" not in attributes for attributes in written.all("b"))
    assert written.text().count(evil) >= 10


def test_measured_published_and_recalled_numbers_stand_apart(
    page: Callable[..., Page], section: Build
) -> None:
    written = page([section(), section("Robust", 0.72, 0.61, published={}, recalled={})])
    header = next(row for row in written.rows if "published" in row)
    assert header[-2:] == ["published", "recalled, unverified"]
    accuracy, _, topk, tau, shift = measure_rows(written, "Natural")
    assert accuracy[1].startswith("92.5% 91.5% to 93.5%")
    assert accuracy[3:] == ["200", "90.86%", "\u2014"]
    assert topk[1].startswith("31.0% 29.0% to 33.0%")
    assert tau[1].startswith("0.180 0.160 to 0.200")
    assert tau[3:] == ["185", "\u2014", "0.4610"]
    assert shift[1].startswith("1.50 px 1.40 px to 1.60 px")
    assert all(row[4:] == ["\u2014", "\u2014"] for row in measure_rows(written, "Robust"))


@pytest.mark.parametrize("missing", [None, float("nan"), {"value": None, "low": None, "high": None, "n": 0}])
def test_what_was_not_measured_is_never_a_number(
    page: Callable[..., Page], section: Build, missing: Any
) -> None:
    metrics = {"natural_accuracy": interval_like(0.9), "topk_intersection": missing, "kendall_tau": missing}
    item = section().gallery[0]
    item = GalleryItem(item.image, item.map, item.perturbed, item.perturbed_map, "a", None, float("nan"))
    bare = section(
        metrics=metrics, gallery=[item], trace=None, distributions={}, curve=None, published={}, recalled={}
    )
    written = page([bare])
    natural, adversarial, topk, tau = measure_rows(written, "Natural")
    assert natural[1].startswith("90.0%")
    for row in (adversarial, topk, tau):
        assert row[1].startswith("not measured")
        assert not re.search(r"\d.*%|\d\.\d", " ".join(row))
    assert "top pixels kept not measured \u00b7 tau not measured" in written.text()
    assert "nan" not in written.text().lower()
    assert "none" not in written.text().lower()


def interval_like(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 100}


def test_pictures_charts_and_tables_can_be_read_aloud(page: Callable[..., Page], section: Build) -> None:
    written = page([section(), section("Robust", 0.72, 0.61)], **full_options())
    assert len(written.all("img")) == 2 * 2 * 5 + 1
    assert all(image.get("alt") for image in written.all("img"))
    assert (
        sum(
            image["alt"] == "6 of the 10 most important pixels stayed the same"
            for image in written.all("img")
        )
        == 4
    )
    charts = [chart for chart in written.all("svg") if chart.get("class") == "chart"]
    assert len(charts) == 1 + 2 + 1 + 3
    assert all(chart.get("role") == "img" and chart.get("aria-label") for chart in charts)
    assert all(chart.get("aria-hidden") for chart in written.all("svg") if chart not in charts)
    assert all(header.get("scope") for header in written.all("th"))
    assert len(written.all("caption")) == len(written.all("table")) == 3
    headings = [int(tag[1]) for tag, _ in written.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_identifiers_are_unique_and_references_resolve(page: Callable[..., Page], section: Build) -> None:
    written = page([section(), section("Robust", 0.72, 0.61)], **full_options())
    names = [attributes["id"] for _, attributes in written.elements if "id" in attributes]
    assert len(names) == len(set(names))
    pointed = [
        attributes["aria-labelledby"] for _, attributes in written.elements if "aria-labelledby" in attributes
    ]
    assert pointed
    assert set(pointed) <= set(names)


def test_settings_are_shown_flat_and_in_words(page: Callable[..., Page], section: Build) -> None:
    rows = [row for row in page([section()], **full_options()).rows if len(row) == 2]
    assert ["ball.norm", "linf"] in rows
    assert ["radii", "0.1, 0.2"] in rows
    assert ["device", "\u2014"] in rows
    assert ["download", "no"] in rows
    assert ["torch", "2.9"] in rows


def test_one_bare_section_is_enough(page: Callable[..., Page]) -> None:
    written = page([ModelSection("Model", {"natural_accuracy": 0.9}, k=5)])
    assert not written.all("img")
    assert [chart for chart in written.all("svg") if chart.get("class") == "chart"] == []
    assert "How it was measured" not in written.text()


def test_a_picture_that_contradicts_its_number_is_announced(
    page: Callable[..., Page], section: Build
) -> None:
    assert "pictures below, the number" not in page([section()]).text()
    item = section().gallery[0]
    wrong = GalleryItem(item.image, item.map, item.perturbed, item.perturbed_map, "a", 0.9, 0.5)
    assert "In 1 of the pictures below, the number" in page([section(gallery=[wrong])]).text()


@pytest.mark.parametrize("value", [0.0, 1e-12, 1.0, float("nan"), float("inf"), None])
def test_results_that_do_not_vary_make_a_page(
    page: Callable[..., Page], section: Build, value: float | None
) -> None:
    everywhere = {"value": value, "low": value, "high": value, "n": 2}
    number = float("nan") if value is None else value
    names = ("natural_accuracy", "adversarial_accuracy", "topk_intersection", "kendall_tau")
    metrics = dict.fromkeys((*names, "mass_centre_shift", "another"), everywhere)
    still = section(
        metrics=metrics,
        trace=np.full((2, 1), number),
        distributions={"kendall_tau": np.full(2, number), "topk_intersection": np.full(2, number)},
        curve=[{"radius": 0.0, **metrics}],
    )
    written = page(
        [still], training={"Natural": [{"epoch": 1, "loss": number, "validation_accuracy": number}]}
    )
    assert not {"nan", "inf", "None"} & set(written.text().split())


def test_characters_without_a_glyph_are_shown(page: Callable[..., Page], section: Build) -> None:
    odd = "a\x1b[31m\u202eb\ud800"
    text = page([section(title=odd, subtitle=odd, gallery=[])], notes=[odd], config={odd: odd}).text()
    assert not {"\x1b", "\u202e", "\ud800"} & set(text)
    assert text.count(r"a\x1b[31m\u202eb\ud800") >= 4


def test_sections_that_do_not_compare_are_refused(tmp_path: Path, section: Build) -> None:
    other = section("Robust")
    refused = {
        "at least one": [],
        "a different title": [section(), section()],
        "the same k": [section(), ModelSection("Robust", {}, k=11)],
        "the 2 examples": [section(), section("Robust", gallery=other.gallery[:1])],
        "not the image": [section(), section("Robust", gallery=other.gallery[::-1])],
    }
    for message, sections in refused.items():
        with pytest.raises(UsageError, match=message):
            write_report(tmp_path / "report.html", "Title", "Lead.", sections)
    assert list(tmp_path.iterdir()) == []


def test_shapes_that_cannot_be_drawn_are_refused(section: Build) -> None:
    item = section().gallery[0]
    with pytest.raises(UsageError, match=r"GalleryItem\.map: .*shape \(12, 12, 3\)"):
        GalleryItem(item.image, np.zeros((12, 12, 3)), item.perturbed, item.perturbed_map, "a", 0.5, 0.5)
    with pytest.raises(UsageError, match=r"GalleryItem\.perturbed: "):
        GalleryItem(item.image, item.map, np.zeros((3, 12, 12)), item.perturbed_map, "a", 0.5, 0.5)
    with pytest.raises(UsageError, match=r"ModelSection\.trace"):
        section(trace=np.zeros(5))
    with pytest.raises(UsageError, match=r"Protocol\.norm"):
        Protocol(0.1, norm="l7")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, section: Build) -> None:
    first = write_report(tmp_path / "a.html", "Title", "Lead.", [section()], **full_options())
    second = write_report(tmp_path / "b.html", "Title", "Lead.", [section()], **full_options())
    assert first.read_bytes() == second.read_bytes()


def test_report_needs_neither_torch_nor_pyplot() -> None:
    script = f"import sys; sys.path[:] = {sys.path}\n"
    script += "import veridical.report, veridical.studies.published; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "veridical.report.page" in loaded
    assert not {"torch", "matplotlib.pyplot"} & set(loaded)
