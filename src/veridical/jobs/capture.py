"""What a job prints goes to its log, also when several jobs run in one process, or when it dies of it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from veridical.runtime.errors import RunError

_descriptors = False
_routes: dict[int, TextIO] = {}
_routing = threading.Lock()


def own_the_process() -> None:
    """Say that this process runs one job at a time and nothing else, so that descriptors can be redirected.

    Then also what C code prints is caught, and the trace of a crash.
    """
    global _descriptors  # noqa: PLW0603 - a property of the process
    _descriptors = True


@contextlib.contextmanager
def printed_to(path: Path) -> Iterator[TextIO]:
    """Append what this thread prints to a file, line by line, so that a kill loses no finished line."""
    if path.exists() and not path.is_file():  # a pipe would wait for a reader
        raise RunError(f"{path} is no file. Delete it and repeat the command.")
    redirected = _descriptors_to if _descriptors else _thread_to
    with path.open("a", encoding="utf-8", buffering=1, errors="backslashreplace") as log, redirected(log):
        yield log


@contextlib.contextmanager
def _descriptors_to(log: TextIO) -> Iterator[None]:
    """Point the process's standard output and error at the log."""
    saved = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in saved:
            os.dup2(log.fileno(), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def _thread_to(log: TextIO) -> Iterator[None]:
    """Send what this thread prints to the log; other threads, a progress display say, print as before."""
    thread = threading.get_ident()
    with _routing:
        # They may be routed still, when somebody kept them beyond the last job and put them back since.
        if not isinstance(sys.stdout, _Routed):
            sys.stdout = _Routed(sys.stdout)
        if not isinstance(sys.stderr, _Routed):
            sys.stderr = _Routed(sys.stderr)
        _routes[thread] = log
    try:
        yield
    finally:
        with _routing:
            del _routes[thread]
            # If somebody has replaced them meanwhile, what they keep passes on what it gets.
            if not _routes and isinstance(sys.stdout, _Routed):
                sys.stdout = sys.stdout.original
            if not _routes and isinstance(sys.stderr, _Routed):
                sys.stderr = sys.stderr.original


class _Routed:
    """A text stream that is the log in threads that run a job, and the original one elsewhere."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def write(self, text: str) -> int:
        """Write to the calling thread's stream."""
        stream = _routes.get(threading.get_ident(), self.original)
        return int(stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(_routes.get(threading.get_ident(), self.original), name)
