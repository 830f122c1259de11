"""How far a map has moved: its centre of mass, and the distance between two."""

import torch
from torch import Tensor

from veridical.metrics.maps import as_images, as_maps, flat_pair
from veridical.runtime.errors import argument_error


def mass_centre(maps: Tensor) -> Tensor:
    """Centre of mass of each map, (row, column) in pixels; a place, so without a direction.

    Parameters
    ----------
    maps
        Non-negative maps (N, H, W), float32 or float64; pixel (0, 0) has its centre at 0, 0. Weights of both
        signs have no centre of mass: take `.abs()` or `.clamp(min=0)` first, whichever is meant.

    Returns
    -------
    Tensor
        float64 (N, 2); NaN where a map is all zero or not finite. Differentiable, so an attack can move it.

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
