"""Methods that hook nn.ReLU modules are refused where they would miss a rectifier of the network."""

from typing import Any

import pytest
import torch
from captum.attr import DeepLift, GuidedBackprop
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.testing import assert_close

from veridical.attribution.captum_adapter import CaptumAttribution
from veridical.attribution.methods import InputGradient
from veridical.models import build
from veridical.runtime.errors import UsageError


class Functional(nn.Module):
    """One ReLU as a module, one as a function."""

    def __init__(self, calls: str) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        self.relu = nn.ReLU()
        self.calls = calls

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.relu(self.first(inputs))
        hidden = self.second(hidden)
        hidden = relu(hidden) if self.calls == "relu" else getattr(hidden, self.calls)()
        found: Tensor = self.last(hidden)
        return found


@pytest.mark.parametrize("calls", ["relu", "relu_", "sigmoid"])
def test_a_relu_that_hooks_would_miss_is_an_error(calls: str) -> None:
    model, inputs = Functional(calls), torch.rand(3, 6)
    for captum_class in (GuidedBackprop, DeepLift):
        method = CaptumAttribution(captum_class)
        if calls == "sigmoid":
            assert method(model, inputs).shape == inputs.shape
            continue
        with pytest.raises(UsageError, match="1 times as a module and 1 times as a function"):
            method(model, inputs)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_network_without_any_would_give_the_plain_gradient() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 2))
    with pytest.raises(UsageError, match="calls ReLU 0 times as a module"):
        CaptumAttribution(GuidedBackprop)(model, torch.rand(3, 6))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_the_registrys_relu_networks_can_be_explained(name: str) -> None:
    options: dict[str, Any] = {} if name == "cnn" else {"width": 8}
    model = build(name, shape=(1, 8, 8), num_classes=3, seed=0, **options)
    inputs = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    guided = CaptumAttribution(GuidedBackprop)(model, inputs)
    assert guided.shape == inputs.shape
    assert not torch.allclose(guided, InputGradient()(model, inputs))


def test_guided_backpropagation_is_what_its_formula_says() -> None:
    model = build("mlp", shape=(1, 4, 4), num_classes=3, seed=0, width=8).double()
    inputs = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 0, 1])
    first, second, last = (getattr(model, name) for name in ("hidden1", "hidden2", "classify"))
    before = first((inputs.flatten(1) - 0.5) / 0.5)
    after = second(relu(before))
    # Back through a ReLU goes what is positive, where the unit was active.
    back = relu(last.weight[target]) * (after > 0)
    back = relu(back @ second.weight) * (before > 0)
    expected = (back @ first.weight / 0.5).reshape(inputs.shape)
    assert_close(CaptumAttribution(GuidedBackprop)(model, inputs, target), expected.detach())
