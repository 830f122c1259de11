"""The state of one call of `run_jobs`: what was submitted, what another command runs, what is over."""

from __future__ import annotations

import pickle
import queue
import time
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import replace
from typing import Any

from veridical.jobs.claims import Watch
from veridical.jobs.execution import execute, task
from veridical.jobs.executors import InProcess, WorkerLost
from veridical.jobs.job import Job
from veridical.jobs.outcome import Outcome, Progress
from veridical.jobs.store import Store
from veridical.runtime.errors import RunError

Answer = dict[str, Any]


class Session:
    """Jobs by id on their way to an outcome each."""

    def __init__(
        self, jobs: Mapping[str, Job], store: Store, executor: Executor, retries: int, trust_code: bool
    ) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._jobs, self._store, self._executor = jobs, store, executor
        self._retries, self._trust_code = retries, trust_code
        self._running: dict[Future[Answer], Job] = {}
        self._finished: queue.SimpleQueue[Future[Answer]] = queue.SimpleQueue()
        self._waiting: dict[str, Job] = {}
        self._watch, self._looked = Watch(store.stale_after), 0.0
        self._listened = time.monotonic()
        self._losses: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._counts = {"done": 0, "reused": 0, "failed": 0}
        self._cost_left = sum(job.cost for job in jobs.values())
        self._cost_done = self._seconds_done = 0.0
        self._last_end = time.monotonic()

    def reuse(self) -> list[Job]:
        """Settle the jobs that have a result in the store, and return the others."""
        for job in self._jobs.values():
            self._settle_from_store(job)
        return [job for name, job in self._jobs.items() if name not in self.outcomes]

    def submit(self, job: Job, takeover: int | None = None) -> None:
        """Hand a job to the executor; a RunError when that takes no more."""
        message = task(job, self._store, self._trust_code, takeover)
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
        except (WorkerLost, CancelledError) as error:
            self._lost(job, error)
        except BrokenExecutor as error:
            raise _no_more_jobs(error) from error
        except Exception as error:  # noqa: BLE001 - the job could not be run at all; the others may
            self._fail(job, f"{type(error).__name__}: {error}")
        else:
            self._settle(job, answer)
        return True

    def look_at_waiting(self, every: float) -> None:
        """Look, at most so often, whether jobs of other commands got their result or lost their owner."""
        if not self._waiting or time.monotonic() - self._looked < every:
            return
        self._looked = time.monotonic()
        for job in list(self._waiting.values()):
            if not self._settle_from_store(job):
                free, takeover = self._watch.free(self._store.folder(job))
                if free:
                    del self._waiting[job.id]
                    self.submit(job, takeover)

    def listen_to_running(self) -> None:
        """Say, now and then, whose worker gives no sign of life; a pool says so of its own."""
        if getattr(self._executor, "names_silent_workers", False):
            return
        if time.monotonic() - self._listened < self._store.stale_after / 2:
            return
        self._listened = time.monotonic()
        for job in self._running.values():
            if job.id not in self._losses:  # the last sign may be that of the worker that was lost
                self._watch.tell_of_silence(self._store.folder(job))

    def over(self) -> bool:
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
        if self.over() or not workers:
            return 0.0 if self.over() else None
        slowness = self._seconds_done / self._cost_done if self._cost_done else 1.0
        # All workers have worked since the last job ended.
        return max(0.0, slowness * self._cost_left / workers - (time.monotonic() - self._last_end))

    def _settle(self, job: Job, answer: Answer) -> None:
        status = answer["status"]
        if status == "busy":
            self._waiting[job.id] = job
        elif status == "failed":
            self._fail(job, answer["error"], answer["log_tail"])
        else:
            self._end(Outcome(job.id, status, answer["result"], answer["seconds"]), job)

    def _settle_from_store(self, job: Job) -> bool:
        """Settle a job whose result is in the store; say whether it is settled."""
        try:
            record = self._store.record(job)
        except RunError as error:  # a damaged file: this job's trouble alone
            self._fail(job, str(error))
            return True
        if record is not None:
            self._end(Outcome(job.id, "reused", record["result"], record["seconds"]), job)
        return record is not None

    def _lost(self, job: Job, error: BaseException) -> None:
        """Submit a job again whose worker is gone, as often as allowed."""
        losses = self._losses[job.id] = self._losses.get(job.id, 0) + 1
        if losses <= self._retries:
            self.submit(job)
            return
        times = "once" if losses == 1 else f"{losses} times"
        told = str(error) or type(error).__name__
        text = f"its worker was lost {times} (killed, crashed or out of memory): {told}"
        self._fail(job, text, self._store.log_tail(job))

    def _fail(self, job: Job, error: str, log_tail: str = "") -> None:
        self._end(Outcome(job.id, "failed", None, error=error, log_tail=log_tail), job)

    def _end(self, outcome: Outcome, job: Job) -> None:
        sent = self._sent.get(job.id, 0)
        self.outcomes[job.id] = replace(outcome, sent_bytes=sent)
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
