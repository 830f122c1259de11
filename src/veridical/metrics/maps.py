"""What the metrics accept: batches of maps, checked in one place and never changed.

Maps are float32 or float64. The 16-bit types are refused although float32 holds them exactly: rounding to
them has already made ties (bfloat16 keeps 8 significant bits, float16 turns small gradients into zeros), so a
rank statistic would measure the number format. Whoever wants that writes `.float()`.

A map that has a NaN or an infinity makes its example's result NaN: such a map says nothing, least of all that
it is like another or lies in a region. Other examples are not touched.
"""

import torch
from torch import Tensor

from veridical.runtime.errors import argument_error


def as_maps(name: str, maps: Tensor) -> Tensor:
    """Check one batch of maps (N, ...), and return it without its graph.

    `name` is the caller's argument, for the error: a UsageError for another dtype, for a tensor without a
    batch dimension, and for maps without a value. N may be 0.
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
    """Check two batches of maps (N, ...) of one shape and device; return both as (N, D).

    Their dtypes may differ.
    """
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
