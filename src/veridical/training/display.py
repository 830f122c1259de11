"""What a training shows in a terminal: one bar with speed and remaining time, and lines above it."""

from __future__ import annotations

from types import TracebackType

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

from veridical.runtime.errors import visible


class Display:
    """A progress bar over the steps on stderr; with shown=False nothing is written at all.

    steps, done: steps in total, and those of earlier sessions. examples: per step, for the speed.
    """

    def __init__(self, shown: bool, steps: int, done: int, examples: int) -> None:
        self._console = Console(stderr=True, quiet=not shown)
        self._examples = examples
        self._progress = Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not shown,
        )
        self._task: TaskID = self._progress.add_task("training", total=steps, completed=done, speed="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, loss: float, examples_per_second: float) -> None:
        """One step is done."""
        self._progress.update(
            self._task,
            advance=1,
            description=f"loss {loss:.3f}",
            speed=f"{examples_per_second:.0f} examples/s",
        )

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(visible(text), highlight=False, markup=False)
