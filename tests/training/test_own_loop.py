"""An objective in a loop of one's own, by the very text of docs/how-to/own-objective.md."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.attacks.ball import NoiseRows
from veridical.runtime.options import NormName, TrainOptions
from veridical.training.objectives import Objective, ObjectiveValue, RobustObjective, build_objective
from veridical.training.penalties import OBJECTIVES, ObjectiveEntry
from veridical.training.recipes import resolve

every_objective = pytest.mark.parametrize("entry", OBJECTIVES.entries(), ids=lambda entry: entry.name)
TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "own-objective.md").read_text(encoding="utf-8")


def network(bend: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), bend(), nn.Linear(12, 3))


def images(count: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.arange(count) % 3
    noise = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    noise[torch.arange(count), 0, 2 * target] += 1.0  # a bright row says the class
    return noise.clamp(0, 1), target


@every_objective
@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
def test_the_shown_loop_trains(entry: ObjectiveEntry, amp: torch.dtype | None) -> None:
    (code,) = (
        one for one in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "def train_robustly" in one
    )
    names: dict[str, Any] = {}
    exec(code, names)
    model = network()
    inputs, target = images()
    loader = [(inputs[:12], target[:12]), (inputs[12:], target[12:])]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)
    settings = names["settings"]
    if entry.name == "input-gradient":
        settings = replace(settings, weight=settings.radius)
    objective = build_objective(entry.name, settings)
    names["train_robustly"](model, loader, objective, optimiser, schedule, 40, accumulate=2, amp=amp)
    assert bool((model(inputs).argmax(1) == target).all())


def objective_of(entry: ObjectiveEntry, norm: NormName = "linf") -> Objective:
    """The objective with settings under which every term counts."""
    given: dict[str, Any] = {
        "radius": 0.1,
        "weight": 1.0,
        "beta": 0.3,
        "nodes": 3,
        "inner_nodes": 2,
        "inner_score": "size",
    }
    taken = {name: value for name, value in given.items() if name in entry.options}
    options = TrainOptions(out="unused", objective=entry.name, norm=norm if taken else "linf", **taken)
    data: dict[str, Any] = {
        "name": "own",
        "shape": [1, 6, 6],
        "num_classes": 3,
        "train": 24,
        "checksum": "",
        "options": {},
    }
    model = {name: data[name] for name in ("name", "shape", "num_classes", "options")}
    robust = resolve(options, data=data, model=model, train_size=24).robust
    return build_objective(entry.name, robust)


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


def size_of_gradients(objective: Objective, inputs: Tensor, target: Tensor) -> float:
    """The mean length of the gradients of single images, which do not cancel."""
    lengths = []
    for row in range(len(target)):
        model, one = network(nn.Softplus), slice(row, row + 1)
        at_a_fixed_place(objective, model, inputs[one], target[one]).loss.sum().backward()
        lengths.append(float(gradient(model).norm()))
    return sum(lengths) / len(lengths)


@every_objective
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_gradients_of_parts_accumulate_to_those_of_the_whole(
    entry: ObjectiveEntry, norm: NormName, parts: int
) -> None:
    objective = objective_of(entry, norm)
    inputs, target = images()
    inputs, count = inputs.double(), len(target)
    gradients = []
    for pieces in (1, parts):
        model = network().double()
        size = count // pieces
        for first in range(0, count, size):
            rows = slice(first, first + size)
            # The same random starts, whoever else is in the part.
            noise = NoiseRows(torch.Generator().manual_seed(5), rows, count)
            (objective(model, inputs[rows], target[rows], noise).loss.mean() / pieces).backward()
        gradients.append(gradient(model))
    assert float(gradients[0].norm()) > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-13)


def at_a_fixed_place(
    objective: Objective, model: nn.Module, inputs: Tensor, target: Tensor
) -> ObjectiveValue:
    """The objective at an x' that does not depend on how the ascent was computed."""
    if isinstance(objective, RobustObjective):
        return objective.at(model, inputs, target, (inputs + 0.1 * torch.sin(77 * inputs)).clamp(0, 1))
    return objective(model, inputs, target)


@every_objective
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_losses_by_rounding_and_maps_not_at_all(
    entry: ObjectiveEntry, dtype: torch.dtype
) -> None:
    objective, precision = objective_of(entry), torch.finfo(dtype).eps
    inputs, target = images()
    # Without kinks, at which rounding can turn a gradient round.
    exact, mixed = network(nn.Softplus), network(nn.Softplus)
    seen: set[tuple[bool, torch.dtype]] = set()
    layer = mixed.get_submodule("1")
    layer.register_forward_hook(lambda one, _, output: seen.add((one.training, output.dtype)))
    expected = at_a_fixed_place(objective, exact, inputs, target)
    expected.loss.mean().backward()
    with torch.autocast("cpu", dtype):
        value = at_a_fixed_place(objective, mixed, inputs, target)
    value.loss.mean().backward()
    # Losses are computed by it, in train mode; maps, in eval mode, are not, nor what a sign is taken of.
    has_map = entry.needs_second_order
    size = "distance" if "distance" in expected.parts else "attribution_l1"
    own = torch.float32 if entry.name == "loss-change" else dtype
    assert seen == {(True, own)} | ({(False, torch.float32)} if has_map else set())
    assert value.loss.dtype == torch.float32
    torch.testing.assert_close(value.loss, expected.loss, rtol=0, atol=precision)
    if has_map:
        assert torch.equal(value.parts[size], expected.parts[size])
    error = float((gradient(mixed) - gradient(exact)).norm()) / size_of_gradients(objective, inputs, target)
    assert error < precision


@every_objective
def test_an_ascent_under_autocast_finds_nearly_as_great_a_loss(entry: ObjectiveEntry) -> None:
    objective = objective_of(entry)
    inputs, target = images()
    model = network()
    expected = objective(model, inputs, target, torch.Generator().manual_seed(0)).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(model, inputs, target, torch.Generator().manual_seed(0)).loss
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0.01)


@every_objective
def test_a_scaled_loss_gives_the_gradient_itself(entry: ObjectiveEntry) -> None:
    objective = objective_of(entry)
    inputs, target = images()
    plain, scaled = network(), network()
    for model in (plain, scaled):
        scaler = torch.amp.GradScaler("cpu", enabled=model is scaled)
        loss = objective(model, inputs, target, torch.Generator().manual_seed(0)).loss.mean()
        scaler.scale(loss).backward()
        scaler.unscale_(torch.optim.SGD(model.parameters(), lr=1.0))
    # The scale is a power of two: not a bit is lost.
    assert torch.equal(gradient(scaled), gradient(plain))
