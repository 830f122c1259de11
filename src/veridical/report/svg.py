"""Matplotlib figures -> inline SVG that takes on the page's fonts and colours, in light and in dark."""

import io
import re
from typing import Final
from xml.etree import ElementTree as ET

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from veridical.runtime.errors import visible

# The light colours of report.css and matplotlib's defaults, by the names that the style sheet gives them:
# what is drawn in one of these follows light and dark, and every other colour stays as it is.
PALETTE: Final = {
    "#16191d": "ink",
    "#000000": "ink",
    "#555d68": "soft",
    "#262626": "soft",
    "#ffffff": "paper",
    "#d9dde3": "faint",
    "#cccccc": "faint",
    "#e6e9ee": "grid",
    "#b0b0b0": "grid",
    "#6a7280": "m0",
    "#0068a8": "m1",
    "#c75300": "m2",
    "#00805c": "m3",
    "#a8508a": "m4",
    "#8a6d00": "m5",
}
INK: Final = "#16191d"
SOFT: Final = "#555d68"
GRID: Final = "#e6e9ee"
LINES: Final = ("#0068a8", "#c75300", "#00805c", "#a8508a", "#8a6d00", "#6a7280")

_LINK: Final = "{http://www.w3.org/1999/xlink}href"
_COLOUR: Final = re.compile(r"#[0-9a-f]{6}")
# Matplotlib 3.9 writes the shorthand, "font: 700 12px FAMILIES", and later ones each property.
_FAMILY: Final = re.compile(r"(font:[^;]*?[\d.]+px|font-family:) [^;]*")
_REFERENCE: Final = re.compile(r"""(?<=url\(#)[^)]+|(?<=href="#)[^"]+""")


def inline_svg(figure: Figure, alt: str, key: str) -> tuple[Markup, float]:
    """A figure as one <svg> element for a page, and its natural width in CSS pixels (72 to the inch).

    `alt` is its text for who cannot see it. `key`, unique in the page, keeps its ids apart from those of
    other figures. Text stays text. Equal figures give equal bytes.
    """
    written = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "veridical", "image.composite_image": False}
    with mpl.rc_context(settings):  # type: ignore[arg-type]  # the stub wants literal names of settings
        figure.savefig(written, format="svg", facecolor="none", edgecolor="none", metadata={"Date": None})
    content = written.getvalue()
    root = ET.fromstring(content)  # noqa: S314  # what matplotlib wrote a moment ago
    _adapt(root, set(_REFERENCE.findall(content)), key)
    width = float(root.attrib["viewBox"].split()[2])
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"class": "chart drawn", "role": "img", "aria-label": visible(alt)}
    return Markup(ET.tostring(root, encoding="unicode")), width  # noqa: S704  # escaped by its writer


def _adapt(element: ET.Element, referenced: set[str], key: str) -> None:
    """Turn an element of a standalone drawing, and all in it, into one of a page."""
    element.tag = element.tag.rpartition("}")[2]
    for child in list(element):
        # A style element would reach beyond its drawing: it holds for the whole page.
        if child.tag.rpartition("}")[2] in ("metadata", "style"):
            element.remove(child)
        else:
            _adapt(child, referenced, key)
    attributes = dict(element.attrib)
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "id":
            if value in referenced:
                element.attrib["id"] = f"{key}-{value}"
        elif name == _LINK:
            element.attrib["href"] = value.replace("#", f"#{key}-", 1) if value.startswith("#") else value
        else:
            element.attrib[name] = _styled(value, key) if name in ("style", "clip-path") else value


def _styled(style: str, key: str) -> str:
    """A style with the page's fonts and colours, and with the ids of this figure."""
    named = _COLOUR.sub(
        lambda found: f"var(--{PALETTE[found[0]]})" if found[0] in PALETTE else found[0], style
    )
    return _FAMILY.sub(r"\1 var(--font)", named).replace("url(#", f"url(#{key}-")
