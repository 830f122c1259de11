"""Shared by the modules that print finished results for a document: tables, figures, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from matplotlib.figure import Figure

from veridical.runtime.errors import UsageError, VeridicalError


def script(main: Callable[[], int | None]) -> NoReturn:
    """Run a module's `main` as a program: expected errors are a line and the exit codes of `veridical`."""
    try:
        sys.exit(main())
    except VeridicalError as error:
        sys.stderr.write(f"{Path(sys.argv[0]).stem}: {error}\n")
        sys.exit(2 if isinstance(error, UsageError) else 1)


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
