"""Certificates of a smoothed top k against scipy, brute force over all tops, and hand computations."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from veridical.metrics.certificates import (
    NOISES,
    bound_votes,
    certify_pixels,
    clopper_pearson,
    overlap_range,
    uniform_length,
)
from veridical.runtime.errors import UsageError


@pytest.mark.parametrize("draws", [1, 7, 250])
def test_clopper_pearson_is_scipys_exact_interval(draws: int) -> None:
    counts = np.unique([0, 1, draws // 3, draws - 1, draws])
    low, high = clopper_pearson(counts, draws, 0.005)
    exact = [stats.binomtest(int(n), draws).proportion_ci(0.99, "exact") for n in counts]
    np.testing.assert_allclose(low, [one.low for one in exact], rtol=1e-6)
    np.testing.assert_allclose(high, [one.high for one in exact], rtol=1e-6)
    # And each end fails as rarely as asked for: the chance of so many votes where it were the truth.
    some = (counts > 0) & (counts < draws)
    np.testing.assert_allclose(stats.binom.sf(counts[some] - 1, draws, low[some]), 0.005, rtol=1e-8)
    np.testing.assert_allclose(stats.binom.cdf(counts[some], draws, high[some]), 0.005, rtol=1e-8)


@pytest.mark.parametrize(
    ("successes", "draws", "miss"), [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0.0), (1, 0, 0.1)]
)
def test_impossible_votes_are_refused(successes: int, draws: int, miss: float) -> None:
    with pytest.raises(UsageError):
        clopper_pearson(np.array([successes]), draws, miss)


def test_all_bounds_of_an_image_share_what_may_fail() -> None:
    """By hand: with every vote the lower bound solves p^n = miss, with none the upper (1 - p)^n = miss."""
    low, high = bound_votes(np.array([[50, 0, 25, 0]]), 50, 0.99)
    miss = 0.01 / 8
    assert low[0, 0] == pytest.approx(miss ** (1 / 50))
    assert high[0, 0] == 1
    assert (low[0, 1], high[0, 1]) == (0, pytest.approx(1 - miss ** (1 / 50)))
    assert low[0, 2] == pytest.approx(stats.beta.ppf(miss, 25, 26))


def test_simultaneous_bounds_fail_as_rarely_as_said() -> None:
    draws, truth = np.random.default_rng(0), np.linspace(0.02, 0.98, 40)
    votes = draws.binomial(60, truth, (4000, 40))
    low, high = bound_votes(votes, 60, 0.95)
    failed = ((low > truth) | (high < truth)).any(axis=1)
    # Bonferroni with exact bounds is conservative.
    assert 0 < failed.mean() < 0.05


def test_a_pixels_radius_is_cohens() -> None:
    """Sigma Phi^-1(p): where the probability is Phi((x - R) / sigma), it falls to a half at R = x."""
    sigma, place = 0.5, 0.8
    known = np.array([[stats.norm.cdf(place / sigma), stats.norm.cdf(-place / sigma)]])
    normal = NOISES["normal"]
    np.testing.assert_allclose(normal.reach(known, sigma, 4), [[place, 0]])
    for radius, holds in ((0.79, True), (0.81, False)):
        within, without = certify_pixels(normal.widen((known, known), radius, sigma, 4))
        assert within.tolist() == [[holds, False]]
        assert without.tolist() == [[False, holds]]


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_overlaps_are_those_of_all_tops_that_the_bounds_allow(shift: float) -> None:
    draws, pixels, k = np.random.default_rng(1), 7, 3
    # Round numbers, so that there are ties.
    ends = np.sort(draws.integers(0, 12, (200, pixels, 2)) / 11, axis=2)
    low, high = ends[..., 0], ends[..., 1]
    top = np.zeros((200, pixels), bool)
    np.put_along_axis(top, (low + high).argsort(axis=1)[:, -k:], True, axis=1)
    least, most = overlap_range(top, NOISES["normal"].widen((low, high), shift, 1.0, 7))
    moved_low, moved_high = stats.norm.ppf(low) - shift, stats.norm.ppf(high) + shift
    for row in range(200):
        overlaps = []
        for chosen in combinations(range(pixels), k):
            out = [pixel for pixel in range(pixels) if pixel not in chosen]
            # Possible if the chosen can all be as high, and the others as low, as they may be.
            if moved_low[row, out].max() <= moved_high[row, list(chosen)].min():
                overlaps.append(int(top[row, list(chosen)].sum()))
        assert (least[row], most[row]) == (min(overlaps), max(overlaps))


def test_with_known_probabilities_the_overlap_is_a_comparison_of_ranks() -> None:
    """Known probabilities in falling order: m of k hold while the m-th is above the (2k - m + 1)-th."""
    known, k = np.array([[0.95, 0.9, 0.7, 0.4, 0.3, 0.2]]), 3
    top = np.array([[True] * 3 + [False] * 3])
    quantiles = stats.norm.ppf(known[0])
    for m in (1, 2, 3):
        radius = (quantiles[m - 1] - quantiles[2 * k - m]) / 2
        for moved, holds in ((radius - 1e-9, True), (radius + 1e-9, False)):
            ball = NOISES["normal"].widen((known, known), moved, 1.0, 6)
            assert (overlap_range(top, ball)[0].item() >= m) == holds


def test_by_uniform_noise_a_probability_moves_as_far_as_balls_do_not_overlap() -> None:
    """In one dimension by hand, and in more by counting points of a ball that are outside the other one."""
    widen, known = NOISES["uniform"].widen, np.array([[0.7, 0.2]])
    length = uniform_length(0.2, 1)
    low, high = widen((known, known), 0.1, 0.2, 1)
    np.testing.assert_allclose(low, [[0.7 - 0.1 / (2 * length), 0.2 - 0.1 / (2 * length)]])
    np.testing.assert_allclose(high, [[0.7 + 0.1 / (2 * length), 0.2 + 0.1 / (2 * length)]])
    draws = np.random.default_rng(3)
    for size in (2, 5, 20):
        points = draws.normal(size=(200_000, size + 2))
        points = points[:, :size] / np.linalg.norm(points, axis=1, keepdims=True)
        shift = np.eye(1, size)[0] * 0.4
        outside = (np.linalg.norm(points - shift, axis=1) > 1).mean()
        low, _ = widen((np.ones((1, 1)), np.ones((1, 1))), 0.4 / np.sqrt(size + 2), 1 / (size + 2), size)
        assert 1 - low[0, 0] == pytest.approx(outside, abs=0.005)
    # Beyond twice the length nothing is left, and no bound leaves [0, 1].
    low, high = widen((known, known), 5.0, 0.2, 3)
    assert (low.max(), high.min()) == (0, 1)


def test_by_uniform_noise_the_radius_is_where_the_bound_meets_a_half() -> None:
    noise, low = NOISES["uniform"], np.array([0.55, 0.8, 0.999, 0.5, 0.1])
    reach = noise.reach(low, 0.3, 12)
    assert reach[3:].tolist() == [0, 0]
    for one, radius in zip(low[:3], reach[:3], strict=True):
        (edge,) = noise.widen((np.array([one]), np.array([one])), float(radius), 0.3, 12)[0]
        assert edge == pytest.approx(0.5)
