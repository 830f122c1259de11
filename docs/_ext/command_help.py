"""The directive `command-help NAME`: what `veridical NAME --help` prints, as it is when the site is built."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive


def read_help(name: str) -> str:
    """Run `veridical NAME --help` in this process, as wide as a page."""
    from veridical.cli.main import main

    printed, width = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "96"
    try:
        with contextlib.redirect_stdout(printed):
            code = main([name, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width
    if code:
        raise ValueError(f"veridical {name} --help ended with {code}")
    return printed.getvalue()


class CommandHelp(Directive):
    """A literal block with a command's help."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The block."""
        text = read_help(self.arguments[0])
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Any) -> dict[str, bool]:
    """Make the directive known to Sphinx."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
