"""`veridical shortcut` and `veridical alignment` as commands: from images to pages."""

import json
from pathlib import Path

import numpy as np
import pytest

from veridical.cli.main import main

SMALL = ["--model", "mlp", "--model-options", '{"width": 8}', "--epochs", "2", "--batch-size", "20"]
SMALL += ["--averaging", "0", "--no-progress"]
PATCH = ["--rate", "1", "--size", "2"]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noise") / "noise.npz"
    random = np.random.default_rng(0)
    images = random.integers(0, 120, (90, 8, 8)).astype(np.uint8)
    labels = np.arange(90) % 3
    np.savez(path, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
    return path


def test_shortcut_from_images_to_a_page(
    noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    argv = ["shortcut", "--data", str(noise), "--objective", "natural", *PATCH, *SMALL, "--seeds", "1"]
    argv += ["--no-control", "--workers", "1", "--gallery", "2", "--out", str(out)]
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1] == f"report: {out / 'report.html'}"
    arms = json.loads((out / "result.json").read_text())["results"]["arms"]
    lost = arms["Natural training"]["lost"]["moved"]["examples"]["value"]
    assert f"{abs(100 * lost):.1f} points" in printed.out
    assert (out / "report.html").read_text().startswith("<!")
    assert main([*argv, "--size", "3"]) == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_alignment_from_runs_to_a_page(
    noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patched, run, out = tmp_path / "patched", tmp_path / "run", tmp_path / "study"
    assert main(["make-shortcut", "--source", str(noise), *PATCH, "--out", str(patched)]) == 0
    assert (
        main(
            [
                "train",
                "--data",
                str(patched / "data.npz"),
                "--objective",
                "natural",
                *SMALL,
                "--out",
                str(run),
            ]
        )
        == 0
    )
    capsys.readouterr()
    argv = ["alignment", "--run", str(run), "--attribution", "input-gradient", "--workers", "1"]
    argv += ["--no-progress", "--gallery", "2", "--out", str(out)]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    found = json.loads((out / "result.json").read_text())["results"]["models"]["Natural training"]
    mass = found["maps"]["input-gradient"]["mass"]["examples"]["value"]
    assert f"{100 * mass:.1f}%" in printed
    # On a black background these would be zero by construction.
    assert main([*argv, "--attribution", "gradient-x-input"]) == 2
    assert "attribution" in capsys.readouterr().err
    assert main(["alignment", "--run", str(tmp_path / "none"), "--out", str(tmp_path / "other")]) == 1
