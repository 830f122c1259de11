"""Unmasking: which coordinates stay, what fills the others, and splits that cut masks with their batches."""

import dataclasses

import numpy as np
import pytest
import torch

from veridical.data import Dataset, Split
from veridical.faithfulness.fills import ConstantFill, LinearFill, resolve_fill
from veridical.faithfulness.ranking import CoordinateOrder, Ranking, rank_coordinates, rank_randomly
from veridical.faithfulness.unmasking import (
    End,
    Kept,
    MaskSplit,
    UnmaskedSplit,
    mask,
    resolve_kept,
    unmask,
    unmask_dataset,
)
from veridical.runtime.errors import UsageError
from veridical.runtime.options import ModeName

PIXELS = CoordinateOrder(per="pixel")
BLACK, GREY = ConstantFill((0.0,) * 3), ConstantFill((0.5,) * 3)


@pytest.fixture
def images() -> Dataset:
    """Colour images of 4x5 with three channels of different brightness."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        draws = torch.rand(count, 3, 4, 5, generator=generator)
        bytes_ = (draws * torch.tensor([255.0, 120.0, 40.0])[:, None, None]).to(torch.uint8)
        return Split(bytes_, torch.arange(count) % 2)

    return Dataset("colours", split(11), split(5), ("a", "b"), "c" * 64, "made here", {"size": 4})


@pytest.mark.parametrize(
    ("level", "coordinates", "count"),
    [(0.05, 784, 39), (0.5, 64, 32), (0.1, 3072, 307), (0.001, 64, 1), (1.0, 64, 64), (0.5, 5, 3)],
)
def test_a_level_is_a_rounded_share(level: float, coordinates: int, count: int) -> None:
    assert resolve_kept(level, coordinates) == Kept("top", count)
    assert resolve_kept(level, coordinates, "bottom") == Kept("bottom", count)
    assert resolve_kept(level, coordinates, "top", "remove") == Kept("bottom", coordinates - count)


@pytest.mark.parametrize("level", [0.0, -0.1, 1.01, float("nan")])
def test_levels_are_shares(level: float) -> None:
    with pytest.raises(UsageError, match="level"):
        resolve_kept(level, 64)


@pytest.mark.parametrize("mode", ["keep", "remove"])
@pytest.mark.parametrize("end", ["top", "bottom"])
@pytest.mark.parametrize("coordinates", [20, 60])
def test_every_row_of_a_mask_has_exactly_the_count(end: End, mode: ModeName, coordinates: int) -> None:
    """By channel and pixel, or by pixel for all channels; equal values take places of their own."""
    attribution = torch.randint(0, 3, (7, coordinates), generator=torch.Generator().manual_seed(2))
    ranks = rank_coordinates(attribution.double().reshape(7, -1, 4, 5))
    for level in (0.01, 0.05, 0.1, 0.35, 0.5, 0.95, 1.0):
        kept = resolve_kept(level, coordinates, end, mode)
        share = resolve_kept(level, coordinates).count
        stays = mask(ranks, kept, (3, 4, 5)).flatten(1)
        assert stays.sum(1).tolist() == [share if mode == "keep" else coordinates - share] * 7
        # The other end, and the other mode, have just what is left.
        if mode == "keep":
            removed = mask(ranks, resolve_kept(level, coordinates, end, "remove"), (3, 4, 5)).flatten(1)
            assert torch.equal(removed, ~stays)


def test_unmasked_is_what_a_loop_gives() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(4, 3, 4, 5, generator=generator)
    attribution = torch.randn(4, 3, 4, 5, generator=generator)
    before = inputs.clone()
    fill = ConstantFill((0.1, 0.2, 0.3))
    results = unmask(inputs, rank_coordinates(attribution), 0.2, "top", fill=fill)
    for image, importance, result in zip(inputs, attribution.abs(), results, strict=True):
        order = importance.flatten().argsort(descending=True)[:12].tolist()
        for place in range(60):
            expected = image.flatten()[place] if place in order else fill.values[place // 20]
            assert float(result.flatten()[place]) == pytest.approx(float(expected))
    assert torch.equal(inputs, before)


def test_removing_is_keeping_the_rest() -> None:
    ranks = rank_coordinates(torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2)))
    inputs = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    fill = ConstantFill((0.5,))
    removed = unmask(inputs, ranks, 0.25, "top", mode="remove", fill=fill)
    assert torch.equal(removed, unmask(inputs, ranks, 0.75, "bottom", fill=fill))
    assert torch.equal(unmask(inputs, ranks, 1.0, fill=fill), inputs)


def test_a_ranked_pixel_is_shown_in_all_channels() -> None:
    ranks = rank_coordinates(torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(4)), PIXELS)
    stays = mask(ranks, Kept("top", 5), (3, 4, 5))
    assert stays.shape == (2, 1, 4, 5)
    inputs = torch.rand(2, 3, 4, 5) + 0.1
    shown = unmask(inputs, ranks, 0.25, fill=BLACK) > 0
    assert torch.equal(shown, stays.expand(2, 3, 4, 5))


def test_a_split_cuts_masks_with_its_batches(images: Dataset) -> None:
    ranking = rank_randomly(images, seed=1)
    fill = resolve_fill("mean", images.train)
    data = unmask_dataset(images, ranking, Kept("bottom", 20), fill)
    inputs, _ = images.train.batch(range(11))
    whole = unmask(inputs, torch.from_numpy(ranking.train), 1 / 3, "bottom", fill=fill)
    chosen = [7, 2, 2, 10]
    result, target = data.train.batch(chosen)
    assert torch.equal(result, whole[chosen])
    assert torch.equal(target, images.train.labels[chosen])
    assert torch.equal(data.train.subset([9, 7, 2]).batch([1, 2])[0], whole[[7, 2]])
    assert torch.equal(data.train.subset([9, 7, 2]).subset([2, 0]).batch(slice(None))[0], whole[[2, 9]])
    assert type(data.train.subset([0])) is UnmaskedSplit
    # The images themselves are shared and untouched; nothing was computed for the whole split.
    assert data.train.images is images.train.images
    assert data.train.batch(torch.tensor([0]), torch.float64)[0].dtype == torch.float64
    with pytest.raises(UsageError, match="indices from 0 to 10"):
        data.train.batch([11])


def test_masks_alone_hold_no_image(images: Dataset) -> None:
    ranking = rank_randomly(images, per="pixel", seed=1)
    data = unmask_dataset(images, ranking, Kept("top", 5), BLACK, shown="masks")
    assert isinstance(data.test, MaskSplit)
    result, target = data.test.batch(range(5))
    assert result.shape == (5, 3, 4, 5)
    assert result.unique().tolist() == [0.0, 1.0]
    assert result.sum(dim=(1, 2, 3)).tolist() == [15.0] * 5
    assert torch.equal(target, images.test.labels)
    blank = Split(torch.zeros_like(images.test.images), images.test.labels)
    other = unmask_dataset(
        dataclasses.replace(images, test=blank), ranking, Kept("top", 5), BLACK, shown="masks"
    )
    assert torch.equal(other.test.batch(range(5))[0], result)
    assert torch.equal(data.test.subset([4, 1]).batch([0])[0], result[4:5])


def test_one_order_for_all_needs_one_row(images: Dataset) -> None:
    row = rank_coordinates(torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(5))).numpy()
    one, many = (
        Ranking(np.repeat(row, train, 0), np.repeat(row, test, 0), images.shape)
        for train, test in ((1, 1), (11, 5))
    )
    result = [
        unmask_dataset(images, r, Kept("top", 20), BLACK).train.batch(range(11))[0] for r in (one, many)
    ]
    assert torch.equal(*result)


def test_the_checksum_names_everything_that_shapes_the_numbers(images: Dataset) -> None:
    ranking, other = rank_randomly(images, seed=1), rank_randomly(images, seed=2)
    another = dataclasses.replace(images, checksum="d" * 64)
    top = Kept("top", 20)
    sets = [
        *(
            unmask_dataset(images, ranking, kept, BLACK)
            for kept in (top, Kept("top", 21), Kept("bottom", 20))
        ),
        *(unmask_dataset(images, ranking, top, fill) for fill in (GREY, LinearFill((0.0,) * 3))),
        unmask_dataset(images, ranking, top, BLACK, shown="masks"),
        unmask_dataset(images, other, top, BLACK),
        unmask_dataset(another, ranking, top, BLACK),
    ]
    assert len({data.checksum for data in sets}) == len(sets)
    again = unmask_dataset(images, rank_randomly(images, seed=1), Kept("top", 20), BLACK)
    assert again.checksum == sets[0].checksum
    assert again.name == "colours"
    assert again.options["size"] == 4


def test_a_ranking_of_other_images_is_refused(images: Dataset) -> None:
    ranking = rank_randomly(images)
    fewer = dataclasses.replace(images, train=images.train.subset(range(9)))
    with pytest.raises(UsageError, match="ranks of 9 train images"):
        unmask_dataset(fewer, ranking, Kept("top", 20), BLACK)
    with pytest.raises(UsageError, match="1 to 60 coordinates"):
        unmask_dataset(images, ranking, Kept("top", 61), BLACK)
