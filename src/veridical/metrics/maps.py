"""What of an attribution is compared, and what the metrics accept: batches of maps, checked in one place.

Maps are float32 or float64 and never changed. The 16-bit types are refused although float32 holds them
exactly: rounding to them has already made ties (bfloat16 keeps 8 significant bits, float16 turns small
gradients into zeros), so a rank statistic would measure the number format (`.float()` keeps them).

A map that has a NaN or an infinity makes its example's result NaN: such a map says nothing, least of all that
it is like another or lies in a region. Other examples are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from veridical.runtime.errors import argument_error


def as_maps(name: str, maps: Tensor) -> Tensor:
    """Check one batch of maps (N, ...), where N may be 0, and return it without its graph.

    name: the caller's argument, for the UsageError that other dtypes, a tensor without a batch dimension, and
    maps without a value raise.
    """
    if not isinstance(maps, Tensor):
        raise argument_error(name, maps, "a tensor of maps (N, ...)", "Convert arrays by torch.from_numpy.")
    if maps.dtype not in (torch.float32, torch.float64):
        raise argument_error(
            name,
            maps,
            "float32 or float64 maps",
            "Compute maps in float32; 16-bit maps have ties that come from rounding (.float() keeps them).",
        )
    if maps.ndim < 2 or 0 in maps.shape[1:]:
        raise argument_error(
            name, maps, "maps (N, ...) of at least one value each", "Add the batch dimension: maps[None]."
        )
    return maps.detach()


def flat_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Check two batches of maps (N, ...) of one shape and device; return both, of their dtypes, as (N, D)."""
    a, b = as_maps("a", a), as_maps("b", b)
    if a.shape != b.shape:
        raise argument_error("b", b, f"maps of a's shape {tuple(a.shape)}")
    if a.device != b.device:
        raise argument_error("b", b.device, f"maps on a's device {a.device}")
    return a.flatten(1), b.flatten(1)


def as_images(name: str, maps: Tensor) -> Tensor:
    """Check one batch of maps (N, H, W): one value per pixel."""
    if as_maps(name, maps).ndim != 3:
        raise argument_error(
            name,
            maps,
            "one value per pixel, (N, H, W)",
            "Choose how channels are combined first, for instance attribution.abs().sum(1).",
        )
    return maps


def blank_undefined(values: Tensor, *maps: Tensor) -> Tensor:
    """Give NaN to the examples (N, ...) of which a map (N, D) is not finite, in a new tensor."""
    # An extreme is NaN where one of the values is, and both take a tenth of the time of asking each (or of
    # aminmax).
    finite = [end(batch, dim=1).isfinite() for batch in maps for end in (torch.amin, torch.amax)]
    undefined = ~torch.stack(finite).all(dim=0)
    return values.masked_fill(undefined.reshape(-1, *(1,) * (values.ndim - 1)), torch.nan)


# Where a picture's scale ends: one extreme pixel must not turn the rest black. Reports show maps so.
TOP_QUANTILE = 0.995


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


View = Literal["values", "sizes", "saliency", "picture"]
# What a measure may look at: the signed values, their sizes, sizes summed over channels, the picture.
VIEWS: Mapping[View, Callable[[Tensor], Tensor]] = {
    "values": lambda maps: maps,
    "sizes": torch.abs,
    "saliency": saliency,
    "picture": pictures,
}
