"""How complex a map is by the histogram of its values, and how much more complex another one is."""

from __future__ import annotations

import torch
from torch import Tensor

from veridical.metrics.maps import as_maps, blank_undefined
from veridical.runtime.errors import argument_error

# Fewest and most bins of a histogram; Quantus has the same.
BINS = (10, 200)


def freedman_diaconis(maps: Tensor) -> Tensor:
    """The number of bins for each map (N, ...) by Freedman and Diaconis (1981), int64 (N,), within BINS.

    Range / (2 IQR D^(-1/3)) of all D values, rounded up. A map of which more than half is one value has no
    interquartile range, and gets the most.
    """
    values = as_maps("maps", maps).flatten(1).double().sort(dim=1).values
    last = values.shape[1] - 1
    quartiles = []
    for place in (0.25 * last, 0.75 * last):
        low = int(place)
        # Interpolated as by NumPy; torch.quantile refuses large batches.
        quartiles.append(torch.lerp(values[:, low], values[:, min(low + 1, last)], place - low))
    width = 2 * (quartiles[1] - quartiles[0]) * (last + 1) ** (-1 / 3)
    bins = ((values[:, -1] - values[:, 0]) / width).ceil()
    result: Tensor = bins.nan_to_num(nan=BINS[0], posinf=BINS[1]).clamp(*BINS).long()
    return result


def histogram_entropy(maps: Tensor, bins: Tensor | int) -> Tensor:
    """Entropy of each map's histogram, float64 (N,), in nats: 0 for one value, log(bins) for all alike often.

    maps: (N, ...), with their signs. bins: of equal width from a map's least to its greatest value, a number
    for all or one for each (N,), so that neither scale nor shift of a map counts. NaN for maps that are not
    finite. As `complexity.discrete_entropy` of Quantus.
    """
    flat = as_maps("maps", maps).flatten(1)
    count = torch.as_tensor(bins, device=flat.device)
    if count.is_floating_point() or (count.ndim and count.shape != flat.shape[:1]) or bool((count < 1).any()):
        raise argument_error("bins", bins, f"an integer of at least 1, or ({len(flat)},) of them")
    if not len(flat):
        return torch.zeros(0, dtype=torch.float64, device=flat.device)
    values, number = flat.double().nan_to_num(), count.expand(len(flat))[:, None]
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    scale = torch.where(high == low, torch.ones_like(low), high - low)
    # The greatest value belongs to the last bin.
    places = torch.minimum(((values - low) / scale * number).long(), number - 1)
    counts = torch.zeros(len(flat), int(number.max()), dtype=torch.float64, device=flat.device)
    counts.scatter_add_(1, places, torch.ones_like(values))
    return blank_undefined(torch.special.entr(counts / values.shape[1]).sum(dim=1), flat)


def relative_rise(before: Tensor, after: Tensor) -> Tensor:
    """(after - before) / before of complexities after (..., N) and before (N,); NaN where there was none."""
    return (after - before) / torch.where(before == 0, torch.full_like(before, torch.nan), before)
