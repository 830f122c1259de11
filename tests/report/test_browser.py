"""The page in Chromium with the network blocked: no error, no request, nothing wider than the screen."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

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

COLOURS = """() => ['--ink', '--soft', '--paper', '--panel'].map(
    name => getComputedStyle(document.body).getPropertyValue(name))"""
CUT = """() => [...document.querySelectorAll('svg.chart, table, img, p, li')]
    .filter(e => !e.closest('.unseen') && e.getBoundingClientRect().right > 718.5)
    .map(e => `${e.tagName} ${e.getBoundingClientRect().right}`)"""
CLASSES = ("cat", '<b>dog"&', "ape")
Findings = Callable[..., list[str]]
SMALLEST_TEXT = """() => Math.min(...[...document.querySelectorAll('.chart')].map(
    c => 12 * c.getBoundingClientRect().width / c.viewBox.baseVal.width))"""


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
    panels = [Panel(f"{name} {long}", [long], drawn, table) for name in "ab"]
    panels += [Panel(name, table=table) for name in "cd"]
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


@pytest.fixture(scope="module")
def explorable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with a gallery of twelve rows in three classes, of which every fourth is the worse."""
    rows = [
        PictureRow(f"row {n}", [np.ones((8, 8)), np.eye(8), np.eye(8)], label=CLASSES[n % 3], score=n % 4)
        for n in range(12)
    ]
    gallery = PictureGallery(
        rows, ["image", "a", "b"], ["grey", "heat", "heat"], explorable=True, worst="few"
    )
    plain = replace(gallery, rows=rows[:2], explorable=False)
    drawn = [Illustration(one, "", "rows of an image and two maps") for one in (gallery, plain)]
    panels = [Panel("Pictures", (), drawn), settings_panel("Folded", {"depth": 3})]
    path = tmp_path_factory.mktemp("page") / "explorable.html"
    path.write_text(study_page("A title", ["lead"], panels, {"batch_size": 24}), encoding="utf-8")
    return path


@contextmanager
def opened(browser: Any, path: Path, **settings: Any) -> Iterator[Any]:
    """The page in a context of its own, in which nothing may be said on the console."""
    context, said = browser.new_context(offline=True, **settings), []
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert said == []
    context.close()


def rows_of(page: Any) -> list[str]:
    """Titles of the rows of the first gallery that are seen, in their order."""
    titles: list[str] = page.locator(".gallery").first.locator(".row-title:visible").all_inner_texts()
    return titles


def pixels_of(element: Any) -> Any:
    """An element as it is drawn, without its round corners."""
    drawn = Image.open(io.BytesIO(element.screenshot()))
    return np.asarray(drawn.convert("RGB"))[8:-8, 8:-8]


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_sound_in_a_browser(
    browser: Any, report: Path, explorable: Path, findings: Findings, width: int, scheme: str
) -> None:
    # The rules take a while, and hold of a page at any width.
    for path in (report, explorable):
        assert findings(path, width, scheme, rules=width == 390) == []
    with opened(browser, report, viewport={"width": width, "height": 900}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(SMALLEST_TEXT) >= 10.5


def test_examples_are_filtered_ordered_and_counted_by_keyboard(browser: Any, explorable: Path) -> None:
    with opened(browser, explorable) as page:
        every = [f"row {n}" for n in range(12)]
        count = page.get_by_role("status")
        assert (rows_of(page), count.inner_text()) == (every, "12 of 12 shown")
        options = page.get_by_label("Class").locator("option").all_inner_texts()
        assert options == ["all", *(f"{name} (4)" for name in sorted(CLASSES))]
        page.keyboard.press("Tab")
        page.keyboard.type(CLASSES[1])
        chosen = [f"row {n}" for n in (1, 4, 7, 10)]
        assert (rows_of(page), count.inner_text()) == (chosen, "4 of 12 shown")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        assert page.get_by_label("Order").input_value() == "worst"
        assert rows_of(page) == [f"row {n}" for n in (4, 1, 10, 7)]  # by n % 4, then as examined
        page.get_by_label("Class").select_option("all")
        assert rows_of(page) == [f"row {n}" for n in sorted(range(12), key=lambda n: n % 4)]
        page.get_by_label("Order").select_option("examined")
        assert rows_of(page) == every
        # Another gallery of the page has no controls and stays as it is.
        assert page.locator(".gallery").last.locator(".row-title:visible").count() == 2


def test_maps_are_laid_over_their_images(browser: Any, explorable: Path) -> None:
    with opened(browser, explorable) as page:
        pictures, slider = page.locator(".picture-row").first.locator(".picture"), page.get_by_role("slider")
        before = [pixels_of(pictures.nth(place)).astype(float) for place in range(3)]
        assert len(np.unique(before[1])) > 1
        slider.focus()
        page.keyboard.press("Home")
        # With nothing of the map left, every picture of the row is its image, which is white.
        assert all((pixels_of(pictures.nth(place)) == 255).all() for place in range(3))
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == "5% map, 95% image"
        slider.fill("50")
        for place in range(3):
            assert np.abs(pixels_of(pictures.nth(place)) - (before[place] + 255) / 2).max() <= 2
        assert page.locator("img.under").count() == 2 * 12
        assert {one.get_attribute("alt") for one in page.locator("img.under").all()} == {""}
        page.keyboard.press("End")
        assert all((pixels_of(pictures.nth(place)) == before[place]).all() for place in range(3))


def test_a_page_is_complete_without_scripts(browser: Any, explorable: Path) -> None:
    with opened(browser, explorable, java_script_enabled=False) as page:
        assert page.locator(".row-title:visible").all_inner_texts() == [
            f"row {n}" for n in [*range(12), *range(2)]
        ]
        assert not page.locator(".controls").is_visible()


def test_no_script_but_ours_can_run(browser: Any, explorable: Path, tmp_path: Path) -> None:
    text = explorable.read_text(encoding="utf-8")
    changed = tmp_path / "changed.html"
    changed.write_text(text.replace("</main>", "<script>document.title = 'other'</script></main>"), "utf-8")
    context = browser.new_context(offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(changed.as_uri())
    assert page.title() == "A title"
    assert "Content Security Policy" in said[0]
    assert page.get_by_label("Class").is_visible()
    context.close()


def test_paper_shows_what_is_folded_and_no_controls(browser: Any, explorable: Path, report: Path) -> None:
    with opened(browser, explorable, color_scheme="dark") as page:
        page.get_by_label("Class").select_option(CLASSES[0])
        folded = page.locator("details table")
        seen = "e => e.checkVisibility({contentVisibilityAuto: true})"
        assert not folded.evaluate(seen)
        page.emulate_media(media="print", color_scheme="dark")
        assert folded.evaluate(seen)
        assert folded.bounding_box()["height"] > 20
        assert not page.get_by_label("Class").is_visible()
        # Paper says that rows are left out.
        assert page.get_by_text("4 of 12 shown").is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.pdf(format="A4").startswith(b"%PDF")
    # On A4 with 1 cm at each side, 718 pixels, nothing is cut.
    with opened(browser, report, viewport={"width": 718, "height": 1000}) as page:
        page.emulate_media(media="print")
        assert page.evaluate(CUT) == []


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
