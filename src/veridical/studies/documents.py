"""Shared by the modules that print finished results for a document: Markdown tables, files of figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table from its heads and cells."""
    lines = [columns, *rows]
    written = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([written[0], "| --- " * len(columns) + "|", *written[1:]])


def deliver(table: str, out: Path | None, figure: Callable[[], Figure]) -> None:
    """Print the table; draw the figure into `out` if that is given, with the folders above it."""
    sys.stdout.write(table + "\n")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure().savefig(out)
