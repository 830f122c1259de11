"""Training data whose classes can be learnt by heart alone: labels permuted, or images of noise."""

from __future__ import annotations

import torch
from torch import Tensor

from veridical.data import Dataset, Split
from veridical.data.arrays import Arrays, hashed_order
from veridical.data.dataset import build_dataset
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_normal, stream


def shortened(data: Dataset, examples: int, seed: int) -> Dataset:
    """The data set with `examples` of its training images, chosen by seed; the test images stay."""
    if not 1 <= examples <= len(data.train):
        raise argument_error("train_examples", examples, f"a number from 1 to {len(data.train)}")
    chosen = hashed_order(range(len(data.train)), seed, "sanity subset")[:examples]
    return _changed(data, data.train.subset(chosen), {"train_examples": examples, "subset_seed": seed})


def permuted_labels(data: Dataset, seed: int) -> Dataset:
    """The data set with its training labels in random order: images and labels stay, their relation goes.

    Of K equally frequent classes one label in K stays right by chance. Test labels stay.
    Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 5 (their data
    randomisation test); Zhang et al., "Understanding deep learning requires rethinking generalization", ICLR
    2017.
    """
    train = data.train
    order = torch.randperm(len(train), generator=stream(seed, "permuted labels"))
    return _changed(data, Split(train.images, train.labels[order]), {"permuted_labels": seed})


def noise_images(data: Dataset, seed: int) -> Dataset:
    """The data set with noise in place of its training images: labels stay, what they are the labels of goes.

    Every value is drawn on its own from a normal distribution with the mean and the deviation of its channel
    over all training images, rounded to bytes and cut at 0 and 255; example i by (seed, i). Test images stay.
    Source: Zhang et al. (2017), section 2 ("Gaussian").
    """
    train = data.train
    values = train.images.double()
    mean = values.mean(dim=(0, 2, 3), keepdim=True)
    deviation = values.std(dim=(0, 2, 3), keepdim=True)
    drawn: Tensor = per_example_normal(train.images.shape[1:], seed, "noise images", range(len(train)))
    noise = (mean + deviation * drawn).round().clamp(0, 255).to(torch.uint8)
    return _changed(data, Split(noise, train.labels), {"noise_images": seed})


def _changed(data: Dataset, train: Split, options: dict[str, object]) -> Dataset:
    """The data set with another training split, and a checksum of its own; recorded in its options."""
    arrays = Arrays(
        train.images.permute(0, 2, 3, 1).numpy(),
        train.labels.numpy(),
        data.test.images.permute(0, 2, 3, 1).numpy(),
        data.test.labels.numpy(),
        data.classes,
        {**data.options, **options},
    )
    return build_dataset(data.name, arrays, data.source)
