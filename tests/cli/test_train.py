"""`veridical train` as a command."""

import json
from pathlib import Path

import pytest

from veridical.cli.main import main


def command(squares: Path, out: Path, *more: str) -> list[str]:
    options = ["--data", str(squares), "--model", "mlp", "--out", str(out), "--progress=false", *more]
    return ["train", *options, "--epochs", "4", "--batch-size", "10", "--averaging", "0"]


ROBUST = ("--radius", "0.02", "--beta", "0.3", "--weight", "1", "--inner-steps", "2", "--nodes", "2")


def test_flat_flags_reach_objective_and_optimiser(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(
        squares, tmp_path / "run", *ROBUST, "--learning-rate", "0.01", "--model-options", '{"width": 8}'
    )
    assert main(arguments) == 0
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    robust, optimise = document["config"]["robust"], document["config"]["optimise"]
    assert {name: robust[name] for name in ("radius", "beta", "weight", "inner_steps", "nodes")} == {
        "radius": 0.02, "beta": 0.3, "weight": 1.0, "inner_steps": 2, "nodes": 2,
    }  # fmt: skip
    assert (optimise["learning_rate"], optimise["batch_size"], optimise["averaging"]) == (0.01, 10, 0.0)
    assert optimise["steps"] == 4 * (54 // 10)
    assert document["config"]["model"]["options"]["width"] == 8
    assert document["results"]["natural_accuracy"]["value"] == 1.0
    printed = capsys.readouterr()
    assert "natural accuracy      100.00%" in printed.out
    assert "adversarial accuracy" in printed.out
    assert printed.err == ""


def test_the_same_command_again_says_that_it_is_finished_and_another_is_refused(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(squares, tmp_path / "run", "--objective", "natural")
    for is_finished in (False, True):
        assert main(arguments) == 0
        assert ("finished already" in capsys.readouterr().out) is is_finished
    assert main(command(squares, tmp_path / "run", *ROBUST)) == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_missing_data_and_useless_options_are_one_line(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / "none.npz", tmp_path / "run")) == 1
    assert main(command(squares, tmp_path / "run", "--objective", "natural", "--radius", "0.1")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "none.npz" in lines[0]
    assert "radius has no effect on the objective natural" in lines[1]
