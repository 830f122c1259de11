"""Bounds on what is computed at once split nodes, samples and examples, and change no result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.classifier import predict
from veridical.attribution.method import AttributionMethod
from veridical.attribution.methods import (
    ExpectedGradients,
    GradientTimesInput,
    InputGradient,
    IntegratedGradients,
    SmoothGrad,
)
from veridical.runtime import devices
from veridical.runtime.devices import free_memory, rows_at_once

GIB = 2**30


class Counting(nn.Module):
    """A smooth network that remembers the greatest batch it has seen."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(9, 3, generator=generator, dtype=torch.float64)
        self.most = 0
        self.inner = nn.Tanh()

    def forward(self, inputs: Tensor) -> Tensor:
        self.most = max(self.most, len(inputs))
        logits: Tensor = self.inner(inputs.flatten(1) @ self.weight) * torch.arange(1, 4)
        return logits


def examples(count: int = 23) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 3, 3, generator=generator, dtype=torch.float64), torch.arange(count) % 3


Make = Callable[[int | None], AttributionMethod]
BASELINES = torch.rand(23, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
BOUNDED: dict[str, Make] = {
    "fixed nodes": lambda rows: IntegratedGradients(2, rows=rows),
    "more nodes": lambda rows: IntegratedGradients(7, baseline=BASELINES, rows=rows),
    "automatic nodes": lambda rows: IntegratedGradients(rows=rows, tolerance=1e-6),
    "layer": lambda rows: IntegratedGradients(3, layer="inner", rows=rows),
    "smoothgrad": lambda rows: SmoothGrad(samples=3, rows=rows),
    "expected": lambda rows: ExpectedGradients(BASELINES[:5], samples=7, rows=rows),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("rows", [1, 4, 16, 50])
@pytest.mark.parametrize("name", BOUNDED)
def test_rows_bound_nodes_and_examples(name: str, rows: int) -> None:
    inputs, target = examples()
    whole = BOUNDED[name](10_000)(Counting(), inputs, target)
    model = Counting()
    assert_close(BOUNDED[name](rows)(model, inputs, target), whole)
    assert 0 < model.most <= rows
    method = BOUNDED[name](rows)
    if isinstance(method, IntegratedGradients) and method.layer is None:
        result, model.most = method.with_diagnostics(model, inputs, target), 0
        assert_close(result.attribution, whole)
        assert model.most <= rows
    assert_close(method(model, inputs, target, create_graph=True).detach(), whole)


@pytest.mark.parametrize("method", [InputGradient(), GradientTimesInput(), SmoothGrad(2)])
def test_methods_without_a_bound_have_one(method: AttributionMethod) -> None:
    inputs, target = examples(1200)
    model = Counting()
    maps = method(model, inputs, target)
    assert model.most <= 512
    groups = torch.arange(1200).split(100)
    assert_close(maps, torch.cat([method(model, inputs[n], target[n], indices=n) for n in groups]))


def test_the_default_follows_the_size_of_an_image_and_the_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, photo = torch.zeros(1, 1, 28, 28), torch.zeros(1, 3, 224, 224)
    monkeypatch.setattr(devices, "free_memory", lambda _device: 100 * GIB)
    bounds = ((512, 60), (160, 180), (1000, 16))
    assert [rows_at_once(small, *bound) for bound in bounds] == [512, 160, 1000]
    row = photo.numel() * 4
    for most, kept in bounds:
        plenty = rows_at_once(photo, most, kept)
        assert 1.9 * GIB < plenty * kept * row <= 2 * GIB
        assert rows_at_once(photo.double(), most, kept) == plenty // 2
        monkeypatch.setattr(devices, "free_memory", lambda _device: GIB)
        assert rows_at_once(photo, most, kept) * kept * row <= GIB / 4
        monkeypatch.setattr(devices, "free_memory", lambda _device: 0)
        assert rows_at_once(photo, most, kept) == 1
        monkeypatch.setattr(devices, "free_memory", lambda _device: 100 * GIB)
    assert free_memory(torch.device("cpu")) > 2**24


def test_defaults_are_used_and_what_is_said_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veridical.runtime.devices.free_memory", lambda _device: 0)
    inputs = torch.zeros(3, 1, 1600, 1600)

    class Sums(Counting):
        def forward(self, inputs: Tensor) -> Tensor:
            self.most = max(self.most, len(inputs))
            return inputs.flatten(2).sum(2) * torch.arange(1, 4)

    calls: dict[str, Callable[[nn.Module, int | None], Any]] = {
        "predict": lambda model, rows: predict(model, inputs, rows=rows),
        "path": lambda model, rows: IntegratedGradients(2, rows=rows)(model, inputs),
        "smoothgrad": lambda model, rows: SmoothGrad(2, rows=rows)(model, inputs),
    }
    for name, call in calls.items():
        for rows in (None, 2):
            model = Sums()
            call(model, rows)
            assert model.most == (1 if rows is None else rows), name
