"""Images changed at random: sizes of the change, labels that follow, the same numbers for the same key."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from veridical.data import DATASETS
from veridical.data.augmentation import Augmentation, _square_to, balanced_order
from veridical.runtime.errors import UsageError
from veridical.runtime.options import AugmentName

KINDS: list[AugmentName] = [kind for kind in get_args(AugmentName) if kind != "none"]
SIZE = 33


def key(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmentation(kind: AugmentName, classes: int = 4) -> Augmentation:
    return Augmentation(kind, tuple(range(classes)))


def scene(count: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 3, 10, 8, generator=key(9)), torch.arange(count) % 4


def dots(count: int, row: int, column: int) -> Tensor:
    """A blurred bright dot, whose centre of mass says where a place has gone."""
    rows, columns = torch.meshgrid(torch.arange(float(SIZE)), torch.arange(float(SIZE)), indexing="ij")
    image = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 4)
    return image.expand(count, 1, SIZE, SIZE).double()


def centres(images: Tensor) -> Tensor:
    """Centres of mass from the image's centre, (N, 2): down, right."""
    mass = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    places = torch.arange(SIZE, dtype=images.dtype) - (SIZE - 1) / 2
    return torch.stack([(mass.sum(2) * places).sum(1), (mass.sum(1) * places).sum(1)], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_decides_and_nothing_is_changed_in_place(kind: AugmentName) -> None:
    inputs, target = scene()
    before, state = inputs.clone(), torch.get_rng_state()
    one, labels = augmentation(kind)(inputs, target, key(1))
    again, _ = augmentation(kind)(inputs, target, key(1))
    other, _ = augmentation(kind)(inputs, target, key(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(inputs, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (one.shape, one.dtype) == (inputs.shape, inputs.dtype)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert torch.equal(labels, target)  # here every class is its own mirror
    # Rows of a batch get what they get in the whole, and float64 images are changed alike.
    for rows in (slice(0, 5), slice(5, 12)):
        part, _ = augmentation(kind)(inputs[rows], target[rows], key(1), rows=rows, count=12)
        torch.testing.assert_close(part, one[rows])
    double, _ = augmentation(kind)(inputs.double(), target, key(1))
    torch.testing.assert_close(one.double(), double, atol=1e-4, rtol=0)


def test_shifts_and_rotations_stay_within_their_bounds_and_reach_them() -> None:
    count, middle = 400, SIZE // 2
    target = torch.zeros(count, dtype=torch.int64)
    augment = augmentation("shift-rotate")
    centre = centres(augment(dots(count, middle, middle), target, key())[0])
    aside = centres(augment(dots(count, middle, middle + 8), target, key())[0])
    assert 0.95 * 0.1 * SIZE < float(centre.abs().max()) < 1.02 * 0.1 * SIZE
    down, right = (aside - centre).T
    degrees = torch.atan2(down, right) * 180 / math.pi
    assert 14 < float(degrees.max()) < 15.3
    assert -15.3 < float(degrees.min()) < -14
    torch.testing.assert_close(
        (aside - centre).norm(dim=1), torch.full((count,), 8.0).double(), atol=0.1, rtol=0
    )


def test_brightness_is_a_factor_and_clipped() -> None:
    target = torch.zeros(300, dtype=torch.int64)
    grey, _ = augmentation("shift-rotate")(torch.full((300, 1, 4, 4), 0.5), target, key())
    levels = grey.flatten(1)
    assert float((levels.amax(1) - levels.amin(1)).max()) < 1e-6
    assert 0.4 <= float(levels.min()) < 0.405
    assert 0.595 < float(levels.max()) <= 0.6 + 1e-6
    white, _ = augmentation("shift-rotate")(torch.ones(300, 1, 4, 4), target, key())
    assert float(white.max()) == 1.0


def test_a_warp_is_the_projective_map_of_the_moved_corners() -> None:
    offsets = torch.tensor([[[0.1, -0.05], [-0.2, 0.1], [0.15, 0.2], [0.0, -0.1]]], dtype=torch.float64)
    square = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]], dtype=torch.float64)
    seen = torch.cat([square, torch.ones(5, 1)], 1) @ _square_to(offsets)[0].T
    places = seen[:, :2] / seen[:, 2:]
    torch.testing.assert_close(places[:4], square[:4] + offsets[0])
    # Lines stay lines: the middle of the square's diagonal lies on the image's diagonal.
    along, aside = places[2] - places[0], places[4] - places[0]
    assert abs(float(along[0] * aside[1] - along[1] * aside[0])) < 1e-12


def test_warped_corners_go_as_far_as_the_authors_and_some_images_stay() -> None:
    count, quarter = 1000, SIZE // 4
    target = torch.zeros(count, dtype=torch.int64)
    for row, column in ((quarter, quarter), (SIZE - 1 - quarter, quarter)):
        images = dots(count, row, column)
        warped, _ = augmentation("warp")(images, target, key())
        moved = centres(warped) - centres(images)
        assert 3.5 < float(moved.abs().max()) < 0.24 * SIZE + 2.5 + 4  # corners, shift, turn of 15 degrees
        assert float(moved.mean(0).abs().max()) < 0.6
        assert 0.06 < float((warped == images).flatten(1).all(1).float().mean()) < 0.10


def test_mirroring_happens_where_the_class_allows_it_and_the_label_follows() -> None:
    count, middle = 600, SIZE // 2
    mirror = (0, None, 3, 2)
    target = torch.arange(count) % 4
    augment = Augmentation("shift-rotate-flip", mirror)
    images, labels = augment(dots(count, middle, middle + 10), target, key())
    flipped = centres(images)[:, 1] < 0
    for label, reflected in enumerate(mirror):
        own = target == label
        if reflected is None:
            assert not bool(flipped[own].any())
            assert torch.equal(labels[own], target[own])
        else:
            assert 0.35 < float(flipped[own].float().mean()) < 0.65
            assert torch.equal(labels[own], torch.where(flipped[own], reflected, label))


def test_signs_whose_mirror_image_is_a_sign() -> None:
    entry = DATASETS.get("gtsrb")
    mirror = entry.mirrored(43)
    for label, reflected in enumerate(mirror):
        assert reflected is None or mirror[reflected] == label
        words = entry.classes[label].replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        if reflected not in (None, label):
            assert entry.classes[reflected] == words
    assert [mirror[label] for label in (0, 14, 17, 21, 33)] == [None, None, 17, None, 34]
    assert DATASETS.get("flowers17").mirrored(17) == tuple(range(17))
    assert DATASETS.get("flowers17").mirrored(5) == (None,) * 5  # other classes under the same name
    assert set(DATASETS.get("svhn").mirrored(10)) == {None}


def test_no_augmentation_has_no_object() -> None:
    with pytest.raises(UsageError, match="augment: expected shift-rotate"):
        Augmentation("none")


def test_what_is_left_over_of_a_balanced_epoch_is_any_class_s() -> None:
    """Of three classes and ten images one class has four; over epochs that is each of them alike."""
    labels = torch.tensor([0] * 4 + [1] * 3 + [2] * 3)
    longest = [int(labels[balanced_order(labels, key(epoch))].bincount().argmax()) for epoch in range(300)]
    assert min(longest.count(label) for label in range(3)) > 70


@pytest.mark.parametrize("counts", [(50, 7, 3), (20, 20, 20), (1, 0, 64), (2, 1, 0)])
def test_a_balanced_epoch_has_every_class_equally_often(counts: tuple[int, ...]) -> None:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    order = balanced_order(labels, key())
    assert len(order) == len(labels)
    drawn = torch.bincount(labels[order], minlength=len(counts))
    present = torch.tensor(counts) > 0
    assert int(drawn[~present].sum()) == 0
    assert int(drawn[present].max() - drawn[present].min()) <= 1
    times = torch.bincount(order, minlength=len(labels))
    for label, count in enumerate(counts):
        if count:
            own = times[labels == label]
            assert int(own.max() - own.min()) <= 1  # nobody again before everybody else of the class
    assert torch.equal(order, balanced_order(labels, key()))
    if len(labels) > 10:
        assert not torch.equal(order, balanced_order(labels, key(1)))
