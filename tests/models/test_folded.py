"""The folded first block computes what a convolution and a pooling layer do, derivatives too."""

import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

from veridical.models import build
from veridical.models.folded import convolve_and_pool


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (12, 8))])
def test_equals_convolution_then_pooling_with_its_gradients(channels: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, channels, *size, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(6, channels, 5, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)
    folded = convolve_and_pool(inputs, weight, bias)
    plain = max_pool2d(conv2d(inputs, weight, bias, padding=2), 2)
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(plain.shape, dtype=torch.float64, generator=generator)
    ours = torch.autograd.grad((folded * upstream).sum(), [inputs, weight, bias])
    theirs = torch.autograd.grad((plain * upstream).sum(), [inputs, weight, bias])
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_ties_go_to_the_first_place_of_the_window_as_in_max_pooling() -> None:
    # A blank image gives equal values all over each window, so only the tie rule decides the gradient.
    inputs = torch.zeros(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bias = torch.ones(3, dtype=torch.float64)
    (ours,) = torch.autograd.grad(convolve_and_pool(inputs, weight, bias).sum(), inputs)
    (theirs,) = torch.autograd.grad(max_pool2d(conv2d(inputs, weight, bias, padding=2), 2).sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_an_empty_batch_gives_an_empty_result() -> None:
    weight = torch.randn(3, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    assert convolve_and_pool(torch.zeros(0, 1, 28, 28), weight, None).shape == (0, 3, 14, 14)


def test_the_network_shows_its_first_layer_to_hooks_and_computes_the_same() -> None:
    model = build("cnn", shape=(1, 28, 28), num_classes=10, seed=0).double()
    inputs = torch.rand(2, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    folded = model(inputs)
    seen: list[torch.Size] = []
    model.get_submodule("conv1").register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    torch.testing.assert_close(model(inputs), folded, rtol=1e-12, atol=1e-12)
    assert seen == [(2, 32, 28, 28)]
