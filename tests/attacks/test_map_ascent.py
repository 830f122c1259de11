"""What an attribution attack climbs: scores and their gradients, stalls, the check of the twin."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import pearsonr
from torch import Tensor, nn
from torch.testing import assert_close

from veridical.attacks.directions import (
    DIRECTIONS,
    Decorrelate,
    MassCentre,
    RandomSign,
    TargetRegion,
    TopK,
    describe_direction,
    top_mask,
)
from veridical.attacks.protocols import Restart
from veridical.attacks.surrogate import MapAscent, check_twin
from veridical.attribution.methods import InputGradient, IntegratedGradients
from veridical.metrics.maps import normalised_to_area, saliency
from veridical.metrics.spatial import mass_centre
from veridical.runtime.errors import UsageError
from veridical.runtime.guards import evaluating

from .conftest import Trained, stripes

SETTINGS: dict[str, Any] = {"k": 9, "compared": 9, "region": [0, 4, 2, 8]}
CLIMBED = [
    *(entry.create(**SETTINGS) for entry in DIRECTIONS.entries() if entry.name != "random"),
    Decorrelate(),
]
METHODS = [IntegratedGradients(nodes=4, rule="right"), InputGradient()]


def ascent(
    model: nn.Module, method: Any, direction: Any, inputs: Tensor, target: Tensor, **climb: Any
) -> MapAscent:
    score = direction(normalised_to_area(saliency(method(model, inputs, target))))
    return MapAscent(model, method, target, target, score, Restart(**climb), 10, torch.ones_like(inputs))


def directional(score: Callable[[Tensor], Tensor], inputs: Tensor, along: Tensor, h: float = 1e-6) -> Tensor:
    return (score(inputs + h * along) - score(inputs - h * along)) / (2 * h)


@pytest.mark.parametrize("direction", CLIMBED, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_gradient_agrees_with_finite_differences(smooth: nn.Module, method: Any, direction: Any) -> None:
    inputs, target = stripes(4, 3)
    score = ascent(smooth, method, direction, inputs, target, beta=None)

    def value(points: Tensor) -> Tensor:
        # Written out here: the saliency of the map, normalised to sum H W, and the direction's goal.
        maps = method(smooth, points, target).abs().sum(1)
        maps = maps * 64 / maps.sum((1, 2), keepdim=True)
        clean = normalised_to_area(saliency(method(smooth, inputs, target)))
        scores: Tensor = direction(clean)(maps)
        return scores

    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = inputs + 0.02 * noise
    found, gradient = score(moved)
    assert_close(found, value(moved))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        along = torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
        slope = (gradient * along).flatten(1).sum(1)
        assert_close(slope, directional(value, moved, along), rtol=1e-4, atol=1e-6)
    assert not gradient.requires_grad


def test_gradient_is_that_of_the_twin_at_the_steps_beta(trained: Trained) -> None:
    model, inputs, target = trained
    method = InputGradient()
    score = ascent(model, method, TopK(9), inputs, target, beta=1.0, beta_end=16.0)
    for step, beta in ((0, 1.0), (1, 16.0 ** (1 / 9))):
        twin = nn.Sequential(
            *[nn.Softplus(beta=beta) if isinstance(m, nn.ReLU) else m for m in model.children()]
        )
        clean = normalised_to_area(saliency(method(model, inputs, target)))
        mask = top_mask(clean, 9)
        point = inputs.clone().requires_grad_(True)
        maps = normalised_to_area(saliency(method(twin, point, target, create_graph=True)))
        (expected,) = torch.autograd.grad(-(maps * mask).sum(), point)
        value, gradient = score(inputs)
        assert_close(gradient, expected, msg=f"step {step}")
        assert_close(value, -(maps * mask).sum((1, 2)).detach())


def test_label_weight_adds_a_pull_towards_the_label_only_near_the_boundary(trained: Trained) -> None:
    model, inputs, target = trained
    other = (target + 1) % 3

    def gradients(label: Tensor, weight: float) -> Tensor:
        score = ascent(model, InputGradient(), TopK(9), inputs, target, label_weight=weight)
        score.label = label
        with evaluating(model):
            return score(inputs)[1]

    assert_close(gradients(target, 1.0), gradients(target, 0.0))
    pull = gradients(other, 1.0) - gradients(other, 0.0)
    logits = model(moved := inputs + 1e-4 * pull / pull.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1))
    margin = logits.gather(1, other[:, None]) - logits.gather(1, target[:, None])
    before = model(inputs).gather(1, other[:, None]) - model(inputs).gather(1, target[:, None])
    assert moved.shape == inputs.shape
    assert bool((margin > before).all())
    # Twice the length of the score's own gradient where the label is lost.
    assert_close(pull.flatten(1).norm(dim=1), 2 * gradients(other, 0.0).flatten(1).norm(dim=1))


def test_a_score_without_slope_is_nudged_and_only_that(smooth: nn.Module) -> None:
    inputs, target = stripes(3, 3)
    inputs[1] = 0
    inputs[1, 0, :2, :2] = 0.7  # four lit pixels: all of its map lies on the top nine
    score = ascent(smooth, IntegratedGradients(nodes=3), TopK(9), inputs, target, beta=None)
    score.nudge = torch.full_like(inputs, -1.0)
    _, gradient = score(inputs)
    assert torch.equal(gradient[1], score.nudge[1])
    assert not bool((gradient[[0, 2]] == -1).any())


def test_goals_measure_what_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = normalised_to_area(torch.rand(3, 5, 7, generator=generator, dtype=torch.float64))
    maps = normalised_to_area(torch.rand(3, 5, 7, generator=generator, dtype=torch.float64))
    box = TargetRegion(1, 3, 2, 6)(clean)(maps)
    assert_close(box, maps[:, 1:3, 2:6].sum((1, 2)))
    shift = (mass_centre(maps) - mass_centre(clean) + 1e-3).square().sum(1)
    assert_close(MassCentre()(clean)(maps), shift)
    log, ranks = (maps.flatten(1) + 1e-3).log().numpy(), clean.flatten(1).argsort(1).argsort(1).numpy()
    correlations = [pearsonr(*pair).statistic for pair in zip(log, ranks, strict=True)]
    assert_close(Decorrelate()(clean)(maps), -torch.tensor(correlations, dtype=torch.float64))
    flipped = clean.amax((1, 2), keepdim=True) - clean
    assert bool((Decorrelate()(clean)(flipped) > Decorrelate()(clean)(clean)).all())
    with pytest.raises(UsageError, match="does not lie in maps of 5 x 7"):
        TargetRegion(0, 6, 0, 7)(clean)
    with pytest.raises(UsageError, match="climbs no score"):
        RandomSign()(clean)


class Absolute(nn.Module):
    """Piecewise linear by a call that the twin does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3).double()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.linear(inputs.flatten(1).abs() - 0.5)
        return hidden.abs()


def test_a_piecewise_linear_model_that_the_twin_cannot_smooth_is_an_error() -> None:
    inputs, target = stripes(3, 3)
    with pytest.raises(UsageError, match="piecewise linear"):
        check_twin(Absolute(), inputs, target, 1.0)
    with pytest.raises(UsageError, match="piecewise linear"):
        check_twin(nn.Sequential(nn.Flatten(), nn.Linear(64, 3).double()), inputs, target, 1.0)


def test_check_counts_rewrites_and_lets_smooth_models_pass(trained: Trained, smooth: nn.Module) -> None:
    model, inputs, target = trained
    assert check_twin(model, inputs, target, 1.0) == 2
    assert check_twin(smooth, inputs, target, 1.0) == 0
    assert check_twin(smooth, torch.zeros_like(inputs), target, 1.0) == 0
    with pytest.raises(UsageError, match="piecewise linear"):
        check_twin(model, inputs, target, None)


OWN = """
def darken(clean):
    return lambda maps: -(maps * clean).flatten(1).sum(1)
"""


def test_a_direction_of_the_callers_is_climbed_as_its_own(
    smooth: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_directions.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="--trust-code"):
        DIRECTIONS.get("own_directions:darken")
    direction = DIRECTIONS.get("own_directions:darken", trust_code=True).create(**SETTINGS)
    inputs, target = stripes(4, 3)
    clean = normalised_to_area(saliency(InputGradient()(smooth, inputs, target)))
    score = ascent(smooth, InputGradient(), direction, inputs, target, beta=None)
    assert_close(score(inputs)[0], -clean.square().sum((1, 2)))
    assert len(describe_direction(direction)["source"]) == 64
    assert describe_direction(TopK(3)) == {"k": 3, "compared": None}


def test_the_docs_list_every_direction() -> None:
    page = Path(__file__).parents[2] / "docs" / "robust-attribution.md"
    listed = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|$", page.read_text(), re.MULTILINE))
    for entry in DIRECTIONS.entries():
        assert listed[entry.name] == entry.summary
