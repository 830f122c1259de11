"""What is measured on the maps of models whose leakage is known: none, total, and half a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from veridical.attribution.methods import InputGradient, SmoothGrad
from veridical.data.dataset import MaskedDataset, Split
from veridical.metrics.localisation import LEVELS
from veridical.studies.leakage import PAIRED, measure_leakage

SIDE, CLASSES, COUNT = 6, 3, 60


def glyphs() -> Tensor:
    """A glyph for each class, (CLASSES, SIDE, SIDE): a row of the block's middle."""
    found = torch.zeros(CLASSES, SIDE, SIDE)
    for label in range(CLASSES):
        found[label, 1 + label, 1:5] = 1.0
    return found


def data(moved: bool = False) -> MaskedDataset:
    """Images (1, 2 SIDE, SIDE) with a glyph above or below by chance and a frame in the other block.

    moved: the same images with the glyph in the other block.
    """
    labels, each = torch.arange(COUNT) % CLASSES, torch.arange(COUNT)
    place = torch.randint(2, (COUNT,), generator=torch.Generator().manual_seed(4))
    place = 1 - place if moved else place
    blocks = torch.ones(COUNT, 2, SIDE, SIDE)
    blocks[:, :, 1:-1, 1:-1] = 0
    grey = torch.rand(COUNT, 1, 1, generator=torch.Generator().manual_seed(4))
    blocks[each, place] = glyphs()[labels] * (0.6 + 0.4 * grey)
    masks = torch.zeros(COUNT, 2, SIDE, SIDE, dtype=torch.bool)
    masks[each, place] = True
    pixels = (blocks.reshape(COUNT, 1, 2 * SIDE, SIDE) * 255).round().to(torch.uint8)
    split, mask = Split(pixels, labels), masks.reshape(COUNT, 2 * SIDE, SIDE)
    given: dict[str, Any] = {"train_mask": mask, "test_mask": mask, "places": {"block": (place, place)}}
    return MaskedDataset("blocks", split, split, ("a", "b", "c"), "checksum", "tests", **given)


class Gated(nn.Module):
    """Logits are half the squared agreement of each block with each glyph: no glyph, no gradient."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.glyphs, self.power = nn.Parameter(glyphs().flatten(1)), power

    def forward(self, inputs: Tensor) -> Tensor:
        agreement = inputs.reshape(len(inputs), 2, -1) @ self.glyphs.T
        found: Tensor = agreement.pow(self.power).sum(dim=1)
        return found


def measured(
    power: int, method: Any = None, *, pairs: bool = True, batch: int = 17, levels: Sequence[float] = LEVELS
) -> dict[str, Any]:
    """What is measured of the maps of a gated model, by default of its input gradients."""
    moved, method = data(moved=True) if pairs else None, method or InputGradient()
    return measure_leakage(
        Gated(power), data(), moved, method, count=COUNT, levels=levels, seed=0, batch=batch
    )


def test_a_model_that_looks_for_its_glyph_leaks_nothing() -> None:
    """Its map is zero in the null block, before and after the move, and the whole map is in the signal."""
    found = measured(power=2)
    assert found["correct"].all()
    assert found["null/mass"].tolist() == [0.0] * COUNT
    # 4 of 72 values are not zero; the ties of all others are broken at random.
    assert found["null/topk"][:, LEVELS.index(0.05)].tolist() == [0.0] * COUNT
    assert 0.3 < found["null/topk"][:, LEVELS.index(0.3)].mean() < 0.5
    assert found["null/zero"].tolist() == pytest.approx([68 / 72] * COUNT)
    assert found["pair/left_at_ink"].tolist() == [0.0] * COUNT
    assert found["pair/left_in_block"].tolist() == [0.0] * COUNT
    assert found["level/null"].tolist() == [0.0] * COUNT
    assert (found["level/signal"] > 0).all()
    # For the page, the first of each class.
    assert found["index"].tolist() == list(range(12))
    assert found["picture/image"].shape == (12, 1, 2 * SIDE, SIDE)
    assert found["picture/saliency"].max(axis=(1, 2)).tolist() == [1.0] * 12
    assert (found["picture/saliency"][~found["picture/signal"]] == 0).all()


def test_a_linear_model_leaks_all_and_draws_the_glyph_where_it_is_not() -> None:
    """Its gradient does not depend on the image: both blocks are marked alike, with the class's glyph."""
    found = measured(power=1)
    assert found["correct"].all()
    assert found["null/mass"].tolist() == pytest.approx([0.5] * COUNT)
    assert found["pair/left_at_ink"].tolist() == pytest.approx([0.5] * COUNT)
    assert found["pair/left_in_block"].tolist() == pytest.approx([0.5] * COUNT)
    # The class's glyph, and no picture of the digit: another image of the class has the very same map.
    assert found["pair/same_digit"].tolist() == pytest.approx([1.0] * COUNT)
    assert found["pair/same_class"].tolist() == pytest.approx([1.0] * COUNT)
    # The glyphs of two classes share no pixel.
    assert found["pair/other_class"].tolist() == pytest.approx([0.0] * COUNT)
    # A quarter of a block is 9 of the 12 pixels that glyphs stand on, whichever vary most.
    assert found["telling_area"].tolist() == pytest.approx([0.25] * COUNT)
    assert found["telling"].reshape(-1, CLASSES).mean(axis=0).sum() == pytest.approx(9 / 4)
    assert found["level/null"].tolist() == pytest.approx(found["level/signal"].tolist())
    # Where the glyph never moves there are no pairs.
    assert found.keys() - measured(power=1, pairs=False).keys() == {f"pair/{name}" for name in PAIRED}


def test_a_picture_of_the_very_digit_is_told_from_one_of_its_class() -> None:
    def both_blocks(_model: nn.Module, inputs: Tensor, *_: Any, **__: Any) -> Tensor:
        """Digit and frame, of the grey levels they have, in either block: one map for both places."""
        above, below = inputs.chunk(2, dim=2)
        return torch.cat([above + below] * 2, dim=2)

    found = measured(2, both_blocks, batch=60)
    assert found["pair/same_digit"].tolist() == pytest.approx([1.0] * COUNT)
    # Of the same shape, but most images have a grey level of their own.
    assert found["pair/same_class"].mean() < 0.999
    assert (found["pair/same_class"] > found["pair/other_class"]).all()


def test_batches_change_nothing() -> None:
    small, large = (measured(2, SmoothGrad(), batch=size, levels=[0.1]) for size in (17, 60))
    assert small.keys() == large.keys()
    for name in ("null/mass", "null/topk", "pair/left_at_ink", "pair/same_digit"):
        np.testing.assert_allclose(small[name], large[name], rtol=1e-5, atol=1e-6)
