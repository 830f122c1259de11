"""The demo from end to end at toy size, and its verdict."""

from collections.abc import Callable
from pathlib import Path

import pytest

from veridical.cli.main import main
from veridical.runtime.files import read_json
from veridical.studies import demo as module
from veridical.studies.demo import Scale

from .conftest import write_stripes

TOY = Scale(2.0, 2.0, 100, 12, 2, 0.1)


def test_the_demo_trains_attacks_and_names_its_page(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    check_page: Callable[[Path], None],
) -> None:
    monkeypatch.setattr(module, "SHORT", TOY)
    data, out = write_stripes(tmp_path / "stripes.npz"), tmp_path / "demo"
    command = ["demo", "--short", "--data", str(data), "--out", str(out)]
    assert main(command) == 0
    printed, bars = capsys.readouterr()
    for title in ("Natural training", "Adversarial training", "IG-SUM-NORM"):
        assert f"{title}: training steps" in bars
        assert f"{title}: attacked images" in bars
    assert printed.strip().replace("\n", "").endswith(f"report: {out / 'report.html'}")
    assert all(words in printed for words in ("Natural training", "IG-SUM-NORM", "explanations"))
    assert "This is a demonstration on" in (out / "report.html").read_text(encoding="utf-8")
    check_page(out / "report.html")
    document = read_json(out / "result.json")
    results = document["results"]
    models = {"natural", "adversarial", "ig-sum-norm"}
    assert set(results) == models | {"robust_above_natural", "robust_above_adversarial"}
    for other in ("natural", "adversarial"):
        for name, is_above in results[f"robust_above_{other}"].items():
            low, high = results["ig-sum-norm"][name]["low"], results[other][name]["high"]
            assert is_above is (low > high)
    for name in models:
        assert results[name] == read_json(out / f"{name}-attack" / "result.json")["results"]
        assert results[name]["examples"] == 12
    natural, control, robust = (
        read_json(out / name / "result.json")["config"] for name in ("natural", "adversarial", "ig-sum-norm")
    )
    assert natural["train_examples"] == control["train_examples"] == robust["train_examples"] == 100
    assert robust["optimise"] == control["optimise"]
    assert (
        control["robust"]["radius"]
        == robust["robust"]["radius"]
        == document["config"]["evaluation"]["radius"]
        == 0.1
    )
    weights = out / "natural" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert main(command) == 0
    assert weights.stat().st_mtime_ns == before
    assert read_json(out / "result.json")["results"] == results
    assert main([*command, "--seed", "1"]) == 2
    assert "seed is 0 there, 1 here" in capsys.readouterr().err


def test_missing_data_is_an_error_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--data", str(tmp_path / "none.npz"), "--out", str(tmp_path / "demo")]) in (1, 2)
    assert "none.npz" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
