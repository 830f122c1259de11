"""The shortcut study on images of noise, of which only a planted patch tells the class."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.data.shortcut import shortcut_variants
from veridical.jobs import InProcess, Store
from veridical.runtime.errors import RunError
from veridical.runtime.options import ShortcutOptions
from veridical.studies import shortcut
from veridical.studies.shortcut import Shortcut, ShortcutStudyOptions, follows
from veridical.studies.study import ARRAYS, Work
from veridical.training.run import load

NATURAL, CONTROL = "Natural training", "Natural training, patch tells nothing"


def test_what_only_the_patch_tells_is_lost_with_it(shortcuts: ShortcutStudyOptions) -> None:
    results = Shortcut.read(shortcuts.out).results
    natural, control = results["arms"][NATURAL], results["arms"][CONTROL]
    assert natural["accuracy"]["agreeing"]["examples"]["value"] > 0.95
    # Moved, the patch stands for a class of its own in two of three images; gone, nothing tells.
    for to in ("moved", "gone"):
        assert natural["accuracy"][to]["examples"]["value"] < 0.65
        assert natural["lost"][to]["examples"]["low"] > 0.2
    assert natural["follows"]["examples"]["value"] > 0.9
    assert natural["maps"]["input-gradient"]["agreeing"]["excess"]["examples"]["low"] > 0
    assert control["rate"] == pytest.approx(1 / 3)
    assert control["accuracy"]["agreeing"]["examples"]["value"] < 0.65
    assert abs(control["lost"]["moved"]["examples"]["value"]) < 0.2
    assert (natural["adversarial_accuracy"], natural["seeds"]) == (None, [0, 1])


def test_the_numbers_are_those_of_the_models(shortcuts: ShortcutStudyOptions) -> None:
    plan = Shortcut(shortcuts)
    work = Work(plan, Store(Path(shortcuts.out) / "jobs"), InProcess(), None)
    arm = plan.conditions[NATURAL]
    variants = shortcut_variants(arm.shortcut)
    results = Shortcut.read(shortcuts.out).results["arms"][NATURAL]
    accuracy, mass = [], []
    for case in [case for case in plan.all_cases if case.group == NATURAL]:
        model = load(work.folder(case) / "run").model
        inputs, target = variants["agreeing"].test.batch(slice(None))
        inputs.requires_grad_()
        logits = model(inputs)
        accuracy.append((logits.argmax(1) == target).double().mean().item())
        gradient = torch.autograd.grad(logits.amax(1).sum(), inputs)[0].abs()[:, 0].double()
        inside = (gradient * variants["agreeing"].test_mask).sum((1, 2)) / gradient.sum((1, 2))
        mass.append(inside[:24].mean().item())
    assert results["accuracy"]["agreeing"]["seeds"]["value"] == pytest.approx(np.mean(accuracy))
    found = results["maps"]["input-gradient"]["agreeing"]
    assert found["mass"]["seeds"]["value"] == pytest.approx(np.mean(mass), rel=1e-5)
    assert found["area"]["examples"]["value"] == pytest.approx(4 / 64)
    # Without the patch, the same pixels are looked at.
    assert results["maps"]["input-gradient"]["gone"]["area"]["examples"]["value"] == pytest.approx(4 / 64)


@pytest.mark.parametrize("code", ["place", "presence"])
def test_who_follows_the_patch(noise: Path, code: Any) -> None:
    moved = shortcut_variants(ShortcutOptions(source=str(noise), size=2, code=code))["moved"]
    place, labels = moved.place("place", "test").numpy(), moved.test.labels.numpy()
    obeying = place if code == "place" else (place >= 0).astype(np.int64)
    agrees = place == labels if code == "place" else (place >= 0) == (labels % 2 == 1)
    assert 0 < agrees.sum() < len(agrees)
    for predicted, expected in ((obeying, 1.0), (obeying + 1, 0.0)):
        found = follows(predicted, moved, code)
        np.testing.assert_array_equal(np.isnan(found), agrees)
        assert set(found[~agrees]) == {expected}


def test_a_patch_whose_presence_tells_nothing_is_there_by_chance(shortcuts: ShortcutStudyOptions) -> None:
    plan = Shortcut(replace(shortcuts, code="presence"))
    assert plan.conditions[CONTROL].shortcut.rate == 0.5


def test_a_killed_training_is_continued(
    shortcuts: ShortcutStudyOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(shortcuts, out=str(tmp_path / "out"), seeds=1, control=False, epochs=2.0)

    def eaten(*_: Any, **__: Any) -> Any:
        raise MemoryError("a mole ate it")

    with monkeypatch.context() as patch:
        patch.setattr(shortcut, "map_measures", eaten)
        with pytest.raises(RunError, match="a mole ate it"):
            Shortcut(options).run()
    (weights,) = (tmp_path / "out" / "jobs").glob("*/*/run/model.safetensors")
    before = weights.stat().st_mtime_ns
    assert not list((tmp_path / "out" / "jobs").glob(f"*/*/{ARRAYS}"))
    Shortcut(options).run()
    assert weights.stat().st_mtime_ns == before  # the finished training was loaded, not repeated


def test_every_objective_takes_what_it_can_and_one_arm_each(shortcuts: ShortcutStudyOptions) -> None:
    objectives = ["natural", "adversarial", "ig-norm", "ig-sum-norm"]
    options = replace(shortcuts, objective=objectives, radius=[0.1, 0.2], beta=0.5, rate=[0.9, 1.0])
    arms = Shortcut(options).conditions
    assert len(arms) == 3 * (1 + 3 * 2)
    robust = arms["IG-SUM-NORM (linf 0.2), agrees 90%"].settings.robust
    assert robust is not None
    assert (robust.radius, robust.beta) == (0.2, 0.5)
    adversarial = arms["Adversarial training (linf 0.1), agrees 100%"].settings.robust
    assert adversarial is not None
    assert adversarial.beta is None
