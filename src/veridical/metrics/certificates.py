"""What of a smoothed map's top k provably holds: bounds of votes, and what they say within an l2 ball.

Each noisy version of an image votes for its map's top k of D pixels; p_i is the probability that pixel i is
among them, and the smoothed map is p. Whatever the map, p at a point within the Euclidean distance R of x is
bounded by p at x, see `NOISES`. Single pixels as in Anani et al., "Pixel-level certified explanations via
randomized smoothing", ICML 2025 (after its abstract); the top k as in Levine, Singla, Feizi, "Certifiably
robust interpretation in deep learning", 2019 (after its abstract and introduction). That Bonferroni's
correction makes all bounds of an image simultaneous is ours.

Votes are int64 (N, D), bounds float64 (N, D), a top k bool (N, D).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, betaincinv, ndtr, ndtri

from veridical.runtime.checking import check_count
from veridical.runtime.errors import argument_error

Bounds: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
Flags: TypeAlias = NDArray[np.bool_]
NoiseName = Literal["normal", "uniform"]


@dataclass(frozen=True)
class Noise:
    """A noise's theorem: how far any probability under it can move within an l2 ball.

    words: its name in a sentence. widen: bounds at a point, a radius, sigma and the number d of an image's
    values to bounds in the whole ball. reach: from lower bounds, sigma and d the radius up to which a
    probability stays above a half, 0 where it is not. sigma: deviation of the noise in each value.
    """

    words: str
    widen: Callable[[Bounds, float, float, int], Bounds]
    reach: Callable[[NDArray[np.float64], float, int], NDArray[np.float64]]


def _widen_normal(bounds: Bounds, radius: float, sigma: float, size: int) -> Bounds:
    """The normal quantile of p moves by R / sigma at most (Cohen et al., ICML 2019)."""
    del size
    low, high = bounds
    return ndtr(ndtri(low) - radius / sigma), ndtr(ndtri(high) + radius / sigma)


def _reach_normal(low: NDArray[np.float64], sigma: float, size: int) -> NDArray[np.float64]:
    del size
    quantile: NDArray[np.float64] = ndtri(low)
    return sigma * quantile.clip(min=0.0)


def uniform_length(sigma: float, size: int) -> float:
    """The radius of the ball of d dimensions in which uniform noise has the deviation sigma in each value."""
    return float(sigma * np.sqrt(size + 2))


def _widen_uniform(bounds: Bounds, radius: float, sigma: float, size: int) -> Bounds:
    """P moves by at most the share of a ball that another, R away, does not cover.

    The overlap of such balls is what uniform smoothing rests on (Wang and Kong, arXiv 2405.06361).
    """
    share = min(1.0, radius / (2 * uniform_length(sigma, size)))
    apart = betainc(0.5, (size + 1) / 2, share**2)
    return (bounds[0] - apart).clip(min=0.0), (bounds[1] + apart).clip(max=1.0)


def _reach_uniform(low: NDArray[np.float64], sigma: float, size: int) -> NDArray[np.float64]:
    share: NDArray[np.float64] = np.sqrt(betaincinv(0.5, (size + 1) / 2, (low - 0.5).clip(min=0.0)))
    return 2 * uniform_length(sigma, size) * share


NOISES: Final[Mapping[NoiseName, Noise]] = {
    "normal": Noise("normal noise", _widen_normal, _reach_normal),
    "uniform": Noise("noise uniform in an l2 ball", _widen_uniform, _reach_uniform),
}


def clopper_pearson(successes: NDArray[np.int64], draws: int, miss: float) -> Bounds:
    """Lower and upper bounds of probabilities, each of which fails with probability `miss` at most.

    successes: int64 of any shape, of `draws` independent draws each. Raises UsageError for numbers beyond.
    Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934).
    """
    check_count("draws", draws)
    counts = np.asarray(successes)
    if counts.size and not (counts.min() >= 0 and counts.max() <= draws):
        raise argument_error("successes", counts, f"numbers from 0 to draws = {draws}")
    if not 0 < miss < 1:
        raise argument_error("miss", miss, "a probability above 0 and below 1")
    # At the ends the beta distribution has no such parameters.
    low = np.where(counts == 0, 0.0, betaincinv(np.maximum(counts, 1), draws - counts + 1, miss))
    high = np.where(counts == draws, 1.0, betaincinv(counts + 1, np.maximum(draws - counts, 1), 1 - miss))
    return low, high


def bound_votes(votes: NDArray[np.int64], draws: int, confidence: float) -> Bounds:
    """Bounds of every pixel's probability that hold for all pixels of an image at once with `confidence`."""
    # Bonferroni: two bounds for each of D pixels share what may fail.
    return clopper_pearson(votes, draws, (1 - confidence) / (2 * votes.shape[1]))


def certify_pixels(bounds: Bounds) -> tuple[Flags, Flags]:
    """Pixels that are in the top k more often than not, by bounds of a point or ball, and less often.

    Of all others the certificate abstains.
    """
    low, high = bounds
    return low > 0.5, high < 0.5


def overlap_range(top: Flags, bounds: Bounds) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the k pixels in each `top` are in the smoothed map's top k, at least and at most, (N,).

    With bounds of a ball the least holds at each of its points; higher is better. Both are exact for what the
    bounds leave possible, equal probabilities in any order.
    """
    low, high = bounds
    ranges = np.empty((2, len(top)), dtype=np.int64)
    for row, (inside, edges, most) in enumerate(zip(top, low, high, strict=True)):
        k = np.count_nonzero(inside)
        # Where the greatest value outside a top k is at an edge, what may only be above it has to be inside,
        # and what may only be below it cannot be.
        must, can = _count(edges, most, edges)
        own_must, own_can = _count(edges[inside], most[inside], edges)
        own, others = own_can - own_must, (can - must) - (own_can - own_must)
        fits = (must <= k) & (k <= can)
        ranges[0, row] = (own_must + np.maximum(k - must - others, 0))[fits].min()
        ranges[1, row] = (own_must + np.minimum(k - must, own))[fits].max()
    return ranges[0], ranges[1]


def _count(
    low: NDArray[np.float64], high: NDArray[np.float64], edges: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each edge how many lower bounds are above it, and how many upper bounds not below it."""
    above = len(low) - np.searchsorted(np.sort(low), edges, side="right")
    return above, len(high) - np.searchsorted(np.sort(high), edges, side="left")
