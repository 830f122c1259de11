"""Where results are kept: one folder per job, in which result.json is written last."""

from __future__ import annotations

import os
import platform
import secrets
from pathlib import Path
from typing import Any

from veridical.jobs.attempts import create_once
from veridical.jobs.job import Job
from veridical.runtime.errors import RunError, fail_argument
from veridical.runtime.files import read_json

MARK = "store.json"
JOB, LOG, RESULT = "job.json", "log.txt", "result.json"


class Store:
    """Finished and unfinished jobs below `root`, each in root/<id[:2]>/<id>/; the folder is made if needed.

    A job's folder holds job.json, attempt-N.json, log.txt, what the job itself keeps there, and, once it is
    done, result.json: {result, seconds, attempt, environment}. stale_after: seconds without a heartbeat after
    which a job on another machine counts as dead. On one machine a dead owner is noticed at once. token: of a
    store that another process made; then it is a RunError if this machine does not see the same folder.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, stale_after: float = 60.0, token: str | None = None
    ) -> None:
        if stale_after <= 0:
            raise fail_argument("stale_after", stale_after, "a positive number of seconds")
        self.root = Path(root).absolute()
        self.stale_after = stale_after
        if token is not None:
            _check_mark(self.root, token)
            self.token = token
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise fail_argument(
                "store", str(root), "a folder, or a name that is free", "A file is there."
            ) from None
        self.token = _mark(self.root)

    def folder(self, job: Job | str) -> Path:
        """Where the job, or the job of that id, keeps its files; it may not exist yet."""
        name = job if isinstance(job, str) else job.id
        return self.root / name[:2] / name

    def record(self, job: Job | str) -> dict[str, Any] | None:
        """Return {result, seconds, attempt, environment}, or None when the job is not done."""
        path = self.folder(job) / RESULT
        # Most looks are at jobs that have no result, so the file is asked for before it is read.
        if not path.exists():
            return None
        record: dict[str, Any] = read_json(path)
        if not isinstance(record, dict) or "result" not in record:
            raise RunError(f"{path} is not a job's result. Delete it and run its command again.")
        return record

    def result(self, job: Job | str) -> dict[str, Any] | None:
        """Return what the job's function returned, or None when it is not done."""
        record = self.record(job)
        return None if record is None else record["result"]

    def log_tail(self, job: Job | str, lines: int = 20, limit: int = 4000) -> str:
        """Return the last lines, at most `limit` bytes of text, of what the job printed; "" without a log."""
        try:
            with (self.folder(job) / LOG).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _mark(root: Path) -> str:
    """Return the store's token, made by whoever came first: it tells two folders of one path apart."""
    mark = root / MARK
    if not mark.exists():
        # Two commands may start at once; the second finds the first one's.
        create_once(mark, {"schema": 1, "store": secrets.token_hex(8)})
    token: str = read_json(mark)["store"]
    return token


def _check_mark(root: Path, token: str) -> None:
    """Raise a RunError unless the folder is the store of that token."""
    mark = root / MARK
    if not mark.exists() or read_json(mark).get("store") != token:
        raise RunError(
            f"this machine ({platform.node()}) does not see the store {root}, or has another one there. "
            "All workers need it at the same path, on a disk that they share."
        )
