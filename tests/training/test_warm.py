"""Warm starts: the inner ascent goes on where it was, from what a checkpoint holds too."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.attacks.ball import L2, Ball, Linf
from veridical.runtime.errors import UsageError
from veridical.training.distributed import ALONE, Share
from veridical.training.objectives import Inner, RobustAttribution, WarmStarts
from veridical.training.penalties import AttributionPenalty
from veridical.training.run import Run

BALLS = [Linf(0.1), L2(0.5), Linf(0.1, None)]


def adversarial(ball: Ball, steps: int, start: str = "warm") -> RobustAttribution:
    inner = Inner(steps=steps, step_size=ball.radius / 4, start=start, score="loss")  # type: ignore[arg-type]
    return RobustAttribution(AttributionPenalty(sum_weight=1.0), ball, inner=inner)


def key(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def keep(starts: WarmStarts, images: Tensor) -> None:
    starts.keep(images, Share(ALONE, len(images)))


def test_an_ascent_that_had_no_room_begins_at_random(smooth: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """In a ball that is still a point x' is x, where an ascent on the size of the map would stay for ever."""
    inputs, target = batch
    images = torch.arange(5)
    starts = WarmStarts(5, inputs.shape[1:])

    def climbed(radius: float) -> Tensor:
        inner = Inner(steps=2, step_size=radius / 4, start="warm", score="size")
        objective = RobustAttribution(AttributionPenalty(l1=1.0), Linf(radius), inner=inner)
        starts.value(objective, smooth, inputs, target, key(), images)
        keep(starts, images)
        return starts.scales.clone()

    assert bool((climbed(0.0) == 0).all())
    assert bool((climbed(0.1) > 0.01).all())


@pytest.mark.parametrize("ball", BALLS, ids=["linf", "l2", "linf without bounds"])
def test_the_ascent_goes_on_where_it_ended(
    ball: Ball, smooth: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    inputs, target = batch
    starts = WarmStarts(9, inputs.shape[1:])
    images = torch.tensor([7, 2, 5, 0, 4])
    objective = adversarial(ball, 2)
    starts.value(objective, smooth, inputs, target, key(), images)
    assert float(starts.scales.max()) == -1  # nothing is kept before the step is known to be sound
    keep(starts, images)
    first = objective.maximise(smooth, inputs, target, key())
    begun = starts.start(inputs, ball, key(1), images)
    assert begun is not None
    # Within half a step of 1/127 of the greatest offset, and in the ball but for that.
    rounding = (first - inputs).flatten(1).abs().amax(1) / 254
    assert bool(((begun - first).flatten(1).abs().amax(1) <= rounding * 1.01).all())
    found = objective.maximise(smooth, inputs, target, key(1), begun)
    again = starts.value(objective, smooth, inputs, target, key(1), images)
    torch.testing.assert_close(again.loss, objective.at(smooth, inputs, target, found).loss)
    assert bool((ball.distance(found, inputs) <= ball.radius * (1 + 1e-9)).all())
    # Two epochs of two steps climb as one of four.
    two, four = (
        adversarial(ball, steps, "random")(smooth, inputs, target, key()).loss.detach() for steps in (2, 4)
    )
    assert float(again.loss.detach().mean()) > float(two.mean())
    torch.testing.assert_close(again.loss.detach(), four, rtol=2e-2, atol=0)


def test_an_image_that_was_not_met_starts_at_random(smooth: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    inputs, target = batch
    ball, starts = Linf(0.1), WarmStarts(9, inputs.shape[1:])
    assert starts.start(inputs, ball, key(), torch.arange(5)) is None
    starts.value(adversarial(ball, 1), smooth, inputs[:2], target[:2], key(), torch.tensor([8, 3]))
    keep(starts, torch.tensor([8, 3]))
    begun = starts.start(inputs, ball, key(5), torch.tensor([0, 8, 1, 2, 3]))
    assert begun is not None
    torch.testing.assert_close(begun[[0, 2, 3]], ball.random_start(inputs, key(5))[[0, 2, 3]])
    assert not torch.allclose(begun[1], ball.random_start(inputs, key(5))[1])


@pytest.fixture
def climbing(trained: Callable[..., Run]) -> Callable[..., Run]:
    return partial(
        trained, objective="ig-norm", radius=0.1, inner_steps=1, inner_step_size=0.02, validation=0,
        batch_size=40, averaging=0.0
    )  # fmt: skip


def same(one: Run, other: Run) -> bool:
    others = other.model.state_dict()
    return all(torch.equal(value, others[name]) for name, value in one.model.state_dict().items())


def test_the_first_epoch_is_that_of_random_starts_and_later_ones_are_not(
    tmp_path: Path, climbing: Callable[..., Run]
) -> None:
    for epochs, equal in ((1.0, True), (2.0, False)):
        given = {"epochs": epochs, "schedule": "constant"}
        runs = [climbing(f"{start}-{epochs}", inner_start=start, **given) for start in ("warm", "random")]
        assert same(*runs) is equal
    document = json.loads((tmp_path / "warm-2.0" / "result.json").read_text())
    assert document["results"]["objective"]["inner_start"] == "warm"
    assert document["config"]["robust"]["inner_start"] == "warm"


def test_an_objective_of_the_callers_own_can_start_warm(trained: Callable[..., Run]) -> None:
    runs = [
        trained(start, objective=adversarial(Linf(0.1), 1, start), steps=24) for start in ("warm", "random")
    ]
    assert not same(*runs)
    assert "start='warm'" in runs[0].settings.objective


@pytest.mark.parametrize("changed", [{"augment": "shift-rotate"}, {"balance": "classes"}])
def test_images_that_change_between_epochs_cannot_start_warm(
    tmp_path: Path, climbing: Callable[..., Run], changed: dict[str, Any]
) -> None:
    name = next(iter(changed))
    with pytest.raises(UsageError, match=f"inner_start=warm .* Give {name}=none"):
        climbing("run", inner_start="warm", **changed)
    assert not (tmp_path / "run").exists()
