"""Networks of the block world, trained small: what their gradients mark."""

from pathlib import Path
from typing import Any

import pytest

from veridical.data.block_world import BlockWorld
from veridical.runtime.errors import RunError
from veridical.studies.mean_field_job import run

HERE = Path()


def values(kind: str = "mlp", objective: str = "natural", noise: float = 0.0, **other: Any) -> dict[str, Any]:
    linear = kind == "linear"
    robust = {"name": "adversarial", "norm": "linf", "radius": 0.3, "inner_steps": 3}
    return {
        "world": BlockWorld(10, noise=noise).describe(),
        "network": {"kind": kind, "width": 300, "deviation": 0.0 if linear else 0.5, "bias": not linear},
        "objective": {"name": "natural"} if objective == "natural" else robust,
        "steps": 150,
        "learning_rate": 2.0,
        "train_examples": 30,
        "test_examples": 60,
        "seed": 0,
        **other,
    }


def test_a_natural_network_marks_every_block_that_could_have_told() -> None:
    found = run(values(), HERE, {})
    assert found["accuracy"] == 1
    assert found["robust_accuracy"] is None
    assert found["other_ratio"] == pytest.approx(1, abs=0.1)
    assert found["noise_ratio"] < 0.05
    assert found["evenness"] > 0.9
    # Below the max-margin, 1 / (2 sqrt 6), and most of it reached.
    assert 0.17 < found["normalised_margin"] < 0.2042
    steps = [point["step"] for point in found["history"]]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 150)
    assert found["history"][-1]["other_ratio"] == found["other_ratio"]


def test_an_adversarially_trained_network_marks_the_block_that_tells() -> None:
    found = run(values(objective="adversarial", steps=200), HERE, {})
    assert found["accuracy"] == 1
    assert found["robust_accuracy"] == 1
    assert found["other_ratio"] < 0.2
    assert found["noise_ratio"] < 0.05
    for carrier, row in enumerate(found["magnitudes"]):
        assert len(row) == 10
        assert row.index(max(row)) == carrier


def test_a_linear_gradient_is_the_same_for_every_input_and_without_noise_blocks() -> None:
    found = run(values("linear"), HERE, {})
    assert found["agnostic"] == 0
    assert found["noise"] == 0
    assert found["accuracy"] == 1
    noisy = run(values("linear", noise=0.1), HERE, {})
    assert noisy["agnostic"] == 0
    assert 0 < noisy["noise_ratio"] < 0.2


def test_a_job_is_its_values() -> None:
    short = values(noise=0.05, objective="adversarial", steps=3)
    assert run(short, HERE, {}) == run(short, HERE, {})
    assert run(short, HERE, {})["margin"] != run({**short, "seed": 1}, HERE, {})["margin"]


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(RunError, match="Ask for a smaller learning rate"):
        run(values(learning_rate=1e30), HERE, {})
