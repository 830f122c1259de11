"""Jobs on a Dask cluster that runs somewhere, by its scheduler's address.

Scheduler and workers of a cluster of your own are started with the variables of `cluster_environment`, say
`dask scheduler --host 127.0.0.1` and, per machine, `dask worker ADDRESS --nthreads 1 --nworkers 8
--memory-limit 0`; for GPUs one worker per place, each with its CUDA_VISIBLE_DEVICES. All of them need the
same Veridical, and the store at the same path.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from importlib import import_module
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from veridical.jobs.pool import WorkerLost, process_environment
from veridical.runtime.errors import RunError, UsageError, argument_error

P = ParamSpec("P")
T = TypeVar("T")

SETTINGS: dict[str, Any] = {
    # A job that holds the interpreter for minutes is no dead worker; a dead one closes its connection.
    "distributed.scheduler.worker-ttl": None,
    # One job at a time goes to a worker, in the order of submission, and stays there.
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-saturation": 1.0,
    # A lost worker is told at once, and the engine counts the retries.
    "distributed.scheduler.allowed-failures": 0,
    # Memory is the jobs' own, not Dask's to spill, and a full machine is no reason to kill.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


def cluster_environment(threads: int = 1) -> dict[str, str]:
    """Return the variables for `dask scheduler` and `dask worker`: `SETTINGS`, and those of a worker."""
    return process_environment(threads) | {
        "DASK_" + name.replace(".", "__").replace("-", "_").upper(): repr(value)
        for name, value in SETTINGS.items()
    }


class Dask(Executor):
    """The workers of a Dask scheduler.

    cluster: the scheduler's address, or a `distributed.Client`, which stays open. An address on another
    machine must be tls://, with certificates from Dask's configuration or `security` (a
    `distributed.Security`), unless `insecure` allows plain TCP: whoever reaches a scheduler runs code on its
    workers. patience: seconds to wait for the scheduler, for a first worker, and for a result that is there.
    """

    def __init__(
        self, cluster: str | Any, *, security: Any = None, insecure: bool = False, patience: float = 60.0
    ) -> None:
        try:
            distributed: Any = import_module("distributed")
        except ModuleNotFoundError as error:
            hint = "pip install 'veridical[cluster]', here and on all workers."
            raise UsageError(f"Dask is not installed: {hint}") from error
        self._lost_errors: tuple[type[BaseException], ...] = (distributed.scheduler.KilledWorker,)
        self._patience, self._opened = patience, isinstance(cluster, str)
        if isinstance(cluster, str):
            _check_address(cluster, insecure)
            _check_certificates(cluster, security or distributed.Security())
            try:
                cluster = distributed.Client(
                    cluster, security=security, timeout=patience, set_as_default=False
                )
            except OSError as error:
                raise RunError(
                    f"no Dask scheduler answered at {cluster} within {patience:g} s: {error}"
                ) from error
        self._client, self._closed, self._submitted = cluster, False, 0
        try:
            self._client.wait_for_workers(1, timeout=patience)
        except TimeoutError as error:
            self.shutdown(wait=False)
            raise RunError(f"no worker came to the Dask scheduler within {patience:g} s.") from error
        self.workers = sum(self._client.nthreads().values())

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send a call to the scheduler; earlier calls go first."""
        if self._closed or self._client.status != "running":
            raise BrokenExecutor("the Dask scheduler is gone, or this client was closed")
        self._submitted += 1
        remote = self._client.submit(
            partial(fn, *args, **kwargs),
            # Keys of one prefix are one group to Dask, which holds back what no worker is free for.
            key=f"job-{secrets.token_hex(12)}",
            priority=-self._submitted,
            pure=False,
        )
        future: Future[T] = Future()
        remote.add_done_callback(partial(self._pass_on, future))
        future.add_done_callback(lambda ended: remote.cancel() if ended.cancelled() else None)
        return future

    def _pass_on(self, future: Future[Any], remote: Any) -> None:
        """Give what Dask's future got to ours, in Dask's thread for callbacks."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            # Without a limit a call that the closing of the client overtakes waits for ever, and since Dask's
            # thread for callbacks is no daemon, Python would not end.
            if remote.status == "finished":
                future.set_result(remote.result(timeout=self._patience))
            elif remote.status == "error":
                error = remote.exception(timeout=self._patience)
                future.set_exception(
                    WorkerLost(str(error)) if isinstance(error, self._lost_errors) else error
                )
            else:
                future.set_exception(WorkerLost("the Dask scheduler is gone, or dropped the call"))
        except Exception as broken:  # noqa: BLE001 - the connection broke while the result came
            future.set_exception(WorkerLost(f"{type(broken).__name__}: {broken}"))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Close the connection if this object opened it: calls that did not start are dropped.

        There is nothing to wait for, since `run_jobs` returns when all is collected.
        """
        self._closed = True
        if self._opened:
            self._client.close()


def _check_address(address: str, insecure: bool) -> None:
    """Raise a UsageError for a scheduler's address on another machine without TLS, unless `insecure`."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if not parts.hostname or parts.scheme not in ("tcp", "tls"):
        raise argument_error(
            "scheduler", address, "an address such as tcp://127.0.0.1:8786 or tls://host:8786"
        )
    if parts.scheme == "tls" or insecure or _is_here(parts.hostname):
        return
    risk = "Over plain TCP anybody in between can run code on the workers"
    hint = f"{risk}; --insecure allows it in a network that you trust."
    raise argument_error("scheduler", address, "a tls:// address, or one on this machine", hint)


def _check_certificates(address: str, security: Any) -> None:
    """Raise a UsageError for a tls:// address without certificates, which Dask would report by a type."""
    if address.startswith("tls:") and security.get_connection_args("client").get("ssl_context") is None:
        raise argument_error(
            "scheduler",
            address,
            "an address for which there are certificates",
            "Name them in Dask's configuration, or as DASK_DISTRIBUTED__COMM__TLS__CA_FILE, "
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT and DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY.",
        )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
