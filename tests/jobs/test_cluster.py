"""A Dask cluster: scheduler and workers as processes of their own over TCP, one of them killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from veridical.jobs import InProcess, Job, Store, WorkerLost, run_jobs
from veridical.jobs.cluster import SETTINGS, Dask, _check_address, cluster_environment
from veridical.runtime.errors import RunError, UsageError

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a module as a process; none outlives its test."""
    started: list[subprocess.Popen[bytes]] = []

    def module(*command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | cluster_environment() | {"DASK_LOGGING__DISTRIBUTED": "critical"},
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield module
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def scheduler(start: Start, tmp_path: Path, until: Callable[..., None]) -> tuple[Any, str]:
    """A scheduler with two workers, each a process; the scheduler's process and address."""
    for name in ("multiprocessing", "json"):  # the current folder is nowhere that a worker looks
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write({name!r})\n")
    contact = tmp_path / "scheduler.json"
    local = ["--host", "127.0.0.1", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    process = start("distributed.cli.dask_scheduler", *local, "--port", "0", "--scheduler-file", str(contact))
    # The file exists for a moment before it has a content.
    until(lambda: contact.exists() and contact.read_text().rstrip().endswith("}"))
    address = json.loads(contact.read_text())["address"]
    for _ in range(2):
        options = ["--nthreads", "1", "--memory-limit", "0", "--no-nanny"]
        start("distributed.cli.dask_worker", address, *local, *options)
    return process, address


def test_a_worker_is_killed_and_the_results_are_those_of_one_process(
    scheduler: tuple[Any, str],
    store: Store,
    tmp_path: Path,
    until: Callable[..., None],
    lines: Callable[[Path], list[str]],
) -> None:
    process, address = scheduler
    started, go = tmp_path / "started", tmp_path / "go"
    held = Job("job_functions:hold", {"x": 1}, {"started": str(started), "go": str(go)}, cost=9.0)
    bad = Job("job_functions:fail", {})
    jobs = [
        Job("job_functions:steps", {"seed": seed, "count": 3, "seconds": 0.02}, cost=5.0) for seed in range(8)
    ]

    def kill() -> None:
        until(lambda: lines(started))
        os.kill(int(lines(started)[0]), signal.SIGKILL)
        until(lambda: len(lines(started)) == 2)
        go.touch()

    with Dask(address) as cluster:
        killer = threading.Thread(target=kill)
        killer.start()
        outcomes = run_jobs([held, bad, *jobs], store, cluster, trust_code=True)
        killer.join()
        here = run_jobs(jobs, Store(tmp_path / "here"), InProcess(), trust_code=True)
        assert {name: outcomes[name].result for name in here} == {
            name: outcome.result for name, outcome in here.items()
        }
        assert (outcomes[held.id].status, outcomes[held.id].result) == ("done", {"x": 1})
        record = store.record(held)
        assert record is not None
        assert record["environment"]["threads"] == "1"
        assert (store.folder(held) / "log.txt").read_text().count("--- begun") == 2
        assert outcomes[bad.id].error == "ValueError: no good"
        assert "last words" in outcomes[bad.id].log_tail
        assert all(0 < outcome.sent_bytes < 1200 for outcome in outcomes.values())
        assert not (tmp_path / "RAN").exists()

        waiting = Job("job_functions:hold", {"x": 2}, {"started": str(tmp_path / "s"), "go": "/nowhere"})

        def kill_scheduler() -> None:
            until((tmp_path / "s").exists)
            process.kill()

        killer = threading.Thread(target=kill_scheduler)
        killer.start()
        with pytest.raises(RunError, match="scheduler is gone"):
            run_jobs([waiting], store, cluster, trust_code=True)
        killer.join()


def test_a_stopped_worker_is_told(
    scheduler: tuple[Any, str], run_while_stopped: Callable[[Dask], int]
) -> None:
    with Dask(scheduler[1]) as cluster:
        run_while_stopped(cluster)


@pytest.mark.parametrize(
    ("address", "refused", "refused_when_insecure"),
    [
        *((here, None, None) for here in ("tcp://127.0.0.1:8786", "127.0.0.1:8786", "localhost:8786")),
        ("tcp://[::1]:8786", None, None),
        ("tls://10.0.0.1:8786", None, None),
        *((other, "--insecure", None) for other in ("tcp://10.0.0.1:8786", "10.0.0.1:8786")),
        ("tcp://localhost.evil.org:8786", "--insecure", None),
        *((text, "an address such as", "an address such as") for text in ("", "ws://127.0.0.1:80", "tcp://")),
    ],
)
def test_other_machines_need_tls_or_a_word(
    address: str, refused: str | None, refused_when_insecure: str | None
) -> None:
    for insecure, message in ((False, refused), (True, refused_when_insecure)):
        if message is None:
            _check_address(address, insecure)
        else:
            with pytest.raises(UsageError, match=message):
                Dask(address, insecure=insecure)


def test_dask_reads_the_settings_from_the_environment() -> None:
    from dask import config

    variables = cluster_environment(threads=3)
    read = config.collect_env(variables)
    assert {name: config.get(name, config=read) for name in SETTINGS} == SETTINGS
    assert (variables["OMP_NUM_THREADS"], variables["PYTHONSAFEPATH"]) == ("3", "1")


def test_tls_needs_certificates() -> None:
    with pytest.raises(UsageError, match="CA_FILE"):
        Dask("tls://127.0.0.1:1")


def test_nobody_at_an_address_is_an_error_in_time() -> None:
    with pytest.raises(RunError, match="no Dask scheduler answered"):
        Dask("tcp://127.0.0.1:1", patience=0.5)


def test_a_result_that_never_arrives_is_a_lost_worker() -> None:
    """As when the client is closed while it fetches: it must not hold up the end of Python."""
    waited: list[float | None] = []

    class Remote:
        status = "finished"

        def add_done_callback(self, call: Callable[[Any], None]) -> None:
            call(self)

        def result(self, timeout: float | None = None) -> Any:
            waited.append(timeout)
            raise TimeoutError("no answer")

    class Client:
        status = "running"

        def wait_for_workers(self, count: int, timeout: float) -> None:
            pass

        def nthreads(self) -> dict[str, int]:
            return {"tcp://127.0.0.1:1": 1}

        def submit(self, *_: Any, **__: Any) -> Remote:
            return Remote()

    error = Dask(Client(), patience=0.5).submit(len, "call").exception(timeout=5)
    assert isinstance(error, WorkerLost)
    assert "no answer" in str(error)
    assert waited == [0.5]
