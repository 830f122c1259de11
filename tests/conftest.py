"""What looks at a command's folder: a browser (Debian's Chromium, offline, axe-core) and the JSON Schemas."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from veridical.cli.commands import COMMANDS
from veridical.runtime.files import claim_schema

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
    .map(e => `sticks out: ${e.tagName}.${e.className}`)"""
BROKEN_IMAGES = """() => [...document.images].filter(i => !i.complete || i.naturalWidth === 0)
    .map(i => `broken image: ${i.alt}`)"""

Findings = Callable[..., list[str]]


def missing() -> str:
    """Why there is no browser to look with, or an empty text."""
    for name in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed (extra dev)"
    return "" if shutil.which("chromium") else "no chromium on the PATH; on Debian: apt-get install chromium"


@contextmanager
def launch() -> Iterator[Any]:
    """A running Chromium of Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield running
        running.close()


def examine(browser: Any, path: Path, width: int, scheme: str, rules: bool = True) -> list[str]:
    """What is wrong with a page at a width in pixels and a colour scheme; `rules`: by axe-core as well."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, found = context.new_page(), []
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: found.append(request.url))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found += page.evaluate(STICKING_OUT) + page.evaluate(BROKEN_IMAGES)
    if rules:
        for one in Axe().run(page).response["violations"]:
            nodes = "; ".join(node["html"][:200] for node in one["nodes"][:3])
            found.append(f"{one['id']} ({one['impact']}, {len(one['nodes'])} times): {nodes}")
    context.close()
    return [one for one in found if one != path.as_uri() and not one.startswith("data:")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of a module, which are skipped where there is none."""
    if reason := missing():
        pytest.skip(reason)
    with launch() as running:
        yield running


@pytest.fixture
def findings(browser: Any) -> Findings:
    """`examine` by the module's browser."""

    def find(*arguments: Any, **settings: Any) -> list[str]:
        return examine(browser, *arguments, **settings)

    return find


def check_schemas(folder: Path) -> None:
    """Assert that what a command left in its folder is of the schemas that ship."""
    schemas = {}
    if (folder / "claim.json").exists():
        schemas["claim.json"] = claim_schema()
    if (folder / "result.json").exists():
        command = json.loads((folder / "result.json").read_text(encoding="utf-8")).get("study")
        if command in COMMANDS:  # not a study of a test's own
            schemas["result.json"] = COMMANDS[command].load().schema()
    for name, schema in schemas.items():
        document = json.loads((folder / name).read_text(encoding="utf-8"))
        jsonschema.validate(document, schema, jsonschema.Draft202012Validator)


@pytest.fixture
def check_page() -> Callable[[Path], None]:
    """Assert that a page is sound and accessible, on a phone and a dark screen, and its folder of its schema.

    For the tests that make a page anyway: without a browser it looks at no page, as the skipped tests of
    test_browser.py say.
    """

    def check(path: Path) -> None:
        check_schemas(path.parent)
        # No dictionary as Python writes it: settings are names and values.
        assert "{'" not in unescape(
            re.sub(r"<style.*?</style>", "", path.read_text("utf-8"), flags=re.DOTALL)
        )
        if not missing():
            with launch() as running:
                assert examine(running, path, 390, "light") == []
                assert examine(running, path, 1200, "dark") == []

    return check
