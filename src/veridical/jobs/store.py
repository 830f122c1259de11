"""Where results are kept: one folder per job, in which result.json is written last."""

from __future__ import annotations

import io
import os
import platform
import re
import secrets
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from veridical.jobs.job import Job
from veridical.runtime.checking import as_path
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import create_json, read_arrays, read_json, sweep

MARK = "store.json"
JOB, LOG, RESULT = "job.json", "log.txt", "result.json"
_JOBS = re.compile("[0-9a-f]{2}")


class _Record(TypedDict):
    """A job's result.json; written sealed. files: the SHA-256 of each .npz file that the job left."""

    result: dict[str, Any]
    seconds: float
    environment: dict[str, Any]
    files: NotRequired[dict[str, str]]


class _Mark(TypedDict):
    """What tells one store from another; deleted, it is written anew."""

    schema: Literal[1]
    store: str


class Store:
    """Finished and unfinished jobs below `root`, each in root/<id[:2]>/<id>/; the folder is made if needed.

    A job's folder holds job.json, log.txt, lease.json while it runs, what the job itself keeps there, and,
    once it is done, result.json (`_Record`). stale_after: seconds without a sign of life after which a job
    on another machine counts as dead; on one machine a dead owner is noticed at once. token: of a store that
    another process made; then it is a RunError if this machine does not see the same folder.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, stale_after: float = 60.0, token: str | None = None
    ) -> None:
        if stale_after <= 0:
            raise argument_error("stale_after", stale_after, "a positive number of seconds")
        if not os.fspath(root):
            raise argument_error("store", root, "the name of a folder")
        self.root = as_path(root, "store").absolute()
        self.stale_after = stale_after
        if token is not None:
            _check_mark(self.root, token)
            self.token = token
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise argument_error(
                "store", str(root), "a folder, or a name that is free", "A file is there."
            ) from None
        _check_own(self.root)
        self.token = _mark(self.root)
        sweep(self.root)

    def folder(self, job: Job | str) -> Path:
        """Where the job, or the job of that id, keeps its files; it may not exist yet."""
        name = job if isinstance(job, str) else job.id
        return self.root / name[:2] / name

    def record(self, job: Job | str) -> dict[str, Any] | None:
        """Return {result, seconds, environment, files}, or None when the job is not done."""
        path = self.folder(job) / RESULT
        # Most looks are at jobs that have no result, so the file is asked for before it is read.
        if not path.exists():
            return None
        return {**read_json(path, _Record, sealed=True)}

    def result(self, job: Job | str) -> dict[str, Any] | None:
        """Return what the job's function returned, or None when it is not done."""
        record = self.record(job)
        return None if record is None else record["result"]

    def arrays(self, job: Job | str, name: str) -> dict[str, Any]:
        """The arrays of an .npz file that a finished job left in its folder; a RunError if it is damaged."""
        folder, record = self.folder(job), self.record(job)
        assert record is not None
        hint = f"Delete the folder {folder} and repeat the command."
        if not (folder / name).exists():
            raise RunError(f"{folder / name} does not exist, though its job is done. {hint}")
        return read_arrays(folder / name, sha256=record.get("files", {}).get(name), hint=hint)

    def log_tail(self, job: Job | str, lines: int = 20, limit: int = 4000) -> str:
        """Return the last lines, at most `limit` bytes of text, of what the job printed; "" without a log."""
        try:
            path = self.folder(job) / LOG
            with path.open("rb") if path.is_file() else io.BytesIO() as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _check_own(root: Path) -> None:
    """Raise a UsageError for a folder in which other things lie than a store, marked or not, has."""
    names = sorted(os.listdir(root))
    if MARK in names:
        return
    others = [name for name in names if not (name.startswith(".") or _JOBS.fullmatch(name))]
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        expected = "the folder of a store, or one that is new or empty"
        raise argument_error("store", str(root), expected, f"It holds something else ({shown}).")


def _mark(root: Path) -> str:
    """Return the store's token, made by whoever came first: it tells two folders of one path apart."""
    mark = root / MARK
    if not mark.exists():
        # Two commands may start at once; the second finds the first one's.
        create_json(mark, {"schema": 1, "store": secrets.token_hex(8)})
    return read_json(mark, _Mark)["store"]


def _check_mark(root: Path, token: str) -> None:
    """Raise a RunError unless the folder is the store of that token."""
    mark = root / MARK
    if not mark.exists() or read_json(mark, _Mark)["store"] != token:
        raise RunError(
            f"this machine ({platform.node()}) does not see the store {root}, or has another one there. "
            "All workers need it at the same path, on a disk that they share."
        )
