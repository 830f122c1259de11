"""PGD on predictions against Foolbox, and what it promises."""

from typing import Literal

import pytest
import torch
from foolbox.attacks import L2PGD, LinfPGD
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from veridical.attacks.ball import L2, Ball, Linf
from veridical.attacks.prediction import pgd
from veridical.attribution.classifier import predict
from veridical.runtime.seeds import stream

from .conftest import stripes

Trained = tuple[nn.Module, Tensor, Tensor]


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
    assert float(losses(model, ours, target).mean()) >= (1 - 1e-4) * float(
        losses(model, theirs, target).mean()
    )


@CASES
def test_as_strong_as_foolbox_from_random_starts(trained: Trained, kind: type[Ball], radius: float) -> None:
    model, (inputs, target) = trained[0].float(), stripes(180, 4)
    inputs, threat = inputs.float(), kind(radius)
    ours, theirs = [], []
    for seed in range(4):
        torch.manual_seed(seed)
        theirs.append(losses(model, by_foolbox(model, inputs, target, threat, random_start=True), target))
        noise = [stream(seed, "pgd", i) for i in range(len(inputs))]
        found = pgd(model, inputs, target, threat, steps=STEPS, step_size=radius / 8, generator=noise)
        assert bool((threat.distance(found, inputs) <= radius + 1e-5).all())
        ours.append(losses(model, found, target))
    gain = torch.stack(ours).mean(0) - torch.stack(theirs).mean(0)
    # The starts differ, so the losses do too, by chance: three standard errors of their mean difference.
    assert float(gain.mean()) >= -3 * float(gain.std()) / len(gain) ** 0.5
    assert float(torch.stack(ours).mean()) > 2 * float(losses(model, inputs, target).mean())


def test_restarts_and_best_never_make_it_weaker(trained: Trained) -> None:
    model, inputs, target = trained
    found_losses = []
    cases: list[tuple[int, Literal["last", "best"]]] = [(1, "last"), (1, "best"), (4, "best")]
    for restarts, keep in cases:
        generators = [stream(0, "pgd", i) for i in range(len(inputs))]
        found = pgd(
            model,
            inputs,
            target,
            Linf(0.1),
            steps=5,
            restarts=restarts,
            keep=keep,
            generator=generators,
        )
        found_losses.append(losses(model, found, target))
    assert bool((found_losses[1] >= found_losses[0] - 1e-12).all())
    assert bool((found_losses[2] >= found_losses[1] - 1e-12).all())


def test_default_step_size_is_that_of_madry(trained: Trained) -> None:
    model, inputs, target = trained
    by_default = pgd(model, inputs, target, Linf(0.1), steps=10, start="origin")
    explicit = pgd(model, inputs, target, Linf(0.1), steps=10, step_size=0.025, start="origin")
    assert torch.equal(by_default, explicit)


def test_model_is_attacked_in_eval_mode_and_left_as_it_was(trained: Trained) -> None:
    model, inputs, target = trained
    both = nn.Sequential(model, nn.Dropout(0.9))
    both.train()
    model.eval()
    state = torch.get_rng_state()
    found = pgd(both, inputs, target, Linf(0.1), steps=3, start="origin")
    assert torch.equal(found, pgd(model, inputs, target, Linf(0.1), steps=3, start="origin"))
    assert both.training
    assert both[1].training
    assert not model.training
    assert all(p.requires_grad and p.grad is None for p in both.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(predict(both, inputs), predict(model, inputs))


def test_predict_takes_any_batch(trained: Trained) -> None:
    model, inputs, _ = trained
    whole = predict(model, inputs)
    torch.testing.assert_close(predict(model, inputs, rows=2), whole)
    assert not whole.requires_grad
    assert predict(model, inputs[:0]).shape == (0, 3)
