"""kill -9 of a command or its workers at any moment, and two commands at once: no job is lost or repeated."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from veridical.jobs import InProcess, Job, Store, run_jobs

COMMAND = Path(__file__).parent / "command.py"
JOBS = [Job("job_functions:steps", {"seed": seed, "count": 4, "seconds": 0.03}) for seed in range(8)]
STEPS = ["0", "1", "2", "3"]

Until = Callable[..., None]
Start = Callable[[Path, int], subprocess.Popen[bytes]]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the pool is for POSIX systems")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The results of the jobs in one process that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(COMMAND.parent))
        outcomes = run_jobs(JOBS, Store(tmp_path_factory.mktemp("unbroken")), InProcess(), trust_code=True)
    return [outcome.result for outcome in outcomes.values()]


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Start commands on the store; none outlives its test."""
    started: list[subprocess.Popen[bytes]] = []

    def command(out: Path, workers: int) -> subprocess.Popen[bytes]:
        jobs = out.with_name("jobs.json")
        jobs.write_text(json.dumps([job.record() for job in JOBS]))
        started.append(subprocess.Popen([sys.executable, COMMAND, store.root, out, jobs, str(workers)]))
        return started[-1]

    yield command
    for process in started:
        process.kill()
        process.wait()


def finish(command: subprocess.Popen[bytes], out: Path) -> tuple[list[str], list[Any]]:
    """Wait for a command and return statuses and results of its jobs."""
    assert command.wait() == 0
    statuses, results = zip(*json.loads(out.read_text()), strict=True)
    return list(statuses), list(results)


def finished(store: Store) -> dict[str, int]:
    """When the results that exist were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.root.glob("*/*/result.json")}


def steps_of(store: Store) -> list[list[str]]:
    """What each job that began has noted, step by step."""
    return [path.read_text().splitlines() for path in store.root.glob("*/*/steps.txt")]


def taken(store: Store) -> int:
    return sum(map(len, steps_of(store)))


def workers_of(out: Path) -> set[int]:
    listed = out.with_name(f"{out.name}.workers")
    return set(map(int, listed.read_text().split())) if listed.exists() else set()


def test_a_killed_command_continues_and_its_workers_are_gone(
    store: Store, start: Start, tmp_path: Path, unbroken: list[Any], until: Until, gone: Callable[[int], bool]
) -> None:
    before: dict[str, int] = {}
    for steps in (5, 12, 18):
        out = tmp_path / f"out{steps}"
        command = start(out, 2)
        until(lambda least=steps: taken(store) >= least)
        until(lambda seen=out: len(workers_of(seen)) == 2)
        command.kill()
        command.wait()
        for pid in workers_of(out):
            until(lambda worker=pid: gone(worker))
        now = finished(store)
        assert before.items() <= now.items(), "what was finished was written again"
        before = now
    statuses, results = finish(start(tmp_path / "out", 2), tmp_path / "out")
    assert results == unbroken
    assert statuses.count("reused") == len(before) > 0
    assert before.items() <= finished(store).items()
    assert steps_of(store) == [STEPS] * len(JOBS)


def test_killed_workers_are_replaced(
    store: Store, start: Start, tmp_path: Path, unbroken: list[Any], until: Until
) -> None:
    out = tmp_path / "out"
    command = start(out, 2)
    killed: set[int] = set()
    for steps in (5, 12, 18):
        until(lambda least=steps: taken(store) >= least and workers_of(out) - killed)
        pid = min(workers_of(out) - killed)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    statuses, results = finish(command, out)
    assert results == unbroken
    # A result that was written just before its worker died is found by the retry.
    assert set(statuses) <= {"done", "reused"}
    assert steps_of(store) == [STEPS] * len(JOBS)


def test_two_commands_share_the_work(store: Store, start: Start, tmp_path: Path, unbroken: list[Any]) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    commands = [start(out, 1) for out in outs]
    (first, results), (second, others) = (finish(*pair) for pair in zip(commands, outs, strict=True))
    assert results == others == unbroken
    assert set(first + second) <= {"done", "reused"}
    assert (first + second).count("done") == len(JOBS)
    assert steps_of(store) == [STEPS] * len(JOBS)
    for job in JOBS:
        assert (store.folder(job) / "log.txt").read_text().count("--- begun") == 1


def test_the_second_command_takes_over_when_the_first_is_killed(
    store: Store, start: Start, tmp_path: Path, unbroken: list[Any], until: Until
) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    commands = [start(out, 1) for out in outs]
    until(lambda: taken(store) >= 5)
    commands[0].kill()
    commands[0].wait()
    statuses, results = finish(commands[1], outs[1])
    assert results == unbroken
    assert set(statuses) <= {"done", "reused"}
    assert steps_of(store) == [STEPS] * len(JOBS)
