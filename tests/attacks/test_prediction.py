"""PGD on predictions against Foolbox, and what it promises."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from foolbox.attacks import L2PGD, LinfPGD
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from veridical.attacks.ascent import pgd
from veridical.attacks.attribution import attack
from veridical.attacks.ball import L2, Ball, Linf
from veridical.attacks.directions import TopK
from veridical.attribution.classifier import predict
from veridical.attribution.methods import InputGradient
from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import stream

from .conftest import Trained, stripes

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


def test_restarts_and_best_never_make_it_weaker(trained: Trained) -> None:
    model, inputs, target = trained
    cases: list[tuple[int, Literal["last", "best"]]] = [(1, "last"), (1, "best"), (4, "best")]
    single, best, restarted = (
        losses(model, pgd(model, inputs, target, Linf(0.1), steps=5, restarts=restarts, keep=keep), target)
        for restarts, keep in cases
    )
    assert bool((best >= single - 1e-12).all())
    assert bool((restarted >= best - 1e-12).all())


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
