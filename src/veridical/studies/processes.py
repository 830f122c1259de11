"""Pieces of a study in processes of their own, watched by what they leave in their folders."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import Any

from veridical.jobs import InProcess, ProcessPool, WorkerLost
from veridical.runtime.errors import RunError, VeridicalError

Piece = tuple[Callable[..., None], tuple[Any, ...]]
"""A function and its arguments."""


def run_side_by_side(
    pieces: Mapping[str, Piece], watch: Callable[[], None], threads: int = 1, every: float = 0.5
) -> None:
    """Run each (function, arguments) in a fresh process at the same time; call `watch` every `every` seconds.

    Functions and arguments are pickled. The processes end with this one, however it ends. When one raises,
    the others are stopped and its error is raised here: a VeridicalError as it is, anything else as a
    RunError with its traceback. A killed process is a RunError. Without POSIX the pieces run here, one after
    the other. threads: of each process.
    """
    pool: Executor = ProcessPool(len(pieces), threads) if os.name == "posix" else InProcess()
    with pool:
        running: dict[Future[None], str] = {
            pool.submit(_told, name, function, arguments): name
            for name, (function, arguments) in pieces.items()
        }
        while running:
            for future in wait(running, timeout=every, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    future.result()
                except WorkerLost as error:
                    raise RunError(
                        f"the process for {name} was lost: {error}. The same command continues where it was."
                    ) from None
            watch()


def _told(name: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run a piece; an error that says nothing to a user is told with its traceback."""
    try:
        function(*arguments)
    except VeridicalError:
        raise
    except Exception:  # noqa: BLE001 - the parent raises it
        raise RunError(f"the process for {name} failed:\n{traceback.format_exc()}") from None
