"""Executors of this machine: this process itself, or worker processes with their own threads or GPU each.

A pool is the standard library's `ThreadPoolExecutor`, each of whose threads has a worker process behind a
socket. Its `ProcessPoolExecutor` ends all workers when one dies, and imports the caller's main module again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import veridical
from veridical.jobs.execution import own_the_process
from veridical.runtime.checking import Processes, check_value
from veridical.runtime.errors import RunError, UsageError, argument_error

P = ParamSpec("P")
T = TypeVar("T")

_MOST_FALSE_STARTS = 10  # workers in a row that end before they are ready: the next ones would, too
_CARDS = "CUDA_VISIBLE_DEVICES"
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class WorkerLost(BrokenExecutor):
    """The process that ran a call is gone (killed, crashed, out of memory); the executor goes on."""


def workers_of(executor: Executor | None) -> int:
    """How many calls run at a time; None is this process, and an executor that does not say counts as one."""
    return int(getattr(executor, "workers", 1))


class InProcess(Executor):
    """Runs every call at once, in the thread that submits it."""

    workers = 1

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the call and return its finished future; Ctrl-C passes through."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whoever asks the future gets it
            future.set_exception(error)
        return future


class ProcessPool(ThreadPoolExecutor):
    """Fresh Python processes, started when needed, that make one call at a time.

    workers: as many as cores (divided by `threads`) unless given. threads: of each worker's numerical
    libraries. gpus: "all" or numbers of visible GPUs: each worker sees one, and each GPU serves up to
    `per_gpu` workers. A worker that dies fails the call it was making with `WorkerLost` and is replaced.
    Workers end with this process, however it ends. As a context manager the pool waits for its calls, but
    kills them on an exception.
    """

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
        self._team = [_Worker(place) for place in _worker_environments(workers, threads, gpus, per_gpu)]
        self.workers = len(self._team)
        super().__init__(self.workers, thread_name_prefix="process pool")
        # Last in, first out: a worker that runs is used before another is started.
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in reversed(self._team):
            self._idle.put(worker)
        self._broken_by = ""
        self._false_starts = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call; function and arguments are pickled now."""
        payload = pickle.dumps((fn, args, kwargs))
        if self._broken_by:
            raise BrokenExecutor(self._broken_by)
        return super().submit(self._call, payload)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, make those that are queued (or cancel them), and end the workers.

        Without `wait` the workers end with this process.
        """
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for worker in self._team:
                worker.dismiss()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is not None:
            self._broken_by = "the pool was shut down"
            super().shutdown(wait=False, cancel_futures=True)
            for worker in self._team:
                worker.kill()
        self.shutdown()
        return None

    def processes(self) -> list[int]:
        """Return the process numbers of the workers that run now."""
        return [worker.pid for worker in self._team if worker.is_running()]

    def _call(self, payload: bytes) -> Any:
        """Let an idle worker make a call; there is one, since there are as many workers as threads."""
        worker = self._idle.get()
        try:
            while not worker.is_running() and not self._broken_by:
                self._start(worker)
            # After the start: either this sees that the pool is being killed, or that finds the process.
            if self._broken_by:
                raise BrokenExecutor(self._broken_by)
            is_result, value = worker.call(payload)
        finally:
            self._idle.put(worker)
        if is_result:
            return value
        raise value

    def _start(self, worker: _Worker) -> None:
        """Start a worker's process; the pool is broken when the last ones all ended at once."""
        try:
            worker.start()
            self._false_starts = 0
        except OSError as error:  # no process can be started
            self._broken_by = f"{type(error).__name__}: {error}"
        except WorkerLost as error:
            self._false_starts += 1
            if self._false_starts >= _MOST_FALSE_STARTS:
                self._broken_by = (
                    f"{self._false_starts} workers in a row ended while they started; the last: {error}"
                )


class _Worker:
    """One process, or the place for one; `environment` is set before it starts, so before any import."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and wait until it is ready; WorkerLost if it ends before."""
        self.dismiss()
        # Where the process finds Veridical; everything else comes from our own sys.path, which it is sent.
        paths = [str(Path(veridical.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._connection, theirs = Pipe()
        # `_serve` by name and not as the main module, which would be a second copy of this one.
        main = f"from veridical.jobs.pool import _serve; _serve({theirs.fileno()}, {os.getpid()})"
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with fixed arguments
                [sys.executable, "-P", "-c", main],
                env={**os.environ, **self._environment, "PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self.call(pickle.dumps(sys.path))

    def call(self, payload: bytes) -> Any:
        """Send a message and return the answer to it; WorkerLost if the process ends before."""
        assert self._process is not None
        assert self._connection is not None
        try:
            self._connection.send_bytes(payload)
            # A process that the worker forked may keep the socket open, so its own life counts.
            while not self._connection.poll(1.0):
                if not self.is_running() and not self._connection.poll(0.0):
                    raise EOFError
            return self._connection.recv()
        except (OSError, EOFError):
            raise WorkerLost(f"worker process {self.pid} {self._end()}") from None

    def kill(self) -> None:
        """End the process at once; whoever waits for its answer gets a WorkerLost."""
        if self._process is not None:
            self._process.kill()

    def dismiss(self) -> None:
        """Close the socket, which ends an idle process, and wait for it."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._exit_code()

    def _exit_code(self) -> int:
        """How the process ended, -9 for SIGKILL; one that goes on without its socket is killed."""
        assert self._process is not None
        try:
            return self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _end(self) -> str:
        """The same in words, to complete "worker process 7 ..."."""
        code = self._exit_code()
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = ", which the system also sends when memory runs out" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"


# --- in the worker process -------------------------------------------------------------------------------


def _serve(descriptor: int, parent: int) -> None:
    """Make the calls that arrive at a socket until it closes: the whole of a worker process."""
    # Ctrl-C reaches all processes of a terminal; what to do about it is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    own_the_process()
    faulthandler.enable(all_threads=False)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    connection: Connection[Any, Any] = Connection(descriptor)
    # The parent may close its end, or go, at any moment.
    with contextlib.suppress(OSError, EOFError):
        sys.path[:] = connection.recv()
        connection.send(True)
        while True:
            connection.send_bytes(_answer(connection.recv_bytes()))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, whose end of the socket a process that it forked may hold."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _answer(call: bytes) -> bytes:
    """Make one call and pickle (True, what it returned) or (False, what it raised)."""
    try:
        function, args, kwargs = pickle.loads(call)  # noqa: S301 - from our own parent, through a private socket
        return pickle.dumps((True, function(*args, **kwargs)))
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        trace = traceback.format_exc()
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)  # noqa: S301 - some errors are pickled but cannot be read again
        except Exception:  # noqa: BLE001 - whatever its pickling raises
            answer = pickle.dumps((False, RunError(trace)))
        return answer


# --- what a worker may use -------------------------------------------------------------------------------


def _worker_environments(
    workers: int | None, threads: int, gpus: Sequence[int] | str | None, per_gpu: int
) -> list[dict[str, str]]:
    """Return the variables of each worker; without `workers`, one worker per core or place on a GPU.

    gpus: None leaves GPUs alone; "all", or numbers among the visible ones, give each worker one card and each
    card up to `per_gpu` workers.
    """
    check_value("per_gpu", per_gpu, Processes | None)
    check_value("workers", workers, Processes | None)
    base = process_environment(threads)
    if gpus is None:
        return [dict(base) for _ in range(workers or max(1, usable_cores() // threads))]
    visible = visible_cards()
    if not visible:
        raise UsageError("gpus: GPUs were asked for, but none is visible. Leave gpus out to use the CPU.")
    if gpus == "all":
        gpus = range(len(visible))
    if isinstance(gpus, str) or not gpus or not all(number in range(len(visible)) for number in gpus):
        raise argument_error("gpus", gpus, f'"all" or numbers from 0 to {len(visible) - 1}')
    # Round the cards first, so that fewer workers than places spread over all cards.
    places = [visible[number] for number in gpus] * per_gpu
    if workers is not None and workers > len(places):
        expected = f"at most {len(places)} on these GPUs"
        raise argument_error("workers", workers, expected, "Raise per_gpu to let more share a card.")
    return [base | {_CARDS: card} for card in places[:workers]]


def process_environment(threads: int) -> dict[str, str]:
    """Return the variables of a worker: its threads, for every library that might have its own, and safety.

    Python would put the folder that a process is started in before its own library, and run a json.py there.
    """
    check_value("threads", threads, Processes | None)
    return dict.fromkeys(_THREADS, str(threads)) | {"PYTHONSAFEPATH": "1"}


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, within a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no container, or not Linux
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def visible_cards() -> tuple[str, ...]:
    """Name the GPUs that this process may use, as CUDA_VISIBLE_DEVICES or the driver names them."""
    named = os.environ.get(_CARDS)
    if named is None:
        tool = shutil.which("nvidia-smi")
        if tool is None:
            return ()
        query = [tool, "--query-gpu=index", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
        named = ",".join(listed.stdout.split()) if listed.returncode == 0 else ""
    cards = [card.strip() for card in named.split(",")]
    return tuple(card for card in cards if card not in ("", "-1"))
