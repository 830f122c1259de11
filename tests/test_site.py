"""The site: pages have their places and, once `make docs` has built them, lead somewhere and load nothing."""

import ast
import importlib.util
import re
import urllib.parse
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import veridical
from veridical.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUILT = DOCS / "_build" / "html"
GENERATED = {"_build", "gallery"}
SOURCES = [path for path in DOCS.rglob("*.md") if not GENERATED & set(path.relative_to(DOCS).parts)]
PAGES = (
    "index.html",
    "tutorial.html",
    "how-to/own-model.html",
    "measures/two-maps.html",
    "api/index.html",
    "data-and-models.html",
    "leakage-tables.html",
    "robust-attribution.html",
    "gallery/maps.html",
)

needs_build = pytest.mark.skipif(not (BUILT / "index.html").exists(), reason="not built; run `make docs`")


def listed(page: Path) -> list[Path]:
    """What a page's tables of contents list."""
    blocks = re.findall(
        r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [page.parent / f"{line}.md" for line in lines if line and not line.startswith(":")]


def test_every_page_is_in_one_table_of_contents() -> None:
    found = [path for page in SOURCES for path in listed(page)]
    assert sorted(found) == sorted({*SOURCES, DOCS / "gallery" / "index.md"} - {DOCS / "index.md"})


def test_every_example_is_in_the_gallery() -> None:
    tree = ast.parse((DOCS / "conf.py").read_text(encoding="utf-8"))
    orders = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and "ExplicitOrder" in ast.unparse(node)
    ]
    (order,) = (ast.literal_eval(call.args[0]) for call in orders)
    assert sorted(order) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@needs_build
def test_every_example_shows_a_figure() -> None:
    pages = [BUILT / "gallery" / f"{path.stem}.html" for path in (ROOT / "examples").glob("*.py")]
    without = [page.name for page in pages if f"sphx_glr_{page.stem}_001" not in page.read_text("utf-8")]
    assert without == []


def test_the_reference_has_every_command() -> None:
    text = (DOCS / "api" / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^## veridical (\S+)$", text, re.MULTILINE) == list(COMMANDS)
    # The help of `run` is that of the study that is named.
    helped = re.findall(r"^```\{command-help\} (\S+)$", text, re.MULTILINE)
    assert helped == [name for name in COMMANDS if name != "run"]


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\.\. auto\w+:: veridical\.(\w+)$", text, re.MULTILINE))
    modules = {name for name in veridical.__all__ if isinstance(getattr(veridical, name), ModuleType)}
    assert shown == set(veridical.__all__) - modules - {"__version__"}


@pytest.fixture(scope="module")
def convert() -> Callable[[list[str]], list[str]]:
    spec = importlib.util.spec_from_file_location("plain_docstrings", DOCS / "_ext" / "plain_docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    converter: Callable[[list[str]], list[str]] = module.convert
    return converter


def test_docstrings_become_paragraphs_lists_and_literal_blocks(
    convert: Callable[[list[str]], list[str]],
) -> None:
    text = [
        "Share of |a| in `mask`; a_ is no link.",
        "",
        "a, b: maps (N, H, W)",
        "    of one shape.",
        "k: number.",
        "",
        "    x = f(*y)",
        "",
        "Args:",
        "    out: Folder.",
    ]
    assert [line for line in convert(text) if line] == [
        r"Share of \|a\| in \ ``mask``\ ; a\_ is no link.",
        "- **a, b**: maps (N, H, W) of one shape.",
        "- **k**: number.",
        "::",
        "    x = f(*y)",
        "*Args*",
        "- **out**: Folder.",
    ]


class Anchors(HTMLParser):
    """The targets of a page, what it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets, self.links, self.loaded = set[str](), list[str](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        elif source := given.get("src") or (given.get("href") if tag == "link" else None):
            self.loaded.append(source)


@needs_build
def test_links_and_anchors_of_the_built_site_lead_somewhere() -> None:
    pages = {path: Anchors(path) for path in sorted(BUILT.rglob("*.html"))}
    assert len(pages) > len(SOURCES)
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            place, fragment = urllib.parse.urldefrag(link)
            if urllib.parse.urlparse(place).scheme:
                continue
            target = (
                (path.parent / urllib.parse.unquote(place.partition("?")[0])).resolve() if place else path
            )
            known = pages.get(target)
            if not target.is_file() or (
                fragment and known and urllib.parse.unquote(fragment) not in known.targets
            ):
                broken.append(f"{path.relative_to(BUILT)}: {link}")
    assert broken == []


@needs_build
def test_the_built_site_loads_nothing_from_elsewhere() -> None:
    for path in BUILT.rglob("*.html"):
        foreign = [source for source in Anchors(path).loaded if re.match(r"(https?:)?//", source)]
        assert foreign == [], path.name


# Elements wider than the screen, but for those in a box that scrolls, and furo's drawers beside it.
TOO_WIDE = """() => [...document.querySelectorAll('article *')]
    .filter(e => e.getClientRects().length && !e.closest('svg'))
    .filter(e => {
        for (let box = e.parentElement; box; box = box.parentElement)
            if (box.closest('article') && getComputedStyle(box).overflowX !== 'visible')
                return false;
        return true;
    })
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
    .map(e => `too wide: ${e.tagName}.${e.className}`)"""


@needs_build
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1200, "dark")])
def test_pages_fit_the_screen_and_ask_for_files_alone(browser: Any, width: int, scheme: str) -> None:

    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, found = context.new_page(), []
    page.on("request", lambda request: found.append(request.url))
    page.on("pageerror", lambda error: found.append(str(error)))
    for name in PAGES:
        page.goto((BUILT / name).as_uri())
        found += [f"{name}: {one}" for one in page.evaluate(TOO_WIDE)]
    context.close()
    assert [one for one in found if not one.startswith(("file:", "data:"))] == []
