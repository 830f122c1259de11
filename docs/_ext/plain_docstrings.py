"""Docstrings of this project are plain text; this turns them into reStructuredText as they reach autodoc.

A paragraph stays one; lines that begin with `name: ` or `one, two: ` become a list; a block that is indented
becomes a literal one; what stands in single backticks is code. Nothing else is markup.
"""

from __future__ import annotations

import re
from typing import Any

ITEM = re.compile(r"(\*{0,2}[A-Za-z_][\w.]*(?:(?:, | and )\*{0,2}[A-Za-z_][\w.]*)*): ")
LIMITED = re.compile(r"Annotated\[(\w+), Limit\([^()]*\)\]")
BULLET = re.compile(r"(?:[-*]|\d+\.) ")
HEADING = re.compile(r"(Args|Raises|Returns|examples|objectives):$", re.IGNORECASE)


def inline(text: str) -> str:
    """Code in double backticks, and everything else without a meaning in reStructuredText."""
    written = ""
    for place, part in enumerate(re.split(r"``?([^`]+)``?", text)):
        if place % 2:
            # A literal may touch letters, as in `cnn`s, only beyond an escaped blank.
            written += f"\\ ``{part}``\\ "
        else:
            written += re.sub(r"([\\*|`]|_(?!\w))", r"\\\1", part)
    return written


def indent(line: str) -> int:
    """The number of blanks before a line's text."""
    return len(line) - len(line.lstrip())


def paragraph(lines: list[str]) -> list[str]:
    """Sentences, and a list of the lines that begin with names or bullets; others continue the one before."""
    pieces: list[str] = []
    for line in (one.strip() for one in lines):
        if match := ITEM.match(line):
            pieces.append(f"- **{inline(match[1])}**: {inline(line[match.end() :])}")
        elif match := BULLET.match(line):
            pieces.append(f"- {inline(line[match.end() :])}")
        elif pieces:
            pieces[-1] += f" {inline(line)}"
        else:
            pieces.append(inline(line))
    return [line for piece in pieces for line in (piece, "")]


def convert(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText."""
    written: list[str] = []
    blocks = [block.splitlines() for block in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")) if block]
    listing = False
    for block in blocks:
        if HEADING.match(block[0].strip()) and len(block) > 1 and indent(block[1]) > indent(block[0]):
            listing = block[0].strip() != "examples:"
            written += [f"*{inline(block[0].strip().rstrip(':'))}*", ""]
            block = block[1:]
        if indent(block[0]) >= 2 and not listing:
            depth = min(indent(line) for line in block)
            written += ["::", "", *(f"    {line[depth:]}" for line in block), ""]
        elif block:
            written += paragraph(block)
    return written


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""

    def process(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = convert(lines)

    def shorten(
        _app: Any,
        _what: str,
        _name: str,
        _obj: Any,
        _options: Any,
        signature: str | None,
        returned: str | None,
    ) -> tuple[str | None, str | None]:
        # Limits of numbers are checked, and said in the error that names them.
        return signature and LIMITED.sub(r"\1", signature), returned and LIMITED.sub(r"\1", returned)

    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
