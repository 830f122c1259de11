"""The simplest executor, and what all of them say when a worker is gone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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
