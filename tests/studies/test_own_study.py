"""The study of docs/how-to/own-study.md: its very text runs, is killed in the middle, and continues."""

import importlib
import json
import linecache
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from veridical.jobs import InProcess, Store
from veridical.runtime.errors import UsageError
from veridical.studies.study import Case, Work, load_study

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "own-study.md").read_text(encoding="utf-8")
CODE, *_ = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
LIMIT = 240


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The study as its reader would have it: in a file of the current folder."""
    (tmp_path / "sparsity.py").write_text(CODE, encoding="utf-8")
    return tmp_path


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    line = ["run", "sparsity:Sparsity", "--trust-code", "--seeds", "2", "--radius", "0", "0.1"]
    line += ["--workers", "2", "--no-progress", "--out", "runs/sparsity", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "veridical", *line],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finished_jobs(folder: Path) -> dict[Path, int]:
    found = folder.glob("runs/sparsity/jobs/*/*/result.json")
    return {path: path.stat().st_mtime_ns for path in found}


def test_it_fits_on_a_page() -> None:
    assert len(CODE.splitlines()) < 60


def test_it_runs_and_continues_after_a_kill(folder: Path) -> None:
    process = start(folder)
    deadline = time.monotonic() + LIMIT
    while not finished_jobs(folder):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = finished_jobs(folder)
    assert 1 <= len(before) < 4
    assert not (folder / "runs/sparsity/result.json").exists()

    process = start(folder)
    printed, told = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, told
    after = finished_jobs(folder)
    assert len(after) == 4
    assert before.items() <= after.items()  # what was finished is not done again
    document = json.loads((folder / "runs/sparsity/result.json").read_text())
    assert (document["study"], document["timing"]["jobs"]) == ("sparsity", 4)
    for row in document["results"]["rows"].values():
        assert (row["gini"]["examples"]["n"], row["gini"]["seeds"]["n"]) == (200, 2)
        assert 0 < row["gini"]["examples"]["low"] < row["gini"]["examples"]["high"] < 1
    page = (folder / "runs/sparsity/report.html").read_text()
    for text in (
        "Are explanations of robust networks sparser?",
        "Gini index",
        "one pixel has all",
        "radius 0.1",
    ):
        assert text in page
    assert "report: runs/sparsity/report.html" in printed


def test_other_code_is_another_measurement(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    store, identities = Store(folder / "store"), []
    for text in (CODE, CODE, CODE + "\n# changed\n"):
        (folder / "sparsity.py").write_text(text, encoding="utf-8")
        linecache.clearcache()
        sys.modules.pop("sparsity", None)
        importlib.invalidate_caches()
        study = load_study("sparsity:Sparsity", trust_code=True)
        work = Work(study(study.Options(out="out")), store, InProcess(), None)
        identities.append(work.folder(Case({"radius": 0.0})))
    assert identities[0] == identities[1] != identities[2]
    sys.modules.pop("sparsity")


def test_code_that_is_not_trusted_is_not_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(UsageError, match="trust_code"):
        load_study("sparsity:Sparsity")
    assert "sparsity" not in sys.modules
    with pytest.raises(UsageError, match="a class that inherits"):
        load_study("json:JSONDecodeError", trust_code=True)
