"""From an attribution, one signed number per channel and pixel, to what of it is compared or shown."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from veridical.metrics.maps import as_maps
from veridical.runtime.errors import argument_error

TOP_QUANTILE = 0.995
"""Where a picture's scale ends: one extreme pixel must not turn the rest black. Reports show maps so."""


def saliency(attribution: Tensor) -> Tensor:
    """|attribution| summed over channels: (N, C, H, W) to (N, H, W), of its dtype and differentiable.

    Raises UsageError for another number of dimensions. Chen et al., NeurIPS 2019, section 5 (and their code).
    """
    if attribution.ndim != 4:
        raise argument_error("attribution", attribution, "(N, C, H, W), one map per image")
    return attribution.abs().sum(dim=1)


def normalised_to_area(maps: Tensor) -> Tensor:
    """Each map divided by its sum, times its number of pixels: (N, H, W) to (N, H, W), with mean 1.

    Maps of images of different sizes become comparable. The gradient goes through the sum; a map that is zero
    everywhere stays zero. Raises UsageError for another number of dimensions.
    """
    if maps.ndim != 3:
        raise argument_error("maps", maps, "(N, H, W), one saliency map per image")
    total = maps.sum(dim=(1, 2), keepdim=True)
    # The divisor is replaced before the division: 0 / 0 would put NaN into the gradient even if masked later.
    return maps * (maps.shape[1] * maps.shape[2]) / torch.where(total == 0, torch.ones_like(total), total)


def pictures(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) as people look at them: saliency from 0 to 1, float64 (N, H, W).

    1 stands for the quantile TOP_QUANTILE of each map, and for all above it; a map of zeros stays zero.
    """
    whole = saliency(as_maps("maps", maps).double())
    return (whole / _tops(whole.flatten(1))[:, None, None]).clamp(max=1.0) if len(whole) else whole


def _tops(values: Tensor) -> Tensor:
    """The quantile of each row (N, D), or its maximum where that is 0, or 1; NaN where a row has one."""
    # As torch.quantile, which sorts whole rows to interpolate between two values near their ends.
    place = TOP_QUANTILE * (values.shape[1] - 1)
    last = values.topk(values.shape[1] - int(place), dim=1).values
    most, top = last[:, 0], last[:, -1]
    if place > int(place):
        top = torch.lerp(top, last[:, -2], place - int(place))
    scale = torch.where(top == 0, torch.where(most == 0, torch.ones_like(most), most), top)
    return torch.where(most.isnan(), most, scale)


def _values(maps: Tensor) -> Tensor:
    return maps


View = Literal["values", "sizes", "saliency", "picture"]
VIEWS: Mapping[View, Callable[[Tensor], Tensor]] = {
    "values": _values,
    "sizes": torch.abs,
    "saliency": saliency,
    "picture": pictures,
}
"""What a measure may look at: the signed values, their sizes, sizes summed over channels, the picture."""
