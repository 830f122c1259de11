"""Every fill of the registry by one list of rules; noisy linear imputation against a sparse solver."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from veridical.data import Split
from veridical.faithfulness.fills import (
    FILLS,
    ConstantFill,
    LinearFill,
    _channel_means,
    _impute,
    resolve_fill,
    restore_fill,
)
from veridical.runtime.errors import RunError, UsageError

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


@pytest.mark.parametrize("share", [0.01, 0.1, 0.6, 1.0])
def test_the_system_is_solved_exactly_enough(share: float) -> None:
    images, kept = planes(share, seed=1)
    result = _impute(images, kept, torch.tensor([0.1, 0.2]))
    for example, channel in ((0, 0), (1, 1), (3, 0)):
        image, stays = images[example, channel], kept[example, channel]
        # A tenth of a grey level.
        assert torch.allclose(result[example, channel], solved(image, stays), atol=4e-4)
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


def test_examples_do_not_depend_on_their_company() -> None:
    easy, some = planes(0.5, seed=4)
    hard, few = planes(0.01, seed=5)
    together = _impute(torch.cat([easy, hard]), torch.cat([some, few]), torch.zeros(2))
    alone = _impute(easy[1:2], some[1:2], torch.zeros(2))
    assert torch.allclose(together[1:2], alone, atol=1e-6)
    assert _impute(easy[:0], some[:0], torch.zeros(2)).shape == (0, 2, 9, 11)


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
