"""PGD on predictions against Foolbox, and what it promises."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from veridical.attacks.ball import L2, Ball, Linf
from veridical.attacks.prediction import pgd, predict
from veridical.runtime.seeds import stream

from .conftest import stripes

Trained = tuple[nn.Module, Tensor, Tensor]


@pytest.mark.parametrize(("kind", "radius"), [(Linf, 0.06), (Linf, 0.12), (L2, 0.25), (L2, 0.5)])
def test_at_least_as_strong_as_foolbox_at_equal_budget(trained: Trained, kind: type[Ball], radius: float) -> None:
    with warnings.catch_warnings():
        # Foolbox imports what its dependencies deprecate.
        warnings.simplefilter("ignore")
        import foolbox
    model, _, _ = trained
    model = model.float()
    inputs, target = stripes(180, 4)
    inputs = inputs.float()
    steps, step_size = 20, radius / 8
    attacks = {Linf: foolbox.attacks.LinfPGD, L2: foolbox.attacks.L2PGD}
    other = attacks[kind](abs_stepsize=step_size, steps=steps, random_start=True)
    torch.manual_seed(0)
    _, theirs, _ = other(foolbox.PyTorchModel(model, bounds=(0, 1)), inputs, target, epsilons=radius)
    threat = kind(radius)
    assert bool((threat.distance(theirs, inputs) <= radius + 1e-5).all())
    generators = [stream(0, "pgd", i) for i in range(len(inputs))]
    ours = pgd(model, inputs, target, threat, steps=steps, step_size=step_size, generator=generators)
    assert bool((threat.distance(ours, inputs) <= radius + 1e-5).all())

    def held(points: Tensor) -> int:
        return int((predict(model, points).argmax(1) == target).sum())

    def loss(points: Tensor) -> float:
        return float(nn.functional.cross_entropy(predict(model, points), target))

    assert held(inputs) > 170
    assert held(ours) <= held(theirs) < held(inputs)
    assert loss(ours) >= 0.999 * loss(theirs)


def test_restarts_and_best_never_make_it_weaker(trained: Trained) -> None:
    model, inputs, target = trained
    losses = []
    for restarts, keep in ((1, "last"), (1, "best"), (4, "best")):
        generators = [stream(0, "pgd", i) for i in range(len(inputs))]
        found = pgd(
            model,
            inputs,
            target,
            Linf(0.1),
            steps=5,
            restarts=restarts,
            keep=keep,  # type: ignore[arg-type]
            generator=generators,
        )
        losses.append(nn.functional.cross_entropy(predict(model, found), target, reduction="none"))
    assert bool((losses[1] >= losses[0] - 1e-12).all())
    assert bool((losses[2] >= losses[1] - 1e-12).all())


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
