"""Input gradient, gradient x input, SmoothGrad, Expected Gradients, random maps, against closed forms."""

from typing import Any

import pytest
import torch
from captum.attr import GradientShap
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attribution.method import TargetScalar
from veridical.attribution.methods import (
    ExpectedGradients,
    GradientTimesInput,
    InputGradient,
    RandomAttribution,
    SmoothGrad,
    StoredMaps,
)
from veridical.runtime.errors import UsageError
from veridical.runtime.seeds import per_example_normal, per_example_uniform


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


def background(count: int = 9) -> Tensor:
    return torch.rand(count, 1, 2, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


def drawn(method: ExpectedGradients, count: int) -> tuple[Tensor, Tensor]:
    """The same numbers and places as the method says that it draws, both (samples, N)."""
    images = len(method.baselines)
    uniform = per_example_uniform(
        (images + method.samples,), method.seed, "expected gradients", range(count), dtype=torch.float64
    )
    order = uniform[:, :images].argsort(1).repeat(1, -(-method.samples // images))[:, : method.samples]
    places = (torch.arange(method.samples) + uniform[:, images:]) / method.samples
    return order.T, places.T


@pytest.mark.parametrize(("samples", "rows"), [(9, None), (4, 7), (20, 1)])
def test_expected_gradients_is_captums_gradient_shap_with_the_same_draws(
    samples: int, rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = Quadratic(), images()
    method = ExpectedGradients(background(), samples=samples, seed=5, rows=rows)
    chosen, places = drawn(method, 5)
    total = torch.zeros_like(inputs)
    for numbers, steps in zip(chosen.tolist(), places.numpy(), strict=True):
        for i, number in enumerate(numbers):
            # Captum draws the place from NumPy's global generator, and the image from those that it is given.
            monkeypatch.setattr("numpy.random.uniform", lambda *_, place=steps[i]: [place])
            given: dict[str, Any] = {"n_samples": 1, "stdevs": 0.0, "target": int(TARGET[i])}
            one = slice(i, i + 1)
            start = background()[number : number + 1]
            total[one] += GradientShap(model).attribute(inputs[one], start, **given).detach()
    assert_close(method(model, inputs, TARGET), total / samples)


def test_expected_gradients_of_a_linear_model_is_the_weight_times_the_distance_to_the_mean() -> None:
    """With as many samples as images each of them is used once, so this is exact."""
    layer = nn.Linear(6, 3).double()
    model = nn.Sequential(nn.Flatten(), layer)
    weight = layer.weight.detach()[TARGET].reshape(5, 1, 2, 3)
    expected = weight * (images() - background().mean(dim=0))
    for samples in (9, 27):
        method = ExpectedGradients(background(), samples=samples)
        assert_close(method(model, images(), TARGET), expected)


def test_expected_gradients_of_a_quadratic_have_the_closed_expectation_and_a_small_spread() -> None:
    """The integral from x' is (x - x') (A (x + x') / 2 + b); its mean over x' is what the draws approach."""
    model, inputs = Quadratic(), images()
    ways = [
        (inputs - start) * model.gradient((inputs + start) / 2, TARGET).detach() for start in background()
    ]
    exact = torch.stack(ways).mean(dim=0)
    runs = torch.stack(
        [ExpectedGradients(background(), 9, seed)(model, inputs, TARGET) for seed in range(400)]
    )
    error = (runs - exact).mean(dim=0) / (runs.std(dim=0) / 20)
    assert float(error.abs().max()) < 4.5
    # Independent images and places, as the paper draws them.
    generator = torch.Generator().manual_seed(0)
    plain = []
    for _ in range(400):
        start = background()[torch.randint(9, (9, 5), generator=generator)]
        step = torch.rand(9, 5, 1, 1, 1, generator=generator, dtype=torch.float64)
        gradients = [model.gradient(at, TARGET).detach() for at in start + step * (inputs - start)]
        plain.append(((inputs - start) * torch.stack(gradients)).mean(dim=0))
    spread = torch.stack(plain).std(dim=0)
    assert float((runs.std(dim=0) / spread).mean()) < 0.5


def test_expected_gradients_add_up_to_the_output_above_its_mean_over_the_background() -> None:
    model, inputs = Quadratic(), images()
    logits = model(inputs).gather(1, TARGET[:, None])[:, 0]
    change = (logits - model(background())[:, TARGET].mean(dim=0)).detach()
    runs = [ExpectedGradients(background(), 900, seed)(model, inputs, TARGET) for seed in range(3)]
    sums = torch.stack(runs).flatten(2).sum(dim=2)
    assert_close(sums, change.expand(3, 5), rtol=0, atol=0.02)


def test_expected_gradients_refuse_images_of_another_form() -> None:
    for wrong in (torch.zeros(0, 1, 2, 3), torch.zeros(4), torch.zeros(3, 1, 2, 3).int()):
        with pytest.raises(UsageError, match=r"baselines: .*at least one image"):
            ExpectedGradients(wrong)
    with pytest.raises(UsageError, match=r"baselines: .*inputs' shape \(1, 2, 3\)"):
        ExpectedGradients(torch.zeros(4, 1, 3, 3))(Quadratic(), images(), TARGET)


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
