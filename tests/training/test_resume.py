"""kill -9 at random moments, then the same command: bitwise the weights of an unbroken run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("interrupted.py")
KILLS = 8


def log_without_clocks(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
@pytest.mark.parametrize("seconds", [0, 1000], ids=["checkpoint every step", "checkpoint every epoch"])
def test_killed_runs_end_with_the_bits_of_an_unbroken_one(tmp_path: Path, seconds: int) -> None:
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(tmp_path), "1", str(KILLS), str(seconds)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stderr
    assert "failed" not in found.stderr
    assert int(found.stdout) >= KILLS // 2, "hardly any kill hit a running session"
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    assert (killed / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert log_without_clocks(killed) == log_without_clocks(unbroken)
    results = [json.loads((folder / "result.json").read_text()) for folder in (killed, unbroken)]
    assert results[0]["results"] == results[1]["results"]
    assert results[0]["config"] == results[1]["config"]
    names = [sorted(path.name for path in folder.iterdir()) for folder in (killed, unbroken)]
    assert names[0] == names[1]
