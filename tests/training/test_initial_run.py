"""A training that begins with the weights of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from veridical.data import Dataset
from veridical.faithfulness.retraining import resolve_training
from veridical.runtime.errors import RunError, UsageError
from veridical.training.checkpoint import weights
from veridical.training.run import Run

Trained = Callable[..., Run]


@pytest.fixture
def short(trained: Trained) -> Trained:
    return partial(trained, epochs=2.0, averaging=0.0)


@pytest.fixture
def natural(short: Trained) -> Run:
    return short("natural", objective="natural", learning_rate=1e-2)


def test_the_training_goes_on_from_there_and_says_so(short: Trained, natural: Run) -> None:
    still = short("again", initial_run=str(natural.folder), learning_rate=0.0, weight_decay=0.0)
    assert all(torch.equal(value, weights(still.model)[n]) for n, value in weights(natural.model).items())
    given = {"objective": "adversarial", "radius": 0.05, "learning_rate": 1e-3}
    robust = short("robust", initial_run=str(natural.folder), **given)
    before, after = weights(natural.model), weights(robust.model)
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    # Adam moves a weight by about the learning rate in each of the 20 steps.
    assert 0 < moved <= 0.025
    config = robust.result["config"]["initial"]
    assert (config["objective"], config["epochs"]) == ("natural", 2.0)
    assert len(config["weights"]) == 64
    said = [item for item in robust.result["results"]["deviations"] if item["what"] == "weights at the start"]
    assert [(one["paper"], one["used"]) for one in said] == [("fresh", "those of a run, natural, 2 epochs")]


def test_epochs_add_up_and_are_those_of_a_retraining(stripes: Dataset, short: Trained, natural: Run) -> None:
    second = short("b", initial_run=str(natural.folder), objective="natural", epochs=1.0)
    third = short("c", initial_run=str(second.folder), objective="natural", epochs=1.0)
    assert third.settings.initial is not None
    assert third.settings.initial["epochs"] == 3.0
    fields = resolve_training(stripes, third.settings.model, third.settings, "natural", {})
    assert fields["steps"] == 4 * (240 // 20)
    assert "initial_run" not in fields


def test_the_content_of_the_weights_counts_not_their_folder(
    tmp_path: Path, short: Trained, natural: Run
) -> None:
    given: dict[str, Any] = {"objective": "natural", "initial_run": str(natural.folder)}
    first = short("run", **given)
    natural.folder.rename(tmp_path / "moved")
    given["initial_run"] = str(tmp_path / "moved")
    assert short("run", **given).settings == first.settings
    other = short("other", objective="natural", learning_rate=1e-3)
    with pytest.raises(UsageError, match=r"initial\.weights"):
        short("run", objective="natural", initial_run=str(other.folder))


def test_another_network_is_refused(tmp_path: Path, short: Trained, natural: Run) -> None:
    with pytest.raises(RunError, match="holds the weights of another model"):
        short("wide", initial_run=str(natural.folder), model_options={"width": 24})
    with pytest.raises(RunError, match="is not the folder of a run"):
        short("none", initial_run=str(tmp_path / "nothing"))


def test_validation_images_that_the_weights_have_seen_are_refused(short: Trained, natural: Run) -> None:
    begun = {"initial_run": str(natural.folder), "objective": "natural"}
    for changed in ({"seed": 1}, {"validation": 20}):
        with pytest.raises(UsageError, match="images that the weights have seen"):
            short("seen", **begun, **changed)
    assert short("all", **begun, validation=0, seed=1, epochs=0.5).settings.seed == 1
