"""Captum's classes in Veridical's form of call."""

from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from captum.attr import DeepLift, GuidedBackprop, LayerConductance, Occlusion, Saliency
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.testing import assert_close

from veridical.attribution.captum_adapter import CaptumAttribution, last_plane
from veridical.attribution.methods import InputGradient, IntegratedGradients
from veridical.attribution.registry import create_attribution
from veridical.models import build
from veridical.runtime.errors import UsageError

from .conftest import TARGET, images


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 with normal weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.double()


def network() -> nn.Module:
    return drawn(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)))


@pytest.mark.parametrize("output", ["logit", "loss", "log-probability"])
def test_captums_maps_equal_ours(output: Any) -> None:
    model, inputs = network(), images()
    plain = CaptumAttribution(Saliency, output=output, abs=False)
    assert_close(plain(model, inputs, TARGET), InputGradient(output)(model, inputs, TARGET))
    path = CaptumAttribution(CaptumIntegratedGradients, output=output, n_steps=20)
    assert_close(path(model, inputs, TARGET), IntegratedGradients(20, output=output)(model, inputs, TARGET))


def test_options_reach_the_constructor_or_the_call() -> None:
    model, inputs = network(), images()
    local = CaptumAttribution(CaptumIntegratedGradients, multiply_by_inputs=False, n_steps=3)
    reference = CaptumIntegratedGradients(model, multiply_by_inputs=False)
    expected = reference.attribute(inputs, target=TARGET, n_steps=3)
    assert_close(local(model, inputs, TARGET), expected)
    layer = CaptumAttribution(LayerConductance, layer=model.get_submodule("0"))
    assert layer(model, inputs, TARGET).shape == (3, 3, 2, 2)
    occlusion = CaptumAttribution(Occlusion, sliding_window_shapes=(1, 2, 2))
    assert occlusion(model, inputs, TARGET).shape == inputs.shape
    # And those of the Captum-style call.
    bound = CaptumAttribution(CaptumIntegratedGradients, n_steps=3).bind(model)
    found = bound.attribute(inputs, 0.5, target=TARGET, n_steps=20)
    assert_close(found, IntegratedGradients(20, baseline=0.5)(model, inputs, TARGET))


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning")
def test_classes_that_need_a_module_work_and_leave_no_hooks() -> None:
    model, inputs = network(), images()
    maps = CaptumAttribution(DeepLift)(model, inputs, TARGET)
    change = (model(inputs) - model(0 * inputs))[torch.arange(3), TARGET]
    assert_close(maps.flatten(1).sum(dim=1), change.detach())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("captum_class", "options", "message"),
    [
        (Saliency, {"steps": 3}, "option of Captum's .*Saliency: expected one of .*abs.*steps"),
        (Saliency, {"target": 3}, "got 'target'"),
        (Saliency, {"output": "probability"}, "output: expected one of logit"),
        (Saliency, {"output": torch.mean}, "output: expected a name"),
        (dict, {}, "captum_class: expected a class with a method `attribute`"),
        ("Saliency", {}, "captum_class: expected a class of captum.attr"),
    ],
)
def test_impossible_options_are_refused(captum_class: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CaptumAttribution(captum_class, **options)


def test_results_that_are_not_one_tensor_are_refused() -> None:
    method = CaptumAttribution(CaptumIntegratedGradients, return_convergence_delta=True)
    with pytest.raises(UsageError, match="returned a tuple, expected one tensor"):
        method(network(), images(), TARGET)


def _of_torch(inputs: Tensor) -> Tensor:
    return torch.randn(inputs.shape, dtype=inputs.dtype)


def _of_numpy(inputs: Tensor) -> Tensor:
    return torch.from_numpy(np.random.standard_normal(tuple(inputs.shape)))


@pytest.mark.parametrize("draw", [_of_torch, _of_numpy])
def test_the_seed_decides_what_is_drawn_from_either_global_generator(draw: Any) -> None:
    """Captum's perturbations draw from both."""

    class Drawing:
        def __init__(self, _model: nn.Module) -> None:
            pass

        def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
            del target
            noise: Tensor = draw(inputs)
            return noise

    model, inputs = network(), images()
    first, again, other = (CaptumAttribution(Drawing, seed=s)(model, inputs, TARGET) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not bool((first == other).any())


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


@pytest.mark.parametrize("captum_class", [GuidedBackprop, DeepLift])
def test_a_relu_that_hooks_would_miss_is_an_error(captum_class: Any) -> None:
    method, inputs = CaptumAttribution(captum_class), torch.rand(3, 6)
    for calls in ("relu", "relu_"):
        model = Functional(calls)
        with pytest.raises(UsageError, match="1 times as a module and 1 times as a function"):
            method(model, inputs)
    assert method(Functional("sigmoid"), inputs).shape == inputs.shape
    without = nn.Sequential(nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 2))
    if captum_class is GuidedBackprop:  # which would give the plain gradient
        with pytest.raises(UsageError, match="calls ReLU 0 times as a module"):
            method(without, inputs)


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


def residual_network() -> nn.Module:
    """Two convolutions, the second with a ReLU module that is used twice, then pooling and a head."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(self.relu(x)) + x)  # type: ignore[no-any-return]

    return drawn(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Sequential(Block()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
    )


def test_what_a_name_alone_gives_captum_is_what_a_user_would_give() -> None:
    model, inputs = residual_network(), images()
    by_name = create_attribution("captum:LayerGradCam")
    assert last_plane(model, inputs) is model.get_submodule("1")
    planes = captum.attr.LayerGradCam(model, model.get_submodule("1"))
    expected = planes.attribute(inputs, target=TARGET, relu_attributions=True)
    assert_close(by_name(model, inputs, TARGET), expected)  # of one channel and the image's own size
    occlusion = create_attribution("captum:Occlusion")
    plain = CaptumAttribution(Occlusion, sliding_window_shapes=(1, 1, 1), strides=(1, 1, 1))
    assert_close(occlusion(model, inputs, TARGET), plain(model, inputs, TARGET))
    with pytest.raises(UsageError, match="Grad-CAM"):
        by_name(drawn(nn.Sequential(nn.Flatten(), nn.Linear(16, 3))), inputs, TARGET)
