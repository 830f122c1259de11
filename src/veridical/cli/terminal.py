"""What several commands show in a terminal: progress bars over examples and jobs, and results as tables."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from veridical.runtime.errors import visible

if TYPE_CHECKING:
    from veridical.jobs import Progress as JobsProgress
    from veridical.report import Table


def say(text: str = "") -> None:
    """Print lines with the names of others in them; what would steer the terminal is escaped."""
    print(visible(text, keep="\n"))


def terminal(*, stderr: bool = False) -> Console:
    """Where tables and bars go; brackets and colons in names are no markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


@contextmanager
def stage_jobs(*, shown: bool) -> Iterator[Callable[[str, JobsProgress], Any]]:
    """A bar on stderr for each stage, one for all of its jobs, as a function of (stage, where it stands)."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rest]}", markup=False),
    )
    with Progress(*columns, console=terminal(stderr=True), disable=not shown) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, state: JobsProgress) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(visible(stage), total=state.total, rest="")
            bar.update(tasks[stage], completed=state.done, total=state.total, rest=_rest(state))

        yield tell


def _rest(state: JobsProgress) -> str:
    """What is left, and what did not go as usual."""
    from veridical.report.formats import duration  # matplotlib comes with it

    parts = [] if state.seconds_left is None else [f"{duration(state.seconds_left)} left"]
    for count, words in (
        (state.reused, "kept from before"),
        (state.waiting, "run by another command"),
        (state.failed, "failed"),
    ):
        parts += [f"{count} {words}"] if count else []
    return ", ".join(parts)


# Widths for what stands in brackets: in one line, or "(-12.9 to" above "+23.1)".
_UNBROKEN, _BROKEN = 100, 11


def print_table(table: Table, title: str = "") -> None:
    """Print a table, the first cell of a row naming it, as wide as the terminal allows.

    Where it is too wide, what stands in brackets, intervals above all, goes below the values, and where that
    is too wide as well, is left to the report, the last columns' first. Where names leave too little room
    even then, rows have numbers of their own, explained below.
    """
    console = terminal()
    columns, rows = table.drawn()
    heads = [column.heading for column in columns]
    below = [_stack(row, len(heads), _UNBROKEN) for row in rows]
    narrow = ([_stack(row, kept, _BROKEN) for row in rows] for kept in range(len(heads), 0, -1))
    for cells in (rows, below, *narrow):
        drawn = _rich_table(title, heads, cells)
        if Console(width=10_000).measure(drawn).maximum <= console.width:
            console.print(drawn)
            return
    numbered = [[str(place), *_stack(row, 1, _BROKEN)[1:]] for place, row in enumerate(rows, start=1)]
    console.print(_rich_table(title, ["", *heads[1:]], numbered))
    width = len(str(len(rows)))
    console.print(f"{' ' * width}  {visible(heads[0])}:", highlight=False)
    for place, row in enumerate(rows, start=1):
        console.print(f"{place:>{width}}  {visible(row[0])}", highlight=False)


def _stack(row: Sequence[str], kept: int, width: int) -> list[str]:
    """A row's cells with their brackets in lines of `width` below, or without them from column `kept` on."""
    cells = [row[0]]
    for place, cell in enumerate(row[1:], start=1):
        value, bracket, rest = cell.partition(" (")
        lines = textwrap.wrap(f"({rest}", width) if bracket and place < kept else []
        cells.append("\n".join([value, *lines]))
    return cells


def _rich_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    table = RichTable(
        title=visible(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for place, head in enumerate(heads):
        words = visible(head)
        if rows and place:  # a heading takes no more room than its cells and its longest word
            widest = max(len(line) for row in rows for line in row[place].split("\n"))
            words = textwrap.fill(words, max(widest, *map(len, words.split())), break_on_hyphens=False)
        table.add_column(words, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*(visible(cell, keep="\n") for cell in row))
    return table
