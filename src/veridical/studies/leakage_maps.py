"""What is measured on maps of block images: the null block's share, and pairs with the digit moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.attribution.maps import dataset_maps
from veridical.attribution.method import Attribution
from veridical.data.dataset import Split
from veridical.data.masked import MaskedDataset
from veridical.faithfulness.randomisation import predicted as predictions
from veridical.metrics.leakage import cosine_within, discriminative_pixels, left_behind
from veridical.metrics.localisation import mass_share
from veridical.runtime.files import Arrays
from veridical.studies.map_measures import map_measures
from veridical.studies.shown_examples import first_of_each_class, scaled_saliency

PICTURES = 12
"""Test images whose maps are kept for the page, the first ones of each class."""

TELLING = 0.25
"""Share of a block's pixels that count as the places which tell the classes apart."""

LOOKED_AT = 5000
"""Training images by which these places are found."""

INK = 0.5
"""A digit's own pixels are those of at least this share of its greatest grey level."""

PAIRED = ("left_at_ink", "left_in_block", "same_digit", "same_class", "other_class")
"""What the pairs measure; see `_paired`."""


def explained_arrays(
    model: nn.Module,
    data: MaskedDataset,
    moved: MaskedDataset | None,
    method: Attribution,
    values: Mapping[str, Any],
    batch: int,
) -> Arrays:
    """Measure a method's maps of the first test images; arrays (n, ...) by name.

    values: explained (how many images), levels and seed.

    null/MEASURE: `map_measures` with all null blocks as the region. telling: share of the null blocks'
    mass on the places that tell the classes apart where a digit stands (`discriminative_pixels`), tiled
    over the blocks, and telling_area, their share of the null blocks' area. level/signal and level/null:
    mean |attribution| per coordinate in either. pair/MEASURE with `moved`, the same images with the digit
    moved: see `_paired`.
    correct (n,), and for the page index (p,), picture/image uint8, picture/signal bool, and picture/saliency
    float16, each map divided by its maximum.
    """
    count, seed = values["explained"], values["seed"]
    split = data.test.subset(range(count))
    predicted = predictions(model, split)

    def maps_of(shown: Split) -> Tensor:
        maps = dataset_maps(model, shown, method, target=predicted, batch_size=batch, seed=seed)
        return maps.float()

    maps = maps_of(split)
    null = ~data.test_mask[:count]
    measures = map_measures(maps, null, levels=values["levels"], seed=seed, indices=range(count))
    found = {f"null/{name}": array for name, array in measures.items()}
    found |= {"correct": (predicted == split.labels).numpy()}
    found |= _numpy(_telling(maps, null, data)) | _numpy(_levels(maps, null))
    if moved is not None:
        others = maps_of(moved.test.subset(range(count)))
        found |= _numpy(_paired(maps, others, moved, predicted))
    return found | _pictures(split, maps, ~null)


def _telling(maps: Tensor, null: Tensor, data: MaskedDataset) -> dict[str, Tensor]:
    """How much of the null blocks' mass lies where digits of the training images tell their classes."""
    few = range(min(LOOKED_AT, len(data.train)))
    mask = data.train_mask[few.start : few.stop]
    rows, columns = (int(mask[0].any(dim=axis).sum()) for axis in (1, 0))
    # One rectangle of each image is marked, and boolean indexing goes row by row.
    blocks = data.train.images[few.start : few.stop, 0][mask].reshape(len(few), rows, columns)
    places = discriminative_pixels(blocks.float(), data.train.labels[few.start : few.stop], TELLING)
    tiled = places.repeat(maps.shape[2] // rows, maps.shape[3] // columns).expand(len(maps), -1, -1)
    inside = tiled & null
    area = inside.flatten(1).sum(dim=1).double() / null.flatten(1).sum(dim=1)
    return {"telling": mass_share(maps * null[:, None], inside), "telling_area": area}


def _levels(maps: Tensor, null: Tensor) -> dict[str, Tensor]:
    """Mean |attribution| of a coordinate in the signal block and in the null blocks, float64 (n,)."""
    sizes = maps.double().abs().mean(dim=1)
    return {
        f"level/{name}": (sizes * region).sum(dim=(1, 2)) / region.sum(dim=(1, 2))
        for name, region in (("signal", ~null), ("null", null))
    }


def _paired(maps: Tensor, others: Tensor, moved: MaskedDataset, classes: Tensor) -> dict[str, Tensor]:
    """Compare each map in the block B that its digit stands in once it is moved, with the map made then.

    Both maps explain the class that was predicted with the digit in its first place. left_at_ink and
    left_in_block: `left_behind`, over the digit's own pixels in B (where it would be, or is), and over all of
    B. same_digit: cosine within B of the map without the digit there and the one with it. same_class and
    other_class: the cosine with the map of another image, the next one whose digit was moved to B as well and
    of which the same class, or another one, was explained; NaN if there is none. What same_digit has more
    than same_class depends on the very digit that is elsewhere. What same_class has more than other_class is
    the class's own: of a model whose map is one for every image of a class, the linear one, all of it.
    """
    count = len(maps)
    block, images = moved.test_mask[:count], moved.test.images[:count, 0].float()
    inside = images * block
    ink = inside >= INK * inside.amax(dim=(1, 2), keepdim=True)
    ink &= block
    blocks = moved.place("block", "test")[:count]

    def with_another(same: bool) -> Tensor:
        partner = _partners(classes, blocks, same=same)
        cosine = cosine_within(maps, others[partner.clamp(min=0)], block)
        return cosine.masked_fill(partner < 0, torch.nan)

    return {
        "pair/left_at_ink": left_behind(maps, others, ink),
        "pair/left_in_block": left_behind(maps, others, block),
        "pair/same_digit": cosine_within(maps, others, block),
        "pair/same_class": with_another(same=True),
        "pair/other_class": with_another(same=False),
    }


def _partners(classes: Tensor, blocks: Tensor, *, same: bool) -> Tensor:
    """For each image the next one, in a circle, with the digit in its block; -1 if there is none.

    same: whether it is one of the same class, or of another.
    """
    count = len(classes)
    found = torch.full((count,), -1, dtype=torch.int64)
    for step in range(1, count):
        rows = (found < 0).nonzero()[:, 0]
        if not len(rows):
            break
        other = (rows + step) % count
        fits = ((classes[other] == classes[rows]) == same) & (blocks[other] == blocks[rows])
        found[rows[fits]] = other[fits]
    return found


def _pictures(split: Split, maps: Tensor, signal: Tensor) -> Arrays:
    index = first_of_each_class(split.labels, PICTURES)
    return {
        "index": np.asarray(index, dtype=np.int64),
        "picture/label": split.labels[index].numpy(),
        "picture/image": split.images[index].numpy(),
        "picture/signal": signal[index].numpy(),
        "picture/saliency": scaled_saliency(maps[index]),
    }


def _numpy(found: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: values.cpu().numpy() for name, values in found.items()}
