"""The planted shortcut: where the patch is, how often it agrees, and what the kinds of test images share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare

from veridical.data import Dataset, load
from veridical.data.shortcut import ABSENT, ShortcutOptions, _patch_places, shortcut, shortcut_variants
from veridical.runtime.errors import UsageError

SIDE, CLASSES, TRAIN, TEST = 12, 5, 900, 600


def written(path: Path, *colours: int, rolled: int = 0) -> str:
    generator = np.random.default_rng(0)
    members: dict[str, Any] = {}
    for part, count in (("train", TRAIN), ("test", TEST)):
        images = generator.integers(0, 256, (count, SIDE, SIDE, *colours), dtype=np.uint8)
        members |= {f"x_{part}": images, f"y_{part}": np.roll(np.arange(count) % CLASSES, rolled)}
    np.savez(path, **members)
    return str(path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("source") / "noise.npz")


@pytest.fixture(scope="module")
def plain(source: str) -> Dataset:
    return load(source)


def options(source: str, **changed: Any) -> ShortcutOptions:
    return ShortcutOptions(**{"source": source, "size": 2, **changed})


@pytest.mark.parametrize("code", ["place", "presence"])
@pytest.mark.parametrize("rate", [0.0, 0.8, 1.0])
def test_the_patch_agrees_at_the_rate(source: str, code: str, rate: float) -> None:
    data = shortcut(options(source, code=code, rate=rate, test="agreeing"))
    for part, count in (("train", TRAIN), ("test", TEST)):
        labels = getattr(data, part).labels
        place = data.places["place"][0 if part == "train" else 1]
        expected = labels if code == "place" else torch.where(labels % 2 == 1, 0, ABSENT)
        agrees = place == expected
        assert data.places["agrees"][0 if part == "train" else 1].equal(agrees.long())
        found = int(agrees.sum())
        assert found == count * rate if rate in (0, 1) else binomtest(found, count, rate).pvalue > 0.001
    if code == "place" and rate == 0:
        others = (data.place("place", "train") - data.train.labels) % CLASSES
        assert chisquare(others.bincount(minlength=CLASSES)[1:]).pvalue > 0.001


@pytest.mark.parametrize("code", ["place", "presence"])
def test_moved_is_independent_of_the_class(source: str, tmp_path: Path, code: str) -> None:
    chosen = options(source, code=code)
    data = shortcut(chosen)
    other = shortcut(replace(chosen, source=written(tmp_path / "rolled.npz", rolled=1)))
    assert not data.test.labels.equal(other.test.labels)
    assert data.place("place", "test").equal(other.place("place", "test"))
    counts = torch.unique(data.place("place", "test"), return_counts=True)[1]
    assert len(counts) == (CLASSES if code == "place" else 2)
    assert chisquare(counts).pvalue > 0.001
    # In training it is what a classifier can read the class from.
    assert not data.place("place", "train").equal(other.place("place", "train"))


@pytest.mark.parametrize("code", ["place", "presence"])
def test_the_patch_is_the_mask_and_nothing_else_is_changed(source: str, plain: Dataset, code: str) -> None:
    data = shortcut(options(source, code=code, pattern="solid"))
    corners = _patch_places(options(source), SIDE, SIDE, CLASSES)
    for part, number in (("train", 0), ("test", 1)):
        split, before = getattr(data, part), getattr(plain, part).images
        mask, places = getattr(data, f"{part}_mask"), data.places["place"][number]
        assert (split.images[:, 0][mask] == 255).all()
        assert split.images[:, 0][~mask].equal(before[:, 0][~mask])
        assert split.labels.equal(getattr(plain, part).labels)
        for index, place in enumerate(places.tolist()):
            expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            if place != ABSENT:
                row, column = corners[place]
                expected[row : row + 2, column : column + 2] = True
            assert mask[index].equal(expected)


def test_patterns_contrast_and_colours(source: str, plain: Dataset, tmp_path: Path) -> None:
    checks = shortcut(options(source, rate=1.0))
    patches = checks.train.images[:, 0][checks.train_mask].reshape(TRAIN, 4)
    assert (patches.sort(dim=1).values == torch.tensor([0, 0, 255, 255])).all()
    faint = shortcut(options(source, rate=1.0, contrast=0.25))
    before = plain.train.images[:, 0][faint.train_mask].double()
    solid = checks.train.images[:, 0][checks.train_mask].double()
    expected = 0.25 * solid + 0.75 * before
    assert (faint.train.images[:, 0][faint.train_mask].double() - expected).abs().max() <= 0.5
    coloured = shortcut(options(written(tmp_path / "colour.npz", 3), pattern="solid"))
    assert (coloured.train.images.permute(0, 2, 3, 1)[coloured.train_mask] == 255).all()


@pytest.mark.parametrize("code", ["place", "presence"])
def test_variants_differ_in_the_patch_of_their_test_images(source: str, plain: Dataset, code: str) -> None:
    chosen = options(source, code=code)
    variants = shortcut_variants(chosen)
    assert list(variants) == ["agreeing", "moved", "gone"]
    for name, data in variants.items():
        assert data.train.images.equal(variants["gone"].train.images)
        assert data.options["test"] == name
        outside = ~(data.test_mask | variants["agreeing"].test_mask)
        assert data.test.images[:, 0][outside].equal(variants["agreeing"].test.images[:, 0][outside])
        alone = shortcut(replace(chosen, test=name))
        assert alone.checksum == data.checksum
        assert alone.describe() == data.describe()
    assert variants["gone"].test.images.equal(plain.test.images)
    assert not variants["gone"].test_mask.any()
    assert (variants["gone"].place("place", "test") == ABSENT).all()
    assert not variants["moved"].test.images.equal(variants["agreeing"].test.images)


def test_the_seed_decides_and_fewer_are_the_first_of_more(source: str) -> None:
    data = shortcut(options(source))
    few = shortcut(options(source, train_examples=50, test_examples=20))
    assert (len(few.train), len(few.test)) == (50, 20)
    assert few.train.images.equal(data.train.images[:50])
    assert few.test_mask.equal(data.test_mask[:20])
    assert shortcut(options(source)).checksum == data.checksum
    assert shortcut(options(source, seed=1)).checksum != data.checksum
    assert few.name == "shortcut-noise"
    assert few.options["rate"] == 0.95


def test_places_lie_along_the_border_and_apart() -> None:
    corners = _patch_places(ShortcutOptions(size=4), 28, 28, 10)
    assert corners[0].tolist() == [0, 0]
    on_border = (corners == 0).any(axis=1) | (corners == 24).any(axis=1)
    assert on_border.all()
    assert (corners >= 0).all()
    assert (corners <= 24).all()
    covered = np.zeros((28, 28), dtype=int)
    for row, column in corners:
        covered[row : row + 4, column : column + 4] += 1
    assert covered.max() == 1
    inner = _patch_places(ShortcutOptions(size=3, margin=2), 20, 16, 4)
    assert inner.min() == 2
    assert inner[:, 0].max() <= 20 - 2 - 3
    assert inner[:, 1].max() <= 16 - 2 - 3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"size": 12}, "size and margin: expected one that fits"),
        ({"size": 8}, "size: expected a patch that has 5 places"),
        ({"train_examples": 901}, "train_examples: expected an integer from 1 to 900"),
        ({"test_examples": 601}, "test_examples: expected an integer from 1 to 600"),
    ],
)
def test_options_that_do_not_apply_are_refused(source: str, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        shortcut(options(source, **changed))
