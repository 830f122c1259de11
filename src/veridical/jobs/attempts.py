"""The files by which processes agree on who runs a job: a lock for one system, numbered attempts for all.

Attempt n of a job is a file that only one process can create. It is over when it says so, or when its system
is ours and the lock is free (the kernel frees the lock of a killed process).
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from veridical.runtime.errors import RunError
from veridical.runtime.files import read_json

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
    return create_once(attempt_path(folder, attempt), record)


def create_once(path: Path, record: Mapping[str, Any]) -> bool:
    """Create a JSON file as the only one of all processes and machines; False where it exists already."""
    draft = _draft(path.parent, record)
    try:
        # A link fails where the name exists, and what it names is complete.
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without links: a kill may leave the file empty, which costs a wait, no result
        try:
            with path.open("xb") as file:
                file.write(draft.read_bytes())
        except FileExistsError:
            return False
    finally:
        draft.unlink()
    return True


def end_attempt(folder: Path, attempt: int, how: str) -> None:
    """Note that an attempt is over, so that other systems need not wait for its heartbeat to stop."""
    path = attempt_path(folder, attempt)
    record = read_json(path) | {"end": _now(), "ended": how}
    os.replace(_draft(folder, record), path)


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


def _draft(folder: Path, record: Mapping[str, Any]) -> Path:
    """Write a file to be put in place; no flush, since a power cut ends all attempts anyway."""
    path = folder / f".{secrets.token_hex(8)}.tmp"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
