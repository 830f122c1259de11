"""What of a smoothed map's top k provably holds: bounds of votes, and what they say within an l2 ball.

Under normal noise of deviation sigma each draw of a map votes for its top k of D pixels; p_i is the
probability that pixel i is among them, and the smoothed map is p. Whatever the map, Phi^-1(p_i) changes by at
most R / sigma within the Euclidean distance R (Cohen et al., "Certified adversarial robustness via randomized
smoothing", ICML 2019), so bounds of p at x are bounds in the whole ball. Single pixels as in Anani et al.,
"Pixel-level certified explanations via randomized smoothing", ICML 2025 (after its abstract); the top k as in
Levine, Singla, Feizi, "Certifiably robust interpretation in deep learning", 2019 (after its abstract and
introduction). That Bonferroni's correction makes all bounds of an image simultaneous is ours.

Votes are int64 (N, D), bounds float64 (N, D), a top k bool (N, D). `shift` is R / sigma.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri

from veridical.runtime.checking import check_count
from veridical.runtime.errors import argument_error

Bounds: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
Flags: TypeAlias = NDArray[np.bool_]


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


def certify_pixels(bounds: Bounds, shift: float) -> tuple[Flags, Flags]:
    """Pixels that in the whole ball are in the top k more often than not, and those that are less often.

    Of all others the certificate abstains.
    """
    low, high = bounds
    return ndtri(low) > shift, ndtri(high) < -shift


def overlap_range(
    top: Flags, bounds: Bounds, shift: float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the k pixels in each `top` are in the smoothed map's top k, at least and at most, (N,).

    The least holds at every point of the ball, and higher is better; shift 0 is the point of the votes alone.
    Both are exact for what the bounds leave possible, equal probabilities in any order.
    """
    low, high = ndtri(bounds[0]) - shift, ndtri(bounds[1]) + shift
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


def pixel_radius(bounds: Bounds, sigma: float) -> NDArray[np.float64]:
    """The l2 radius up to which each pixel is in the top k more often than not; 0 where that is not shown."""
    quantile: NDArray[np.float64] = ndtri(bounds[0])
    return sigma * quantile.clip(min=0.0)
