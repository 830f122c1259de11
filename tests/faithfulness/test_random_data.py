"""Training data whose classes can be learnt by heart alone."""

import numpy as np
import pytest
import torch

from veridical.data import Dataset
from veridical.data.arrays import Arrays
from veridical.data.dataset import build_dataset
from veridical.faithfulness.randomisation import permute_labels, replace_by_noise, shorten_training
from veridical.runtime.errors import UsageError


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Colour images whose brightness is the class, sorted by class."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    images = (60 * labels[:, None, None, None] + random.integers(0, 60, (400, 5, 4, 3))).astype(np.uint8)
    return build_dataset("bright", Arrays(images, labels, images[::9], labels[::9], tuple("abcd")), "memory")


def test_permuted_labels_are_the_same_labels_of_other_images(data: Dataset) -> None:
    result = permute_labels(data, 1)
    assert torch.equal(result.train.images, data.train.images)
    assert torch.equal(result.train.labels.bincount(), data.train.labels.bincount())
    # One in four is right by chance.
    assert 0.15 < float((result.train.labels == data.train.labels).double().mean()) < 0.35
    assert torch.equal(result.test.labels, data.test.labels)


def test_noise_has_the_channels_distribution_and_nothing_of_the_class(data: Dataset) -> None:
    result = replace_by_noise(data, 1)
    assert torch.equal(result.train.labels, data.train.labels)
    assert torch.equal(result.test.images, data.test.images)
    true, noise = data.train.images.double(), result.train.images.double()
    # Cutting at 0 and 255 moves both a little.
    torch.testing.assert_close(noise.mean((0, 2, 3)), true.mean((0, 2, 3)), rtol=0.05, atol=0)
    torch.testing.assert_close(noise.std((0, 2, 3)), true.std((0, 2, 3)), rtol=0.1, atol=0)
    brightness = noise.mean((1, 2, 3))
    by_class = torch.stack([brightness[result.train.labels == label].mean() for label in range(4)])
    assert float(by_class.max() - by_class.min()) < 8  # 180 in the images
    # Neighbours are as unlike as any two values.
    centred = noise - noise.mean((0, 2, 3), keepdim=True)
    assert abs(float((centred[..., 1:] * centred[..., :-1]).mean() / centred.square().mean())) < 0.05


def test_noise_comes_from_the_seed_alone(data: Dataset) -> None:
    part = shorten_training(data, 100, 0)
    assert torch.equal(replace_by_noise(part, 3).train.images, replace_by_noise(part, 3).train.images)
    assert not torch.equal(replace_by_noise(part, 3).train.images, replace_by_noise(part, 4).train.images)


def test_a_part_is_chosen_across_classes_and_has_a_checksum_of_its_own(data: Dataset) -> None:
    part = shorten_training(data, 80, 5)
    assert len(part.train) == 80
    assert min(part.train.labels.bincount().tolist()) > 8  # the first 80 of the file are one class
    assert part.classes == data.classes
    versions = [data, part, shorten_training(data, 80, 6), permute_labels(part, 5), replace_by_noise(part, 5)]
    assert len({one.checksum for one in versions}) == len(versions)
    assert permute_labels(part, 5).checksum == permute_labels(part, 5).checksum
    assert permute_labels(part, 5).options["permuted_labels"] == 5
    with pytest.raises(UsageError, match="from 1 to 400"):
        shorten_training(data, 401, 0)
