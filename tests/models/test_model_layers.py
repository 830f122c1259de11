"""Normalisation by channel and by image, and the folded first block against convolution and pooling."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d
from torch.testing import assert_close

from veridical.models import build
from veridical.models.networks import (
    Normalized,
    Standardise,
    _convolve_and_pool,
    _ResidualUnit,
    _standardise_per_image,
)
from veridical.runtime.errors import UsageError


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_normalized_gives_the_wrapped_model_its_own_units(bounds: tuple[float, float]) -> None:
    low, high = bounds
    mean, std = [0.3, 0.5, 0.1], [0.2, 0.7, 1.1]
    inputs = images(2, 3, 4, 5)
    seen = Normalized(nn.Identity(), mean, std, bounds)(inputs)
    pixels = low + (high - low) * inputs
    for channel in range(3):
        assert_close(seen[:, channel], (pixels[:, channel] - mean[channel]) / std[channel])
    assert seen.dtype == torch.float64


def test_normalized_follows_train_and_eval_and_adds_no_state() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.Dropout())
    wrapped = Normalized(inner, 0.5, torch.tensor(0.25))
    wrapped.eval()
    assert not inner[2].training
    assert [name.removeprefix("model.") for name in wrapped.state_dict()] == list(inner.state_dict())


def test_precision_survives_a_cast_to_bfloat16_and_back() -> None:
    wrapped = Normalized(nn.Identity(), [0.1, 0.2], [0.3, 0.7]).to(torch.bfloat16).double()
    inputs = images(1, 2, 3, 3)
    mean, std = torch.tensor([[0.1, 0.2], [0.3, 0.7]], dtype=torch.float64)[:, :, None, None]
    expected = (inputs - mean) / std
    assert_close(wrapped(inputs), expected, rtol=1e-15, atol=0)
    assert Standardise(0.0, 1.0)(inputs) is inputs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, 0.0), "std: expected a positive number"),
        (([0.1, float("inf")], 1.0), "mean: expected a finite number"),
        (([], 1.0), "mean: expected a finite number"),
        ((0.5, 0.5, (1.0, 0.0)), "bounds: expected .* low < high"),
        (([0.1, 0.2, 0.3], 1.0), "mean has 3 numbers"),  # grey images are not broadcast
    ],
)
def test_impossible_constants_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Normalized(nn.Identity(), *arguments)(images(2, 1, 4, 4))


def test_per_image_standardisation_is_tensorflows() -> None:
    inputs = images(4, 3, 6, 5)
    seen = _standardise_per_image(inputs).flatten(1)
    assert_close(seen.mean(dim=1), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-14)
    assert_close(seen.std(dim=1, correction=0), torch.ones(4, dtype=torch.float64))
    # A nearly uniform image is divided by the floor: 1 / sqrt(n) in 0..255, so 1 / (255 sqrt(n)) in 0..1.
    faint = torch.full((1, 3, 6, 5), 0.5, dtype=torch.float64)
    faint[0, 0, 0, 0] += 1e-5
    centred = faint - faint.mean()
    assert_close(_standardise_per_image(faint), centred * 255 * 90**0.5)


def test_paper_resnet_ignores_the_scale_of_an_image() -> None:
    model = build("rar-resnet", shape=(3, 32, 32), num_classes=5, seed=0).double()
    inputs = images(3, 3, 32, 32)
    for same in (1e-3 * inputs, 0.25 * inputs, 3 * inputs, inputs + 0.1):
        assert_close(model(same), model(inputs), rtol=1e-9, atol=1e-9)


def test_black_images_have_finite_first_and_second_derivatives() -> None:
    model = build("rar-resnet", shape=(1, 8, 8), num_classes=3, seed=0, units=1).double()
    black = torch.zeros(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(black)[:, 0].sum(), black, create_graph=True)
    assert bool(torch.isfinite(gradient).all())
    assert bool(gradient.any())
    gradient.square().sum().backward()
    assert black.grad is not None
    assert bool(torch.isfinite(black.grad).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_paper_resnet_follows_tensorflows_padding_and_shortcuts() -> None:
    """One unit of stride 2 on a 4x4 image, computed by hand from TensorFlow's rules."""
    unit = _ResidualUnit(1, 3, stride=2, activate_first=False).double()
    with torch.no_grad():
        unit.conv1.weight.zero_()
        unit.conv1.weight[1, 0, 2, 2] = 1.0  # reads the lower right neighbour of the window's centre
        unit.conv2.weight.zero_()
        unit.conv2.weight[0, 1, 1, 1] = 1.0  # copies channel 1 of the middle to channel 0
    inputs = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
    outputs = unit(inputs)
    # "Same" with stride 2 on 4 pads one at the end only: windows start at 0 and 2, so offset 2 reads 2 and 4.
    assert outputs[0, 0].tolist() == [[10.0, 0.0], [0.0, 0.0]]
    assert outputs[0, 1].tolist() == [[2.5, 4.5], [10.5, 12.5]]  # the pooled shortcut, in the middle channel
    assert not bool(outputs[0, 2].any())


@pytest.mark.parametrize(
    ("channels", "size", "scale"), [(1, (8, 8), 1.0), (3, (12, 8), 1.0), (1, (8, 8), 0.0)]
)
def test_equals_convolution_then_pooling_with_its_gradients(
    channels: int, size: tuple[int, int], scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    # A blank image gives equal values all over each window, so only the rule for ties decides its gradient.
    inputs = (scale * draw(4, channels, *size)).requires_grad_()
    weight, bias = draw(6, channels, 5, 5).requires_grad_(), draw(6).requires_grad_()
    folded = _convolve_and_pool(inputs, weight, bias)
    plain = max_pool2d(conv2d(inputs, weight, bias, padding=2), 2)
    assert_close(folded, plain, rtol=1e-12, atol=1e-12)
    upstream = draw(*plain.shape)
    ours, theirs = (
        torch.autograd.grad((pooled * upstream).sum(), [inputs, weight, bias]) for pooled in (folded, plain)
    )
    for got, expected in zip(ours, theirs, strict=True):
        assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_the_network_shows_its_first_layer_to_hooks_and_computes_the_same() -> None:
    model = build("cnn", shape=(1, 28, 28), num_classes=10, seed=0).double()
    inputs = torch.rand(2, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    folded = model(inputs)
    seen: list[torch.Size] = []
    model.get_submodule("conv1").register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    assert_close(model(inputs), folded, rtol=1e-12, atol=1e-12)
    assert seen == [(2, 32, 28, 28)]
