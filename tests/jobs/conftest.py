"""Jobs that tests run, importable here and in the processes that tests start."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import pytest

import veridical
from veridical.jobs import Job, Store, run_jobs

Lines = Callable[[Path], list[str]]
HERE = Path(__file__).parent
SOURCE = Path(veridical.__file__).parents[1]


@pytest.fixture(autouse=True)
def functions_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`job_functions:...` names a function of job_functions.py."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SOURCE), str(HERE)]))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def until() -> Callable[..., None]:
    """Look again and again until a condition holds."""

    def look(met: Callable[[], object], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    return look


@pytest.fixture
def lines() -> Lines:
    """The lines of a file that may not exist yet."""
    return lambda path: path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def run_while_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, until: Callable[..., None], lines: Lines
) -> Callable[[Executor], int]:
    """Run a job whose worker is stopped until that is logged, goes on and finishes; the worker's process.

    Of the log there may be one line, which names the job's folder.
    """

    def run(executor: Executor) -> int:
        started, go = tmp_path / "started", tmp_path / "go"
        job = Job("job_functions:hold", {}, {"started": str(started), "go": str(go)})
        store = Store(tmp_path / "impatient", stale_after=1.0)

        def stop() -> None:
            until(lambda: lines(started))
            pid = int(lines(started)[0])
            os.kill(pid, signal.SIGSTOP)
            try:
                until(lambda: caplog.messages)
                time.sleep(1.0)
            finally:
                go.touch()
                os.kill(pid, signal.SIGCONT)

        executor.submit(abs, -1).result()  # a worker that takes long to start would be named for that
        stopper = threading.Thread(target=stop)
        stopper.start()
        (outcome,) = run_jobs([job], store, executor, trust_code=True, poll_seconds=0.05).values()
        stopper.join()
        assert outcome.status == "done"
        assert [str(store.folder(job)) in message for message in caplog.messages] == [True]
        return int(lines(started)[0])

    return run


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Whether a process has ended; one that nobody has waited for yet has, too."""

    def look(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", maxsplit=1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z"

    return look
