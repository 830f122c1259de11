"""`veridical sanity` as a command, on stripes: from a run to verdicts and a page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.cli.main import main

NAMES = ("input-gradient", "random")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained MLP; its data set lies beside it."""
    folder = tmp_path_factory.mktemp("stripes")
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    waves = torch.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 4 < 2]).float()
    arrays = {}
    for name, count in (("train", 120), ("test", 40)):
        labels = torch.randint(3, (count,), generator=generator)
        images = 0.5 * waves[labels] + 0.5 * torch.rand(count, 8, 8, generator=generator)
        arrays[f"x_{name}"] = (images * 255).round().to(torch.uint8).numpy()
        arrays[f"y_{name}"] = labels.numpy()
    np.savez(folder / "stripes.npz", **arrays)  # type: ignore[arg-type]
    options = ["--data", str(folder / "stripes.npz"), "--model", "mlp", "--model-options", '{"width": 32}']
    options += ["--objective", "natural", "--epochs", "8", "--batch-size", "20", "--averaging", "0"]
    assert main(["train", *options, "--progress=false", "--out", str(folder / "run")]) == 0
    return folder / "run"


def command(run: Path, out: Path, *more: str) -> list[str]:
    options = ["--attribution", *NAMES, "--train-examples", "30", "--epochs", "120", "--repeats", "2"]
    options += ["--examples", "30", "--gallery", "2", "--workers", "1", "--no-progress"]
    return ["sanity", "--run", str(run), "--out", str(out), *options, *more]


@pytest.fixture(scope="module")
def checked(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sanity") / "out"
    assert main(command(run, out)) == 0
    return out


def results_of(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "result.json").read_text())
    assert document["schema"] == 1
    found: dict[str, Any] = document["results"]
    return found


def test_every_test_has_its_numbers(checked: Path) -> None:
    results = results_of(checked)
    assert results["examples"] == 30
    assert set(results["trainings"]) == {"true", "labels", "data"}
    for kind, training in results["trainings"].items():
        assert training["training_accuracy"]["value"] > 0.95, kind
    assert results["trainings"]["true"]["test_accuracy"]["value"] > 0.9
    assert results["trainings"]["data"]["test_accuracy"]["value"] < 0.8
    for name in NAMES:
        entry = results["attributions"][name]
        for order, counts in (("cascading", [1, 2, 3]), ("independent", [1, 1, 1])):
            assert [state["stage"] for state in entry[order]] == ["classify", "hidden2", "hidden1"]
            assert [state["randomised"] for state in entry[order]] == counts
        # The logits' layer comes first in both orders, with the same fresh weights.
        assert entry["cascading"][0] == entry["independent"][0] | {"randomised": 1}
        assert set(entry["verdicts"]) == {"weights", "labels", "data"}
        assert set(entry["unrelated"]) == {"other image", "noise"}


def test_noise_that_looks_at_no_network_is_invariant_and_gradients_are_not(checked: Path) -> None:
    attributions = results_of(checked)["attributions"]
    for state in attributions["random"]["cascading"]:
        for remaining in state["remaining"].values():
            assert remaining["value"] == pytest.approx(1.0)
    for test in ("weights", "labels", "data"):
        assert attributions["random"]["verdicts"][test]["verdict"] == "nearly invariant"
        assert attributions["input-gradient"]["verdicts"][test]["verdict"] != "nearly invariant"
    last = attributions["input-gradient"]["cascading"][-1]["similarity"]["spearman_signed"]
    assert abs(last["value"]) < 0.3


def test_the_page_says_it_and_shows_the_maps(checked: Path) -> None:
    page = (checked / "report.html").read_text()
    assert "random is nearly invariant against random weights" in page
    assert "input-gradient" in page
    assert "all random" in page
    assert "trained on permuted labels" in page
    with np.load(checked / "examples.npz") as arrays:
        assert arrays["image"].shape == (2, 1, 8, 8)
        assert arrays["input-gradient/cascading"].shape == (3, 2, 8, 8)
        assert arrays["input-gradient/labels"].shape == (2, 8, 8)
        assert not np.array_equal(arrays["input-gradient/own"], arrays["input-gradient/cascading"][-1])
        assert np.array_equal(arrays["random/own"], arrays["random/cascading"][-1])


def test_the_same_command_finds_its_work_done_and_other_options_are_refused(
    run: Path, checked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results_of(checked)
    stamps = {path: path.stat().st_mtime_ns for path in checked.glob("jobs/*/*/result.json")}
    assert len(stamps) == 3 + 2 * (1 + 4 + 3)
    assert main(command(run, checked)) == 0
    shown = capsys.readouterr().out
    assert "random is nearly invariant against images of noise" in shown
    assert f"report: {checked / 'report.html'}" in shown.splitlines()
    assert results_of(checked) == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert main(command(run, checked, "--seed", "1")) == 2
    assert "seed is 0 there, 1 here" in capsys.readouterr().err


def test_weights_alone_need_no_training(run: Path, tmp_path: Path) -> None:
    line = command(run, tmp_path / "out", "--tests", "cascading", "--attribution", "input-gradient")
    assert main([*line, "--gallery", "0", "--repeats", "1"]) == 0
    results = results_of(tmp_path / "out")
    assert results["trainings"] == {}
    assert set(results["attributions"]["input-gradient"]["verdicts"]) == {"weights"}
    assert "Maps" in (tmp_path / "out" / "report.html").read_text()


def test_labels_that_were_not_learnt_decide_nothing(run: Path, tmp_path: Path) -> None:
    line = command(run, tmp_path / "out", "--tests", "labels", "--attribution", "input-gradient")
    assert main([*line, "--epochs", "1", "--train-examples", "120"]) == 0
    results = results_of(tmp_path / "out")
    assert results["attributions"]["input-gradient"]["verdicts"]["labels"]["verdict"] == "undecided"
    assert any("permuted labels got only" in note for note in results["notes"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--attribution", "input-gradient", "input-gradient"), "attribution: expected different values"),
        (("--tests", "weights"), "cascading"),
        (("--examples", "1"), "examples: expected an integer from 2"),
        (("--repeats", "0"), "repeats"),
        (("--attribution", "module:callable"), "--trust-code"),
        (("--attribution", "saliency"), "captum:CLASS"),
    ],
)
def test_what_it_refuses(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    assert main(command(run, tmp_path / "out", *more)) == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, tmp_path / "out")) == 1
    assert "not the folder of a run" in capsys.readouterr().err


def test_a_model_by_its_weights_gives_the_runs_results(run: Path, checked: Path, tmp_path: Path) -> None:
    line = command(run, tmp_path / "out", "--tests", "cascading", "--attribution", "input-gradient")
    named = ["--model", "mlp", "--model-options.width", "32", "--weights", str(run / "model.safetensors")]
    place = line.index("--run")
    line[place : place + 2] = [*named, "--data", str(run.parent / "stripes.npz")]
    assert main(line) == 0
    ours, theirs = (
        results_of(folder)["attributions"]["input-gradient"] for folder in (tmp_path / "out", checked)
    )
    assert ours["cascading"] == theirs["cascading"]
    assert ours["unrelated"] == theirs["unrelated"]
    assert "Do the maps care what mlp has learnt?" in (tmp_path / "out" / "report.html").read_text()
