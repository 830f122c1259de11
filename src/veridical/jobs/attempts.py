"""The files by which processes agree on who runs a job: a lock for one system, numbered attempts for all.

Attempt n of a job is a file that only one process can create. It is over when it says so, or when its system
is ours and the lock is free (the kernel frees the lock of a killed process).
"""

from __future__ import annotations

import os
import platform
import re
import uuid
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from veridical.runtime.errors import RunError
from veridical.runtime.files import create_json, read_json, write_json

try:
    import fcntl
except ImportError:  # Windows: attempts and heartbeats alone
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"
_ATTEMPT = re.compile(r"attempt-([1-9][0-9]*)\.json")
_MOST = 10**6
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def last_attempt(folder: Path) -> int:
    """Return the newest attempt's number, 0 when there is none; a RunError for one that nobody made."""
    try:
        entries = {int(m[1]): entry for entry in os.scandir(folder) if (m := _ATTEMPT.fullmatch(entry.name))}
    except FileNotFoundError:
        return 0
    newest = max(entries, default=0)
    if newest >= _MOST or (newest and not entries[newest].is_file()):
        raise RunError(f"{entries[newest].path} is no attempt of a job. Delete it and repeat the command.")
    return newest


def attempt_path(folder: Path, attempt: int) -> Path:
    """Where an attempt is noted: {attempt, host, system, pid, start, end, ended}."""
    return folder / f"attempt-{attempt}.json"


def is_over(folder: Path, attempt: int, locked: bool) -> bool:
    """Say whether an attempt surely has no owner; `locked` means that its lock was free and is ours."""
    try:
        record = read_json(attempt_path(folder, attempt))
    except RunError:  # a power cut may leave it empty: then its heartbeat tells
        return False
    return record.get("ended") is not None or (locked and record.get("system") == system())


def create_attempt(folder: Path, attempt: int) -> bool:
    """Create the file of an attempt with all of its content, or return False when it exists already."""
    record = {
        "attempt": attempt,
        "host": platform.node(),
        "system": system(),
        "pid": os.getpid(),
        "start": _now(),
        "end": None,
        "ended": None,
    }
    # Not flushed: a power cut ends all attempts anyway.
    return create_json(attempt_path(folder, attempt), record, flush=False)


def end_attempt(folder: Path, attempt: int, how: str) -> None:
    """Note that an attempt is over, so that other systems need not wait for its heartbeat to stop."""
    path = attempt_path(folder, attempt)
    record = read_json(path) | {"end": _now(), "ended": how}
    write_json(path, record, flush=False)


def lock(folder: Path) -> int | None:
    """Lock a folder, or raise BlockingIOError; None where the disk or the system has no file locks."""
    if fcntl is None:
        return None
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a network disk without locks
        os.close(descriptor)
        return None
    return descriptor


def unlock(descriptor: int | None) -> None:
    """Give back what `lock` returned."""
    if descriptor is not None:
        os.close(descriptor)


@cache
def system() -> str:
    """Name the kernel that runs us: processes of one name see each other's locks, also across containers."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return f"{platform.node()}-{uuid.getnode():x}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
