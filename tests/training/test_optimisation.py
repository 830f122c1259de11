"""Optimisers, learning rates, the average of the weights, and the arithmetic: flags that are given back."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.data import Dataset
from veridical.runtime.errors import UsageError
from veridical.training import optimisation
from veridical.training.loop import train
from veridical.training.optimisation import (
    WeightAverage,
    arithmetic,
    check_bf16,
    learning_rate,
    make_optimiser,
)
from veridical.training.recipes import OptimiserSettings

CYCLE = OptimiserSettings("adam", "one-cycle", 2e-3, 0.0, 8, 1000, 0.0, 0.2, "mean")


def test_one_cycle_rises_linearly_to_its_greatest_rate_and_falls_by_half_a_cosine() -> None:
    rates = [learning_rate(CYCLE, step) for step in range(CYCLE.steps)]
    assert rates[0] == pytest.approx(2e-3 * 0.5 / 200)
    assert rates[99] == pytest.approx(2e-3 * 99.5 / 200)
    assert rates.index(max(rates)) in (199, 200)
    assert max(rates) == pytest.approx(2e-3, rel=3e-3)
    assert rates[600] == pytest.approx(2e-3 * 0.5 * (1 + math.cos(math.pi * 400.5 / 800)))
    assert 0 < rates[-1] < 1e-8
    assert rates[:200] == sorted(rates[:200])
    assert rates[200:] == sorted(rates[200:], reverse=True)
    # Without a warm-up it starts at the top.
    assert learning_rate(replace(CYCLE, warm_up=0.0), 0) == pytest.approx(2e-3, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.1), (499, 0.1), (500, 1), (59_999, 1), (60_000, 0.1), (70_000, 0.1)]
)
def test_steps_are_those_of_the_paper_and_constant_is_constant(step: int, share: float) -> None:
    settings = replace(CYCLE, schedule="steps", learning_rate=1e-2, steps=70_001)
    assert learning_rate(settings, step) == pytest.approx(share * 1e-2)
    assert learning_rate(replace(settings, schedule="constant"), step) == 1e-2


def test_optimisers_do_what_their_names_say() -> None:
    """One step on a known gradient, by hand."""
    moved = {}
    for name in ("adam", "sgd"):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 2.0)
        settings = replace(CYCLE, optimiser=name, learning_rate=0.1, weight_decay=0.5)
        optimiser = make_optimiser(model, settings)
        for _ in range(2):
            model.weight.grad = torch.tensor([[3.0]])
            optimiser.step()
        moved[name] = float(model.weight.detach())
    # Adam on a constant gradient moves by the rate; its decay is decoupled: w <- w - lr * wd * w - lr.
    first = 2.0 * (1 - 0.05) - 0.1
    assert moved["adam"] == pytest.approx(first * (1 - 0.05) - 0.1, rel=1e-5)
    # SGD: the decay joins the gradient, and the momentum is 0.9.
    velocity = 3.0 + 0.5 * 2.0
    first = 2.0 - 0.1 * velocity
    assert moved["sgd"] == pytest.approx(first - 0.1 * (0.9 * velocity + 3.0 + 0.5 * first), rel=1e-6)


def test_a_model_without_trainable_weights_is_an_error() -> None:
    with pytest.raises(UsageError, match="trainable"):
        make_optimiser(nn.Linear(2, 2).requires_grad_(False), CYCLE)


def test_the_average_forgets_the_initial_weights_at_once_and_takes_over_buffers() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.register_buffer("seen", torch.zeros(()))
    nn.init.constant_(model.weight, 100.0)
    average, expected = WeightAverage(model, 0.8), 100.0
    for t in range(60):
        nn.init.constant_(model.weight, float(t))
        model.get_buffer("seen").fill_(t)
        average.update(model)
        decay = min(0.8, (t + 1) / (t + 10))
        expected = decay * expected + (1 - decay) * t
    weight = next(average.module.parameters())
    assert float(weight) == pytest.approx(expected, rel=1e-5)
    assert not weight.requires_grad
    assert float(average.module.get_buffer("seen")) == 59


def flags() -> tuple[Any, ...]:
    mkldnn: Any = torch.backends.mkldnn
    cudnn = torch.backends.cudnn
    return mkldnn.conv.fp32_precision, mkldnn.matmul.fp32_precision, cudnn.deterministic, cudnn.benchmark


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this CPU computes in bfloat16."""
    monkeypatch.setattr(optimisation, "supports_bf16", lambda _: True)
    monkeypatch.setattr(optimisation, "_takes_effect", lambda: True)


@pytest.mark.usefixtures("capable")
def test_flags_are_set_whatever_the_caller_has_and_given_back_after_an_exception() -> None:
    def fail() -> None:
        with arithmetic(bf16=True):
            assert flags()[:2] == ("bf16", "bf16")
            with arithmetic():
                assert flags() == ("ieee", "ieee", True, False)
            assert flags()[:2] == ("bf16", "bf16")
            raise ArithmeticError

    before = flags()
    with pytest.raises(ArithmeticError):
        fail()
    assert flags() == before


@pytest.mark.parametrize("missing", ["supports_bf16", "_takes_effect"])
@pytest.mark.usefixtures("capable")
def test_a_cpu_without_it_is_an_error_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stripes: Dataset, missing: str
) -> None:
    monkeypatch.setattr(optimisation, missing, lambda *_: False)
    with pytest.raises(UsageError, match="cuda"):
        check_bf16(torch.device("cuda", 0))
    with pytest.raises(UsageError, match="Leave bf16 out"):
        train(data=stripes, model="mlp", out=str(tmp_path / "run"), bf16=True)
    assert not (tmp_path / "run").exists()


def test_the_probe_agrees_with_a_larger_product() -> None:
    """Where the probe says that bf16 takes effect, products must show its rounding, and only there."""
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(200, 300, generator=generator)
    exact = (left.double() @ left.double().T).float()
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.matmul.fp32_precision
    try:
        mkldnn.matmul.fp32_precision = "bf16"
        error = ((left @ left.T - exact) / exact).abs().max()
    finally:
        mkldnn.matmul.fp32_precision = before
    assert bool(error > 1e-5) == optimisation._takes_effect()


class Watched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        SEEN.add((self.training, *flags()[:2]))
        logits: Tensor = self.layer(inputs.flatten(1))
        return logits


SEEN: set[tuple[bool, str, str]] = set()


@pytest.mark.usefixtures("capable")
def test_training_uses_bf16_and_metrics_do_not(tmp_path: Path, stripes: Dataset) -> None:
    SEEN.clear()
    run = train(
        data=stripes, model=Watched(), out=str(tmp_path / "run"), objective="natural", steps=3, bf16=True,
        progress=False
    )  # fmt: skip
    assert sorted(SEEN) == [(False, "ieee", "ieee"), (True, "bf16", "bf16")]
    assert run.settings.bf16
    assert "precision" in {entry["what"] for entry in run.result["results"]["deviations"]}
