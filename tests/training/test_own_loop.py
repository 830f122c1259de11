"""An objective in a loop of one's own, by the very text of docs/extending.md."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from veridical import Linf
from veridical.training.objectives import Inner, RobustAttribution
from veridical.training.penalties import AttributionPenalty

TEXT = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))


def images(count: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.arange(count) % 3
    noise = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    noise[torch.arange(count), 0, 2 * target] += 1.0  # a bright row says the class
    return noise.clamp(0, 1), target


def test_the_shown_loop_trains() -> None:
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
    names["train_robustly"](model, loader, optimiser, schedule, epochs=40, accumulate=2)
    assert bool((model(inputs).argmax(1) == target).all())


@pytest.mark.parametrize("l1", [0.0, 0.5])
def test_gradients_of_halves_accumulate_to_those_of_the_whole(l1: float) -> None:
    inner = Inner(steps=3, step_size=0.02, start="gradient")
    objective = RobustAttribution(AttributionPenalty(sum_weight=1.0, l1=l1), Linf(0.05), inner=inner)
    inputs, target = images()
    grads = []
    for parts in ([slice(0, 24)], [slice(0, 12), slice(12, 24)]):
        model = network()
        for part in parts:
            (objective(model, inputs[part], target[part]).loss.sum() / 24).backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-7)


def test_autocast_changes_the_losses_by_rounding_alone() -> None:
    objective = RobustAttribution(AttributionPenalty(sum_weight=1.0, l1=0.5), Linf(0.05))
    inputs, target = images()
    model = network()
    whole = objective(model, inputs, target, torch.Generator().manual_seed(0)).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(model, inputs, target, torch.Generator().manual_seed(0)).loss
    torch.testing.assert_close(rounded.float(), whole, rtol=0.05, atol=0.02)
