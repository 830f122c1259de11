"""Votes of noisy maps against a normal probability, and certificates against attacks on a small network."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from veridical.attacks.smoothed import NoisyTop, attack_top
from veridical.attribution.methods import InputGradient, RandomAttribution, StoredMaps
from veridical.metrics.certificates import (
    NOISES,
    Bounds,
    NoiseName,
    bound_votes,
    certify_pixels,
    overlap_range,
    uniform_length,
)
from veridical.runtime.errors import UsageError

IMAGE = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1))
CLASS = torch.tensor(0)
HOW: tuple[Literal["climb", "random"], ...] = ("climb", "random")


def network() -> nn.Module:
    """Weights large enough for maps that change within the noise."""
    torch.manual_seed(0)
    first = nn.Linear(16, 24)
    with torch.no_grad():
        first.weight.mul_(4)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(24, 3)).eval()


def first_or_second(
    model: nn.Module, inputs: Tensor, target: Any = None, *, create_graph: bool = False
) -> Tensor:
    """A map of two pixels, the first of which is on top exactly where its own value is above 0."""
    del model, target, create_graph
    on = (inputs[:, :, :, :1] > 0).to(inputs.dtype)
    return torch.cat([on, 1 - on], dim=3)


def ball(bounds: Bounds, radius: float, sigma: float, kind: NoiseName = "normal", size: int = 16) -> Bounds:
    return NOISES[kind].widen(bounds, radius, sigma, size)


def top_of(votes: np.ndarray, k: int) -> np.ndarray:
    top = np.zeros(len(votes), bool)
    top[votes.argsort(kind="stable")[-k:]] = True
    return top


def test_votes_are_those_of_a_known_normal_probability() -> None:
    image = torch.tensor([[[0.3, 0.5]]])
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    noisy = NoisyTop(net, first_or_second, k=1, sigma=0.4)
    votes, _ = noisy.votes(image, CLASS, 0, 20000, "test")
    assert votes.sum() == 20000
    share = stats.norm.cdf(0.3 / 0.4)
    assert votes[0] / 20000 == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 20000))
    # The first pixel leaves the top of most noisy maps at a distance of 0.3; its certificate is just below.
    bounds = bound_votes(votes[None], 20000, 0.999)
    assert 0.27 < NOISES["normal"].reach(bounds[0], 0.4, 2)[0, 0] < 0.3
    # Here the worst image is known, so that certificate and attack meet but for what the draws leave open.
    top = np.array([[True, False]])
    for moved, held in ((0.27, 1), (0.31, 0)):
        there, _ = noisy.votes(image - torch.tensor([[[moved, 0.0]]]), CLASS, 0, 20000, "there")
        assert overlap_range(top, ball(bounds, moved, 0.4))[0] == held
        assert (there[0] > there[1]) == bool(held)


def test_uniform_noise_is_uniform_in_the_ball_of_its_deviation() -> None:
    noisy = NoisyTop(network(), InputGradient(), k=3, sigma=0.3, kind="uniform")
    image = torch.zeros(1, 1, 3)
    drawn = noisy.noise(image, 2, range(20_000), "test").flatten(1).double()
    assert drawn.std(0).tolist() == pytest.approx([0.3] * 3, rel=0.02)
    lengths = drawn.norm(dim=1).numpy() / uniform_length(0.3, 3)
    # The share within a length is its third power, and every direction is as likely.
    assert stats.kstest(lengths**3, "uniform").pvalue > 0.01
    assert stats.kstest(drawn[:, 0].div(drawn.norm(dim=1)).numpy(), "uniform", (-1, 2)).pvalue > 0.01
    assert torch.equal(
        noisy.noise(image, 2, range(5, 9), "test"), noisy.noise(image, 2, range(9), "test")[5:]
    )


def test_a_linear_networks_map_holds_everywhere() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 3)
    noisy = NoisyTop(nn.Sequential(nn.Flatten(), layer), InputGradient(), k=4, sigma=0.1)
    votes, _ = noisy.votes(IMAGE, CLASS, 0, 400, "test")
    gradient = layer.weight[0].abs()
    assert set(votes.tolist()) == {0, 400}
    assert set(np.flatnonzero(votes)) == set(gradient.topk(4).indices.tolist())
    bounds = bound_votes(votes[None], 400, 0.999)
    # Up to what so many draws can tell: all votes bound a probability by miss^(1/400).
    most = stats.norm.ppf((0.001 / 32) ** (1 / 400))
    assert overlap_range(top_of(votes, 4)[None], ball(bounds, most - 0.01, 1.0))[0] == 4
    moved = attack_top(noisy, IMAGE, CLASS, 0, votes > 0, [5.0], how="random", steps=3, samples=4)
    assert noisy.votes(moved[0], CLASS, 0, 100, "there")[0][votes > 0].tolist() == [100] * 4
    with pytest.raises(UsageError, match="piecewise linear"):
        attack_top(noisy, IMAGE, CLASS, 0, votes > 0, [5.0], how="climb", steps=3, samples=4)


def test_noise_hangs_on_image_and_draw_alone() -> None:
    noisy = NoisyTop(network(), InputGradient(), k=3, sigma=0.3)
    votes, agreed = noisy.votes(IMAGE, CLASS, 5, 50, "test")
    again, same = replace(noisy, batch=7).votes(IMAGE, CLASS, 5, 50, "test")
    assert (votes == again).all()
    assert agreed == same
    assert (votes != noisy.votes(IMAGE, CLASS, 6, 50, "test")[0]).any()
    assert (votes != noisy.votes(IMAGE, CLASS, 5, 50, "other")[0]).any()
    first = noisy.noise(IMAGE, 5, range(50), "test")
    assert torch.equal(first[20:30], noisy.noise(IMAGE, 5, range(20, 30), "test"))
    assert float(first.std()) == pytest.approx(0.3, rel=0.1)


def test_a_map_that_ignores_the_image_is_one_function_of_its_number() -> None:
    noisy = NoisyTop(network(), RandomAttribution(), k=3, sigma=0.3, batch=9)
    assert set(noisy.votes(IMAGE, CLASS, 2, 40, "test")[0].tolist()) == {0, 40}


def test_pixels_without_saliency_are_in_no_top() -> None:
    nothing = StoredMaps(torch.zeros(1, 1, 4, 4))
    noisy = NoisyTop(network(), nothing, k=3, sigma=0.3)
    assert noisy.votes(IMAGE, CLASS, 0, 10, "test")[0].sum() == 0


@pytest.mark.parametrize("kind", NOISES)
def test_no_attack_reaches_below_the_certificate(kind: NoiseName) -> None:
    """Certificates of 20 images against the true votes, of many draws, at climbed and random images."""
    sigma, k, draws, radii = 0.3, 4, 600, [0.1, 0.25]
    noisy = NoisyTop(network(), InputGradient(), k, sigma, batch=1000, kind=kind)
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    held, reached = [], []
    for index, image in enumerate(images):
        votes, _ = noisy.votes(image, CLASS, index, draws, "certificate")
        bounds, top = bound_votes(votes[None], draws, 0.999), top_of(votes, k)
        moved = attack_top(noisy, image, CLASS, index, top, radii, how="climb", steps=10, samples=16)
        moved += attack_top(noisy, image, CLASS, index, top, radii, how="random", steps=10, samples=16)
        for radius, point in zip(radii * 2, moved, strict=True):
            assert float((point - image).norm()) <= radius * (1 + 1e-5)
            assert float(point.min()) >= 0
            assert float(point.max()) <= 1
            there, _ = noisy.votes(point, CLASS, index, 3000, "there")
            inside = ball(bounds, radius, sigma, kind)
            least, most = (
                overlap_range(top[None], inside)[0],
                overlap_range(top[None], bound_votes(there[None], 3000, 0.999))[1],
            )
            assert least <= most
            within, without = certify_pixels(inside)
            # As true votes go, without any allowance.
            assert (there[within[0]] > 1500).all()
            assert (there[without[0]] < 1500).all()
            held.append(int(least[0]))
            reached.append(int(top[there.argsort()[-k:]].sum()))
    # Neither is idle: something is certified, and the attacks take something away.
    assert np.mean(held) > (0.2 if kind == "normal" else 0.1) * k
    assert np.mean(reached) < 0.95 * k


def test_gradients_find_more_than_random_directions() -> None:
    noisy = NoisyTop(network(), InputGradient(), 4, 0.2)
    left: dict[str, float] = {"climb": 0.0, "random": 0.0}
    for index, image in enumerate(torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(7))):
        top = top_of(noisy.votes(image, CLASS, index, 300, "certificate")[0], 4)
        for how in HOW:
            (point,) = attack_top(noisy, image, CLASS, index, top, [0.5], how=how, steps=15, samples=24)
            left[how] += noisy.votes(point, CLASS, index, 500, "there")[0][top].sum() / (6 * 4 * 500)
    assert left["climb"] < left["random"] < 1
