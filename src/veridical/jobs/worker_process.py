"""A worker process as its pool sees it: started, given one call at a time, heard, and seen off."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import veridical

_SOURCE = str(Path(veridical.__file__).parents[1])


@dataclass
class Call:
    """A pickled (function, args, kwargs) and whom its result is for."""

    payload: bytes
    future: Future[Any]


class WorkerProcess:
    """One process; `environment` is added to ours before it starts, so also before it imports anything."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.call: Call | None = None
        self.ready = self.silent = False
        self.heard = time.monotonic()
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with fixed arguments
                [sys.executable, "-P", "-m", "veridical.jobs.worker", str(theirs.fileno())],
                env={**os.environ, **environment, "PYTHONPATH": _python_path()},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        # It may be dead already: then the next look finds out.
        with contextlib.suppress(OSError):
            self.connection.send((os.getpid(), sys.path))

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def give(self, call: Call) -> None:
        """Send a call; that the process died meanwhile is found out when its answer is waited for."""
        self.call = call
        with contextlib.suppress(OSError):
            self.connection.send_bytes(call.payload)

    def alive(self) -> bool:
        """Say whether the process still runs."""
        return self._process.poll() is None

    def dismiss(self, patience: float) -> None:
        """Close the connection, which ends the process; kill it if it still runs `patience` seconds later."""
        self.connection.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def exit_code(self) -> int:
        """Return how the process ended, -9 for SIGKILL; one that goes on without its connection is killed."""
        try:
            return self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def end(self) -> str:
        """Say the same in words, to complete "the process ..."."""
        code = self.exit_code()
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = ", which the system also sends when memory runs out" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"


def _python_path() -> str:
    """Where the process finds Veridical; everything else comes from our own sys.path, which it is sent."""
    known = os.environ.get("PYTHONPATH")
    return f"{_SOURCE}{os.pathsep}{known}" if known else _SOURCE
