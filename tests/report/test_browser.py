"""The page in Chromium with the network blocked: no error, no request, nothing wider than the screen."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.report import (
    DiffRoarSection,
    GalleryItem,
    ModelSection,
    Protocol,
    UnmaskedItem,
    write_diffroar_report,
    write_report,
)
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

Build = Callable[..., ModelSection]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Elements that stick out of the page, but for what is hidden from sight or scrolls on purpose.
STICKING_OUT = """() => [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.unseen') && !e.closest('svg') && e.getClientRects().length)
    .filter(e => !e.parentElement.closest('.scroll'))
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
    .map(e => e.tagName + '.' + e.className)"""
BROKEN_IMAGES = "() => [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length"
COLOURS = """() => ['--ink', '--soft', '--paper', '--panel'].map(
    name => getComputedStyle(document.body).getPropertyValue(name))"""
SMALLEST_TEXT = """() => Math.min(...[...document.querySelectorAll('.chart')].map(
    c => 12 * c.getBoundingClientRect().width / c.viewBox.baseVal.width))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(params=["attack", "diffroar", "study"])
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A page that uses everything, with names and settings long enough to break a layout."""
    if request.param == "attack":
        return attack_page(tmp_path, request.getfixturevalue("section"))
    if request.param == "study":
        return study(tmp_path)
    return diffroar_page(tmp_path, request.getfixturevalue("diffroar_section"))


def attack_page(folder: Path, section: Build) -> Path:
    log = [
        {"epoch": e, "loss": 2.0 / e, "parts": {"size": 1.0}, "validation_accuracy": 0.9} for e in range(1, 9)
    ]
    long = "a" * 90
    item = section().gallery[0]
    wide = [GalleryItem(item.image, item.map, item.perturbed, item.perturbed_map, long, 0.6, None)]
    robust = section("IG-SUM-NORM with a long title", 0.72, 0.61, gallery=wide, subtitle=long)
    return write_report(
        folder / "report.html",
        f"A title {long}",
        f"A lead {long}",
        [section(gallery=wide), robust, section("Adversarial", 0.4, 0.3, gallery=wide)],
        protocol=Protocol(8 / 255, details={"Iterations": 100, long: long}),
        notes=[long],
        config={"path": "/" + "folder/" * 30, long: long},
        environment={"cpu": "x" * 200},
        training={"Natural": log},
        citation=long,
    )


def diffroar_page(folder: Path, section: Callable[..., DiffRoarSection]) -> Path:
    long = "a" * 90
    item = section().gallery[0]
    gallery = [UnmaskedItem(item.image, item.order, long, item.unmasked)]
    return write_diffroar_report(
        folder / "report.html",
        f"A title {long}",
        f"A lead {long}",
        [
            section(gallery=gallery),
            section(f"Another with a long title {long}", subtitle=long, gallery=gallery),
        ],
        details={"Repeats": 5, long: long},
        notes=[long],
        config={"path": "/" + "folder/" * 30, long: long},
        environment={"cpu": "x" * 200},
    )


def study(folder: Path) -> Path:
    long = "a" * 90
    curves = [Curve(f"{long} {n}", [0.1, 0.2], [0.2, 0.4], [0.1, 0.2], [0.3, 0.6]) for n in range(4)]
    row = PictureRow(long, [np.eye(8)] * 7, [long] * 7, [np.eye(8) > 0] * 7)
    figures = [
        Illustration(curves_figure(curves, x_label=long, y_label="y", title="t"), long, long),
        Illustration(pictures_figure([row], [long] * 7, ["grey"] * 7), long, long),
    ]
    table = Table(["Model", *[f"column {n}" for n in range(8)]], [[long, *["98.1% (97.8 to 98.4)"] * 8]])
    panels = [Panel(long, [long], figures, table)] * 4
    path = folder / "report.html"
    path.write_text(study_page(f"A title {long}", [long, long], panels, {long: long}), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [400, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_sound_in_a_browser(browser: Any, report: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(STICKING_OUT) == []
    assert page.evaluate(BROKEN_IMAGES) == 0
    assert page.evaluate(SMALLEST_TEXT) >= 10.5
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    context.close()


def test_text_contrast_is_sufficient(browser: Any, report: Path) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, offline=True)
        page = context.new_page()
        page.goto(report.as_uri())
        ink, soft, paper, panel = (relative_luminance(colour) for colour in page.evaluate(COLOURS))
        for text in (ink, soft):
            for ground in (paper, panel):
                bright, dark = max(text, ground), min(text, ground)
                assert (bright + 0.05) / (dark + 0.05) >= 4.5, (scheme, "WCAG 2.1, 1.4.3")
        context.close()


def relative_luminance(colour: str) -> float:
    """WCAG 2.1's relative luminance of #rrggbb."""
    channels = np.array([int(colour.strip()[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
