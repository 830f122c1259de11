"""`veridical theory` as a command, small."""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from veridical.cli.main import main
from veridical.runtime.study_config import TheoryOptions
from veridical.studies import block_margin_plan, one_layer_plan

ONE_LAYER = ["theory", "one-layer", "--blocks", "4", "--steps", "4", "--train-examples", "50", "--seeds", "2"]
MARGIN = ["theory", "block-margin", "--blocks", "4", "--steps", "25", "--width", "100", "10"]
MARGIN += ["--sweep-width", "20", "--noise", "0", "0.1", "--radius", "0.4", "0.2", "--train-examples", "20"]
MARGIN += ["--test-examples", "30", "--seeds", "2"]
HERE = ["--workers", "1", "--no-progress"]


def results(folder: Path) -> dict[str, object]:
    document = json.loads((folder / "result.json").read_text())
    assert document["schema"] == 1
    found: dict[str, object] = document["results"]
    return found


def test_one_layer_from_a_command_to_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "one"
    command = [*ONE_LAYER, *HERE, "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.count("the three weight trajectories coincide. At no step of 2 seeds") == 2
    assert shown.out.splitlines()[-1] == f"report: {out / 'report.html'}"
    cases = results(out)["cases"]
    assert isinstance(cases, list)
    assert [case["weight"] for case in cases] == [1.0, 0.5]
    for case in cases:
        assert case["greatest"]["ig-norm"]["n"] == 2
        assert case["greatest_of_seeds"]["ig-norm"] < 1e-12
    page = (out / "report.html").read_text()
    assert "One layer: three trainings that are one" in page
    assert page.count("<svg") >= 2

    before = results(out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "jobs").glob("*/*/result.json")}
    assert main(command) == 0
    assert results(out) == before
    assert {path: path.stat().st_mtime_ns for path in (out / "jobs").glob("*/*/result.json")} == kept
    assert main([*command, "--steps", "5"]) == 2
    assert "steps is 4 there, 5 here" in capsys.readouterr().err


def test_block_margin_from_a_command_to_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "margin"
    assert main([*MARGIN, *HERE, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "is certified 4 times" in shown
    assert "The natural network marks the other task-relevant blocks" in shown
    found = json.loads((out / "result.json").read_text())["results"]
    assert [(check["noise"], check["bias"]) for check in found["theorem"]] == [
        (noise, bias) for noise in (0.0, 0.1) for bias in (True, False)
    ]
    assert found["certified_radius"] == pytest.approx(0.5, abs=1e-3)
    assert set(found["networks"]) == {"natural", "adversarial", "linear"}
    assert found["networks"]["natural"]["other_ratio"]["n"] == 2
    assert found["networks"]["natural"]["robust_accuracy"] is None
    assert found["networks"]["linear"]["agnostic"]["value"] == 0
    assert [point["at"] for point in found["by_width"]["natural"]] == [10, 100]
    assert [point["at"] for point in found["by_noise"]["linear"]] == [0, 0.1]
    assert [point["at"] for point in found["by_radius"]["adversarial"]] == [0, 0.2, 0.4]
    # The place of all main values is one training, wherever it is shown.
    assert found["by_width"]["natural"][1]["margin"] == found["networks"]["natural"]["margin"]
    page = (out / "report.html").read_text()
    assert "Do input gradients mark what told the label?" in page
    for part in ("What the gradients mark", "Width, noise and radius", "The max-margin classifier"):
        assert part in page


def test_noise_beyond_the_proof_and_larger_blocks_are_trained_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--block-size", "2", "--noise", "0.2", "--radius", "0.1", "--width", "10", "--steps", "3"]
    assert main([*MARGIN, *HERE, *more, "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    assert "proven for none of these lengths of noise" in capsys.readouterr().out
    found = results(tmp_path / "out")
    assert found["theorem"] == []
    assert found["certified_radius"] is None
    assert found["max_margin"] is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["one-layer", "block-margin"], "experiment: expected one-layer or block-margin"),
        (["both"], "experiment"),
        (["one-layer", "--width", "10"], "width: one-layer has no such option, block-margin has."),
        (["block-margin", "--weight", "1"], "weight: block-margin has no such option, one-layer has."),
        (["block-margin", "--data", "mnist"], "data: block-margin has no such option"),
        (["one-layer", "--norm", "l2"], "norm: expected linf"),
        (["one-layer", "--noise", "0.1", "0.2"], "noise: expected one number"),
        (["one-layer", "--deviation", "0"], "deviation: expected a number above 0"),
        (["block-margin", "--steps", "0"], "steps: expected an integer from 1"),
        (["block-margin", "--noise", "-1"], "noise[0]: expected a number from 0"),
        (["block-margin", "--radius", "[]"], "radius: expected one or more numbers"),
        (["block-margin", "--blocks", "7"], "blocks: expected an even number"),
        (["block-margin", "--seeds", "0"], "seeds: expected an integer from 1"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    given: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["theory", *given, *HERE, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_training_that_fails_is_exit_code_1_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = [*ONE_LAYER, *HERE, "--weight", "1", "--out", str(out)]

    def failing(values: dict[str, object], folder: Path, where: dict[str, str]) -> dict[str, object]:
        del folder, where
        if values["seed"] == 1:
            raise MemoryError("a squirrel ate it")
        return {}

    monkeypatch.setattr("veridical.studies.one_layer_job.run", failing)
    failing.__module__ = "veridical.studies.one_layer_job"
    assert main(command) == 1
    told = capsys.readouterr().err
    assert "1 of 2 jobs failed" in told
    assert "a squirrel ate it" in told
    assert len(list((out / "jobs").glob("*/*/result.json"))) == 1


@pytest.mark.parametrize("defaults", [one_layer_plan.DEFAULTS, block_margin_plan.DEFAULTS])
def test_the_help_tells_what_is_taken_where_nothing_is_given(defaults: Mapping[str, Any]) -> None:
    lines = inspect.cleandoc(TheoryOptions.__doc__ or "").replace("\n        ", " ").splitlines()
    written = {line.split(":")[0].strip(): line.partition("None: ")[2].rstrip(".") for line in lines}
    for name, value in defaults.items():
        numbers = set(re.findall(r"\d+(?:\.\d+)?", written[name]))
        # Radii are told by their main one and the range of the others.
        first = value[0] if isinstance(value, list) else value
        assert f"{first}".removesuffix(".0") in numbers, (name, written[name])
