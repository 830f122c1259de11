"""One job in one process: its answer, its log, and who else may have it."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from veridical.jobs import Job, Store
from veridical.jobs.execution import execute, log_to, task
from veridical.jobs.lease import acquire


def answer(store: Store, function: str, trust_code: bool = True, **values: Any) -> dict[str, Any]:
    return execute(task(Job(f"job_functions:{function}", values), store, trust_code))


def test_a_job_runs_once(store: Store) -> None:
    first = answer(store, "echo", x=1)
    assert first["status"] == "done"
    assert first["result"]["values"] == {"x": 1}
    second = answer(store, "echo", x=1)
    assert second == first | {"status": "reused"}


@pytest.mark.parametrize(
    ("function", "error", "logged"),
    [
        ("fail", "ValueError: no good", "last words"),
        ("leave", "SystemExit: 3", "sys.exit(3)"),
        ("return_text", "job_functions:return_text returned 'text'", "RunError"),
        ("return_unknown", "result.here.there", "UsageError"),
        ("missing", "a function in job_functions", "UsageError"),
    ],
)
def test_what_goes_wrong_is_the_answer(store: Store, function: str, error: str, logged: str) -> None:
    got = answer(store, function)
    assert got["status"] == "failed"
    assert error in got["error"]
    assert logged in got["log_tail"]
    # The next call tries it again.
    assert answer(store, function)["status"] == "failed"
    log = store.folder(Job(f"job_functions:{function}", {})) / "log.txt"
    assert log.read_text().count("--- begun") == 2


def test_a_worker_asks_for_trust_itself(store: Store) -> None:
    assert "trust_code" in answer(store, "echo", trust_code=False)["error"]


def test_a_worker_of_another_version_refuses(store: Store) -> None:
    message = task(Job("job_functions:echo", {}), store, True) | {"version": "0.0.1"}
    got = execute(message)
    assert got["status"] == "failed"
    assert "0.0.1" in got["error"]


def test_what_another_process_has_is_left_to_it(store: Store) -> None:
    job = Job("job_functions:echo", {})
    folder = store.folder(job)
    folder.mkdir(parents=True)
    lease = acquire(folder, 60.0)
    assert lease is not None
    with lease:
        assert answer(store, "echo") == {"status": "busy"}
    assert answer(store, "echo")["status"] == "done"


def test_an_owner_that_slept_writes_no_result(store: Store) -> None:
    job = Job("job_functions:lose_lease", {})
    assert execute(task(job, store, True)) == {"status": "busy"}
    assert store.result(job) is None


def test_only_the_jobs_own_thread_prints_into_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = sys.stdout, sys.stderr
    inside, outside = threading.Event(), threading.Event()

    def other() -> None:
        inside.wait()
        print("from elsewhere")
        outside.set()

    thread = threading.Thread(target=other)
    thread.start()
    with log_to(tmp_path / "log.txt"):
        inside.set()
        print("from the job")
        outside.wait()
        print("an error of it", file=sys.stderr)
    thread.join()
    assert (sys.stdout, sys.stderr) == streams
    assert (tmp_path / "log.txt").read_text() == "from the job\nan error of it\n"
    assert capsys.readouterr() == ("from elsewhere\n", "")


def test_two_jobs_in_two_threads_have_two_logs(tmp_path: Path) -> None:
    streams = sys.stdout, sys.stderr
    gate = threading.Barrier(2)

    def work(name: str) -> None:
        with log_to(tmp_path / name):
            gate.wait()
            print(name)
            gate.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["a\n", "b\n"]
    assert (sys.stdout, sys.stderr) == streams
