"""The one-layer theorem: three trajectories of the weights that are one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from veridical.attribution.path import Quadrature
from veridical.cli.main import main
from veridical.data import load
from veridical.data.block_world import BlockWorld
from veridical.models.mean_field import LinearScore
from veridical.runtime.errors import DataError, RunError
from veridical.studies.one_layer import EQUAL, OneLayer, SoftMaxMargin, count_nodes, draw_examples
from veridical.studies.study import Context

COMMAND = ["one-layer", "--blocks", "4", "--steps", "4", "--train-examples", "50", "--seeds", "2"]
HERE = ["--workers", "1", "--no-progress"]


def values(**changes: Any) -> dict[str, Any]:
    return {
        "world": BlockWorld(6, noise=0.3, seed=2).describe(),
        "data": None,
        "radius": 0.1,
        "weight": 1.0,
        "deviation": 0.5,
        "steps": 15,
        "learning_rate": 0.1,
        "inner_steps": 2,
        "train_examples": 40,
        "batch_size": 20,
        "seed": 2,
        **changes,
    }


def measure(given: dict[str, Any], **where: str) -> dict[str, Any]:
    return OneLayer.measure(given, Context(Path(), None, where))


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """What is measured at weight 1."""
    return measure(values())


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_the_three_trajectories_coincide(weight: float, trained: dict[str, Any]) -> None:
    measured = trained if weight == 1 else measure(values(weight=weight))
    for name in EQUAL:
        assert measured["greatest"][name] < 1e-12
        assert measured["distances"][name][0] == 0
        np.testing.assert_allclose(
            measured["paths"][name], measured["paths"]["soft max-margin"], rtol=1e-9, atol=1e-9
        )
    assert measured["steps"] == list(range(16))
    assert measured["accuracy"] > 0.8


def test_the_weights_move_and_part_without_a_condition_of_the_theorem(trained: dict[str, Any]) -> None:
    greatest = trained["greatest"]
    for name in ("ig-norm, one node", "ig-norm, random start", "ig-norm, bounded inputs"):
        assert greatest[name] > 1e-4
    assert greatest["natural"] > max(greatest["ig-norm, one node"], 0.05)
    first, last = (np.array(trained["paths"]["ig-norm"][place]) for place in (0, -1))
    assert np.abs(last - first).max() > 0.3


def test_the_closed_form_is_what_it_says() -> None:
    model = LinearScore(6, seed=0)
    inputs, target, _ = draw_examples(values(), {})
    sign = target.double() * 2 - 1
    weight = model.weight.detach()
    clean = softplus(-sign * (inputs @ weight))
    worst = softplus(-sign * (inputs @ weight) + 0.2 * weight.abs().sum())
    loss = SoftMaxMargin(0.2, 0.7)(model, inputs, target).loss
    torch.testing.assert_close(loss.detach(), 0.3 * clean + 0.7 * worst, rtol=1e-12, atol=0)


@pytest.mark.parametrize("change", [0.1, 3.0, 30.0, 300.0])
@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0])
def test_the_nodes_integrate_the_sigmoid_exactly(change: float, offset: float) -> None:
    """The mean of g' over a path along which its argument changes by so much, against the closed form."""
    first = -offset * change
    points, weights = Quadrature("gauss-legendre", count_nodes(change)).points()
    integral = (weights * torch.sigmoid(first + change * points)).sum()
    ends = softplus(torch.tensor([first, first + change], dtype=torch.float64))
    assert float(integral) == pytest.approx(float((ends[1] - ends[0]) / change), rel=1e-13)


def test_a_steep_path_gets_the_nodes_it_needs_or_is_refused() -> None:
    # 200 coordinates of weight 4: the argument changes by about 60 along a path, for which 48 nodes are few.
    steep = values(world=BlockWorld(200, noise=0.3, seed=2).describe(), deviation=4.0, steps=4)
    measured = measure(steep)
    assert measured["nodes"] > 100
    assert max(measured["greatest"][name] for name in EQUAL) < 1e-12
    with pytest.raises(RunError, match="smaller radius"):
        count_nodes(1e5)


def test_images_of_two_classes_do_as_well(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (labels[:, None, None] * 60 + random.integers(0, 100, (60, 4, 4))).astype(np.uint8)
    path = tmp_path / "images.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    record = {"name": "images", "checksum": load(str(path)).checksum}
    given = values(world=None, data=record, train_examples=30, steps=5)
    inputs, target, bounds = draw_examples(given, {"data": str(path)})
    assert inputs.shape == (30, 16)
    assert target.tolist() == [0, 1] * 15
    assert bounds == (0, 1)
    np.testing.assert_allclose(inputs[1].numpy(), images[1].reshape(-1) / 255)
    with pytest.raises(DataError, match="all of one class"):
        draw_examples({**given, "train_examples": 1}, {"data": str(path)})
    assert max(measure(given, data=str(path))["greatest"][name] for name in EQUAL) < 1e-12

    command = [*COMMAND[3:], *HERE, "--seeds", "1", "--data", str(path), "--out", str(tmp_path / "out")]
    assert main(["one-layer", *command]) == 0
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["config"]["data"]["checksum"] == record["checksum"]
    assert all(case["greatest_of_seeds"]["ig-norm"] < 1e-12 for case in document["results"]["cases"])


def test_from_a_command_to_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], check_page: Callable[[Path], None]
) -> None:
    out = tmp_path / "one"
    command = [*COMMAND, *HERE, "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.count("the three weight trajectories coincide. At no step of 2 seeds") == 2
    document = json.loads((out / "result.json").read_text())
    assert (document["study"], document["environment"]["dtype"]) == ("one-layer", "float64")
    cases = document["results"]["cases"]
    assert [case["weight"] for case in cases] == [1.0, 0.5]
    for case in cases:
        assert case["greatest"]["ig-norm"]["n"] == 2
        assert case["greatest_of_seeds"]["ig-norm"] < 1e-12
    check_page(out / "report.html")
    page = (out / "report.html").read_text()
    assert "One layer: three trainings that are one" in page
    assert page.count("<svg") >= 2

    assert len(list((out / "jobs").glob("*/*/result.json"))) == 4
