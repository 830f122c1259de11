"""Lengths, steps, cosines and spreads are right at every scale of numbers; no dtype leaves the ball."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attacks.ascent import Score, ascend
from veridical.attacks.attribution import attack
from veridical.attacks.ball import L2, Ball, Linf
from veridical.attacks.directions import TopK
from veridical.attacks.protocols import protocol
from veridical.attacks.robustness import _ignores_scale
from veridical.attribution.methods import InputGradient
from veridical.data import Split
from veridical.metrics import cosine_within, max_sensitivity
from veridical.metrics.localisation import block_magnitudes
from veridical.metrics.spatial import mass_centre
from veridical.runtime.lengths import length
from veridical.training.objectives import _packed

from .conftest import Trained

FREE = L2(1.0, bounds=None)


def values(dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn.to(dtype)


def slope(gradient: Tensor) -> Score:
    """A score of a given constant gradient."""
    return lambda inputs: (inputs.new_zeros(len(inputs)), gradient)


def climbed(gradient: Tensor) -> Tensor:
    origin = torch.zeros_like(gradient)
    return ascend(slope(gradient), origin, FREE, steps=2, step_size=0.1, momentum=0.5)


def sensitivity(maps: Tensor, relative: bool) -> Tensor:
    return max_sensitivity(lambda inputs: maps * inputs, torch.ones_like(maps), 0.1, 2, relative=relative)


# What it gives for values times a scale is what it gives for the values, times the scale to this power.
QUANTITIES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "l2 step": (FREE.step, 0),
    "linf step": (Linf(1.0).step, 0),
    "ascent with momentum": (climbed, 0),
    "l2 distance": (lambda x: FREE.distance(x, torch.zeros_like(x)), 1),
    "linf distance": (lambda x: Linf(1.0).distance(x, torch.zeros_like(x)), 1),
    "length": (lambda x: length(x.flatten(1)), 1),
    "number of values": (lambda x: length(x.flatten(1), 0), 0),
    "cosine": (lambda x: cosine_within(x, x.flip(0), torch.ones_like(x, dtype=torch.bool)), 0),
    "block magnitudes": (lambda x: block_magnitudes(x, 4), 1),
    "centre of mass": (lambda x: mass_centre(x.abs().sum(1)), 0),
    "sensitivity": (lambda x: sensitivity(x, True), 0),
    "absolute sensitivity": (lambda x: sensitivity(x, False), 1),
    "warm start": (lambda x: _packed(x)[0], 0),
}


SCALES = {
    torch.float32: (1e-40, 1e-25, 1e-19, 1.0, 1e19, 1e30),
    torch.float64: (1e-300, 1e-170, 1e170, 1e300),
}


@pytest.mark.parametrize(
    ("name", "dtype", "scale"),
    # A warm start is packed in 16 bits.
    [
        (name, dtype, one)
        for name in QUANTITIES
        for dtype, scales in SCALES.items()
        for one in scales
        if name != "warm start" or dtype == torch.float32
    ],
)
def test_a_scale_changes_nothing_but_the_scale(name: str, dtype: torch.dtype, scale: float) -> None:
    quantity, degree = QUANTITIES[name]
    wide = values(torch.float64)
    found = quantity((wide * scale).to(dtype)).double() / scale**degree
    # A number of 1e-40 has 16 bits left in float32.
    rough = 1e-3 if dtype == torch.float32 else 1e-7
    assert_close(found, quantity(wide).double(), rtol=rough, atol=1e-3 * (scale == 1e-40) + 1e-2 * rough)


@pytest.mark.parametrize("scale", [2.0**-149, 2.0**-126, 1.0, 2.0**127, 3e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_has_length_one_at_the_ends_of_the_range(scale: float, dtype: torch.dtype) -> None:
    gradient = torch.zeros(2, 1, 3, 3, dtype=dtype)
    gradient[0, 0, 1] = scale
    gradient[1, 0, 0, 0] = -scale
    lengths = torch.linalg.vector_norm(FREE.step(gradient).flatten(1), dim=1)
    assert_close(lengths, torch.ones(2, dtype=dtype))


def test_an_ordinary_step_is_the_plain_quotient_to_the_last_bit() -> None:
    for scale in (1e-8, 0.3, 7.0, 1e9):
        gradient = values() * scale
        plain = gradient / torch.linalg.vector_norm(gradient.flatten(1), dim=1)[:, None, None, None]
        assert torch.equal(FREE.step(gradient), plain)


@pytest.mark.parametrize("power", [-80, 60])
def test_the_strong_attack_does_not_depend_on_the_scale_of_the_logits(trained: Trained, power: int) -> None:
    class Scaled(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return logits * 2.0**power

    model, inputs, target = trained
    model = model.float()
    given = (inputs[:3].float(), target[:3])
    plan = protocol("strong", k=10, steps=4, step_size=0.2)
    options: dict[str, Any] = {
        "attribution": InputGradient(),
        "attack": TopK(10),
        "ball": L2(1.0),
        "protocol": plan,
    }
    found = [attack(one, *given, **options) for one in (model, nn.Sequential(model, Scaled()))]
    assert torch.equal(found[0].inputs, found[1].inputs)
    assert torch.equal(found[0].trace, found[1].trace)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_whether_a_model_ignores_the_scale_of_inputs_does_not_depend_on_the_logits(scale: float) -> None:
    class Standardised(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            flat = inputs.flatten(1)
            return (flat / flat.sum(1, keepdim=True) * scale)[:, :3]

    images = torch.randint(
        1, 255, (4, 1, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    assert _ignores_scale(Standardised(), Split(images, torch.zeros(4, dtype=torch.int64)))


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.1179, 2.64), None])
@pytest.mark.parametrize("radius", [8 / 255, 0.3, 1e-3])
@pytest.mark.parametrize("kind", [Linf, L2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_nothing_leaves_the_ball_in_any_dtype(
    dtype: torch.dtype, kind: type[Ball], radius: float, bounds: tuple[float, float] | None
) -> None:
    threat = kind(radius, bounds)
    low, high = bounds or (-3.0, 3.0)
    origin = torch.rand(64, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    origin = (low + (high - low) * origin).to(dtype).clamp(low * 0.99, high * 0.99)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(origin.shape, generator=generator, dtype=torch.float64).to(dtype)
    moved = {
        "start": threat.random_start(origin, generator),
        "step": threat.project(origin + radius * threat.step(gradient), origin),
        "ascent": ascend(slope(gradient), origin, threat, steps=3, step_size=radius),
        "far": threat.project(origin + 5 * gradient, origin),
    }
    # One rounding of the pixels themselves, of numbers of 32 bits and more.
    slack = 4 * torch.finfo(dtype).eps * max(abs(low), high) if dtype.itemsize > 2 else 1e-6 * radius
    for name, points in moved.items():
        assert points.dtype == dtype, name
        exact, start = points.double().flatten(1), origin.double().flatten(1)
        order = 2.0 if kind is L2 else torch.inf
        far = torch.linalg.vector_norm(exact - start, ord=order, dim=1)
        assert float(far.max()) <= radius + slack, name
        assert float(far.max()) > 0.5 * radius or dtype.itemsize == 2, name
        if bounds is not None:
            ends = torch.tensor(bounds, dtype=torch.float64)
            ends = ends.to(dtype).double() if dtype.itemsize > 2 else ends
            assert float(exact.min()) >= ends[0], name
            assert float(exact.max()) <= ends[1], name
        assert torch.equal(threat.project(points, origin), points) or dtype.itemsize > 2, name
