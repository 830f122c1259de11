"""Every objective of the registry: gradient, reduction to natural training, what its entry claims, docs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import veridical
from veridical.attacks.ball import L2, Linf, Noise
from veridical.attribution.path import Quadrature
from veridical.cli.main import main
from veridical.data import Dataset
from veridical.runtime.errors import UsageError
from veridical.runtime.options import TrainOptions
from veridical.training.objectives import (
    Inner,
    Natural,
    Objective,
    ObjectiveValue,
    RobustAttribution,
    RobustChange,
    RobustObjective,
    build_objective,
)
from veridical.training.penalties import OBJECTIVES, AttributionPenalty, ChangePenalty, ObjectiveEntry
from veridical.training.recipes import RobustSettings, resolve

Batch = tuple[Tensor, Tensor]
DATA = {
    "name": "fashion-mnist",
    "shape": [1, 28, 28],
    "num_classes": 3,
    "train": 1000,
    "checksum": "",
    "options": {},
}
MODEL = {"name": "mlp", "shape": [1, 28, 28], "num_classes": 3, "options": {}}
ENTRIES = OBJECTIVES.entries()
every_objective = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def settings_of(entry: ObjectiveEntry, **given: Any) -> RobustSettings | None:
    """What the fast recipe makes of the objective, with the given options as far as it takes them."""
    taken = {name: value for name, value in given.items() if name in entry.options}
    options = TrainOptions(out="unused", objective=entry.name, **taken)
    return resolve(options, data=DATA, model=MODEL, train_size=1000).robust


def built(entry: ObjectiveEntry, **given: Any) -> Objective:
    return build_objective(entry.name, settings_of(entry, **given), bounds=None)


def value(objective: Objective, model: nn.Module, batch: Batch) -> Tensor:
    """The loss per example; at a fixed x' for one with an inner maximum, which jumps as the weights move."""
    inputs, target = batch
    if isinstance(objective, RobustObjective):
        return objective.at(model, inputs, target, inputs + 0.2 * torch.sin(77 * inputs)).loss
    return objective(model, inputs, target, torch.Generator().manual_seed(0)).loss


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss.sum(), list(model.parameters())))


OTHER_SIZES = [
    RobustAttribution(size, Linf(0.3, None), weight, Quadrature("gauss-legendre", 3))
    for size in (AttributionPenalty(l1=1.0, power=2.0), AttributionPenalty(0.7, 0.2, 0.5, power=1.5))
    for weight in (0.6, 1.0)
]


@pytest.mark.parametrize("of", [*ENTRIES, *OTHER_SIZES], ids=lambda of: getattr(of, "name", None))
def test_the_gradient_in_the_weights_matches_finite_differences(
    of: ObjectiveEntry | Objective, smooth: nn.Module, batch: Batch
) -> None:
    objective = built(of, weight=0.6, nodes=3) if isinstance(of, ObjectiveEntry) else of
    parameters = list(smooth.parameters())
    exact = gradients(smooth, value(objective, smooth, batch))
    generator = torch.Generator().manual_seed(4)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    ends = []
    for length in (1e-5, -2e-5):
        with torch.no_grad():
            for parameter, change in zip(parameters, direction, strict=True):
                parameter.add_(change, alpha=length)
        ends.append(float(value(objective, smooth, batch).detach().sum()))
    expected = sum(float((g * d).sum()) for g, d in zip(exact, direction, strict=True))
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(expected, rel=2e-7, abs=1e-8)


@every_objective
def test_without_weight_it_is_natural_or_adversarial_training(
    entry: ObjectiveEntry, smooth: nn.Module, batch: Batch
) -> None:
    expected = OBJECTIVES.get("adversarial") if entry.name == "far-adversarial" else None
    plain = Natural() if expected is None else built(expected)
    loss, natural = value(built(entry, weight=0.0), smooth, batch), value(plain, smooth, batch)
    torch.testing.assert_close(loss, natural, rtol=1e-12, atol=0)
    for ours, theirs in zip(gradients(smooth, loss), gradients(smooth, natural), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


@every_objective
def test_examples_do_not_influence_each_other_and_nothing_of_the_callers_changes(
    entry: ObjectiveEntry, smooth: nn.Module, batch: Batch
) -> None:
    inputs, target = batch
    kept, weights = inputs.clone(), {name: value.clone() for name, value in smooth.state_dict().items()}
    objective = built(entry)
    whole = value(objective, smooth.train(), batch)
    alone = torch.cat([value(objective, smooth, (inputs[i : i + 1], target[i : i + 1])) for i in range(5)])
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-12)
    objective(smooth, inputs, target, torch.Generator().manual_seed(0)).loss.sum().backward()
    assert torch.equal(inputs, kept)
    assert not inputs.requires_grad
    assert smooth.training
    assert all(torch.equal(value, weights[name]) for name, value in smooth.state_dict().items())


class _Cube(torch.autograd.Function):
    """A layer like fused attention's: it has a gradient, and its gradient has none."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs**3

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        slope: Tensor = 3 * inputs**2 * gradient
        return slope


class _OnceOnly(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        # First: behind it stand weights, so that what comes back to it can be differentiated.
        logits: Tensor = self.inner(_Cube.apply(inputs))
        return logits


@every_objective
def test_only_those_that_say_so_differentiate_twice(
    entry: ObjectiveEntry, smooth: nn.Module, batch: Batch
) -> None:
    def step() -> None:
        objective = built(entry, weight=0.6, inner_score="loss")
        objective(_OnceOnly(smooth), *batch, torch.Generator().manual_seed(0)).loss.sum().backward()

    if entry.needs_second_order:
        with pytest.raises((RuntimeError, UsageError)):
            step()
    else:
        step()


ASCENDING = [entry for entry in ENTRIES if "radius_warm_up" in entry.options]
every_ascent = pytest.mark.parametrize("entry", ASCENDING, ids=lambda entry: entry.name)


@every_ascent
def test_every_setting_reaches_its_place(entry: ObjectiveEntry) -> None:
    """Numbers that are all different, so that none can stand for another."""
    robust = RobustSettings(
        weight=0.7, norm="l2", radius=0.3, training_radius=0.9, beta=0.4, inner_steps=3, inner_step_size=0.11,
        inner_start="origin", inner_score="loss", inner_nodes=5, nodes=8, rule="right",
        distance="cosine", topk=17,
    )  # fmt: skip
    known: dict[str, AttributionPenalty | ChangePenalty] = {
        "adversarial": AttributionPenalty(sum_weight=1.0),
        "ig-norm": AttributionPenalty(l1=1.0),
        "ig-sum-norm": AttributionPenalty(sum_weight=1.0, l1=0.4),
        "loss-change": AttributionPenalty(absolute_sum=1.0),
        "trades": ChangePenalty("kl"),
        "far": ChangePenalty("cosine"),
        "far-adversarial": ChangePenalty("cosine", at_perturbed=True),
        "r2et": ChangePenalty("thickness", topk=17),
    }
    penalty = known[entry.name]
    inner = Inner(3, 0.11, "origin", "loss", Quadrature("right", 5))
    rest: dict[str, Any] = {"weight": 0.7, "quadrature": Quadrature("right", 8), "inner": inner}
    expected = (
        RobustChange(penalty, L2(0.9), **rest)
        if isinstance(penalty, ChangePenalty)
        else RobustAttribution(penalty, L2(0.9), **rest)
    )
    assert build_objective(entry.name, robust) == expected


@every_ascent
@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)])
def test_ball_and_step_grow_in_proportion_and_evaluation_has_its_own(
    entry: ObjectiveEntry, progress: float, share: float
) -> None:
    robust = settings_of(entry, radius=0.2, training_radius=0.3, radius_warm_up=0.4)
    assert robust is not None
    then = build_objective(entry.name, robust, progress=progress)
    assert isinstance(then, RobustObjective)
    assert isinstance(then.ball, Linf)
    assert then.ball.radius == pytest.approx(0.3 * share)
    # The recipe's step is a share of the ball that is climbed in.
    assert then.inner.step_size == pytest.approx(0.7 * 0.3 * share)
    assert (robust.radius, robust.ball_radius) == (0.2, 0.3)
    # Without options of its own the ball is that of evaluation.
    for given in ({}, {"radius_warm_up": 0.0}):
        first = build_objective(entry.name, settings_of(entry, radius=0.2, **given), progress=progress)
        assert isinstance(first, RobustObjective)
        assert first.ball.radius == 0.2


def test_the_l1_term_is_switched_on_at_its_share_of_the_training() -> None:
    robust = settings_of(OBJECTIVES.get("ig-sum-norm"), beta=0.4, beta_from=0.5)
    built = [build_objective("ig-sum-norm", robust, progress=progress) for progress in (0.0, 0.49, 0.5, 1.0)]
    assert [one.size.l1 for one in built if isinstance(one, RobustAttribution)] == [0, 0, 0.4, 0.4]


def test_docs_and_help_list_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "robust-attribution.md").read_text(encoding="utf-8")
    table = text[text.index("| `--objective` |") :].partition("\n\n")[0]
    rows = [
        tuple(row) for row in re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \| (yes|no) \|$", table, re.MULTILINE)
    ]
    words = {True: "yes", False: "no"}
    assert rows == [(e.name, e.summary, words[e.needs_second_order]) for e in ENTRIES]
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^  {e.name} +{re.escape(e.summary)}$", printed, re.MULTILINE) for e in ENTRIES)


def squared_error(
    model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
) -> ObjectiveValue:
    """An objective as a user might write it."""
    del generator
    wanted = nn.functional.one_hot(target, 3).to(inputs)
    return ObjectiveValue((model(inputs) - wanted).square().sum(1))


def test_trusted_code_is_an_objective_by_name(
    tmp_path: Path, stripes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    name = f"{Path(__file__).stem}:squared_error"
    given: dict[str, Any] = {
        "data": stripes, "model": "mlp", "out": str(tmp_path / "run"), "epochs": 3.0, "progress": False
    }  # fmt: skip
    with pytest.raises(UsageError, match="trust_code"):
        veridical.train(objective=name, **given)
    assert not (tmp_path / "run").exists()
    run = veridical.train(objective=name, trust_code=True, **given)
    assert run.settings.objective == name
    assert run.settings.robust is None
    own = veridical.train(objective=squared_error, **given | {"out": str(tmp_path / "own")})
    assert all(torch.equal(value, own.model.state_dict()[n]) for n, value in run.model.state_dict().items())
    with pytest.raises(UsageError, match="radius has no effect"):
        veridical.train(objective=name, trust_code=True, radius=0.1, **given)
