"""Who runs a job: the holder of a file lock on its own machine, and of a lease file for all machines.

The kernel frees the lock of a process that dies, so on one machine a dead owner is noticed at once. Machines
that share a disk may not see each other's locks. For them the owner keeps a lease.json, with its host, pid
and start, which it touches while it runs the job and deletes afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import threading
import time
import uuid
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from veridical.runtime.errors import RunError
from veridical.runtime.files import create_json, read_json

try:
    import fcntl
except ImportError:  # Windows: leases alone
    fcntl = None  # type: ignore[assignment]

LEASE = "lease.json"
# The inode of a lease, which changes with its owner, and its time of modification, which shows life.
Stamp = tuple[int, int]

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TOUCHES = 6  # in the time after which a lease is stale


class Lease:
    """The right to run the job of one folder; made by `acquire` and given up when its block ends."""

    def __init__(self, folder: Path, token: str, lock: int | None, every: float) -> None:
        self._path, self._token, self._lock, self._every = folder / LEASE, token, lock, every
        self._given_up = threading.Event()

    def __enter__(self) -> Lease:
        threading.Thread(target=self._keep, name="lease", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()
        # A lease that stays is stale after a while, so failing here does no harm.
        with contextlib.suppress(OSError):
            if not self.is_lost():
                self._path.unlink()
        _unlock(self._lock)

    def is_lost(self) -> bool:
        """Say whether another machine took the job over, since this one slept; then no result is written."""
        try:
            return bool(read_json(self._path).get("token") != self._token)
        except RunError:  # deleted: the other machine was done with it
            return True

    def _keep(self) -> None:
        while not self._given_up.wait(self._every):
            with contextlib.suppress(OSError):  # a disk that is gone for a moment costs one touch
                if not self.is_lost():
                    os.utime(self._path)


def acquire(folder: Path, stale_after: float, stale: Stamp | None = None) -> Lease | None:
    """Get the right to run the job of a folder, or None while another process has it.

    stale: what an `Observer` saw of a lease that stood still, which may be replaced.
    """
    try:
        lock = _try_lock(folder)
    except BlockingIOError:
        return None
    try:
        stamp, token = _stamp(folder), secrets.token_hex(8)
        # Only what was seen is removed, so that of two newcomers one creates the file. Of two machines that
        # replace a stale lease at once the later one has it, and the earlier finds its own lost.
        if stamp is not None and (stamp == stale or _is_dead(folder, lock)):
            (folder / LEASE).unlink(missing_ok=True)
        record = {
            "token": token,
            "host": platform.node(),
            "system": _system(),
            "pid": os.getpid(),
            "start": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        # Not flushed: a power cut ends all owners anyway.
        if create_json(folder / LEASE, record, flush=False):
            return Lease(folder, token, lock, stale_after / _TOUCHES)
    except BaseException:
        _unlock(lock)
        raise
    _unlock(lock)
    return None


class Observer:
    """Tells from outside when a job can be taken over, and names owners that give no sign of life.

    Clocks of two machines may differ, so no times are compared: a lease is stale when it did not change for
    `stale_after` seconds of our own clock.
    """

    def __init__(self, stale_after: float) -> None:
        self._stale_after = stale_after
        self._seen: dict[Path, tuple[Stamp | None, float]] = {}
        self._reported: set[Path] = set()

    def is_free(self, folder: Path) -> tuple[bool, Stamp | None]:
        """Look at a job: whether it can be acquired, and which stale lease has to be replaced for that."""
        try:
            lock = _try_lock(folder)
        except BlockingIOError:
            self.report_silence(folder)
            return False, None
        except OSError:  # somebody deleted the folder, or damaged it: who acquires it says so
            return True, None
        stamp, is_dead = _stamp(folder), _is_dead(folder, lock)
        _unlock(lock)
        free = stamp is None or is_dead or self._quiet_for(folder, stamp) >= self._stale_after
        return free, stamp

    def report_silence(self, folder: Path, given: bool = False) -> None:
        """Log once that an owner does not stir or, of a job `given` to a worker, that none began it."""
        stamp = _stamp(folder)
        if (stamp is None and not given) or folder in self._reported:
            return
        if self._quiet_for(folder, stamp) < self._stale_after / 2:
            return
        self._reported.add(folder)
        owner = _read(folder)
        who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "the worker"
        logging.getLogger(__name__).warning(
            "%s has shown no sign of life for %.0f s; it has the job of %s. If it is stopped, `kill -CONT` "
            "lets it go on; if you kill it, another process takes over.",
            *(who, self._stale_after / 2, folder),
        )

    def forget(self, folder: Path) -> None:
        """Count from the next look on, since the owner that was seen is gone."""
        self._seen.pop(folder, None)

    def _quiet_for(self, folder: Path, stamp: Stamp | None) -> float:
        """Seconds since the stamp of a folder changed."""
        now = time.monotonic()
        before, since = self._seen.get(folder, (stamp, now))
        self._seen[folder] = (stamp, since if before == stamp else now)
        return now - self._seen[folder][1]


def _stamp(folder: Path) -> Stamp | None:
    """The stamp of a folder's lease, None when there is none."""
    # Opening asks the server of a shared disk; a mere stat may be answered from a cache.
    _read(folder)
    try:
        status = (folder / LEASE).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _is_dead(folder: Path, lock: int | None) -> bool:
    """Say whether a lease's owner ran on this machine, where its lock would not be ours if it lived."""
    return lock is not None and _read(folder).get("system") == _system()


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / LEASE)
    except RunError:  # there is none, or a power cut left it empty: then its stamp alone counts
        return {}


def _try_lock(folder: Path) -> int | None:
    """Lock a folder, or raise BlockingIOError; None where the disk or the system has no file locks."""
    if fcntl is None:
        return None
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a network disk without locks
        os.close(descriptor)
        return None
    return descriptor


def _unlock(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


@cache
def _system() -> str:
    """Name the kernel that runs us: processes of one name see each other's locks, also across containers."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return f"{platform.node()}-{uuid.getnode():x}"
