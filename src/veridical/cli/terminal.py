"""What several commands show in a terminal: progress bars over examples and jobs, and results as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from veridical.runtime.errors import visible

if TYPE_CHECKING:
    from veridical.jobs import Progress as JobsProgress
    from veridical.report import Table

ROWS = {
    "natural_accuracy": ("NA", "natural accuracy", 100.0, "{:.1f}%"),
    "adversarial_accuracy": ("AA", "adversarial accuracy", 100.0, "{:.1f}%"),
    "topk_intersection": ("IN", "top pixels kept", 100.0, "{:.1f}%"),
    "kendall_tau": ("CO", "Kendall's tau", 1.0, "{:.3f}"),
    "spearman": ("", "Spearman's rho", 1.0, "{:.3f}"),
    "windowed_topk_intersection": ("", "top pixels kept, 1 pixel of shift forgiven", 100.0, "{:.1f}%"),
    "mass_centre_shift": ("", "shift of the centre of mass, pixels", 1.0, "{:.2f}"),
}


def say(text: str = "") -> None:
    """Print lines with the names of others in them; what would steer the terminal is escaped."""
    print(visible(text, keep="\n"))


def terminal(*, stderr: bool = False) -> Console:
    """Where tables and bars go; brackets and colons in names are no markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


@contextmanager
def progress_bar(what: str, *, shown: bool) -> Iterator[Callable[[int, int], Any]]:
    """A bar on stderr with the remaining time, as a function of (done, total).

    What is done when it is first called, by an earlier session, does not count for the speed.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        # Batches take from seconds to minutes: the speed must be that of the last few.
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=terminal(stderr=True), disable=not shown, speed_estimate_period=600.0
    ) as bar:
        task: list[TaskID] = []

        def tell(done: int, total: int) -> None:
            if task:
                bar.update(task[0], completed=done)
            else:
                task.append(bar.add_task(visible(what), total=total, completed=done))

        yield tell


def attack_table(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the results of attacks by model: value and 95% interval of each measure."""
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("measure", overflow="fold")
    for name in models:
        table.add_column(visible(name), justify="right", overflow="fold")
    for key, (short, words, scale, form) in ROWS.items():
        cells = [_cell(results.get(key), scale, form) for results in models.values()]
        table.add_row(f"{short + ', ' if short else ''}{words}", *cells)
    counts = [f"{r['examples']:,} / {r['correctly_classified']:,}" for r in models.values()]
    table.add_row("images / classified correctly", *counts)
    terminal().print(table)


def _cell(interval: Mapping[str, Any] | None, scale: float, form: str) -> str:
    if interval is None or interval["value"] is None:
        return "not measured"
    value = form.format(scale * interval["value"])
    if interval["low"] is None:
        return value
    low, high = (form.format(scale * interval[end]).rstrip("%") for end in ("low", "high"))
    return f"{value} ({low} to {high})"


@contextmanager
def stage_bars(*, shown: bool) -> Iterator[Callable[[str, str, int, int], Any]]:
    """A bar on stderr for each model, as a function of (model, what is done to it, done, total)."""
    columns = (
        TextColumn("{task.description:<42}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal(stderr=True), disable=not shown) as bar:
        tasks: dict[str, TaskID] = {}

        def show(model: str, stage: str, done: int, total: int) -> None:
            if model not in tasks:
                tasks[model] = bar.add_task(visible(model), total=None)
            bar.update(tasks[model], description=visible(f"{model}: {stage}"), completed=done, total=total)

        yield show


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
    parts = [] if state.seconds_left is None else [f"{duration(state.seconds_left)} left"]
    for count, words in (
        (state.reused, "kept from before"),
        (state.waiting, "run by another command"),
        (state.failed, "failed"),
    ):
        parts += [f"{count} {words}"] if count else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3 h 20 min."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def diffroar_table(title: str, results: Mapping[str, Any]) -> None:
    """Print one DiffROAR measurement: a row for each level, with the interval that its verdict rests on.

    Beside it stand the differences of the baselines, and the accuracies from the masks of top and bottom.
    """
    from veridical.report.diffroar_words import accuracy_text, difference_text, verdict_lines
    from veridical.report.formats import level_text

    table = RichTable(title=visible(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    heads = {"random": "random\norder", "input-agnostic": "one\norder"}
    names = list(results["baselines"])
    control = results["control"]["curve"] if results["control"] else []
    for head in ("level", "top", "bottom", "difference", "verdict", *(heads.get(n, n) for n in names)):
        table.add_column(head, justify="left" if head == "verdict" else "right", no_wrap=True)
    if control:
        table.add_column("masks\nonly", justify="right", no_wrap=True)
    for place, (point, judged) in enumerate(zip(results["curve"], results["verdicts"], strict=True)):
        beside = [difference_text(results["baselines"][name][place]["difference"])[0] for name in names]
        if control:
            beside.append("\n".join(accuracy_text(control[place][end]) for end in ("top", "bottom")))
        ends = [accuracy_text(point[end]) for end in ("top", "bottom")]
        difference = "\n".join(difference_text(judged))
        table.add_row(level_text(point["level"]), *ends, difference, verdict_lines(judged), *beside)
    terminal().print(table)


def print_table(table: Table, title: str = "") -> None:
    """Print a table, the first cell of a row naming it, as wide as the terminal allows.

    Intervals are left to the report where they do not fit; where names leave too little room even then, rows
    have numbers of their own, explained below.
    """
    console = terminal()
    columns, rows = table.drawn()
    heads = [column.heading for column in columns]
    bare = [[row[0], *(cell.partition(" (")[0] for cell in row[1:])] for row in rows]
    for cells in (rows, bare):
        drawn = _rich_table(title, heads, cells)
        if Console(width=10_000).measure(drawn).maximum <= console.width:
            console.print(drawn)
            return
    numbered = [[str(place), *row[1:]] for place, row in enumerate(bare, start=1)]
    console.print(_rich_table(title, ["", *heads[1:]], numbered))
    width = len(str(len(rows)))
    console.print(f"{' ' * width}  {visible(heads[0])}:", highlight=False)
    for place, row in enumerate(rows, start=1):
        console.print(f"{place:>{width}}  {visible(row[0])}", highlight=False)


def _rich_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    table = RichTable(title=visible(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(visible(head), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(visible, row))
    return table
