"""Who runs a job: the newest attempt, as long as its heartbeat is seen.

When an attempt is over, or its heartbeat stands still, anybody may create the next one. The newest attempt is
the owner: one that slept too long finds a newer one when it wakes up, and stops.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from pathlib import Path

from veridical.jobs.attempts import (
    attempt_path,
    create_attempt,
    end_attempt,
    is_over,
    last_attempt,
    lock,
    unlock,
)
from veridical.jobs.heartbeat import heart
from veridical.runtime.errors import RunError


class ClaimLost(BaseException):
    """Raised inside a job whose claim another process took, since this one looked dead.

    Not an `Exception`, so that a job's own `except Exception` lets it pass.
    """


class Claim:
    """The right to run the job of one folder, kept alive by a heartbeat from `__enter__` to `__exit__`.

    Made by `take`. attempt: its number, from 1.
    """

    def __init__(self, folder: Path, attempt: int, descriptor: int | None, every: float) -> None:
        self.attempt, self.every = attempt, every
        self._folder, self._descriptor = folder, descriptor
        self._path = attempt_path(folder, attempt)
        self._lost, self._ended = False, "interrupted"
        self._owner, self._held = threading.get_ident(), threading.Lock()

    def __enter__(self) -> Claim:
        heart().add(self)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            heart().remove(self)
            # No beat may end this thread's job once it has none.
            with self._held:
                self._owner = 0
            # Without this note other systems wait until the heartbeat is stale, so it may fail.
            with contextlib.suppress(OSError, RunError):
                if not self._lost:
                    end_attempt(self._folder, self.attempt, self._ended)
        finally:
            descriptor, self._descriptor = self._descriptor, None
            unlock(descriptor)

    def end(self, how: str) -> None:
        """Say how the attempt ended ("done" or "failed"); it is written when the claim is given up."""
        self._ended = how

    def overtaken(self) -> bool:
        """Say whether there is a newer attempt, so that nothing of this one may be written."""
        self._lost = self._lost or attempt_path(self._folder, self.attempt + 1).exists()
        return self._lost

    def beat(self) -> None:
        """Show that the owner lives, or end its job if the claim is lost."""
        with self._held:
            if not self._owner or self._lost:
                return
            # One missed beat, say of a disk that is not there for a moment, is what staleness allows for.
            with contextlib.suppress(OSError):
                # The look comes first: after a long sleep there may be another owner.
                if self.overtaken():
                    _raise_in(self._owner, ClaimLost)
                else:
                    os.utime(self._path)


def take(folder: Path, every: float, takeover: int | None = None) -> Claim | None:
    """Claim the job of a folder, or return None while another process has it.

    every: seconds between heartbeats. takeover: an attempt whose heartbeat a `Watch` found stale.
    """
    try:
        descriptor = lock(folder)
    except BlockingIOError:
        return None
    attempt = last_attempt(folder)
    free = attempt in (0, takeover) or is_over(folder, attempt, descriptor is not None)
    if free and create_attempt(folder, attempt + 1):
        return Claim(folder, attempt + 1, descriptor, every)
    unlock(descriptor)
    return None


class Watch:
    """Tells from outside when a claimed job can be taken.

    Clocks of two machines may differ, so no times are compared: a heartbeat that did not change during
    `stale_after` seconds of our own clock is stale.
    """

    def __init__(self, stale_after: float) -> None:
        self._stale_after = stale_after
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}
        self._told: set[Path] = set()

    def free(self, folder: Path) -> tuple[bool, int | None]:
        """Look at a job: whether it can be taken, and which attempt has to be taken over for that."""
        try:
            descriptor = lock(folder)
        except BlockingIOError:
            self.tell_of_silence(folder)
            return False, None
        except OSError:  # somebody deleted the folder, or spoilt it: who tries to take it says so
            return True, None
        try:
            try:
                attempt = last_attempt(folder)
            except RunError:
                return True, None
            if attempt == 0 or is_over(folder, attempt, descriptor is not None):
                return True, None
            return (True, attempt) if self._stands_still(folder, attempt) else (False, None)
        finally:
            unlock(descriptor)

    def tell_of_silence(self, folder: Path) -> None:
        """Say once that the owner of a job, which nobody can take over yet, does not stir."""
        with contextlib.suppress(OSError, RunError):
            attempt = last_attempt(folder)
            if attempt and self._stands_still(folder, attempt) and folder not in self._told:
                self._told.add(folder)
                logging.getLogger(__name__).warning(
                    "a job is waited for whose process has given no sign of life for %.0f s: %s names it. If "
                    "it is stopped, `kill -CONT` lets it go on.",
                    *(self._stale_after, attempt_path(folder, attempt)),
                )

    def _stands_still(self, folder: Path, attempt: int) -> bool:
        # Opening asks the server of a shared disk; a mere stat may be answered from a cache.
        with attempt_path(folder, attempt).open("rb") as file:
            stamp = (attempt, os.fstat(file.fileno()).st_mtime_ns)
        now = time.monotonic()
        before, since = self._seen.get(folder, (None, now))
        if stamp != before:
            self._seen[folder] = (stamp, now)
            return False
        return now - since >= self._stale_after


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise an exception in another thread, at its next step of Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
