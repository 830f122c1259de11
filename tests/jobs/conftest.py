"""Jobs that tests run, importable here and in the processes that tests start."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import veridical
from veridical.jobs import Store

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
def lines() -> Callable[[Path], list[str]]:
    """The lines of a file that may not exist yet."""
    return lambda path: path.read_text().splitlines() if path.exists() else []


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
