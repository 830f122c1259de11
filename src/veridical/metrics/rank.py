"""Rank correlation of two maps: Kendall's tau-b and Spearman's rho, per example, equal to scipy's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from veridical.metrics import ordering
from veridical.metrics.maps import blank_undefined, flat_pair
from veridical.runtime.errors import argument_error

# Values of one map that are worked on together: temporaries then fit a processor's cache.
_VALUES_AT_ONCE = 1 << 16

_Statistic = Callable[[ordering.Rows, ordering.Rows], npt.NDArray[np.float64]]


def kendall_tau(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b of each pair of maps, in [-1, 1]; higher is more alike.

    tau_b = (concordant - discordant pairs) / sqrt((pairs not tied in a) (pairs not tied in b)), so ties, such
    as the zeros of an MNIST map, count neither for nor against. O(D log D), with exact int64 counts.

    Parameters
    ----------
    a, b
        Maps (N, ...) of one shape, float32 or float64, compared as (N, D) with D <= 2^26. bfloat16 and
        float16 are refused (see `veridical.metrics.maps`). Only the order of values counts: an increasing
        function of a map changes nothing; a sign or an absolute value does.

    Returns
    -------
    Tensor
        float64 (N,) on a's device; the counting itself is done on the CPU. NaN where a map is constant or has
        a NaN, as `scipy.stats.kendalltau`.

    Raises
    ------
    UsageError
        For other dtypes, shapes that differ, maps without a batch dimension.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945); Knight, "A computer
    method for calculating Kendall's tau with ungrouped data", JASA 61 (1966).
    """
    return _by_rows(_kendall, a, b)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of maps, in [-1, 1]; higher is more alike.

    Pearson's correlation of the ranks; equal values share the mean of their ranks. Arguments, result, NaN and
    errors as for `kendall_tau`. Sums are exact up to D = 2^18, then rounded as float64.

    Source: Kendall & Gibbons, "Rank Correlation Methods" (1990), section 3.8 (tied ranks).
    """
    return _by_rows(_spearman, a, b)


def _by_rows(statistic: _Statistic, a: Tensor, b: Tensor) -> Tensor:
    """Apply a numpy statistic to groups of examples, so that memory does not grow with their number."""
    a, b = flat_pair(a, b)
    examples, length = a.shape
    if length > ordering.MAX_VALUES:
        raise argument_error("a", a, f"maps of at most {ordering.MAX_VALUES} values", "Pool them first.")
    left, right = a.cpu().numpy(), b.cpu().numpy()
    result = np.empty(examples, dtype=np.float64)
    at_once = max(1, _VALUES_AT_ONCE // length)
    for first in range(0, examples, at_once):
        part = slice(first, first + at_once)
        # A constant map leaves 0 / 0, which is the NaN that the metrics promise.
        with np.errstate(divide="ignore", invalid="ignore"):
            result[part] = statistic(left[part].astype(np.float64), right[part].astype(np.float64))
    values = torch.from_numpy(result).clamp_(-1.0, 1.0).to(a.device)
    return blank_undefined(values, a, b)


def _kendall(a: ordering.Rows, b: ordering.Rows) -> npt.NDArray[np.float64]:
    """tau-b of rows (N, D): order them by (a, b); pairs that are then out of order in b are discordant."""
    by_b, starts_b = ordering.sort_rows(b)
    by_a, starts_a = ordering.sort_rows(a.ravel().take(by_b))
    ranks_b = ordering.dense_ranks(starts_b).ravel().take(by_a)
    tied_a, tied_b = ordering.tied_pairs(starts_a), ordering.tied_pairs(starts_b)
    tied_both = ordering.tied_pairs(starts_a | ordering.run_starts(ranks_b))
    pairs = a.shape[1] * (a.shape[1] - 1) // 2
    # Concordant minus discordant: of all pairs, those tied in one map count for neither.
    difference = pairs - tied_a - tied_b + tied_both - 2 * ordering.inversions(ranks_b)
    return _over_geometric_mean(difference, pairs - tied_a, pairs - tied_b)


def _spearman(a: ordering.Rows, b: ordering.Rows) -> npt.NDArray[np.float64]:
    """Pearson's correlation of the mean ranks of rows (N, D)."""
    centred_a, centred_b = centred_ranks(a), centred_ranks(b)
    return _over_geometric_mean(
        np.einsum("nd,nd->n", centred_a, centred_b),
        np.einsum("nd,nd->n", centred_a, centred_a),
        np.einsum("nd,nd->n", centred_b, centred_b),
    )


def _over_geometric_mean(
    value: npt.NDArray[Any], size_a: npt.NDArray[Any], size_b: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Divide by sqrt(size_a size_b): one root of the product, so that identical maps give exactly 1."""
    root = np.sqrt(size_a.astype(np.float64) * size_b.astype(np.float64))
    result: npt.NDArray[np.float64] = value / root
    return result


def centred_ranks(values: ordering.Rows) -> npt.NDArray[np.float64]:
    """Twice each value's mean rank, minus its mean: integers with sum 0, as float64 (N, D)."""
    rows, length = values.shape
    order, starts = ordering.sort_rows(values)
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=rows * length)
    # A run of m equal values from place p (from 0) on has the mean place p + (m - 1) / 2; the middle is
    # (D - 1) / 2.
    doubled = 2 * (first % length) + lengths - length
    centred = np.empty((rows, length), dtype=np.float64)
    centred.ravel()[order] = np.repeat(doubled, lengths).reshape(rows, length)
    return centred
