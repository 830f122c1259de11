"""Training on changed images and balanced classes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.attacks.ball import Noise
from veridical.data import DATASETS, Dataset
from veridical.training.objectives import Natural, ObjectiveValue
from veridical.training.run import Run

SEEN: list[tuple[Tensor, Tensor]] = []


@dataclass(frozen=True)
class Watched:
    """The natural loss; what it is given is kept in SEEN."""

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
    ) -> ObjectiveValue:
        SEEN.append((inputs.clone(), target.clone()))
        return Natural()(model, inputs, target, generator)


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    SEEN.clear()
    yield
    SEEN.clear()


Trained = Callable[..., Run]


@pytest.fixture
def watched(trained: Trained) -> Trained:
    return partial(trained, objective=Watched(), validation=0, batch_size=40, averaging=0.0, epochs=2.0)


def test_images_are_changed_in_training_by_seed_and_step(tmp_path: Path, watched: Trained) -> None:
    batches = {}
    warped: dict[str, Any] = {"augment": "warp"}
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "one": warped,
        "again": warped,
        "other": {**warped, "seed": 1},
    }
    for name, given in cases.items():
        SEEN.clear()
        run = watched(name, **given)
        batches[name] = [inputs for inputs, _ in SEEN]
        assert run.settings.augment == given.get("augment", "none")
    assert all(torch.equal(a, b) for a, b in zip(batches["one"], batches["again"], strict=True))
    # The same images in the same order, changed, and not twice in the same way.
    assert not any(torch.equal(a, b) for a, b in zip(batches["plain"], batches["one"], strict=True))
    for plain, changed in zip(batches["plain"], batches["one"], strict=True):
        assert float((plain.flatten(1).mean(1) - changed.flatten(1).mean(1)).abs().max()) < 0.3
    assert not torch.equal(batches["one"][0], batches["other"][0])
    document = json.loads((tmp_path / "one" / "result.json").read_text())
    assert (document["config"]["augment"], document["config"]["balance"]) == ("warp", "none")


def test_a_mirrored_sign_is_trained_under_its_own_name(stripes: Dataset, watched: Trained) -> None:
    turn_right, stop = 33, 14
    labels = torch.where(stripes.train.labels == 0, stop, turn_right)
    signs = replace(
        stripes,
        name="gtsrb",
        classes=DATASETS.get("gtsrb").classes,
        train=replace(stripes.train, labels=labels),
        test=replace(stripes.test, labels=torch.full_like(stripes.test.labels, stop)),
    )
    watched("run", data=signs, augment="shift-rotate-flip")
    counts = torch.bincount(torch.cat([target for _, target in SEEN]), minlength=43)
    assert set(counts.nonzero().flatten().tolist()) == {stop, turn_right, turn_right + 1}
    assert int(counts[stop]) == 160
    assert 0.3 < int(counts[turn_right + 1]) / 320 < 0.7


def test_rare_classes_come_as_often_as_common_ones(
    tmp_path: Path, stripes: Dataset, watched: Trained
) -> None:
    rare = stripes.train.subset([*range(0, 240, 3), *range(1, 60, 3), *range(2, 60, 3)])  # 80, 20, 20
    data = replace(stripes, train=rare)
    run = watched("run", data=data, balance="classes")
    assert run.settings.steps_per_epoch == 3
    for epoch in (SEEN[:3], SEEN[3:]):
        counts = torch.bincount(torch.cat([target for _, target in epoch]))
        assert counts.tolist() == [40, 40, 40]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["config"]["balance"] == "classes"
