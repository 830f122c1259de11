"""What a worker does with one job: claim it, run it, keep its result."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import traceback
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from veridical._version import __version__
from veridical.jobs.capture import printed_to
from veridical.jobs.claims import Claim, ClaimLost, take
from veridical.jobs.job import Job, load_function
from veridical.jobs.store import JOB, LOG, RESULT, Store
from veridical.runtime.errors import RunError, VeridicalError
from veridical.runtime.files import digest, to_plain, write_json, write_sealed

_BEATS = 6  # heartbeats until a claim counts as dead


def task(job: Job, store: Store, trust_code: bool, takeover: int | None = None) -> dict[str, Any]:
    """Return what travels to a worker: plain values, no data and no code."""
    return {
        "job": job.record(),
        "store": [str(store.root), store.token, store.stale_after],
        "trust_code": trust_code,
        "takeover": takeover,
        "version": __version__,
    }


def execute(task: Mapping[str, Any]) -> dict[str, Any]:
    """Run one job in this process, unless it is done or another process runs it; return plain values.

    status: "done", "reused" (it had a result), "busy" (somebody else has it) or "failed", with `error` and
    `log_tail`. A job's own exception is a status; what is raised here is not the job's fault.
    """
    place = task["store"][0]
    try:
        if task["version"] != __version__:
            raise RunError(
                f"this worker ({platform.node()}) has Veridical {__version__}, "
                f"the command {task['version']}. Install one version everywhere."
            )
        job = Job(**task["job"])
        root, token, stale_after = task["store"]
        store = Store(root, stale_after=stale_after, token=token)
        place = str(store.folder(job))
        return _claimed(job, store, task["trust_code"], task["takeover"])
    except ClaimLost:
        return {"status": "busy"}
    except (VeridicalError, OSError) as error:
        return _failed(error, "", place)


def _claimed(job: Job, store: Store, trust_code: bool, takeover: int | None) -> dict[str, Any]:
    """Reuse the job's result, or run it under a claim."""
    if (record := store.record(job)) is not None:
        return {"status": "reused"} | record
    folder = store.folder(job)
    folder.mkdir(parents=True, exist_ok=True)
    claim = take(folder, store.stale_after / _BEATS, takeover)
    if claim is None:
        return {"status": "busy"}
    with claim:
        # The owner before us may have finished between our look and our claim.
        if (record := store.record(job)) is not None:
            claim.end("done")
            return {"status": "reused"} | record
        _describe(job, folder)
        answer = _run(job, store, claim, trust_code)
        claim.end(answer["status"])
        return answer


def _run(job: Job, store: Store, claim: Claim, trust_code: bool) -> dict[str, Any]:
    """Call the function and write its result; its exception becomes the answer."""
    folder = store.folder(job)
    with printed_to(folder / LOG) as log:
        start = datetime.now(UTC).isoformat(timespec="seconds")
        log.write(f"--- attempt {claim.attempt}, {start}, {platform.node()}, process {os.getpid()}\n")
        try:
            # The first job of a worker imports what all of them use: that is no part of its time.
            function = load_function(job.function, trust_code)
            began = time.perf_counter()
            result = to_plain(function(deepcopy(dict(job.values)), folder, dict(job.where)), "result")
            if not isinstance(result, dict):
                raise RunError(f"{job.function} returned {result!r}, not a mapping of plain values.")
            record = {
                "result": result,
                "seconds": time.perf_counter() - began,
                "attempt": claim.attempt,
                "environment": environment(),
                "files": {path.name: digest(path.read_bytes()) for path in sorted(folder.glob("[!.]*.npz"))},
            }
            if claim.overtaken():
                return {"status": "busy"}
            write_sealed(folder / RESULT, record)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any error is this job's, not the worker's
            with contextlib.suppress(OSError):  # a full disk
                traceback.print_exc(file=log)
            return _failed(error, store.log_tail(job), str(folder))
    return {"status": "done"} | record


def _failed(error: BaseException, log_tail: str, place: str) -> dict[str, Any]:
    """The answer of a job that failed; place: where it wrote, for errors of the disk that name no file."""
    own = isinstance(error, VeridicalError)
    text = str(error) if own else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno is not None and error.filename is None:
        text += f" (in {place})"
    return {"status": "failed", "error": text, "log_tail": log_tail}


def _describe(job: Job, folder: Path) -> None:
    """Write job.json, for people; it is not flushed to the disk, since nothing reads it."""
    write_json(folder / JOB, {"id": job.id} | job.record(), flush=False)


def environment() -> dict[str, Any]:
    """Where a job ran, in a few plain values; what its result was made with, its function knows better."""
    return {
        "veridical": __version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
