"""Orders and their correlation: descending order with a rule for ties, Kendall's tau-b and Spearman's rho.

numpy, not torch, where it counts: its sort of short rows uses the processor's vector instructions and takes
about 3 ns a value, ten times less than torch's, and ranks are built from such sorts. A plain argsort is
avoided as it costs as much as torch's; values with their position in the low bits sort in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from veridical.metrics.maps import blank_undefined, flat_pair
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_uniform

Ties = Literal["random", "stable"]

_Rows = npt.NDArray[np.float64]
_Ranks = npt.NDArray[np.int32]
_Counts = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]

# Longest row: up to here every count fits int64 and every sum of positions is exact in float64.
_MAX_VALUES = 1 << 26

# Inversions inside pieces of at most this many values are counted by comparing all pairs.
_LEAF = 32

# Values of one map that are worked on together: temporaries then fit a processor's cache.
_VALUES_AT_ONCE = 1 << 16


def descending(
    values: Tensor,
    *,
    ties: Ties = "random",
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
    purpose: str = "ties",
) -> Tensor:
    """Positions of the values (N, D) of each row, the greatest first; int64 (N, D) on their device.

    ties: "random" puts equal values in an order that depends on (seed, purpose, number of the example) alone,
    so on no batching; "stable" keeps them in the order of their positions, which favours the upper rows of an
    image. indices: the examples' numbers in their data set, one integer for each row; None counts from 0.
    """
    examples = len(values)
    if ties not in ("random", "stable"):
        raise argument_error("ties", ties, "random or stable")
    numbers = torch.arange(examples) if indices is None else torch.as_tensor(indices).cpu()
    if numbers.shape != (examples,):
        raise argument_error("indices", indices, f"{examples} integers, one for each example")
    ordered, result = values.sort(dim=1, descending=True, stable=True)
    if ties == "random":
        tied = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()[:, 0]
        if len(tied):
            result[tied] = _shuffled(values[tied], seed, purpose, numbers[tied.cpu()])
    return result


def _shuffled(values: Tensor, seed: int, purpose: str, numbers: Tensor) -> Tensor:
    """npt.NDArray[np.int64] (n, D) from the greatest value down, equal ones in random order."""
    noise = per_example_uniform(values.shape[1:], seed, purpose, numbers, torch.float64, values.device)
    shuffled = noise.argsort(dim=1)
    # A stable sort of shuffled positions keeps equal ones in the order of the shuffle.
    result = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, result)


def kendall_tau(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b of each pair of maps, in [-1, 1]; higher is more alike.

    tau_b = (concordant - discordant pairs) / sqrt((pairs not tied in a) (pairs not tied in b)), so ties, such
    as the zeros of an MNIST map, count neither for nor against. O(D log D), with exact int64 counts.

    a, b: maps (N, ...) of one shape, float32 or float64, compared as (N, D) with D <= 2^26; other dtypes and
    shapes are a UsageError (see `veridical.metrics.maps`). Only the order of values counts: an increasing
    function of a map changes nothing; a sign or an absolute value does.
    Returns float64 (N,) on a's device; the counting itself is done on the CPU. NaN where a map is constant or
    has a NaN, as `scipy.stats.kendalltau`.

    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945); Knight, "A computer
    method for calculating Kendall's tau with ungrouped data", JASA 61 (1966).
    """
    return _by_rows(_kendall, a, b)


def kendall_tau_nonzero(a: Tensor, b: Tensor) -> Tensor:
    """Kendall's tau-b over the pixels where a, the original map, is not zero; higher is more alike.

    A map that multiplies by the image is exactly zero on black pixels. To paint on them lowers tau whatever
    becomes of the pixels that the map marks; here it does not. Which pixels count is a's alone, so the two
    maps cannot be exchanged.

    Arguments, result and errors as for `kendall_tau`. NaN also where fewer than two pixels of a are not zero,
    or either map is constant on them.
    """
    a, b = flat_pair(a, b)
    kept = a != 0
    taus = [
        kendall_tau(original[None, where], other[None, where]).item() if where.any() else torch.nan
        for original, other, where in zip(a, b, kept, strict=True)
    ]
    # What is not finite makes a pair undefined wherever it lies.
    return blank_undefined(torch.tensor(taus, dtype=torch.float64, device=a.device), a, b)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of maps, in [-1, 1]; higher is more alike.

    Pearson's correlation of the ranks; equal values share the mean of their ranks. Arguments, result, NaN and
    errors as for `kendall_tau`. Sums are exact up to D = 2^18, then rounded as float64.

    Source: Kendall & Gibbons, "Rank Correlation Methods" (1990), section 3.8 (tied ranks).
    """
    return _by_rows(_spearman, a, b)


def _by_rows(statistic: Callable[[_Rows, _Rows], _Rows], a: Tensor, b: Tensor) -> Tensor:
    """Apply a numpy statistic to groups of examples, so that memory does not grow with their number."""
    a, b = flat_pair(a, b)
    examples, length = a.shape
    if length > _MAX_VALUES:
        raise argument_error("a", a, f"maps of at most {_MAX_VALUES} values", "Pool them first.")
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


def _kendall(a: _Rows, b: _Rows) -> _Rows:
    """tau-b of rows (N, D): order them by (a, b); pairs that are then out of order in b are discordant."""
    by_b, starts_b = _sort_rows(b)
    by_a, starts_a = _sort_rows(a.ravel().take(by_b))
    ranks_b = _dense_ranks(starts_b).ravel().take(by_a)
    tied_a, tied_b = _tied_pairs(starts_a), _tied_pairs(starts_b)
    tied_both = _tied_pairs(starts_a | _run_starts(ranks_b))
    pairs = a.shape[1] * (a.shape[1] - 1) // 2
    # Concordant minus discordant: of all pairs, those tied in one map count for neither.
    difference = pairs - tied_a - tied_b + tied_both - 2 * _inversions(ranks_b)
    return _over_geometric_mean(difference, pairs - tied_a, pairs - tied_b)


def _spearman(a: _Rows, b: _Rows) -> _Rows:
    """Pearson's correlation of the mean ranks of rows (N, D)."""
    centred_a, centred_b = centred_ranks(a), centred_ranks(b)
    return _over_geometric_mean(
        np.einsum("nd,nd->n", centred_a, centred_b),
        np.einsum("nd,nd->n", centred_a, centred_a),
        np.einsum("nd,nd->n", centred_b, centred_b),
    )


def _over_geometric_mean(
    value: npt.NDArray[Any], size_a: npt.NDArray[Any], size_b: npt.NDArray[Any]
) -> _Rows:
    """Divide by sqrt(size_a size_b): one root of the product, so that identical maps give exactly 1."""
    root = np.sqrt(size_a.astype(np.float64) * size_b.astype(np.float64))
    result: npt.NDArray[np.float64] = value / root
    return result


def centred_ranks(values: _Rows) -> _Rows:
    """Twice each value's mean rank, minus its mean: integers with sum 0, as float64 (N, D)."""
    rows, length = values.shape
    order, starts = _sort_rows(values)
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=rows * length)
    # A run of m equal values from place p (from 0) on has the mean place p + (m - 1) / 2; the middle is
    # (D - 1) / 2.
    doubled = 2 * (first % length) + lengths - length
    centred = np.empty((rows, length), dtype=np.float64)
    centred.ravel()[order] = np.repeat(doubled, lengths).reshape(rows, length)
    return centred


def _sort_rows(values: _Rows) -> tuple[npt.NDArray[np.int64], _Flags]:
    """Find each row's ascending order, ties in their old order, and where in it a run of equal values starts.

    values (N, D) float64 without NaN, 1 <= D <= _MAX_VALUES. Returns the positions in the flattened array as
    int64 (N, D), because a flat take is several times as fast as take_along_axis, and flags (N, D).
    """
    rows, length = values.shape
    codes = _order_codes(values)
    # The lowest bits of each code make room for its position. In what was float32 those bits are 0.
    mask = np.int64((1 << (length - 1).bit_length()) - 1)
    keys = codes & ~mask
    keys |= np.arange(length, dtype=np.int64)
    keys.sort(axis=1)
    keys &= mask
    offsets = np.arange(rows, dtype=np.int64)[:, None] * length
    order = np.add(keys, offsets, out=keys)
    ordered = codes.ravel().take(order)
    if (codes & mask).any():
        # Rows with values that differ in those bits alone came out of order: sort these again.
        wrong = np.flatnonzero((ordered[:, 1:] < ordered[:, :-1]).any(axis=1))
        order[wrong] = np.argsort(codes[wrong], axis=1, kind="stable") + offsets[wrong]
        ordered[wrong] = codes.ravel().take(order[wrong])
    return order, _run_starts(ordered)


def _order_codes(values: _Rows) -> npt.NDArray[np.int64]:
    """Map floats to int64 in the same order, equal for equal values (-0.0 and 0.0 too); (N, D)."""
    bits = values.view(np.int64)
    negative = bits >> 63
    # A negative number is stored as its sign bit and magnitude m: make that -m (two's complement).
    codes: npt.NDArray[np.int64] = negative & np.int64((1 << 63) - 1)
    codes ^= bits
    codes -= negative
    return codes


def _run_starts(ordered: npt.NDArray[np.integer]) -> _Flags:
    """Mark where a run of equal values starts in rows (N, D) whose equal values are neighbours."""
    starts = np.empty(ordered.shape, dtype=np.bool_)
    starts[:, 0] = True
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=starts[:, 1:])
    return starts


def _dense_ranks(starts: _Flags) -> _Ranks:
    """Number the runs of each row from 0 upwards, for every value in order; int32 (N, D)."""
    ranks = starts.astype(np.int32)
    ranks[:, 0] = 0
    return np.cumsum(ranks, axis=1, out=ranks)


def _tied_pairs(starts: _Flags) -> _Counts:
    """Count the pairs of equal values in each row; int64 (N,)."""
    rows, length = starts.shape
    positions = np.flatnonzero(starts)
    lengths = np.diff(positions, append=rows * length)
    first_run = np.searchsorted(positions, np.arange(rows) * length)
    squares: _Counts = np.add.reduceat(lengths * lengths, first_run)
    pairs: _Counts = (squares - length) // 2
    return pairs


def _inversions(ranks: _Ranks) -> _Counts:
    """Count the pairs i < j with ranks[i] > ranks[j] in each row; int64 (N,).

    ranks (N, D) int32 in 0 .. D - 1. Bottom-up merge sort over all rows at once: D is cut into 2^L pieces of
    at most _LEAF values, inside which all pairs are compared; then neighbouring pieces are merged L times.
    """
    rows, length = ranks.shape
    levels = max(0, (length - 1) // _LEAF).bit_length()
    piece = -(-length >> levels)
    # Padding stands behind everything and exceeds it, so it adds no inversion.
    padded = np.full((rows, piece << levels), length, dtype=np.int32)
    padded[:, :length] = ranks
    count: _Counts = _leaf_inversions(padded.reshape(-1, piece)).reshape(rows, -1).sum(axis=1)
    padded <<= 1
    for level in range(levels):
        count += _merge(padded.reshape(-1, piece << level + 1)).reshape(rows, -1).sum(axis=1)
    return count


def _leaf_inversions(pieces: _Ranks) -> _Counts:
    """Inversions of each short row by comparing all pairs, in columns so that every operation is long."""
    small = np.int16 if pieces.max(initial=0) < 1 << 15 else np.int32
    columns = np.ascontiguousarray(pieces.T.astype(small))
    count = np.zeros(len(pieces), dtype=np.int64)
    for first in range(len(columns) - 1):
        greater = columns[first] > columns[first + 1 :]
        count += np.add.reduce(greater.view(np.uint8), axis=0, dtype=np.uint8)
    return count


def _merge(blocks: _Ranks) -> _Counts:
    """Sort each row in place and count the inversions between its two halves, of B values each.

    Values are even; the right half gets the lowest bit, so equal values keep their sides' order. If the right
    half's values land at positions p, the j-th of them has p - j left values in front, hence B - (p - j)
    behind; the sum over j is B^2 + B (B - 1) / 2 - sum(p).
    """
    half = blocks.shape[1] // 2
    blocks[:, :half] &= -2
    blocks[:, half:] |= 1
    blocks.sort(axis=1)
    from_right = np.bitwise_and(blocks, 1, dtype=np.int32).astype(np.float64)
    positions: _Counts = (from_right @ np.arange(2 * half, dtype=np.float64)).astype(np.int64)
    behind: _Counts = half * half + half * (half - 1) // 2 - positions
    return behind
