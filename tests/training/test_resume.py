"""kill -9 at random moments, then the same command: bitwise the weights of an unbroken run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("interrupted.py")
KILLS = 6
LIMIT = 500


def log_without_clocks(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def ended(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that forks; after `LIMIT` seconds all of it is killed.

    Not by pipes: they stay open as long as any of its processes lives, and reading them would wait for that.
    """
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    outputs = folder / "output.txt", folder / "errors.txt"
    with outputs[0].open("w") as output, outputs[1].open("w") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"no end after {LIMIT} s; its errors so far:\n{outputs[1].read_text()}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code, outputs[0].read_text(), outputs[1].read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
@pytest.mark.parametrize(
    ("seconds", "kind"),
    [(0, "warm"), (1000, "augmented")],
    ids=["checkpoint every step, warm starts", "checkpoint every epoch, augmented"],
)
def test_killed_runs_end_with_the_bits_of_an_unbroken_one(tmp_path: Path, seconds: int, kind: str) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), "1", str(KILLS), str(seconds), kind]
    code, printed, errors = ended(command, tmp_path)
    assert code == 0, errors
    assert "failed" not in errors
    assert int(printed) >= KILLS // 2, "hardly any kill hit a running session"
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    assert (killed / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert log_without_clocks(killed) == log_without_clocks(unbroken)
    results = [json.loads((folder / "result.json").read_text()) for folder in (killed, unbroken)]
    assert results[0]["results"] == results[1]["results"]
    assert results[0]["config"] == results[1]["config"]
    names = [sorted(path.name for path in folder.iterdir()) for folder in (killed, unbroken)]
    assert names[0] == names[1]
