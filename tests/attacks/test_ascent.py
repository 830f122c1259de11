"""The projected-ascent loop: what it keeps, restarts, momentum, decay, and what it leaves alone."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from veridical.attacks.ascent import ascend, value_and_gradient
from veridical.attacks.ball import L2, Linf
from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import stream

ORIGIN = torch.tensor([[0.5, 0.5], [0.2, 0.9]], dtype=torch.float64)


def hill(inputs: Tensor) -> Tensor:
    """Concave, with its top at (0.6, 0.4): sign steps pass over it."""
    return -((inputs - torch.tensor([0.6, 0.4], dtype=inputs.dtype)) ** 2).sum(1)


class Recorder:
    """A score that remembers where it was asked."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(inputs.clone())
        return inputs.sum(1), torch.ones_like(inputs)


def test_plain_ascent_is_a_loop_of_projected_sign_steps_which_an_observer_sees() -> None:
    threat = Linf(0.3)
    expected = [ORIGIN.clone()]
    for _ in range(7):
        _, gradient = value_and_gradient(hill, expected[-1])
        moved = (expected[-1] + 0.07 * gradient.sign()).clamp(ORIGIN - 0.3, ORIGIN + 0.3).clamp(0, 1)
        expected.append(moved)
    seen: list[Tensor] = []
    assert torch.equal(
        ascend(hill, ORIGIN, threat, steps=7, step_size=0.07, observe=seen.append), expected[-1]
    )
    assert all(torch.equal(one, other) for one, other in zip(seen, expected[1:], strict=True))


def test_best_keeps_the_highest_score_among_all_iterates_and_the_start() -> None:
    visited: list[Tensor] = [ORIGIN]
    found = ascend(hill, ORIGIN, Linf(0.4), steps=9, step_size=0.13, keep="best", observe=visited.append)
    best = torch.stack([hill(point) for point in visited]).amax(0)
    assert_close(hill(found), best)
    assert bool((hill(visited[-1]) < best).any()), "the case must distinguish best from last"


@pytest.mark.parametrize("restarts", [1, 3])
def test_of_equal_iterates_the_earliest_is_kept_and_none_where_the_score_is_nan(
    restarts: int,
) -> None:
    options: dict[str, Any] = {"steps": 3, "step_size": 0.05, "restarts": restarts, "keep": "best"}
    options["generator"] = stream(0, "")
    assert torch.equal(ascend(lambda inputs: 0 * inputs.sum(1), ORIGIN, Linf(0.4), **options), ORIGIN)
    undefined = lambda inputs: inputs[:, 0] * torch.nan  # noqa: E731
    assert torch.equal(ascend(undefined, ORIGIN, Linf(0.4), start=ORIGIN + 0.1, **options), ORIGIN)


def test_restarts_keep_the_better_one_for_each_example() -> None:
    # Two peaks: from the origin example 0 climbs the lower one.
    def peaks(inputs: Tensor) -> Tensor:
        low, high = (inputs[:, 0] - 0.3) ** 2, (inputs[:, 0] - 0.8) ** 2
        return torch.maximum(0.1 - low, 0.2 - high)

    origin = torch.tensor([[0.4, 0.5], [0.7, 0.5]], dtype=torch.float64)
    assert peaks(ascend(peaks, origin, Linf(0.5), steps=40, step_size=0.02))[0] < 0.11
    options: dict[str, Any] = {"steps": 40, "step_size": 0.02, "restarts": 8}
    for keep in ("last", "best"):
        generators = [stream(0, "test", i) for i in range(2)]
        found = ascend(peaks, origin, Linf(0.5), keep=keep, generator=generators, **options)
        assert bool((peaks(found) > 0.19).all())


def test_starts_given_by_tensor_are_projected_first() -> None:
    score = Recorder()
    ascend(score, ORIGIN, Linf(0.1), steps=1, step_size=0.0, start=ORIGIN + 5)
    assert_close(score.asked[0], (ORIGIN + 0.1).clamp(0, 1))


def test_linear_decay_shortens_the_steps_evenly() -> None:
    score = Recorder()
    origin = torch.zeros(1, 2, dtype=torch.float64)
    threat = Linf(10.0, bounds=None)
    found = ascend(score, origin, threat, steps=4, step_size=0.4, decay="linear")
    path = torch.stack([*score.asked, found])[:, 0, 0]
    assert_close(path.diff(), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64))


def test_momentum_is_a_sum_of_normalised_gradients() -> None:
    gradients = [torch.tensor([[1.0, 3.0]]).double(), torch.tensor([[-2.0, 1.0]]).double()]

    class Scripted:
        def __init__(self) -> None:
            self.rest = list(gradients)

        def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return inputs.sum(1), self.rest.pop(0)

    origin = torch.zeros(1, 2, dtype=torch.float64)
    threat = L2(10.0, bounds=None)
    found = ascend(Scripted(), origin, threat, steps=2, step_size=1.0, momentum=0.75)
    first = gradients[0] / 2
    second = 0.75 * first + gradients[1] / 1.5
    assert_close(found, first / first.norm() + second / second.norm())


def test_origin_and_requires_grad_of_the_caller_stay() -> None:
    origin = ORIGIN.clone().requires_grad_(True)
    before = origin.detach().clone()
    for keep in ("last", "best"):
        found = ascend(hill, origin, Linf(0.3), steps=3, step_size=0.1, keep=keep)
        assert not found.requires_grad
        assert found.data_ptr() != origin.data_ptr()
    assert torch.equal(origin, before)
    assert origin.requires_grad
    assert origin.grad is None
    assert not ascend(hill, origin, Linf(0.3), steps=0, step_size=0.1).requires_grad


def test_works_without_gradients_around_it_and_on_no_examples() -> None:
    with torch.no_grad():
        found = ascend(hill, ORIGIN, Linf(0.3), steps=3, step_size=0.02)
    assert bool((hill(found) > hill(ORIGIN)).all())
    assert ascend(hill, ORIGIN[:0], Linf(0.3), steps=3, step_size=0.1, keep="best").shape == (0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *[({"restarts": value}, "restarts: expected an integer") for value in (0, -1, 1.5)],
        *[({"steps": value}, "steps: expected an integer") for value in (-1, 2.5, True)],
        *[({"step_size": value}, "step_size: expected") for value in (-0.1, math.nan, math.inf, None)],
        ({"start": "corner"}, "start: .*'corner'"),
        ({"start": "random"}, "needs generator="),
        ({"restarts": 2}, "needs generator="),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ascend(hill, ORIGIN, Linf(0.3), **{"steps": 1, "step_size": 0.1, **changes})


def test_a_score_that_is_not_one_number_per_example_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(2, 2\).*expected \(2,\)"):
        ascend(lambda x: x * 2, ORIGIN, Linf(0.3), steps=1, step_size=0.1)
