"""What a worker does with one job: get its lease, run it with a log, keep its result."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from veridical._version import __version__
from veridical.jobs.lease import Lease, Stamp, acquire
from veridical.jobs.store import JOB, LOG, RESULT, Job, Store, load_function
from veridical.runtime.errors import RunError, VeridicalError
from veridical.runtime.files import digest, to_plain, write_json, write_sealed


def task(job: Job, store: Store, trust_code: bool, stale: Stamp | None = None) -> dict[str, Any]:
    """Return what travels to a worker: plain values, no data and no code. stale: as in `acquire`."""
    return {
        "job": job.record(),
        "store": [str(store.root), store.token, store.stale_after],
        "trust_code": trust_code,
        "stale": stale,
        "version": __version__,
    }


def execute(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run one job in this process, unless it is done or another process runs it; return plain values.

    status: "done", "reused" (it had a result), "busy" (somebody else has it) or "failed", with `error` and
    `log_tail`. A job's own exception is a status; what is raised here is not the job's fault.
    """
    root, token, stale_after = task["store"]
    place = root
    try:
        if task["version"] != __version__:
            raise RunError(
                f"this worker ({platform.node()}) has Veridical {__version__}, "
                f"the command {task['version']}. Install one version everywhere."
            )
        job, store = Job(**task["job"]), Store(root, stale_after=stale_after, token=token)
        folder = store.folder(job)
        place = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lease = acquire(folder, stale_after, task["stale"])
        if lease is None:
            return {"status": "busy"}
        with lease:
            # The owner before us may have finished between our look and our lease.
            if (record := store.record(job)) is not None:
                return {"status": "reused"} | record
            # For people; not flushed to the disk, since nothing reads it.
            write_json(folder / JOB, {"id": job.id} | job.record(), flush=False)
            return _call(job, store, lease, task["trust_code"])
    except (VeridicalError, OSError) as error:
        return _failure(error, "", place)


def _call(job: Job, store: Store, lease: Lease, trust_code: bool) -> dict[str, Any]:
    """Call the function and write its result; its exception becomes the answer."""
    folder = store.folder(job)
    with _log_to(folder / LOG) as log:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        log.write(f"--- begun {now}, {platform.node()}, process {os.getpid()}\n")
        try:
            # The first job of a worker imports what all of them use: that is no part of its time.
            function = load_function(job.function, trust_code)
            start = time.perf_counter()
            result = to_plain(function(deepcopy(dict(job.values)), folder, dict(job.where)), "result")
            if not isinstance(result, dict):
                raise RunError(f"{job.function} returned {result!r}, not a mapping of plain values.")
            record = {
                "result": result,
                "seconds": time.perf_counter() - start,
                "environment": {
                    "veridical": __version__,
                    "python": platform.python_version(),
                    "host": platform.node(),
                    "threads": os.environ.get("OMP_NUM_THREADS"),
                    "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
                },
                "files": {path.name: digest(path.read_bytes()) for path in sorted(folder.glob("[!.]*.npz"))},
            }
            # An owner that slept until another machine took over leaves the result to that one.
            if lease.is_lost():
                return {"status": "busy"}
            write_sealed(folder / RESULT, record)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any error is this job's, not the worker's
            with contextlib.suppress(OSError):  # a full disk
                traceback.print_exc(file=log)
            return _failure(error, store.log_tail(job), str(folder))
    return {"status": "done"} | record


def _failure(error: BaseException, log_tail: str, place: str) -> dict[str, Any]:
    """The answer of a job that failed; place: where it wrote, for errors of the disk that name no file."""
    text = str(error) if isinstance(error, VeridicalError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        text += f" (in {place})"
    return {"status": "failed", "error": text, "log_tail": log_tail}


# --- the log of a job ------------------------------------------------------------------------------------

_owns_process = False
_logs: dict[int, TextIO] = {}
_routing = threading.Lock()


def own_the_process() -> None:
    """Say that this process runs one job at a time and nothing else, so that descriptors can be redirected.

    Then also what C code prints is caught, and the trace of a crash.
    """
    global _owns_process  # noqa: PLW0603 - a property of the process
    _owns_process = True


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[TextIO]:
    """Append what this thread prints to a file, line by line, so that a kill loses no finished line."""
    if path.exists() and not path.is_file():  # a pipe would wait for a reader
        raise RunError(f"{path} is no file. Delete it and repeat the command.")
    redirect = _redirect_descriptors if _owns_process else _redirect_thread
    with path.open("a", encoding="utf-8", buffering=1, errors="backslashreplace") as log, redirect(log):
        yield log


@contextlib.contextmanager
def _redirect_descriptors(log: TextIO) -> Iterator[None]:
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
def _redirect_thread(log: TextIO) -> Iterator[None]:
    """Send what this thread prints to the log; other threads, a progress display say, print as before."""
    thread = threading.get_ident()
    with _routing:
        for name in ("stdout", "stderr"):
            # They may be routed still, when somebody kept them beyond the last job and put them back since.
            if not isinstance(getattr(sys, name), _Routed):
                setattr(sys, name, _Routed(getattr(sys, name)))
        _logs[thread] = log
    try:
        yield
    finally:
        with _routing:
            del _logs[thread]
            for name in ("stdout", "stderr"):
                # If somebody has replaced them meanwhile, what they keep passes on what it gets.
                stream = getattr(sys, name)
                if not _logs and isinstance(stream, _Routed):
                    setattr(sys, name, stream.original)


class _Routed:
    """A text stream that is the log in threads that run a job, and the original one elsewhere."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def write(self, text: str) -> int:
        return int(_logs.get(threading.get_ident(), self.original).write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(_logs.get(threading.get_ident(), self.original), name)
