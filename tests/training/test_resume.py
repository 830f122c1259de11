"""kill -9 at random moments, then the same command: bitwise the weights of an unbroken run."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("interrupted.py")
KILLS = 6


def log_without_clocks(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
@pytest.mark.parametrize(
    ("seconds", "kind"),
    [(0, "warm"), (1000, "augmented")],
    ids=["checkpoint every step, warm starts", "checkpoint every epoch, augmented"],
)
def test_killed_runs_end_with_the_bits_of_an_unbroken_one(
    tmp_path: Path, run_python: Callable[..., tuple[int, str, str]], seconds: int, kind: str
) -> None:
    arguments = [str(SCRIPT), str(tmp_path), "1", str(KILLS), str(seconds), kind]
    code, printed, errors = run_python(tmp_path, *arguments)
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
