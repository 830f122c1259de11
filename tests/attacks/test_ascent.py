"""The projected-ascent loop, and PGD on predictions made of it, against Foolbox."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from foolbox.attacks import L2PGD, LinfPGD
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attacks.ascent import ascend, pgd, value_and_gradient
from veridical.attacks.attribution import attack
from veridical.attacks.ball import L2, Ball, Linf
from veridical.attacks.directions import TopK
from veridical.attribution.classifier import predict
from veridical.attribution.methods import InputGradient
from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import stream

from .conftest import Trained, stripes

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


CASES = pytest.mark.parametrize(("kind", "radius"), [(Linf, 0.13), (Linf, 0.18), (L2, 0.8), (L2, 1.0)])
STEPS = 20


def by_foolbox(model: nn.Module, inputs: Tensor, target: Tensor, threat: Ball, random_start: bool) -> Tensor:
    attacks = {Linf: LinfPGD, L2: L2PGD}
    attack = attacks[type(threat)](abs_stepsize=threat.radius / 8, steps=STEPS, random_start=random_start)
    _, found, _ = attack(PyTorchModel(model, bounds=(0, 1)), inputs, target, epsilons=threat.radius)
    assert isinstance(found, Tensor)
    assert bool((threat.distance(found, inputs) <= threat.radius + 1e-5).all())
    return found


def losses(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(predict(model, inputs), target, reduction="none")


def held(model: nn.Module, inputs: Tensor, target: Tensor) -> int:
    return int((predict(model, inputs).argmax(1) == target).sum())


@CASES
def test_as_strong_as_foolbox_from_the_same_start(trained: Trained, kind: type[Ball], radius: float) -> None:
    model, (inputs, target) = trained[0].float(), stripes(180, 4)
    inputs, threat = inputs.float(), kind(radius)
    theirs = by_foolbox(model, inputs, target, threat, random_start=False)
    ours = pgd(model, inputs, target, threat, steps=STEPS, step_size=radius / 8, start="origin")
    assert bool((threat.distance(ours, inputs) <= radius + 1e-5).all())
    assert held(model, ours, target) <= held(model, theirs, target) < held(model, inputs, target)
    mine, others = (float(losses(model, moved, target).mean()) for moved in (ours, theirs))
    assert mine >= (1 - 1e-4) * others


@CASES
def test_as_strong_as_foolbox_from_random_starts(trained: Trained, kind: type[Ball], radius: float) -> None:
    model, (inputs, target) = trained[0].float(), stripes(180, 4)
    inputs, threat = inputs.float(), kind(radius)
    ours, theirs = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        theirs.append(losses(model, by_foolbox(model, inputs, target, threat, random_start=True), target))
        found = pgd(model, inputs, target, threat, steps=STEPS, step_size=radius / 8, seed=seed)
        assert bool((threat.distance(found, inputs) <= radius + 1e-5).all())
        ours.append(losses(model, found, target))
    gain = torch.stack(ours).mean(0) - torch.stack(theirs).mean(0)
    # The starts differ, so the losses do too, by chance: three standard errors of their mean difference.
    assert float(gain.mean()) >= -3 * float(gain.std()) / len(gain) ** 0.5
    assert float(torch.stack(ours).mean()) > 2 * float(losses(model, inputs, target).mean())


def test_default_step_size_is_that_of_madry(trained: Trained) -> None:
    model, inputs, target = trained
    by_default = pgd(model, inputs, target, Linf(0.1), steps=10, start="origin")
    explicit = pgd(model, inputs, target, Linf(0.1), steps=10, step_size=0.025, start="origin")
    assert torch.equal(by_default, explicit)


def test_random_starts_come_from_the_seed_and_the_examples_numbers(trained: Trained) -> None:
    model, inputs, target = trained
    state = torch.get_rng_state()
    whole = pgd(model, inputs, target, Linf(0.1), steps=2)
    torch.testing.assert_close(
        pgd(model, inputs[[7, 2]], target[[7, 2]], Linf(0.1), steps=2, indices=[7, 2]), whole[[7, 2]]
    )
    assert not torch.equal(pgd(model, inputs[2:3], target[2:3], Linf(0.1), steps=2), whole[2:3])
    assert not torch.equal(pgd(model, inputs, target, Linf(0.1), steps=2, seed=1), whole)
    streams = [stream(0, "pgd", index) for index in range(len(inputs))]
    assert torch.equal(pgd(model, inputs, target, Linf(0.1), steps=2, generator=streams), whole)
    assert torch.equal(torch.get_rng_state(), state)


BOTH_ATTACKS: dict[str, Callable[..., Any]] = {
    "pgd": pgd,
    "attack": partial(attack, attribution=InputGradient(), attack=TopK(10)),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": torch.full((2, 1, 8, 8), torch.nan)}, "NaN"),
        ({"inputs": torch.full((2, 1, 8, 8), -torch.inf)}, "infinite"),
        ({"inputs": torch.full((2, 1, 8, 8), 200.0)}, "200.*outside the ball's bounds"),
        ({"inputs": torch.full((2, 1, 8, 8), -1e-6)}, "outside the ball's bounds"),
        ({"ball": 0.1}, r"ball: expected a ball, such as Linf\(0.1\)"),
    ],
)
@pytest.mark.parametrize("name", BOTH_ATTACKS)
def test_both_attacks_refuse_what_cannot_be_attacked(
    trained: Trained, name: str, changes: dict[str, Any], message: str
) -> None:
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    given = {"inputs": images, "target": torch.tensor([0, 1]), "ball": Linf(0.1), **changes}
    with pytest.raises(UsageError, match=message):
        BOTH_ATTACKS[name](trained[0], **given)


def test_inputs_at_bounds_that_float32_does_not_have_are_inside(trained: Trained) -> None:
    inputs = torch.full((1, 1, 8, 8), 0.1).clamp(0.0, 0.1)
    assert float(inputs.max()) > 0.1
    moved = pgd(trained[0].float(), inputs, torch.tensor([0]), Linf(0.0, (0.0, 0.1)), steps=1)
    assert torch.equal(moved, inputs)
