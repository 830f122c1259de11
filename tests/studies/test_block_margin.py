"""The block world: max-margin classifiers in closed form, and what gradients of trained networks mark."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from veridical.cli.main import main
from veridical.data.block_world import BlockWorld
from veridical.models.mean_field import closed_margin, enumerated_dual
from veridical.runtime.errors import RunError, UsageError
from veridical.studies.block_margin import BlockMargin, certified_radius, check_theorem
from veridical.studies.study import Context

COMMAND = ["block-margin", "--blocks", "4", "--steps", "25", "--width", "100", "10", "--sweep-width", "20"]
COMMAND += ["--noise", "0", "0.1", "--radius", "0.4", "0.2", "--train-examples", "20"]
COMMAND += ["--test-examples", "30", "--seeds", "2", "--workers", "1", "--no-progress"]


def measure(kind: str = "natural", noise: float = 0.0, **changes: Any) -> dict[str, Any]:
    values = {
        "world": BlockWorld(10, noise=noise).describe(),
        "kind": kind,
        "width": 1 if kind == "linear" else 300,
        "deviation": 0.5,
        "radius": 0.3 if kind == "adversarial" else 0.0,
        "norm": "linf",
        "inner_steps": 3,
        "steps": 150,
        "learning_rate": 2.0,
        "train_examples": 30,
        "test_examples": 60,
        "seed": 0,
        **changes,
    }
    return BlockMargin.measure(values, Context(Path(), None, {}))


def test_a_natural_network_marks_every_block_that_could_carry_the_label() -> None:
    result = measure()
    measures = result["measures"]
    assert measures["accuracy"] == 1
    assert measures["robust_accuracy"] is None
    assert measures["other_ratio"] == pytest.approx(1, abs=0.1)
    assert measures["noise_ratio"] < 0.05
    assert measures["evenness"] > 0.9
    # Below the max-margin, 1 / (2 sqrt 6), and most of it reached.
    assert 0.17 < measures["normalised_margin"] < 0.2042
    steps = [point["step"] for point in result["history"]]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 150)
    assert result["history"][-1]["other_ratio"] == measures["other_ratio"]


def test_an_adversarially_trained_network_marks_the_block_that_carries_the_label() -> None:
    result = measure("adversarial", steps=200)
    measures = result["measures"]
    assert (measures["accuracy"], measures["robust_accuracy"]) == (1, 1)
    assert measures["other_ratio"] < 0.2
    assert measures["noise_ratio"] < 0.05
    for carrier, row in enumerate(result["magnitudes"]):
        assert len(row) == 10
        assert row.index(max(row)) == carrier


def test_a_linear_gradient_is_the_same_for_every_input_and_zero_on_noise_blocks() -> None:
    measures = measure("linear")["measures"]
    assert (measures["agnostic"], measures["noise"], measures["accuracy"]) == (0, 0, 1)
    noisy = measure("linear", noise=0.1)["measures"]
    assert noisy["agnostic"] == 0
    assert 0 < noisy["noise_ratio"] < 0.2


def test_a_training_is_its_values_and_says_when_it_diverges() -> None:
    first, again, other = (measure("adversarial", 0.05, steps=3, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["measures"]["margin"] != other["measures"]["margin"]
    with pytest.raises(RunError, match="Ask for a smaller learning rate"):
        measure(learning_rate=1e30)


def test_every_check_of_the_theorem_passes_and_says_what_it_saw() -> None:
    check = check_theorem(BlockWorld(6, 2, 0.05), draws=100)
    assert check["margin"] == pytest.approx(0.85 / (2 * math.sqrt(3 + 0.85**2)), rel=1e-12)
    for name in ("support_margin", "dual", "enumerated_dual"):
        assert check[name] == pytest.approx(check["margin"], rel=1e-12)
    assert check["dual_at_units"] == pytest.approx(1, rel=1e-12)
    assert abs(check["gap"]) < 1e-12
    assert check["unit_error"] < 1e-15
    assert check["noise_greatest"] == 0
    assert check["unevenness"] < 1e-15
    # The six corners alone lie on a kink; there a one-sided gradient is twice the other.
    assert check["kinked"] == pytest.approx(6 / 106)
    assert check["relevant_greatest"] == pytest.approx(2 * check["relevant_least"], rel=1e-12)


def test_without_noise_every_example_is_on_a_kink_and_without_offsets_none() -> None:
    assert check_theorem(BlockWorld(4), draws=10)["kinked"] == 1
    plain = check_theorem(BlockWorld(4), bias=False, draws=10)
    assert plain["kinked"] == 0
    assert plain["relevant_least"] == pytest.approx(plain["relevant_greatest"], rel=1e-12)
    many = check_theorem(BlockWorld(40), draws=10)  # too many to enumerate
    assert many["enumerated_dual"] is None
    assert abs(many["gap"]) < 1e-12


def test_the_certified_radius_is_where_the_dual_leaves_the_closed_form() -> None:
    radius = certified_radius(BlockWorld(6))
    assert radius is not None
    for step, is_tight in ((-1e-3, True), (2e-3, False)):
        corners = BlockWorld(6, noise=radius + step).corners()
        dual = enumerated_dual(corners.inputs, corners.sign)
        assert (dual <= closed_margin(6, radius + step) * (1 + 1e-12)) is is_tight
    # What the noise takes is not left to the adversary.
    noisy = certified_radius(BlockWorld(6, noise=0.05))
    assert noisy == pytest.approx(radius - 0.05, abs=2e-4)


def test_where_no_radius_is_certified() -> None:
    assert certified_radius(BlockWorld(40)) is None
    for noise in (0.16, 0.2, 0.3):  # where the closed form is not the greatest margin
        assert certified_radius(BlockWorld(10, noise=noise)) is None
    with pytest.raises(UsageError, match="block_size: expected 1, but got 2"):
        certified_radius(BlockWorld(4, 2))


def test_from_a_command_to_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], check_page: Callable[[Path], None]
) -> None:
    out = tmp_path / "margin"
    assert main([*COMMAND, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "is certified 4 times" in shown
    assert "The natural network marks the other task-relevant blocks" in shown
    results = json.loads((out / "result.json").read_text())["results"]
    assert [(check["noise"], check["bias"]) for check in results["theorem"]] == [
        (noise, bias) for noise in (0.0, 0.1) for bias in (True, False)
    ]
    assert results["certified_radius"] == pytest.approx(0.5, abs=1e-3)
    natural, adversarial, linear = (results["networks"][k] for k in ("natural", "adversarial", "linear"))
    assert (natural["other_ratio"]["n"], natural["robust_accuracy"]) == (2, None)
    assert (adversarial["robust_accuracy"]["n"], linear["agnostic"]["value"]) == (2, 0)
    assert [point["at"] for point in results["by_width"]["natural"]] == [10, 100]
    assert [point["at"] for point in results["by_noise"]["linear"]] == [0, 0.1]
    assert [point["at"] for point in results["by_radius"]["adversarial"]] == [0, 0.2, 0.4]
    # The network of all main values is trained once, wherever it is shown.
    assert results["by_width"]["natural"][1]["margin"] == natural["margin"]
    check_page(out / "report.html")
    page = (out / "report.html").read_text()
    for part in (BlockMargin.title, "What the gradients mark", "Width, noise and radius", "The max-margin"):
        assert part in page


def test_noise_beyond_the_proof_and_larger_blocks_are_trained_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--block-size", "2", "--noise", "0.2", "--radius", "0.1", "--width", "10", "--steps", "3"]
    assert main([*COMMAND, *more, "--seeds", "1", "--out", str(tmp_path / "out")]) == 0
    assert "proven for none of these lengths of noise" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "result.json").read_text())["results"]
    assert (results["theorem"], results["certified_radius"], results["max_margin"]) == ([], None, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("block-margin --weight 1", "--weight"),
        ("block-margin --noise -1", "noise[0]: expected a number from 0"),
        ("block-margin --radius []", "radius: expected different values, at least one"),
        ("block-margin --blocks 7", "blocks: expected an even number"),
        ("one-layer --norm linf", "--norm"),
        ("one-layer --noise 0.1 0.2", "0.2"),
        ("one-layer --deviation 0", "deviation: expected a number above 0"),
        ("one-layer --weight 1 1", "weight: expected different values"),
        ("one-layer --blocks 7", "blocks: expected an even number"),
        ("one-layer --data mnist-5k --blocks 4", "mnist-5k replaces the blocks"),
    ],
)
def test_bad_usage_is_one_line_and_leaves_nothing(
    given: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given.split(), "--no-progress", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
