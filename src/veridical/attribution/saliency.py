"""From an attribution, one signed number per channel and pixel, to the non-negative map that is compared."""

import torch
from torch import Tensor

from veridical.runtime.errors import argument_error


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
