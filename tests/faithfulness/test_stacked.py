"""Retrainings in one program: the results that they have one by one, also after a kill, by the same names."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from veridical.data import Dataset, load
from veridical.faithfulness import forecast, stacked
from veridical.faithfulness.diffroar import diffroar
from veridical.faithfulness.result import DiffRoarResult
from veridical.faithfulness.retraining import (
    ACCURACY,
    RETRAIN,
    load_unmasked,
    resolve_training,
    train_fresh,
)
from veridical.faithfulness.stacked import (
    Stack,
    StackedMLP,
    _group_jobs,
    is_stackable,
    retrain_stacked,
    train_stacks,
)
from veridical.jobs import InProcess, Job, Store
from veridical.models import build
from veridical.models.networks import MLP
from veridical.runtime.errors import RunError, UsageError

RECIPE: dict[str, Any] = {"steps": 30, "batch_size": 30, "learning_rate": 0.01, "averaging": 0.9}


@pytest.fixture
def members(values: dict[str, Any], where: dict[str, str]) -> list[dict[str, Any]]:
    """Two seeds, two levels, both ends, two rankings, and masks alone."""
    data, recipe = load(where["data"]), {**RECIPE, "weight_decay": 0.01}
    values["training"] = resolve_training(data, values["model"], None, "natural", recipe)
    each, one = (name.removeprefix("ranking:") for name in where if name.startswith("ranking:"))
    grey = {"kind": "constant", "values": [0.3]}
    return [
        {
            **values,
            "ranking": {"checksum": checksum},
            "kept": {"end": end, "count": count},
            "shown": shown,
            "fill": grey if shown == "images" else None,
            "seed": seed,
        }
        for checksum, end, count, shown, seed in (
            (each, "top", 32, "images", 7),
            (each, "bottom", 32, "images", 7),
            (each, "top", 4, "images", 8),
            (each, "top", 32, "masks", 7),
            (one, "bottom", 4, "images", 8),
        )
    ]


def views_of(members: list[dict[str, Any]], where: dict[str, str]) -> list[Dataset]:
    return [load_unmasked(one, where) for one in members]


def untimed(result: dict[str, Any]) -> list[Any]:
    """The results of the members without what they took."""
    timed = ("training_seconds", "examples_per_second")
    return [one and {name: one[name] for name in one.keys() - timed} for one in result["members"]]


def folder_of(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_a_stack_gives_what_its_members_give_one_by_one(
    members: list[dict[str, Any]], where: dict[str, str], tmp_path: Path, averaging: float
) -> None:
    for one in members:
        one["training"] = {**one["training"], "averaging": averaging}
    views = views_of(members, where)
    stack = Stack(members, views, torch.device("cpu"))
    while stack.step < 30:
        stack.advance()
    average = stack.learner.average
    delivered = stack.model if average is None else average.module
    rows = next(delivered.parameters()).detach()
    results = stack.results()
    for number, (one, view) in enumerate(zip(members, views, strict=True)):
        run = train_fresh(one, view, tmp_path / str(number), where)
        alone = nn.utils.parameters_to_vector(run.model.parameters()).detach()
        start = nn.utils.parameters_to_vector(
            build("mlp", shape=(1, 8, 8), num_classes=2, seed=one["seed"], width=16).parameters()
        )
        assert float((alone - start.detach()).abs().max()) > 0.05
        torch.testing.assert_close(rows[number], alone, rtol=1e-4, atol=1e-5)
        result = results[number]
        assert result is not None
        # A test image may lie on the border of two classes.
        expected = run.result["results"]["natural_accuracy"]["value"]
        assert result["accuracy"] == pytest.approx(expected, abs=1.01 / 400)
        assert result["correct"] == round(result["accuracy"] * 400)
    accuracies = [result["accuracy"] for result in results if result is not None]
    assert max(accuracies) > 0.7 > min(accuracies)
    # What is counted are the weights that a run delivers, whatever the live ones are.
    counted = stack.correct()
    with torch.no_grad():
        stack.model.rows.zero_()
    assert (stack.correct() == counted) == bool(averaging)


def test_gradients_by_formula_are_autograds() -> None:
    networks = [build("mlp", shape=(1, 3, 3), num_classes=4, seed=seed, width=5).double() for seed in (1, 2)]
    stack = StackedMLP(networks, torch.device("cpu"))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(2, 6, 1, 3, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (2, 6), generator=generator)
    for mean in (True, False):
        result = stack.gradients((inputs.flatten(2) - 0.5) / 0.5, target, mean=mean)
        for row, network in enumerate(networks):
            network.zero_grad()
            loss = nn.functional.cross_entropy(network(inputs[row]), target[row], reduction="none")
            (loss.mean() if mean else loss.sum()).backward()
            gradients = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
            assert stack.rows.grad is not None
            torch.testing.assert_close(stack.rows.grad[row], gradients)
            torch.testing.assert_close(result[row], loss.detach())


def test_a_killed_stack_goes_on_and_a_finished_one_stays(
    members: list[dict[str, Any]], where: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = retrain_stacked({"members": members}, folder_of(tmp_path / "whole"), where)
    monkeypatch.setattr(stacked, "CHECKPOINT_SECONDS", 0.0)
    advance = Stack.advance
    steps: list[int] = []

    def counted(self: Stack) -> None:
        if len(steps) == 23:
            raise KeyboardInterrupt
        steps.append(self.step)
        advance(self)

    folder = folder_of(tmp_path / "killed")
    monkeypatch.setattr(Stack, "advance", counted)
    with pytest.raises(KeyboardInterrupt):
        retrain_stacked({"members": members}, folder, where)
    # What the kill cut off is found out by its digest, and the checkpoint before it is taken.
    max((folder / stacked.CHECKPOINTS).glob("step-*")).write_bytes(b"cut off")
    steps.clear()
    with pytest.warns(RuntimeWarning, match="damaged"):
        again = retrain_stacked({"members": members}, folder, where)
    assert steps == list(range(22, 30))
    assert untimed(again) == untimed(whole)
    assert not (folder / stacked.CHECKPOINTS).exists()
    # Neither data nor rankings are asked for any more.
    assert retrain_stacked({"members": members}, folder, {}) == again


def test_a_member_that_is_lost_leaves_the_others_alone(
    members: list[dict[str, Any]], where: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = retrain_stacked({"members": members}, folder_of(tmp_path / "whole"), where)
    gradients = StackedMLP.gradients
    calls: list[int] = []

    def broken(self: StackedMLP, inputs: Tensor, target: Tensor, *, mean: bool) -> Tensor:
        loss = gradients(self, inputs, target, mean=mean)
        calls.append(1)
        if len(calls) == 5:
            loss[1, 3] = float("nan")
            assert self.rows.grad is not None
            self.rows.grad[1] = float("nan")
        return loss

    monkeypatch.setattr(StackedMLP, "gradients", broken)
    with pytest.warns(RuntimeWarning, match=r"members \[1\] is not finite"):
        result = retrain_stacked({"members": members}, folder_of(tmp_path / "lost"), where)
    expected = untimed(whole)
    expected[1] = None
    assert untimed(result) == expected


def test_a_member_whose_last_step_ends_outside_the_numbers_is_lost(
    members: list[dict[str, Any]], where: dict[str, str]
) -> None:
    views = views_of(members, where)
    other = {**members[1], "training": {**members[1]["training"], "steps": 31}}
    with pytest.raises(RunError, match="one data set, architecture and recipe"):
        Stack([members[0], other, *members[2:]], views, torch.device("cpu"))
    stack = Stack(members, views, torch.device("cpu"))
    average = stack.learner.average
    for model in [stack.model] + ([] if average is None else [average.module]):
        with torch.no_grad():
            next(model.parameters())[1] = float("inf")
    results = stack.results()
    assert results[1] is None
    assert None not in (results[0], *results[2:])


def test_slopes_whose_squares_overflow_are_finite() -> None:
    mlps = [MLP(shape=(1, 2, 2), num_classes=3, seed=seed, width=256, mean=0.5, std=0.5) for seed in range(2)]
    stack = Stack.__new__(Stack)
    stack.model, stack.lost = StackedMLP(mlps, torch.device("cpu")), set()
    stack.model.rows.grad = torch.full_like(stack.model.rows, 1e30)
    stack._drop(torch.ones(2, 4))
    assert stack.lost == set()


def jobs_of(members: list[dict[str, Any]], where: dict[str, str]) -> list[Job]:
    return [Job(RETRAIN, one, where, label=str(number)) for number, one in enumerate(members)]


def test_results_lie_where_the_jobs_find_them(
    members: list[dict[str, Any]], where: dict[str, str], tmp_path: Path
) -> None:
    jobs, store = jobs_of(members, where), Store(tmp_path / "store")
    with InProcess() as executor:
        result = train_stacks(jobs, store, executor, device="cpu")
        assert [outcome.status for outcome in result.values()] == ["done"]
        assert train_stacks(jobs, store, executor, device="cpu") == {}
        # A kill came while results were handed out: nothing is trained again.
        (store.folder(jobs[2]) / ACCURACY).unlink()
        again = train_stacks(jobs, store, executor, device="cpu")
    assert [outcome.status for outcome in again.values()] == ["reused"]
    accuracy = json.loads((store.folder(jobs[2]) / ACCURACY).read_text())
    assert accuracy["stacked"] == len(jobs)


def test_stacks_hold_what_is_alike_and_unfinished(
    members: list[dict[str, Any]], where: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    other = {**members[0], "training": {**members[0]["training"], "steps": 31}}
    linear = {**members[0], "fill": {"kind": "linear"}}
    jobs = jobs_of([*members, other, linear], where)
    assert not is_stackable(linear)
    smooth = {**members[0]["model"], "options": {**members[0]["model"]["options"], "activation": "silu"}}
    assert not is_stackable({**members[0], "model": smooth})
    assert not is_stackable({**members[0], "training": {**other["training"], "objective": "adversarial"}})

    def numbers(workers: int) -> list[list[str]]:
        result = _group_jobs(jobs, store, workers=workers, device="cpu")
        return [sorted(member.label for member in chunk) for _, chunk in result]

    assert numbers(1) == [["0", "1", "2", "3", "4"]]
    # Two workers: three and two, those of a seed together.
    assert numbers(2) == [["0", "1", "3"], ["2", "4"]]
    monkeypatch.setattr(stacked, "MEMBERS", {"cpu": 2})
    assert [len(chunk) for chunk in numbers(1)] == [2, 2]
    monkeypatch.setattr(stacked, "MEMBERS", {"cpu": 8})
    monkeypatch.setattr(stacked, "MEMORY", 3 * stacked._member_bytes(members[0]))
    assert [len(chunk) for chunk in numbers(1)] == [3, 2]
    folder = store.folder(jobs[1])
    folder.mkdir(parents=True)
    (folder / ACCURACY).write_text("{}")
    assert numbers(2) == [["0", "3"], ["2", "4"]]


def measured(data: Dataset, out: Path, store: Path, **options: Any) -> DiffRoarResult:
    with InProcess() as executor:
        model = build("mlp", shape=(1, 8, 8), num_classes=2, seed=0, width=16)
        options |= {"levels": (0.5,), "repeats": 2, "baselines": ("random",), "device": "cpu", **RECIPE}
        options |= {"retrain_model": "mlp", "retrain_model_options": {"width": 16}}
        return diffroar(model, data, out=out, store=store, executor=executor, **options)


def test_a_measurement_has_the_same_numbers_and_the_same_store(
    marked_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "SECONDS", 0.0)
    small = dataclasses.replace(marked_data, train=marked_data.train.subset(range(300)))
    together = measured(small, tmp_path / "a", tmp_path / "store", stacked="auto")
    assert together.timing["stacks"] == 2
    assert together.timing["retraining_seconds"] > 0
    # The same retrainings by the same names: nothing is left to do one by one.
    kept = measured(small, tmp_path / "b", tmp_path / "store", stacked="never")
    assert (kept.timing["stacks"], kept.timing["reused"]) == (0, kept.timing["retrainings"])
    assert kept.curve == together.curve
    alone = measured(small, tmp_path / "c", tmp_path / "other", stacked="never")
    assert alone.timing["stacks"] == 0
    for here, there in zip(together.curve, alone.curve, strict=True):
        for end in ("top", "bottom"):
            np.testing.assert_allclose(here[end]["repeats"], there[end]["repeats"], atol=2.01 / 400)
    with pytest.raises(UsageError, match="auto, never"):
        measured(small, tmp_path / "d", tmp_path / "store", stacked="always")
