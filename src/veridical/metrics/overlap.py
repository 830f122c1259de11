"""Overlap of the most salient pixels of two maps: top-k intersection, plain and tolerant of small shifts."""

from numbers import Integral
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from veridical.metrics.maps import as_images, as_maps, blank_undefined, flat_pair
from veridical.runtime.checking import check_count
from veridical.runtime.errors import argument_error

# What happens to equal values at the edge of the top k; see `topk_intersection`.
TieOrder = Literal["stable-last", "expected"]

Direction = Literal["mean", "precision", "recall"]


def topk_intersection(a: Tensor, b: Tensor, k: int, *, order: TieOrder = "stable-last") -> Tensor:
    """Share of the k largest values that two maps have in the same places, in [0, 1]; higher is more alike.

    a, b: maps (N, ...) of one shape, float32 or float64; signed values are compared as they are. k: number of
    values, 1 <= k <= D. order: which of several equal values belong to the top k if not all do:

    - "stable-last": the last k of a stable ascending sort, that is those with the highest positions, in both
      maps, as the RAR authors' code; maps with fewer than k non-zero values then share places that mean
      nothing.
    - "expected": the mean over all ways to break the ties, independently in both maps.

    Returns float64 (N,) on a's device; NaN where a map is not finite. A constant map is all ties, not an
    error.
    Source: Ghorbani, Abid, Zou, "Interpretation of neural networks is fragile", AAAI 2019, section 2;
    reported as IN by Chen et al., "Robust attribution regularization", NeurIPS 2019.
    """
    a, b = flat_pair(a, b)
    if order == "stable-last":
        both = topk_mask(a, k) & topk_mask(b, k)
        shared = torch.from_numpy(_count_flags(both.cpu().numpy())).to(a.device).double()
    elif order == "expected":
        shared = (_chance_of_top(a, k) * _chance_of_top(b, k)).sum(dim=1)
    else:
        raise argument_error("order", order, "'stable-last' or 'expected'")
    return blank_undefined(shared / k, a, b)


def windowed_topk_intersection(
    a: Tensor, b: Tensor, k: int, window: int, *, direction: Direction = "mean"
) -> Tensor:
    """Share of the top-k pixels that have one of the other map's nearby, in [0, 1]; higher is more alike.

    a, b: maps (N, H, W), float32 or float64; a is the clean one. k, ties and the result: as
    `topk_intersection`, "stable-last". A pixel is nearby if it is at most `window` >= 0 rows and `window`
    columns away (a square, cut at the border). With A and B the top-k sets and N_w(A) all pixels near one of
    A, direction is

    * "precision": |A & N_w(B)| / k, the share of a's pixels that are found again in b (w-LENS-prec@k);
    * "recall": |N_w(A) & B| / k, the share of b's pixels that were there in a (w-LENS-recall@k);
    * "mean": the mean of both, the default, which is symmetric in a and b. That is Veridical's choice: the
      source reports the two apart.

    Several pixels may be found near one pixel, so this is no matching. window = 0 is `topk_intersection`. The
    source's code counts in flattened positions and so lets windows wrap from one row to the next; here they
    do not.
    Source: Kamath, Mittal, Deshpande, Balasubramanian, "Rethinking robustness of model attributions", AAAI
    2024.
    """
    flat = flat_pair(as_images("a", a), as_images("b", b))
    check_count("window", window, 0)
    if direction not in ("mean", "precision", "recall"):
        raise argument_error("direction", direction, "'mean', 'precision' or 'recall'")
    top_a, top_b = topk_mask(a, k), topk_mask(b, k)
    shares = []
    if direction != "recall":
        shares.append((top_a & _near(top_b, window)).flatten(1).sum(dim=1).double() / k)
    if direction != "precision":
        shares.append((_near(top_a, window) & top_b).flatten(1).sum(dim=1).double() / k)
    return blank_undefined(torch.stack(shares).mean(dim=0), *flat)


def topk_mask(maps: Tensor, k: int) -> Tensor:
    """Mark each map's k largest values: bool, of the maps' shape (N, ...), exactly k of them true.

    Of equal values those with the highest flattened positions come first ("stable-last"). A NaN counts as
    larger than all numbers.
    """
    flat = as_maps("maps", maps).flatten(1)
    _check_k(k, flat)
    mask = torch.from_numpy(_top_flags(flat.cpu().numpy(), k))
    return mask.reshape(maps.shape).to(maps.device)


def _chance_of_top(flat: Tensor, k: int) -> Tensor:
    """Probability that each value of (N, D) is in the top k if ties are broken by chance; float64."""
    _check_k(k, flat)
    edge = flat.kthvalue(flat.shape[1] - k + 1, dim=1, keepdim=True).values
    above, tied = flat > edge, flat == edge
    # The places that are left go to each of the tied values with equal chance.
    places = k - above.sum(dim=1, keepdim=True)
    return above.double() + tied.double() * (places.double() / tied.sum(dim=1, keepdim=True))


def _near(mask: Tensor, window: int) -> Tensor:
    """Dilate (N, H, W) by a square: true where a true pixel is within `window` rows and columns."""
    # One axis after the other, and padded by hand: max_pool2d allows padding of half a window only.
    side = 2 * window + 1
    padded = F.pad(mask.float(), (window, window, window, window))
    wide = F.max_pool2d(padded[:, None], (side, 1), stride=1)
    return F.max_pool2d(wide, (1, side), stride=1)[:, 0] > 0


def _check_k(k: int, flat: Tensor) -> None:
    if not isinstance(k, Integral) or not 1 <= k <= flat.shape[1]:
        raise argument_error("k", k, f"a number from 1 to {flat.shape[1]}, the values of one map")


def _top_flags(rows: npt.NDArray[np.floating], k: int) -> npt.NDArray[np.bool_]:
    """Mark the k greatest values of each row, of equal ones the last; NaN is greater than all. bool (N, D).

    rows (N, D) float32 or float64, 1 <= k <= D. As the last k of a stable sort, but nothing is sorted: what
    reaches a row's k-th greatest value is marked, and ties are looked at only where that marks too many.
    """
    undefined = np.isnan(rows.max(axis=1))
    if undefined.any():
        flags = np.zeros(rows.shape, dtype=np.bool_)
        flags[~undefined] = _top_flags(rows[~undefined], k)
        for row in np.flatnonzero(undefined):
            flags[row, rows[row].argsort(kind="stable")[-k:]] = True
        return flags
    edges = _kth_greatest(rows, k)
    flags = rows >= edges
    for row in np.flatnonzero(_count_flags(flags) > k):
        flags[row] = rows[row] > edges[row]
        tied = np.flatnonzero(rows[row] == edges[row])
        flags[row, tied[len(tied) - k + np.count_nonzero(flags[row]) :]] = True
    return flags


def _count_flags(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Count the flags that are set in each row (N, D); int64 (N,)."""
    # By bits: count_nonzero along an axis takes five times as long.
    counts: npt.NDArray[np.int64] = np.bitwise_count(np.packbits(flags, axis=1)).sum(axis=1, dtype=np.int64)
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
