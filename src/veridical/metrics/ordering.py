"""Order statistics of many rows at once: descending order with a rule for ties, exact ranks and inversions.

numpy, not torch, where it counts: its sort of short rows uses the processor's vector instructions and takes
about 3 ns a value, ten times less than torch's, and ranks are built from such sorts. A plain argsort is
avoided as it costs as much as torch's; values with their position in the low bits sort in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_uniform

Ties = Literal["random", "stable"]
TIES: tuple[Ties, ...] = ("random", "stable")


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
    image. indices: the examples' numbers in their data set; None counts from 0. Raises UsageError for another
    rule and for indices that are not one integer for each row.
    """
    examples = len(values)
    if ties not in TIES:
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
    """Positions (n, D) from the greatest value down, equal ones in random order."""
    noise = per_example_uniform(values.shape[1:], seed, purpose, numbers, torch.float64, values.device)
    shuffled = noise.argsort(dim=1)
    # A stable sort of shuffled positions keeps equal ones in the order of the shuffle.
    result = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, result)


Rows = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# Longest row: up to here every count fits int64 and every sum of positions is exact in float64.
MAX_VALUES = 1 << 26

# Inversions inside pieces of at most this many values are counted by comparing all pairs.
_LEAF = 32


def sort_rows(values: Rows) -> tuple[Positions, Flags]:
    """Find each row's ascending order, ties in their old order, and where in it a run of equal values starts.

    values (N, D) float64 without NaN, 1 <= D <= MAX_VALUES. Returns the positions in the flattened array as
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
    return order, run_starts(ordered)


def run_starts(ordered: npt.NDArray[np.integer]) -> Flags:
    """Mark where a run of equal values starts in rows (N, D) whose equal values are neighbours."""
    starts = np.empty(ordered.shape, dtype=np.bool_)
    starts[:, 0] = True
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=starts[:, 1:])
    return starts


def dense_ranks(starts: Flags) -> Ranks:
    """Number the runs of each row from 0 upwards, for every value in order; int32 (N, D)."""
    ranks = starts.astype(np.int32)
    ranks[:, 0] = 0
    return np.cumsum(ranks, axis=1, out=ranks)


def tied_pairs(starts: Flags) -> Counts:
    """Count the pairs of equal values in each row; int64 (N,)."""
    rows, length = starts.shape
    positions = np.flatnonzero(starts)
    lengths = np.diff(positions, append=rows * length)
    first_run = np.searchsorted(positions, np.arange(rows) * length)
    squares: Counts = np.add.reduceat(lengths * lengths, first_run)
    pairs: Counts = (squares - length) // 2
    return pairs


def inversions(ranks: Ranks) -> Counts:
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
    count: Counts = _leaf_inversions(padded.reshape(-1, piece)).reshape(rows, -1).sum(axis=1)
    padded <<= 1
    for level in range(levels):
        count += _merge(padded.reshape(-1, piece << level + 1)).reshape(rows, -1).sum(axis=1)
    return count


def top_flags(rows: npt.NDArray[np.floating], k: int) -> Flags:
    """Mark the k greatest values of each row, of equal ones the last; NaN is greater than all. bool (N, D).

    rows (N, D) float32 or float64, 1 <= k <= D. As the last k of a stable sort, but nothing is sorted: what
    reaches a row's k-th greatest value is marked, and ties are looked at only where that marks too many.
    """
    undefined = np.isnan(rows.max(axis=1))
    if undefined.any():
        flags = np.zeros(rows.shape, dtype=np.bool_)
        flags[~undefined] = top_flags(rows[~undefined], k)
        for row in np.flatnonzero(undefined):
            flags[row, rows[row].argsort(kind="stable")[-k:]] = True
        return flags
    edges = _kth_greatest(rows, k)
    flags = rows >= edges
    for row in np.flatnonzero(count_flags(flags) > k):
        flags[row] = rows[row] > edges[row]
        tied = np.flatnonzero(rows[row] == edges[row])
        flags[row, tied[len(tied) - k + np.count_nonzero(flags[row]) :]] = True
    return flags


def count_flags(flags: Flags) -> Counts:
    """Count the flags that are set in each row (N, D); int64 (N,)."""
    # By bits: count_nonzero along an axis takes five times as long.
    counts: Counts = np.bitwise_count(np.packbits(flags, axis=1)).sum(axis=1, dtype=np.int64)
    return counts


def _kth_greatest(rows: npt.NDArray[np.floating], k: int) -> npt.NDArray[np.floating]:
    """The k-th greatest value of each row without NaN, (N, 1)."""
    columns = 8 * k
    if rows.shape[1] < 4 * columns:
        # Of the negated values: partition is slow where most values are equal, as zeros of a map, and small.
        edges: npt.NDArray[np.floating] = -np.partition(-rows, k - 1, axis=1)[:, k - 1 : k]
        return edges
    # k columns' maxima reach the k-th greatest maximum, so that no smaller value can be the k-th of the row.
    whole = rows.shape[1] // columns * columns
    floors = _kth_greatest(rows[:, :whole].reshape(len(rows), -1, columns).max(axis=1), k)
    left = (row[row >= floor] for row, floor in zip(rows, floors, strict=True))
    return np.array([-np.partition(-values, k - 1)[k - 1] for values in left]).reshape(-1, 1)


def _leaf_inversions(pieces: Ranks) -> Counts:
    """Inversions of each short row by comparing all pairs, in columns so that every operation is long."""
    small = np.int16 if pieces.max(initial=0) < 1 << 15 else np.int32
    columns = np.ascontiguousarray(pieces.T.astype(small))
    count = np.zeros(len(pieces), dtype=np.int64)
    for first in range(len(columns) - 1):
        greater = columns[first] > columns[first + 1 :]
        count += np.add.reduce(greater.view(np.uint8), axis=0, dtype=np.uint8)
    return count


def _merge(blocks: Ranks) -> Counts:
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
    positions: Counts = (from_right @ np.arange(2 * half, dtype=np.float64)).astype(np.int64)
    behind: Counts = half * half + half * (half - 1) // 2 - positions
    return behind


def _order_codes(values: Rows) -> npt.NDArray[np.int64]:
    """Map floats to int64 in the same order, equal for equal values (-0.0 and 0.0 too); (N, D)."""
    bits = values.view(np.int64)
    negative = bits >> 63
    # A negative number is stored as its sign bit and magnitude m: make that -m (two's complement).
    codes: npt.NDArray[np.int64] = negative & np.int64((1 << 63) - 1)
    codes ^= bits
    codes -= negative
    return codes
