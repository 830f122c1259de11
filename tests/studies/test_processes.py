"""Processes side by side: watched, ended with their parent, and deaf to what lies in the current folder."""

import operator
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from veridical.runtime.errors import RunError
from veridical.runtime.files import read_json
from veridical.studies.processes import run_side_by_side

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are for POSIX systems")

STAY = "import os, time; open({!r}, 'w').write(str(os.getpid())); time.sleep(600)"
TRAPPED = ("json", "multiprocessing", "numpy", "pickle", "rich", "torch", "typing", "yaml")


def ended(pid: int) -> bool:
    """Whether a process ends within a minute; one that nobody has waited for yet has ended, too."""
    for _ in range(6000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", maxsplit=1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_pieces_run_at_the_same_time_and_are_watched() -> None:
    watched: list[float] = []
    run_side_by_side(
        {"a": (time.sleep, (0.3,)), "b": (time.sleep, (0.3,))},
        lambda: watched.append(time.monotonic()),
        every=0.05,
    )
    assert len(watched) >= 2


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        ((operator.truediv, (1, 0)), r"the process for bad failed[\s\S]*ZeroDivisionError"),
        ((os._exit, (7,)), r"for bad was lost.*ended with exit code 7.*same command continues"),
        ((read_json, ("/nowhere/result.json",)), r"^/nowhere/result\.json does not exist"),
    ],
)
def test_an_error_stops_the_others_and_is_raised_here(tmp_path: Path, piece: Any, message: str) -> None:
    pid = tmp_path / "pid"
    stay = (exec, (STAY.format(str(pid)),))
    wait = f"import os, time\nwhile not os.path.exists({str(pid)!r}): time.sleep(0.01)"
    with pytest.raises(RunError, match=message):
        run_side_by_side({"good": stay, "patient": (exec, (wait,)), "bad": piece}, lambda: None, every=0.05)
    assert not pid.exists() or ended(int(pid.read_text()))


def test_they_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    pids = [tmp_path / "a", tmp_path / "b"]
    pieces = {path.name: STAY.format(str(path)) for path in pids}
    script = (
        "from veridical.studies.processes import run_side_by_side\n"
        f"run_side_by_side({{name: (exec, (code,)) for name, code in {pieces!r}.items()}}, lambda: None)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as parent:
        while not all(path.exists() and path.read_text() for path in pids):
            assert parent.poll() is None
            time.sleep(0.01)
        parent.kill()
    assert all(ended(int(path.read_text())) for path in pids)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["attack", "--workers", "2", "--examples", "20", "--steps", "1", "--pgd-steps", "1"], 0),
        (["diffroar", "--attribution", "own:method"], 2),
        (["diffroar", "--attribution", "own:method", "--trust-code"], 5),
    ],
)
def test_modules_in_the_current_folder_do_not_stand_for_pythons_own(
    place: Path, tmp_path: Path, command: list[str], code: int
) -> None:
    trap = f"open({str(tmp_path / 'RAN')!r}, 'a').write(__name__ + ' ')\n"
    for name in TRAPPED:
        (tmp_path / f"{name}.py").write_text(trap)
    (tmp_path / "own.py").write_text("import sys\nsys.exit(5)\n")
    ran = [sys.executable, "-m", "veridical", *command, "--run", str(place / "natural"), "--out", "out"]
    ran += ["--progress", "false"]
    done = subprocess.run(ran, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "RAN").exists(), (tmp_path / "RAN").read_text()
