"""Worker processes: what they see and may use, what their death costs, and how they end."""

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from veridical.jobs import Job, ProcessPool, Store, run_jobs
from veridical.jobs import pool as module
from veridical.jobs.pool import _worker_environments, usable_cores, visible_cards
from veridical.runtime.errors import RunError, UsageError

CARDS = "CUDA_VISIBLE_DEVICES"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the pool is for POSIX systems")


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    with ProcessPool(2) as pool:
        yield pool


def test_workers_see_one_thread_and_one_card_and_say_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"]
    job = Job("job_functions:environment", {"names": names})
    with ProcessPool(1, gpus=[1]) as pool:
        (outcome,) = run_jobs([job], store, pool, trust_code=True).values()
    # The package must not import the module that a worker runs: Python would warn in each of them.
    assert capfd.readouterr() == ("", "")
    assert 0 < outcome.sent_bytes < 800, "more than a job's values travelled"
    assert outcome.result == dict(zip(names, ["1", "1", "5"], strict=True))
    record = store.record(job)
    assert record is not None
    assert (record["environment"]["threads"], record["environment"]["gpu"]) == ("1", "5")


def test_a_death_costs_its_job_a_retry_and_nobody_else_anything(store: Store, pool: ProcessPool) -> None:
    once = Job("job_functions:die", {"times": 1}, cost=9.0)
    always = Job("job_functions:die", {"times": 99, "signal": "SIGABRT"}, cost=8.0)
    others = [Job("job_functions:echo", {"x": number}) for number in range(6)]
    outcomes = run_jobs([once, always, *others], store, pool, trust_code=True)
    assert outcomes[once.id].status == "done"
    assert outcomes[once.id].result == {"deaths": 1}
    failed = outcomes[always.id]
    assert failed.status == "failed"
    assert "lost 2 times" in str(failed.error)
    assert "SIGABRT" in str(failed.error)
    assert "from a child" in failed.log_tail, "also what other programs print into the descriptors"
    assert "Fatal Python error: Aborted" in failed.log_tail
    for job in others:
        assert outcomes[job.id].status == "done"
        assert (store.folder(job) / "log.txt").read_text().count("--- begun") == 1


def test_it_is_an_executor(pool: ProcessPool) -> None:
    assert list(pool.map(abs, range(-3, 0))) == [3, 2, 1]
    assert pool.submit(sorted, [3, 1, 2], reverse=True).result() == [3, 2, 1]
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    with pytest.raises(SystemExit):
        pool.submit(sys.exit, 3).result()
    with pytest.raises(RunError, match="cannot travel"):  # it comes as its traceback
        pool.submit(exec, "import job_functions; job_functions.raise_local()").result()
    with pytest.raises(AttributeError):
        pool.submit(lambda: 1)  # nobody could call it there
    slow = [pool.submit(time.sleep, 0.2) for _ in range(2)]
    waiting = pool.submit(abs, -1)
    assert waiting.cancel()
    assert [future.result() for future in slow] == [None, None]
    queued = pool.submit(abs, -2)
    pool.shutdown()
    assert queued.result() == 2
    assert pool.processes() == []
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(abs, -3)


def test_an_exception_inside_the_with_block_kills_what_runs(
    until: Callable[..., None], gone: Callable[[int], bool]
) -> None:
    pool = ProcessPool(1)
    with pytest.raises(KeyboardInterrupt), pool:  # noqa: PT012 - the block is what is tested
        running = pool.submit(time.sleep, 600)
        queued = pool.submit(time.sleep, 600)
        until(pool.processes)
        (pid,) = pool.processes()
        raise KeyboardInterrupt
    assert gone(pid)
    assert queued.cancelled()
    with pytest.raises(BrokenExecutor):
        running.result()


def test_workers_that_are_killed_while_they_start_cost_no_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    # Python imports this before anything of ours.
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, time\nwhile os.path.exists({str(slow)!r}):\n    time.sleep(0.01)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with ProcessPool(1) as pool:
        future = pool.submit(abs, -3)
        killed: set[int] = set()
        for _ in range(6):
            until(lambda: set(pool.processes()) - killed)
            (pid,) = set(pool.processes()) - killed
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        slow.unlink()
        assert future.result() == 3


def test_a_stopped_worker_is_named_once(
    run_while_stopped: Callable[[ProcessPool], int], caplog: pytest.LogCaptureFixture
) -> None:
    with ProcessPool(1) as pool:
        pid = run_while_stopped(pool)
    assert f"process {pid} " in caplog.messages[0]


def test_workers_that_cannot_start_break_the_pool(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    job = Job("job_functions:echo", {})
    with ProcessPool(1) as pool:
        with pytest.raises(RunError, match="workers in a row"):
            run_jobs([job], store, pool, trust_code=True)
        with pytest.raises(BrokenExecutor):
            pool.submit(abs, 1)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with ProcessPool(1) as pool, pytest.raises(RunError, match="nowhere"):
        run_jobs([job], store, pool, trust_code=True)


def cards_of(environments: list[dict[str, str]]) -> list[str | None]:
    return [environment.get(CARDS) for environment in environments]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three GPUs, as the driver's tool lists them."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(CARDS, raising=False)


def test_workers_are_as_many_as_cores_divided_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 8)
    assert len(_worker_environments(None, 1, None, 1)) == 8
    assert len(_worker_environments(None, 3, None, 1)) == 2
    assert len(_worker_environments(None, 9, None, 1)) == 1
    (environment,) = _worker_environments(1, 3, None, 1)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert CARDS not in environment, "the GPUs of a CPU pool are nobody's business"


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)]
)
def test_a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(module, "_CPU_QUOTA", tmp_path / "cpu.max")
    assert usable_cores() == 4
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores() == cores


@pytest.mark.usefixtures("driver")
def test_each_worker_gets_one_card_and_each_card_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_cards() == ("0", "1", "2")
    assert cards_of(_worker_environments(None, 1, "all", 1)) == ["0", "1", "2"]
    assert cards_of(_worker_environments(None, 1, [0, 2], 2)) == ["0", "2", "0", "2"]
    # Fewer workers than places spread over the cards.
    assert cards_of(_worker_environments(3, 1, [1, 2], 2)) == ["1", "2", "1"]
    with pytest.raises(UsageError, match="per_gpu"):
        _worker_environments(4, 1, "all", 1)
    with pytest.raises(UsageError, match="from 0 to 2"):
        _worker_environments(None, 1, [3], 1)
    none: list[int] = []
    for gpus in (none, "0"):
        with pytest.raises(UsageError, match="gpus"):
            _worker_environments(None, 1, gpus, 1)
    for numbers in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(UsageError, match="from 1"):
            _worker_environments(numbers[0], numbers[1], None, numbers[2])
    # Numbers count among the cards that we were given.
    monkeypatch.setenv(CARDS, "5, GPU-8d3e")
    assert cards_of(_worker_environments(None, 1, [1, 0], 1)) == ["GPU-8d3e", "5"]


@pytest.mark.parametrize("named", ["", "-1"])
def test_without_cards_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv(CARDS, named)
    with pytest.raises(UsageError, match="none is visible"):
        _worker_environments(None, 1, "all", 1)
    monkeypatch.delenv(CARDS)
    monkeypatch.setenv("PATH", "")
    assert visible_cards() == ()
