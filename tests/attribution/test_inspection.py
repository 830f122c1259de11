"""What misleads explanations is found by name, nothing is found where all is well, and nothing is changed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from veridical.attribution.inspection import count_flops, inspect_model
from veridical.runtime.errors import UsageError


def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class _Called(nn.Module):
    """A linear classifier whose call is a function's."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.call = nn.Linear(192, 5), call

    def forward(self, inputs: Tensor) -> Tensor:
        return self.call(self.linear, inputs)


def _standardised(linear: nn.Module, x: Tensor) -> Tensor:
    flat = x.flatten(1)
    scaled: Tensor = linear((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True))
    return scaled


def _attention(linear: nn.Module, x: Tensor) -> Tensor:
    rows = x.flatten(2)
    mixed: Tensor = linear(F.scaled_dot_product_attention(rows, rows, rows).flatten(1))
    return mixed


CASES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "softmax": lambda linear, x: linear(x.flatten(1)).softmax(1),
    "random": lambda linear, x: linear(F.dropout(x.flatten(1), 0.5, True)),
    "batch": lambda linear, x: linear((x - x.mean(0)).flatten(1)),
    "scale-invariant": _standardised,
    "zero-gradient": lambda linear, x: linear((x.flatten(1) * 255).round() / 255),
    "gradient": lambda linear, x: linear(x.detach().flatten(1)),
    "gradient-not-finite": lambda linear, x: linear((x - x).flatten(1).sqrt() + x.flatten(1)),
    "in-place-input": lambda linear, x: linear(x.sub_(0.5).flatten(1)),
    "constant": lambda linear, x: linear(x.flatten(1) * 0),
    "fused-attention": _attention,
}


@pytest.mark.parametrize("name", CASES)
def test_each_is_found_by_its_name_and_leaves_the_model_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = _Called(CASES[name]).eval(), images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = {one.name for one in inspect_model(model, inputs)}
    assert name in found
    assert found <= {name, "zero-gradient"}  # a constant has no gradient either
    assert torch.equal(inputs, images())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_nothing_is_found_where_all_is_well() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    assert inspect_model(model.eval(), images(), num_classes=5) == []


class _OnceOnly(torch.autograd.Function):
    """The square, whose derivative its author forbade to differentiate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        squared: Tensor = x * x
        return squared

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc,unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        twice: Tensor = 2 * x * grad
        return twice


@pytest.mark.parametrize("beside", [False, True])
def test_a_dead_end_of_second_derivatives_is_found_beside_a_living_path(beside: bool) -> None:
    """Torch complains of the one alone only when it is differentiated, of one beside another not at all."""

    def call(linear: nn.Module, x: Tensor) -> Tensor:
        once: Tensor = _OnceOnly.apply(x.flatten(1))
        logits: Tensor = linear(once + x.flatten(1).sin() if beside else once).tanh()
        return logits

    torch.manual_seed(0)
    (remark,) = inspect_model(_Called(call).eval(), images())
    assert remark.name == "second-derivative"
    assert "once_differentiable" in remark.text or "differentiate" in remark.text


def test_operations_of_a_forward_pass_are_counted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    # Two for each product and sum: 36 places x 4 filters x 27 weights, and 144 x 5.
    assert count_flops(model, images()[:1]) == 2 * (36 * 4 * 27 + 144 * 5)


def test_modes_counts_and_bounds_are_told() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    assert [one.name for one in inspect_model(model, images(), num_classes=5)] == ["train-mode"]
    assert model.training
    model.eval()
    (count,) = inspect_model(model, images(), num_classes=10)
    assert (count.name, count.severity) == ("class-count", "problem")
    assert "5 classes apart and the data have 10" in count.to_dict()["text"]
    assert [one.name for one in inspect_model(model, 255 * images())] == ["bounds"]
    assert inspect_model(model, 255 * images(), bounds=None) == []
    compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]
    assert [one.name for one in inspect_model(compiled, images())] == ["compiled"]


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(UsageError, match="logits"):
        inspect_model(nn.Identity(), images())
