"""A pool of processes in which a lost worker costs one call, and nobody else notices."""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from multiprocessing import Pipe
from multiprocessing.connection import wait
from types import TracebackType
from typing import ParamSpec, TypeVar

from veridical.jobs.executors import WorkerLost
from veridical.jobs.pinning import worker_environments
from veridical.jobs.worker import ALIVE, READY
from veridical.jobs.worker_process import Call, WorkerProcess
from veridical.runtime.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")

_LOOK = 1.0  # seconds between looks whether busy workers live, when no connection told
_SILENT = 30.0  # seconds without a sign of life, of which there is one a second, until somebody is told
# Workers in a row that end before they are ready, by themselves or of a signal: the next ones would, too.
_FALSE_STARTS, _KILLED_STARTS = 3, 20


class ProcessPool(Executor):
    """Fresh Python processes, started when needed, that make one call at a time.

    workers: as many as cores (divided by `threads`) unless given. threads: of each worker's numerical
    libraries. gpus: "all" or numbers of visible GPUs: each worker sees one, and each GPU serves up to
    `per_gpu` workers. A worker that dies fails the call it was making with `WorkerLost` and is replaced.
    Workers die with this process, however it ends. As a context manager the pool waits for its calls, but
    kills them on an exception.
    """

    names_silent_workers = True

    def __init__(
        self,
        workers: int | None = None,
        threads: int = 1,
        *,
        gpus: Sequence[int] | str | None = None,
        per_gpu: int = 1,
    ) -> None:
        if os.name != "posix":
            raise UsageError("ProcessPool needs Linux or macOS. Use InProcess, or Dask with a cluster.")
        self._free = worker_environments(workers, threads, gpus, per_gpu)
        self.workers = len(self._free)
        self._team: list[WorkerProcess] = []
        self._pending: deque[Call] = deque()
        self._lock = threading.Lock()
        self._heard, self._bell = Pipe(duplex=False)
        self._rung = self._closing = self._killing = False
        self._false_starts = self._killed_starts = 0
        self._broken = ""
        self._manager: threading.Thread | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call; function and arguments are pickled now."""
        payload = pickle.dumps((fn, args, kwargs))
        future: Future[T] = Future()
        with self._lock:
            if self._broken:
                raise BrokenExecutor(self._broken)
            if self._closing:
                raise RuntimeError("the pool was shut down")
            self._pending.append(Call(payload, future))
            if self._manager is None:
                self._manager = threading.Thread(target=self._manage, name="process pool", daemon=True)
                self._manager.start()
            self._ring()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, make those that are queued (or cancel them), and end the workers."""
        with self._lock:
            self._closing = True
            queued = [*self._pending] if cancel_futures else []
            self._ring()
        for call in queued:
            call.future.cancel()
        if wait and self._manager is not None:
            self._manager.join()

    def kill(self) -> None:
        """End the workers at once; their calls fail."""
        self._killing = True
        self.shutdown(cancel_futures=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if kind is None:
            self.shutdown()
        else:
            self.kill()
        return None

    def processes(self) -> list[int]:
        """Return the process numbers of the workers that run now."""
        with self._lock:
            return [worker.pid for worker in self._team]

    def _ring(self) -> None:
        """Wake the manager, with the lock held; one bell is enough for all that happened."""
        if not self._rung:
            self._rung = True
            self._bell.send_bytes(b"!")

    def _manage(self) -> None:
        """The manager's thread: the only one that speaks with workers."""
        try:
            while self._assign():
                self._listen()
        except OSError as error:  # no process can be started
            self._broken = f"{type(error).__name__}: {error}"
        finally:
            with self._lock:
                self._broken = self._broken or "the pool was shut down"
                left, self._pending = [*self._pending], deque()
                team, self._team = self._team, []
            for call in left:
                if call.future.set_running_or_notify_cancel():
                    call.future.set_exception(BrokenExecutor(self._broken))
            for worker in team:
                worker.dismiss(patience=0.0 if self._killing else 5.0)
                if worker.call is not None:
                    worker.call.future.set_exception(WorkerLost(self._broken))

    def _assign(self) -> bool:
        """Give calls to idle workers and start what is missing; False when there is nothing left to do."""
        with self._lock:
            idle = [worker for worker in self._team if worker.ready and worker.call is None]
            while idle and self._pending:
                call = self._pending.popleft()
                if call.future.set_running_or_notify_cancel():
                    idle.pop().give(call)
            starting = sum(not worker.ready for worker in self._team)
            for _ in range(min(len(self._free), len(self._pending) - starting)):
                self._team.append(WorkerProcess(self._free.pop(0)))
            busy = any(worker.call is not None for worker in self._team)
            if self._killing or self._broken:
                return False
            return bool(not self._closing or self._pending or busy)

    def _listen(self) -> None:
        """Wait until a worker says something or dies, or a call is submitted."""
        engaged = any(not worker.ready or worker.call is not None for worker in self._team)
        connections = [self._heard, *(worker.connection for worker in self._team)]
        spoke = wait(connections, timeout=_LOOK if engaged else None)
        if self._heard in spoke:
            with self._lock:
                self._heard.recv_bytes()
                self._rung = False
        for worker in list(self._team):
            if worker.connection in spoke:
                self._hear(worker)
            elif not worker.alive():
                self._lose(worker)
            elif not worker.silent and time.monotonic() - worker.heard > _SILENT:
                worker.silent = True
                logging.getLogger(__name__).warning(
                    "worker process %d has given no sign of life for %.0f s and is waited for. If it is "
                    "stopped, `kill -CONT %d` lets it go on.",
                    *(worker.pid, _SILENT, worker.pid),
                )

    def _hear(self, worker: WorkerProcess) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker)
            return
        except Exception as error:  # noqa: BLE001 - what came cannot be read here, an error's class say
            message = (False, error)
        worker.heard = time.monotonic()
        if message == ALIVE:
            return
        if message == READY:
            worker.ready, self._false_starts, self._killed_starts = True, 0, 0
            return
        call, worker.call = worker.call, None
        assert call is not None, "a worker answers only what it was asked"
        answered, value = message
        if answered:
            call.future.set_result(value)
        else:
            call.future.set_exception(value)

    def _lose(self, worker: WorkerProcess) -> None:
        """Fail the call of a worker that is gone; its place is free for another."""
        code = worker.exit_code()
        worker.connection.close()
        with self._lock:
            self._team.remove(worker)
            self._free.append(dict(worker.environment))
            if not worker.ready:
                self._false_starts += code >= 0
                self._killed_starts += code < 0
            starts = self._false_starts + self._killed_starts
            if self._false_starts >= _FALSE_STARTS or self._killed_starts >= _KILLED_STARTS:
                self._broken = f"{starts} workers in a row ended while they started; the last {worker.end()}"
        if worker.call is not None:
            worker.call.future.set_exception(WorkerLost(f"worker process {worker.pid} {worker.end()}"))
