"""Unmasking: which coordinates stay, splits that cut masks with their batches, and the registry of fills."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from veridical.data import Dataset, Split
from veridical.faithfulness.ranking import Ranking, rank_coordinates, rank_randomly
from veridical.faithfulness.unmasking import (
    FILLS,
    ConstantFill,
    End,
    Kept,
    LinearFill,
    MaskSplit,
    UnmaskedSplit,
    _channel_means,
    _impute,
    mask,
    resolve_fill,
    resolve_kept,
    restore_fill,
    unmask,
    unmask_dataset,
)
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.options import CoordinateOrder, ModeName

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
    assert torch.equal(unmask(inputs, rank_coordinates(attribution), 1.0, fill=fill), inputs)


@pytest.mark.parametrize("coordinates", [60, 20])
def test_no_images_are_unmasked_to_none(coordinates: int) -> None:
    none, ranks = torch.zeros(0, 3, 4, 5), torch.zeros(0, coordinates, dtype=torch.int32)
    assert unmask(none, ranks, 0.2, fill=BLACK).shape == (0, 3, 4, 5)


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


DOCS = Path(__file__).parents[2] / "docs" / "diffroar.md"
TRAIN = Split(
    torch.randint(0, 256, (30, 2, 9, 11), generator=torch.Generator().manual_seed(0), dtype=torch.uint8),
    torch.zeros(30, dtype=torch.int64),
)


def solved(image: Tensor, kept: Tensor) -> Tensor:
    """One plane (H, W), its unknown values from the equations of ROAD, written out one by one."""
    height, width = image.shape
    places = [(row, column) for row in range(height) for column in range(width) if not kept[row, column]]
    number = {place: index for index, place in enumerate(places)}
    matrix, right = lil_matrix((len(places), len(places))), np.zeros(len(places))
    for (row, column), index in number.items():
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                near = (row + down, column + across)
                if (down, across) == (0, 0) or not (0 <= near[0] < height and 0 <= near[1] < width):
                    continue
                weight = 1 / 6 if down == 0 or across == 0 else 1 / 12
                matrix[index, index] += weight
                if near in number:
                    matrix[index, number[near]] -= weight
                else:
                    right[index] += weight * float(image[near])
    result = image.clone()
    for place, value in zip(places, np.atleast_1d(spsolve(matrix.tocsr(), right)), strict=True):
        result[place] = float(value)
    return result


def planes(share: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 2, 9, 11, generator=generator)
    kept = torch.rand(4, 2, 9, 11, generator=generator) < share
    kept[:, :, 3, 4] = True
    return images, kept


def test_every_plane_is_solved_whatever_its_company() -> None:
    """A few known values take many steps, most of them known take few."""
    parts = [planes(share, seed=1) for share in (0.01, 0.1, 0.6, 1.0)]
    images, kept = (torch.cat([part[place] for part in parts]) for place in (0, 1))
    result = _impute(images, kept, torch.tensor([0.1, 0.2]))
    for example, channel in itertools.product(range(0, 16, 2), range(2)):
        expected = solved(images[example, channel], kept[example, channel])
        # A tenth of a grey level.
        assert torch.allclose(result[example, channel], expected, atol=4e-4)
    assert torch.equal(result[kept], images[kept])


def test_a_constant_image_stays_constant_and_an_empty_plane_gets_the_fallback() -> None:
    images, kept = planes(0.1, seed=3)
    assert torch.allclose(_impute(torch.full_like(images, 0.7), kept, torch.zeros(2)), torch.tensor(0.7))
    kept[1, 1] = False
    result = _impute(images, kept, torch.tensor([0.1, 0.2]))
    assert torch.equal(result[1, 1], torch.full((9, 11), 0.2))
    assert torch.allclose(result[1, 0], solved(images[1, 0], kept[1, 0]), atol=4e-4)
    # Of a block in a corner, in all channels by one mask.
    block = torch.zeros(4, 1, 9, 11, dtype=torch.bool)
    block[:, :, :2, :2] = True
    result = _impute(images, block, torch.zeros(2))
    assert torch.allclose(result[0, 1], solved(images[0, 1], block[0, 0]), atol=4e-4)


@pytest.mark.parametrize("name", [*FILLS, 0.25])
def test_every_fill_keeps_what_is_kept_and_knows_itself_again(name: str | float) -> None:
    fill = resolve_fill(name, TRAIN, seed=4)
    assert restore_fill(fill.describe()) == fill
    images, kept = planes(0.3, seed=6)
    numbers, before, rng = torch.tensor([5, 9, 2, 7]), images.clone(), torch.get_rng_state()
    filled = fill(images, kept, numbers, "train")
    assert filled.shape == images.shape
    assert filled.dtype == images.dtype
    assert torch.equal(filled[kept], images[kept])
    # What stood in the other places is not seen.
    other = torch.where(kept, images, 1 - images)
    assert torch.equal(fill(other, kept, numbers, "train"), filled)
    # Neither the batch nor the order of the examples matters.
    assert torch.allclose(fill(images[2:3], kept[2:3], numbers[2:3], "train"), filled[2:3], atol=1e-6)
    assert fill(images[:0], kept[:0], numbers[:0], "train").shape == (0, 2, 9, 11)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), rng)
    if isinstance(name, str):
        whole = filled[~kept].reshape(-1)
        assert FILLS.get(name).constant == (len(whole.unique()) <= images.shape[1])


def test_fills_by_name_have_the_values_that_they_say() -> None:
    means = TRAIN.images.double().mean(dim=(0, 2, 3)) / 255
    assert _channel_means(TRAIN) == pytest.approx(means.tolist(), abs=1e-12)
    assert resolve_fill("mean", TRAIN) == ConstantFill(_channel_means(TRAIN))
    assert resolve_fill("black", TRAIN) == ConstantFill((0.0, 0.0))
    assert resolve_fill(0.25, TRAIN) == ConstantFill((0.25, 0.25))
    assert resolve_fill("linear", TRAIN, seed=4) == LinearFill(_channel_means(TRAIN), seed=4)
    for name in ("white", True, float("nan")):
        with pytest.raises(UsageError, match=r"fill.*number"):
            resolve_fill(name, TRAIN)
    images, kept = planes(0.3, seed=6)
    with pytest.raises(UsageError, match="3 values"):
        ConstantFill((0.0,) * 3)(images, kept, torch.arange(4), "train")


def test_code_of_one_s_own_fills_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_fill.py").write_text(
        "def grey(inputs, kept, numbers, part):\n    return inputs.mul_(0).add_(0.5)\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="trust"):
        resolve_fill("own_fill:grey", TRAIN)
    fill = resolve_fill("own_fill:grey", TRAIN, trust_code=True)
    images, kept = planes(0.3, seed=6)
    filled = fill(images, kept, torch.arange(4), "train")
    assert torch.equal(filled, torch.where(kept, images, 0.5))
    assert restore_fill(fill.describe(), trust_code=True) == fill
    with pytest.raises(UsageError, match="trust"):
        restore_fill(fill.describe())
    with pytest.raises(RunError, match="source differs"):
        restore_fill({**fill.describe(), "source": "of yesterday"}, trust_code=True)


def test_the_docs_list_every_fill() -> None:
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("   | `")]
    expected = [(one.name, one.summary, "yes" if one.constant else "no") for one in FILLS.entries()]
    assert rows == [f"   | `{name}` | {summary} | {constant} |" for name, summary, constant in expected]


def test_noise_is_small_and_keyed_by_the_example() -> None:
    images, kept = planes(0.3, seed=6)
    numbers = torch.tensor([5, 9, 2, 7])
    fill = LinearFill((0.0, 0.0), seed=8)
    result = fill(images, kept, numbers, "train")
    clean = LinearFill((0.0, 0.0), noise=0.0)(images, kept, numbers, "train")
    assert float((result - clean)[~kept].std()) == pytest.approx(0.01, rel=0.15)
    other = LinearFill((0.0, 0.0), seed=9)
    for another in (fill(images, kept, numbers, "test"), other(images, kept, numbers, "train")):
        assert not torch.allclose(another, result, atol=1e-4)
