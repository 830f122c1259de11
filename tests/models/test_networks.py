"""Every registered network: sizes, initialisation, dtypes, memory layouts and second derivatives."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torch.testing import assert_close

from veridical.models import build

Shape = tuple[int, int, int]
# The last: the number of parameters for five classes, from the layer sizes by hand.
CASES: list[tuple[str, Shape, dict[str, Any], int]] = [
    ("cnn", (1, 28, 28), {}, 3_269_509),
    ("cnn", (3, 32, 20), {"mean": [0.4, 0.5, 0.6], "std": 0.25}, 2_681_285),
    ("cnn", (1, 12, 8), {"activation": "silu"}, 451_461),
    ("rar-resnet", (3, 32, 32), {}, 171_253),
    ("rar-resnet", (3, 16, 24), {"units": 1}, 74_485),
    ("rar-resnet", (1, 16, 16), {"units": 3}, 267_733),
    ("rar-resnet", (3, 16, 24), {"units": 1, "width": 4}, 4_801),
    ("mlp", (1, 9, 7), {"width": 11}, 896),
    ("mlp", (1, 9, 7), {"width": 11, "activation": 5.0}, 896),
    ("resnet18", (3, 32, 32), {"width": 8}, 176_077),
    ("resnet18", (3, 33, 40), {"width": 8, "stem": "7x7"}, 177_037),
    ("resnet18", (1, 17, 15), {"width": 6, "norm": "none"}, 98_813),
    ("resnet18", (3, 16, 16), {"width": 4, "norm": "batch"}, 44_457),
]
every_case = pytest.mark.parametrize(("name", "shape", "options"), [case[:3] for case in CASES])


def make(name: str, shape: Shape, options: dict[str, Any], seed: int = 0) -> nn.Module:
    return build(name, shape=shape, num_classes=5, seed=seed, **options)


def images(shape: Shape, count: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(7), dtype=dtype)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "shape", "options", "count"), CASES)
def test_shapes_and_parameter_counts(name: str, shape: Shape, options: dict[str, Any], count: int) -> None:
    model = make(name, shape, options)
    assert model(images(shape)).shape == (3, 5)
    assert count_parameters(model) == count


@every_case
def test_weights_come_from_the_seed_alone(name: str, shape: Shape, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = make(name, shape, options).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = make(name, shape, options).state_dict()
    other = make(name, shape, options, seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["classify.weight"], other["classify.weight"])
    assert all(value.dtype == torch.float32 for value in first.values() if value.is_floating_point())


@every_case
def test_dtype_layout_and_batch_change_nothing_but_rounding(
    name: str, shape: Shape, options: dict[str, Any]
) -> None:
    model = make(name, shape, options).eval()
    inputs = images(shape, dtype=torch.float64)
    single = model(inputs.float())
    model.double()
    double = model(inputs)
    assert double.dtype == torch.float64
    assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
    # Examples do not meet in eval mode, and there may be none.
    alone = torch.cat([model(inputs[i : i + 1]) for i in range(3)])
    assert_close(double, alone, rtol=1e-10, atol=1e-10)
    assert model(inputs[:0]).shape == (0, 5)
    last = model.to(memory_format=torch.channels_last)(inputs.contiguous(memory_format=torch.channels_last))
    assert_close(last, double, rtol=1e-10, atol=1e-10)


@every_case
def test_second_derivatives_match_finite_differences(
    name: str, shape: Shape, options: dict[str, Any]
) -> None:
    """The derivative of |input gradient|^2 along a weight direction, against central differences."""
    model = make(name, shape, options).double().eval()
    inputs = images(shape, count=2, dtype=torch.float64).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    weights = list(model.parameters())
    steps = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]

    def size() -> Tensor:
        (gradient,) = torch.autograd.grad(model(inputs)[:, 1].sum(), inputs, create_graph=True)
        return gradient.square().sum()

    def shift(amount: float) -> None:
        with torch.no_grad():
            for weight, step in zip(weights, steps, strict=True):
                weight.add_(step, alpha=amount)

    # Away from the start, where Fixup's silent branches leave the next ReLU exactly at its kink.
    shift(1e-3)
    gradients = torch.autograd.grad(size(), weights, allow_unused=True, materialize_grads=True)
    exact = torch.stack([(g * d).sum() for g, d in zip(gradients, steps, strict=True)]).sum()
    # So small that no unit crosses its kink between the two points.
    tiny = 1e-9
    shift(tiny)
    above = size().detach()
    shift(-2 * tiny)
    below = size().detach()
    assert float(exact.abs()) > 0
    assert_close(exact, (above - below) / (2 * tiny), rtol=1e-5, atol=0)


REFERENCES = {
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    5.0: lambda x: torch.log1p((5 * x).exp()) / 5,
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_activations_are_their_formulas_and_the_default_is_relu(network: str, name: str | float) -> None:
    act, shape = REFERENCES[name], (1, 12, 8)
    model = make(network, shape, {"activation": name, "mean": 0.0, "std": 1.0}).double().eval()
    layers, inputs = dict(model.named_children()), images(shape, dtype=torch.float64)
    features = inputs
    if network == "cnn":
        for layer in ("conv1", "conv2"):
            features = act(max_pool2d(layers[layer](features), 2))
    for layer in ("hidden",) if network == "cnn" else ("hidden1", "hidden2"):
        features = act(layers[layer](features.flatten(1)))
    assert_close(model(inputs), layers["classify"](features), rtol=1e-10, atol=1e-12)
    if name == "relu":
        default = make(network, shape, {"mean": 0.0, "std": 1.0}).eval()
        same = make(network, shape, {"activation": name, "mean": 0.0, "std": 1.0}).eval()
        assert torch.equal(default(inputs.float()), same(inputs.float()))


def cnn(initialisation: str | float = "paper") -> dict[str, Tensor]:
    """The weights of a paper's CNN."""
    options: dict[str, Any] = {"shape": (1, 28, 28), "num_classes": 10, "seed": 3}
    return build("cnn", **options, initialisation=initialisation).state_dict()


def test_paper_cnn_initialisation() -> None:
    weights = cnn()
    for name, value in weights.items():
        assert bool((value == 0.1).all()) if name.endswith("bias") else float(value.abs().max()) <= 0.2
    # A normal cut at two deviations has deviation .8796 of the uncut one.
    assert_close(float(weights["hidden.weight"].std()), 0.08796, rtol=2e-3, atol=0)
    he = cnn("he")
    assert_close(float(he["hidden.weight"].std()), (2 / 3136) ** 0.5, rtol=5e-3, atol=0)
    assert not bool(he["hidden.bias"].any())
    # The paper's convolutions and biases, and He's dense layers.
    for name, value in cnn("paper-he").items():
        if name.endswith("bias") or name.startswith("conv"):
            assert torch.equal(value, weights[name])
        else:
            assert_close(float(value.std()), float(he[name].std()), rtol=2e-2, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_cnn_weights_between_he_and_the_paper(share: float) -> None:
    between, he, paper = cnn(share), cnn("he"), cnn("paper")
    for name in ("conv2", "hidden", "classify"):
        ends = [float(end[f"{name}.weight"].std()) for end in (he, paper)]
        expected = ends[0] ** (1 - share) * ends[1] ** share
        assert_close(float(between[f"{name}.weight"].std()), expected, rtol=2e-2, atol=0)
        bias = between[f"{name}.bias"]
        assert_close(bias, torch.full_like(bias, 0.1 * share))
    if share == 1:  # bit for bit, also as an integer
        assert all(torch.equal(between[name], value) for name, value in paper.items())
        assert all(torch.equal(value, paper[name]) for name, value in cnn(1).items())


def test_fixup_starts_with_silent_branches() -> None:
    """Without normalisation the branches are zero at first, so the depth adds nothing to the shortcuts."""
    model = build("resnet18", shape=(3, 16, 16), num_classes=4, seed=0, width=8, norm="none")
    blocks = model.get_submodule("blocks")
    assert isinstance(blocks, nn.Sequential)
    assert not any(bool(block.get_parameter("conv2.weight").any()) for block in blocks)
    model(images((3, 16, 16))).square().sum().backward()
    gradient = blocks.get_parameter("0.conv2.weight").grad
    assert gradient is not None and bool(gradient.any())  # noqa: PT018 - the former for mypy
