"""The page in Chromium with the network blocked: no error, no request, nothing wider than the screen."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from veridical.report import (
    Curve,
    Illustration,
    Interval,
    Panel,
    PictureGallery,
    PictureRow,
    Table,
    Verdict,
    curves_figure,
    histograms_figure,
    intervals_figure,
    scatter_figure,
    settings_panel,
    study_page,
)

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


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that uses everything, with names and settings long enough to break a layout."""
    long, interval = "a" * 90, Interval(0.5, 0.4, 0.6)
    curves = [Curve(f"{long} {n}", [0.1, 0.2], [0.2, 0.4], [0.1, 0.2], [0.3, 0.6]) for n in range(4)]
    scatter = [(long, True, {long: (interval, interval)})]
    figures: list[Figure | PictureGallery] = [
        curves_figure(curves, x_label=long, y_label="y", title="t"),
        histograms_figure({long: np.arange(9.0) / 9}, x_label=long, x_range=(0, 1))[0],
        intervals_figure({long: interval, f"{long} b": interval}, title=long, x_range=(0, 1)),
        scatter_figure(scatter, x_label="x"),
        scatter_figure(scatter * 2, x_label="x"),
        *(
            PictureGallery(
                [PictureRow(long, [np.eye(8)] * n, [long] * n, [np.eye(8) > 0] * n, heading=long)] * 2,
                [long] * n,
                ["heat"] * n,
                [(None, long), ((1, 2, 3), long)],
            )
            for n in (2, 5, 7)
        ),
    ]
    drawn = [Illustration(figure, long, long) for figure in figures]
    table = Table(
        ["Model", *[f"column {n}" for n in range(8)]], [[long, *["98.1% (97.8 to 98.4)"] * 8]], long
    )
    settings = {"path": "/" + "folder/" * 30, long: long}
    panels = [*[Panel(long, [long], drawn, table)] * 2, *[Panel("p", table=table)] * 2]
    page = study_page(
        f"A title {long}",
        [long],
        [*panels, settings_panel(long, settings)],
        settings,
        verdict=Verdict([long, long], [long], long, drawn[:3]),
        notes=[long],
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 768, 1280])
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
