"""Run many jobs to their end: the longest first, each once, and no failure in the way of the others."""

from __future__ import annotations

import pickle
import queue
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass, replace
from typing import Any, Literal

from veridical.jobs.execution import execute, task
from veridical.jobs.lease import Observer, Stamp
from veridical.jobs.pool import InProcess, WorkerLost
from veridical.jobs.store import Job, Store, check_trusted
from veridical.runtime.errors import RunError, argument_error


@dataclass(frozen=True)
class Outcome:
    """How one job ended.

    status: "done" (run now), "reused" (the store had it, or another command made it) or "failed". result:
    what its function returned, None when it failed. seconds: how long its last attempt ran. error, log_tail:
    why it failed, and the last lines of its log. sent_bytes: what was pickled to send it, 0 in the same
    process.
    """

    id: str
    status: Literal["done", "reused", "failed"]
    result: dict[str, Any] | None
    seconds: float | None = None
    error: str | None = None
    log_tail: str = ""
    sent_bytes: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a set of jobs stands, in plain numbers.

    done: ended in any way, of `total`; reused and failed are parts of it. waiting: jobs that another command
    runs. seconds_left: from the predicted costs of the rest, corrected by how long the finished ones took;
    None for an executor that does not say its number of `workers`.
    """

    done: int
    total: int
    reused: int
    failed: int
    waiting: int
    seconds_left: float | None


def run_jobs(
    jobs: Iterable[Job],
    store: Store,
    executor: Executor,
    *,
    retries: int = 1,
    progress: Callable[[Progress], object] | None = None,
    trust_code: bool = False,
    poll_seconds: float = 0.5,
) -> dict[str, Outcome]:
    """Run jobs until each has a result or failed; return their outcomes by id, in the order of `jobs`.

    Jobs of one id run once, and jobs with a result in the store not at all. The costliest go first. retries:
    how often a job whose worker was lost is submitted again; a job that raises is not repeated (the next call
    tries it again). Jobs that another command runs are waited for, with a look every `poll_seconds`.
    progress: called at the start, after every job and at every look. trust_code: functions outside Veridical
    may run. The executor stays open. A failing job is an outcome; a RunError says that the executor takes no
    more jobs.
    """
    if retries < 0:
        raise argument_error("retries", retries, "a number from 0")
    unique = {job.id: job for job in jobs}
    for job in unique.values():
        check_trusted(job.function, trust_code)
    report = progress or (lambda _: None)
    run = _Run(unique, store, executor, retries, trust_code)
    try:
        for job in unique.values():
            run.settle_from_store(job)
        report(run.progress())
        pending = [job for name, job in unique.items() if name not in run.outcomes]
        for job in sorted(pending, key=lambda job: -job.cost):
            run.submit(job)
            # In the same process a job is over when it is submitted, in others some may be by now.
            while run.collect(0.0):
                report(run.progress())
        while not run.is_over():
            run.collect(poll_seconds)
            run.look_at_leases(poll_seconds)
            report(run.progress())
    finally:
        run.cancel()
    return {name: run.outcomes[name] for name in unique}


def check_outcomes(outcomes: Mapping[str, Outcome], jobs: Iterable[Job]) -> None:
    """Raise a RunError with the reasons and last lines of the log if any job failed."""
    failed = [(job, outcomes[job.id]) for job in jobs if outcomes[job.id].status == "failed"]
    reports = [
        "\n    ".join([f"{job.label} ({job.id}): {outcome.error}", *outcome.log_tail.splitlines()[-5:]])
        for job, outcome in failed[:3]
    ]
    reports += [f"and {len(failed) - 3} more"] if len(failed) > 3 else []
    if failed:
        raise RunError(
            f"{len(failed)} of {len(outcomes)} jobs failed; the others are finished and kept, and the same "
            "command tries these again:\n" + "\n".join(reports)
        )


class _Run:
    """The state of one call of `run_jobs`: what was submitted, what another command runs, what is over."""

    def __init__(
        self, jobs: Mapping[str, Job], store: Store, executor: Executor, retries: int, trust_code: bool
    ) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._jobs, self._store, self._executor = jobs, store, executor
        self._retries, self._trust_code = retries, trust_code
        self._running: dict[Future[dict[str, Any]], Job] = {}
        self._finished: queue.SimpleQueue[Future[dict[str, Any]]] = queue.SimpleQueue()
        self._waiting: dict[str, Job] = {}
        self._observer = Observer(store.stale_after)
        self._looked = self._listened = self._last_end = time.monotonic()
        self._losses: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._counts = {"done": 0, "reused": 0, "failed": 0}
        self._cost_left = sum(job.cost for job in jobs.values())
        self._cost_done = self._seconds_done = 0.0

    def settle_from_store(self, job: Job) -> bool:
        """Settle a job whose result is in the store; say whether it is settled."""
        try:
            record = self._store.record(job)
        except RunError as error:  # a damaged file: this job's trouble alone
            self._fail(job, str(error))
            return True
        if record is not None:
            self._end(Outcome(job.id, "reused", record["result"], record["seconds"]), job)
        return record is not None

    def submit(self, job: Job, stale: Stamp | None = None) -> None:
        """Hand a job to the executor; a RunError when that takes no more."""
        message = task(job, self._store, self._trust_code, stale)
        if not isinstance(self._executor, InProcess):
            size = len(pickle.dumps((execute, message)))
            self._sent[job.id] = self._sent.get(job.id, 0) + size
        try:
            future = self._executor.submit(execute, message)
        except RuntimeError as error:  # a broken executor, or one that was shut down
            raise _no_more_jobs(error) from error
        self._running[future] = job
        future.add_done_callback(self._finished.put)

    def collect(self, seconds: float) -> bool:
        """Settle one finished call, waiting for it at most so long; say whether there was one."""
        try:
            future = self._finished.get(timeout=seconds) if seconds else self._finished.get_nowait()
        except queue.Empty:
            return False
        job = self._running.pop(future)
        try:
            answer = future.result()
        # The order matters: a lost worker is a kind of broken executor, but of one call only.
        except (WorkerLost, CancelledError) as error:
            self._retry(job, error)
        except BrokenExecutor as error:
            raise _no_more_jobs(error) from error
        except Exception as error:  # noqa: BLE001 - the job could not be run at all; the others may
            self._fail(job, f"{type(error).__name__}: {error}")
        else:
            if answer["status"] == "busy":
                self._waiting[job.id] = job
            elif answer["status"] == "failed":
                self._fail(job, answer["error"], answer["log_tail"])
            else:
                self._end(Outcome(job.id, answer["status"], answer["result"], answer["seconds"]), job)
        return True

    def look_at_leases(self, every: float) -> None:
        """Take over what other commands finished or left, and name owners that give no sign of life.

        every: seconds between looks at the jobs of others.
        """
        now = time.monotonic()
        if self._waiting and now - self._looked >= every:
            self._looked = now
            for job in list(self._waiting.values()):
                if not self.settle_from_store(job):
                    free, stale = self._observer.is_free(self._store.folder(job))
                    if free:
                        del self._waiting[job.id]
                        self.submit(job, stale)
        if now - self._listened >= self._store.stale_after / 8:
            self._listened = now
            for future, job in self._running.items():
                # Without a mark that it runs, the lease may be that of the worker that was lost.
                if future.running() or job.id not in self._losses:
                    self._observer.report_silence(self._store.folder(job), given=future.running())

    def is_over(self) -> bool:
        """Say whether every job has an outcome."""
        return len(self.outcomes) == len(self._jobs)

    def cancel(self) -> None:
        """Take back what did not start; nothing is left to do so when all went well."""
        for future in list(self._running):
            future.cancel()

    def progress(self) -> Progress:
        """Where the set stands."""
        return Progress(
            done=len(self.outcomes),
            total=len(self._jobs),
            reused=self._counts["reused"],
            failed=self._counts["failed"],
            waiting=len(self._waiting),
            seconds_left=self._seconds_left(),
        )

    def _seconds_left(self) -> float | None:
        workers: int | None = getattr(self._executor, "workers", None)
        if self.is_over() or not workers:
            return 0.0 if self.is_over() else None
        slowness = self._seconds_done / self._cost_done if self._cost_done else 1.0
        # All workers have worked since the last job ended.
        return max(0.0, slowness * self._cost_left / workers - (time.monotonic() - self._last_end))

    def _retry(self, job: Job, error: BaseException) -> None:
        """Submit a job again whose worker is gone, as often as allowed."""
        losses = self._losses[job.id] = self._losses.get(job.id, 0) + 1
        if losses <= self._retries:
            self._observer.forget(self._store.folder(job))
            self.submit(job)
            return
        times = "once" if losses == 1 else f"{losses} times"
        reason = str(error) or type(error).__name__
        text = f"its worker was lost {times} (killed, crashed or out of memory): {reason}"
        self._fail(job, text, self._store.log_tail(job))

    def _fail(self, job: Job, error: str, log_tail: str = "") -> None:
        self._end(Outcome(job.id, "failed", None, error=error, log_tail=log_tail), job)

    def _end(self, outcome: Outcome, job: Job) -> None:
        self.outcomes[job.id] = replace(outcome, sent_bytes=self._sent.get(job.id, 0))
        self._waiting.pop(job.id, None)
        self._counts[outcome.status] += 1
        self._cost_left -= job.cost
        self._last_end = time.monotonic()
        if outcome.status == "done" and outcome.seconds is not None:
            self._cost_done += job.cost
            self._seconds_done += outcome.seconds


def _no_more_jobs(error: BaseException) -> RunError:
    return RunError(
        f"the executor takes no more jobs: {error}. What is finished is kept; the same command continues."
    )
