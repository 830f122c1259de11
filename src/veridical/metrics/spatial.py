"""What two maps share place by place: their most salient pixels, centre of mass, structural similarity."""

from __future__ import annotations

from math import isfinite
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
    blocks = rows[:, :whole].reshape(len(rows), whole // columns, columns)  # -1 has no size without rows
    floors = _kth_greatest(blocks.max(axis=1), k)
    left = (row[row >= floor] for row, floor in zip(rows, floors, strict=True))
    return np.array([-np.partition(-values, k - 1)[k - 1] for values in left]).reshape(-1, 1)


def mass_centre(maps: Tensor) -> Tensor:
    """Centre of mass of each map, (row, column) in pixels; a place, so without a direction.

    maps: non-negative (N, H, W), float32 or float64; pixel (0, 0) has its centre at 0, 0. Weights of both
    signs have no centre of mass: take `.abs()` or `.clamp(min=0)` first, whichever is meant. Returns float64
    (N, 2); NaN where a map is all zero or not finite. Differentiable, so an attack can move it.

    Source: Ghorbani, Abid, Zou, "Interpretation of neural networks is fragile", AAAI 2019, section 2 (the
    mass-centre attack).
    """
    as_images("maps", maps)
    if bool((maps < 0).any()):
        raise argument_error("maps", maps, "values of at least 0", "Use .abs() or .clamp(min=0) first.")
    mass = maps.double()
    rows = torch.arange(maps.shape[1], dtype=mass.dtype, device=mass.device)
    columns = torch.arange(maps.shape[2], dtype=mass.dtype, device=mass.device)
    # Products and sums: a matrix product takes another kernel, and rounds otherwise, for another batch size.
    down, across = (mass.sum(dim=2) * rows).sum(dim=1), (mass.sum(dim=1) * columns).sum(dim=1)
    moments = torch.stack([down, across], dim=1)
    return moments / mass.sum(dim=(1, 2))[:, None]


def mass_centre_shift(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance in pixels between the centres of mass of two maps; lower is more alike.

    Non-negative maps (N, H, W) as for `mass_centre`. Returns float64 (N,), NaN where a centre is undefined.
    """
    flat_pair(a, b)
    displacement = mass_centre(as_maps("a", a)) - mass_centre(as_maps("b", b))
    return displacement.square().sum(dim=1).sqrt()


# Usual widths of the window, in pixels.
GAUSSIAN, UNIFORM = 11, 7
_DEVIATION = 1.5
# Pixels of one side's pictures that are worked on together: temporaries then fit a processor's cache.
_PIXELS_AT_ONCE = 1 << 16
_K1, _K2 = 0.01, 0.03


def ssim(
    a: Tensor,
    b: Tensor,
    *,
    data_range: float,
    weights: Literal["gaussian", "uniform"] = "gaussian",
    window: int | None = None,
    sample_covariance: bool = False,
) -> Tensor:
    """Mean structural similarity of each pair of pictures, at most 1; higher is more alike.

    In every window that lies inside the picture means, variances and the covariance of the two are compared,
    (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2)), c1 = (.01 data_range)^2 and
    c2 = (.03 data_range)^2; the result is the mean over the windows.

    a, b: pictures (N, H, W) of one shape, float32 or float64. data_range: distance of the smallest from the
    greatest value that a picture can have, in the pictures' units. weights: "gaussian" of deviation 1.5
    pixels (Wang et al.), or "uniform". window: odd width in pixels; None is 11 for gaussian, 7 for uniform.
    sample_covariance: divide by n - 1 in place of n = window^2, as scikit-image does by default (the paper
    does not).
    Returns float64 (N,) on a's device, NaN where a picture is not finite. Raises UsageError for other dtypes,
    shapes that differ, a window that is even or larger than the pictures.

    Source: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE Transactions on Image Processing 13 (2004), section III.B.
    """
    flat_pair(a, b)
    a, b = as_images("a", a).detach().double(), as_images("b", b).detach().double()
    if isinstance(data_range, bool) or not (isfinite(data_range) and data_range > 0):
        raise argument_error("data_range", data_range, "a positive number")
    taps = _taps(weights, window, min(a.shape[1:])).to(a.device)
    scale = taps.numel() ** 2 / (taps.numel() ** 2 - 1) if sample_covariance else 1.0
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    means: list[Tensor] = []
    at_once = max(1, _PIXELS_AT_ONCE // a[0].numel()) if len(a) else 1
    for left, right in zip(a.split(at_once), b.split(at_once), strict=True):
        planes = torch.stack([left, right, left * left, right * right, left * right])
        smooth = _windowed(planes.flatten(0, 1), taps).unflatten(0, (5, -1))
        mean_a, mean_b, square_a, square_b, product = smooth
        both, products = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
        variances = scale * (square_a - mean_a * mean_a) + scale * (square_b - mean_b * mean_b)
        above = (2 * products + c1) * (2 * scale * (product - products) + c2)
        # Explicitly per example: a reduction over a batch may round by the batch's size.
        means += [row.mean() for row in (above / ((both + c1) * (variances + c2))).flatten(1)]
    values = torch.stack(means) if means else a.new_zeros(0)
    return blank_undefined(values, a.flatten(1), b.flatten(1))


def _taps(weights: str, window: int | None, side: int) -> Tensor:
    """The window's weights along one side (window,), of sum 1, float64."""
    if weights not in ("gaussian", "uniform"):
        raise argument_error("weights", weights, '"gaussian" or "uniform"')
    width = (GAUSSIAN if weights == "gaussian" else UNIFORM) if window is None else window
    # One pixel has neither a variance nor a neighbour.
    if isinstance(width, bool) or width < 3 or width % 2 == 0 or width > side:
        hint = f"The pictures' shorter side has {side} pixels."
        raise argument_error("window", width, "an odd number of pixels from 3 to the pictures' side", hint)
    places = torch.arange(width, dtype=torch.float64) - width // 2
    taps = (-0.5 * (places / _DEVIATION) ** 2).exp() if weights == "gaussian" else torch.ones_like(places)
    return taps / taps.sum()


def _windowed(pictures: Tensor, taps: Tensor) -> Tensor:
    """Weighted means over all windows inside the pictures: (N, H, W) to (N, H - w + 1, W - w + 1).

    By shifted slices, whose sums do not depend on what else is in the batch.
    """
    for dim in (1, 2):
        length = pictures.shape[dim] - taps.numel() + 1
        total = torch.zeros_like(pictures.narrow(dim, 0, length))
        for shift, tap in enumerate(taps.tolist()):
            total.add_(pictures.narrow(dim, shift, length), alpha=tap)
        pictures = total
    return pictures
