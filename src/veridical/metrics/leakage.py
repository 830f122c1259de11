"""Feature leakage: an explanation marks places that tell the class in other images, and not in this one.

The measures compare the maps of a pair of images that differ in one thing: a digit stands in the region in
one of them, `moved`, and elsewhere in the other, `attribution`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from veridical.metrics.localisation import flat_region
from veridical.metrics.maps import blank_undefined, flat_pair
from veridical.runtime.errors import argument_error
from veridical.runtime.lengths import power_of_two


def left_behind(attribution: Tensor, moved: Tensor, region: Tensor) -> Tensor:
    """How much a region is marked without its digit, beside how much it is with it; lower is less leakage.

    sum |attribution| / (sum |attribution| + sum |moved|), both over the region: 0 if the region is marked
    only where the digit stands in it, 0.5 if it is marked as strongly without it, more if more strongly.

    Parameters
    ----------
    attribution
        Maps (N, ...) of the images whose digit is elsewhere, float32 or float64.
    moved
        Maps of the same images with the digit in the region, of the same class's output.
    region
        bool, of the maps' shape, or (N, H, W) for maps (N, C, H, W).

    Returns
    -------
    Tensor
        float64 (N,); NaN where neither map marks the region, and where one is not finite.
    """
    without, given = flat_pair(attribution, moved)
    inside = flat_region(attribution, region, "region")
    sums = [(values.double().abs() * inside).sum(dim=1) for values in (without, given)]
    return blank_undefined(sums[0] / (sums[0] + sums[1]), without, given)


def cosine_within(a: Tensor, b: Tensor, region: Tensor) -> Tensor:
    """Cosine of the angle between two signed maps within a region, in [-1, 1]; higher is more alike.

    Arguments as for `left_behind`. float64 (N,); NaN where a map is zero in the region or is not finite.
    """
    first, second = flat_pair(a, b)
    inside = flat_region(a, region, "region")
    x, y = first.double() * inside, second.double() * inside
    x, y = x / power_of_two(x), y / power_of_two(y)
    product = (x * y).sum(dim=1)
    cosine = product / (x.square().sum(dim=1) * y.square().sum(dim=1)).sqrt()
    return blank_undefined(cosine.clamp(-1.0, 1.0), first, second)


def discriminative_pixels(images: Tensor, labels: Tensor, share: float = 0.25) -> Tensor:
    """Mark the pixels that tell the classes apart most, by the variance of their class means.

    images (N, H, W), floating, labels int64 (N,). The round(share * H * W) pixels of the greatest variance of
    the mean over each class, classes counting alike; equal ones in the order of their place. bool (H, W).
    """
    if images.ndim != 3 or not images.is_floating_point() or not len(images):
        raise argument_error("images", images, "floating-point images (N, H, W), at least one")
    if labels.shape != images.shape[:1]:
        raise argument_error("labels", labels, f"{len(images)} integers, one for each image")
    if not 0 < share <= 1:
        raise argument_error("share", share, "a share of the pixels, in (0, 1]")
    means = torch.stack([images[labels == label].double().mean(dim=0) for label in labels.unique()])
    variance = means.var(dim=0, correction=0).flatten()
    marked = torch.zeros(len(variance), dtype=torch.bool, device=images.device)
    marked[variance.argsort(descending=True, stable=True)[: max(1, round(share * len(variance)))]] = True
    return marked.reshape(images.shape[1:])
