"""The course of a training: log.jsonl (one JSON object a line), TensorBoard events, a bar in the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from veridical.runtime.errors import RunError, UsageError, visible
from veridical.runtime.files import read_json_lines, to_plain, write_atomic

LOG = "log.jsonl"


class _Line(TypedDict):
    """What a line says beside its numbers by name."""

    step: int
    epoch: NotRequired[float]
    kind: NotRequired[str]


class Log:
    """Appends lines to `folder`/log.jsonl; each has a "step" and other plain values.

    from_step: lines of later steps are removed first, and a line that a kill cut short: the run continues
    there and will write them again. tensorboard: also write events into `folder`/tensorboard.
    """

    def __init__(self, folder: Path, from_step: int, *, tensorboard: bool = False) -> None:
        path = folder / LOG
        kept = [line for line in read_log(folder) if line["step"] <= from_step]
        write_atomic(path, "".join(_as_line(line) for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._events = None
        if tensorboard:
            # purge_step hides the events of steps that are done again.
            self._events = event_writer()(str(folder / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; it is in the system's hands when this returns."""
        with self._naming_the_file():
            self._file.write(_as_line({"step": step, **values}))
            self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(name, value, step)

    def sync(self) -> None:
        """Bring all lines to the disk, as is needed before a checkpoint that follows them."""
        with self._naming_the_file():
            os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Release the files."""
        with self._naming_the_file():
            self._file.close()
        if self._events is not None:
            self._events.close()

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """An error of the disk, a full one above all, does not say which file it is about."""
        try:
            yield
        except OSError as error:
            raise RunError(f"{self._file.name} cannot be written: {error.strerror}.") from error


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, in order, without one that a kill cut short; a RunError for other lines."""
    hint = "Delete it: the course of the training is lost, its weights and results are not."
    lines: list[Any] = read_json_lines(folder / LOG, _Line, hint=hint)
    return lines


def event_writer() -> Any:
    """The class that writes TensorBoard's events; a UsageError where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "tensorboard: the package is not installed. Install veridical[tensorboard], or leave it out."
        ) from error
    return SummaryWriter


class Display(Progress):
    """A progress bar over the steps on stderr; with is_shown=False nothing is written at all.

    steps, done: steps in total, and those of earlier sessions.
    """

    def __init__(self, is_shown: bool, steps: int, done: int) -> None:
        super().__init__(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True, quiet=not is_shown),
            disable=not is_shown,
        )
        self._task = self.add_task("training", total=steps, completed=done, speed="")

    def show_step(self, loss: float, examples_per_second: float) -> None:
        """Show that one step is done."""
        speed = f"{examples_per_second:.0f} examples/s"
        self.update(self._task, advance=1, description=f"loss {loss:.3f}", speed=speed)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(visible(text), highlight=False, markup=False)


def _as_line(values: Mapping[str, Any]) -> str:
    return json.dumps(to_plain(values, "log"), ensure_ascii=False, allow_nan=False) + "\n"
