"""Input gradient, gradient x input, SmoothGrad and random maps, against closed forms."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.method import TargetScalar
from veridical.attribution.methods import (
    GradientTimesInput,
    InputGradient,
    RandomAttribution,
    SmoothGrad,
    StoredMaps,
)
from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import per_example_normal


class Quadratic(nn.Module):
    """Logit k of x is x' A_k x / 2 + b_k' x, so its gradient is A_k x + b_k (A_k symmetric)."""

    def __init__(self, size: int = 6, classes: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        squares = torch.randn(classes, size, size, generator=generator, dtype=torch.float64)
        self.squares = nn.Parameter(squares + squares.transpose(1, 2))
        self.slopes = nn.Parameter(torch.randn(classes, size, generator=generator, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return torch.einsum("kij,ni,nj->nk", self.squares, flat, flat) / 2 + flat @ self.slopes.T

    def gradient(self, inputs: Tensor, target: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        gradient = torch.einsum("nij,nj->ni", self.squares[target], flat) + self.slopes[target]
        return gradient.reshape(inputs.shape)


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


TARGET = torch.tensor([0, 2, 1, 1, 0])


def test_input_gradient_of_each_output() -> None:
    model, inputs = Quadratic(), images()
    assert_close(InputGradient()(model, inputs, TARGET), model.gradient(inputs, TARGET).detach())
    # d loss = sum_k (p_k - [k = y]) d logit_k
    surplus = torch.softmax(model(inputs), dim=1) - nn.functional.one_hot(TARGET, 3)
    every = torch.stack([model.gradient(inputs, torch.full((5,), k)) for k in range(3)])
    loss = torch.einsum("nk,kn...->n...", surplus, every).detach()
    assert_close(InputGradient(output="loss")(model, inputs, TARGET), loss)
    assert_close(InputGradient(output="log-probability")(model, inputs, TARGET), -loss)


def test_output_can_be_a_function_of_logits_and_target() -> None:
    def margin(logits: Tensor, target: Tensor) -> Tensor:
        return logits.gather(1, target[:, None])[:, 0] - logits.mean(dim=1)

    model, inputs = Quadratic(), images()
    mean = torch.stack([model.gradient(inputs, torch.full((5,), k)) for k in range(3)]).mean(dim=0)
    expected = (model.gradient(inputs, TARGET) - mean).detach()
    assert_close(InputGradient(output=margin)(model, inputs, TARGET), expected)
    # SmoothGrad evaluates samples in one batch, with the targets repeated.
    smooth = SmoothGrad(samples=3, noise=0.0, output=margin)
    assert_close(smooth(model, inputs, TARGET), expected)


def test_no_target_is_the_predicted_class_and_an_int_is_all_examples() -> None:
    model, inputs = Quadratic(), images()
    predicted = model(inputs).argmax(dim=1)
    assert_close(InputGradient()(model, inputs), model.gradient(inputs, predicted).detach())
    assert_close(InputGradient()(model, inputs, 2), model.gradient(inputs, torch.full((5,), 2)).detach())


def test_gradient_times_input() -> None:
    model, inputs = Quadratic(), images()
    expected = (inputs * model.gradient(inputs, TARGET)).detach()
    assert_close(GradientTimesInput()(model, inputs, TARGET), expected)


@pytest.mark.parametrize("rows", [1, 7, 512])
def test_smoothgrad_on_a_quadratic_is_the_gradient_at_the_mean_noisy_input(rows: int) -> None:
    model, inputs = Quadratic(), images()
    noise = sum(
        per_example_normal((1, 2, 3), 9, f"smoothgrad sample {k}", range(5), dtype=torch.float64)
        for k in range(20)
    )
    expected = model.gradient(inputs + 0.3 * noise / 20, TARGET).detach()
    method = SmoothGrad(samples=20, noise=0.3, seed=9, rows=rows)
    assert_close(method(model, inputs, TARGET), expected)


def test_smoothgrad_noise_has_the_stated_deviation() -> None:
    """On f(x) = sum x^4 / 4 the expected map is x^3 + 3 sigma^2 x, and is reached as 1 / sqrt(samples)."""

    class Quartic(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.pow(4).flatten(1).sum(dim=1, keepdim=True) / 4

    inputs = images(1)
    found = SmoothGrad(samples=5_000, noise=0.4, rows=5_000)(Quartic(), inputs, 0)
    assert_close(found, inputs.pow(3) + 3 * 0.4**2 * inputs, rtol=0, atol=0.06)


def test_random_maps_look_at_nothing_and_are_standard_normal() -> None:
    first = RandomAttribution(seed=1)(Quadratic(), images())
    assert torch.equal(RandomAttribution(seed=1)(nn.Linear(1, 1), 5 * images(), 0), first)
    many = RandomAttribution()(Quadratic(), torch.zeros(400, 1, 5, 5, dtype=torch.float64), 0)
    assert abs(float(many.mean())) < 0.05
    assert abs(float(many.std()) - 1) < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_losses_of_narrow_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    """In bfloat16 the loss itself would have two digits; float64 stays what it is."""
    logits = torch.tensor([[3.0, 1.25, -2.0], [0.5, 7.0, 6.5]]).to(dtype)
    target = torch.tensor([1, 2])
    wide = logits if dtype == torch.float64 else logits.float()
    expected = torch.nn.functional.cross_entropy(wide, target, reduction="none")
    found = TargetScalar(nn.Identity(), target, "loss")(logits)
    assert found.dtype == expected.dtype
    assert_close(found, expected)
    assert_close(TargetScalar(nn.Identity(), target, "log-probability")(logits), -expected)


def test_stored_maps_are_those_of_the_examples_numbers() -> None:
    maps, inputs = torch.rand(5, 3, 4, 4), torch.rand(2, 3, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    target = torch.tensor([0, 1])
    assert torch.equal(StoredMaps(maps)(model, inputs, target, indices=[4, 1]), maps[[4, 1]])
    # A value for each pixel is shared among its channels.
    flat = StoredMaps(maps[:, 0])(model, inputs, target, indices=[4, 1])
    torch.testing.assert_close(flat.sum(1), maps[[4, 1], 0])
    with pytest.raises(UsageError, match="indices"):
        StoredMaps(maps)(model, inputs, target, indices=[5, 1])
    with pytest.raises(UsageError, match="one for every test image"):
        StoredMaps(maps).check(6, (3, 4, 4), "maps.npz")
    with pytest.raises(UsageError, match="maps"):
        StoredMaps(torch.zeros(4, 4))
