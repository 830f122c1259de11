"""Splits and their batches, division by seed, equalised grey levels, class names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from veridical.data import Dataset, Split, split_validation
from veridical.data.arrays import equalise_levels, hashed_order, held_out, stratified
from veridical.runtime.errors import UsageError

SEEDS = st.integers(0, 2**32)


def numbered(count: int) -> Split:
    """Image i is filled with i and labelled i."""
    images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Split(images, torch.arange(count))


def test_a_batch_holds_the_asked_examples_in_order() -> None:
    inputs, target = numbered(200).batch([7, 3, 3, 199])
    assert inputs.shape == (4, 3, 2, 2)
    assert target.tolist() == [7, 3, 3, 199]
    assert torch.equal(inputs[:, 0, 0, 0], torch.tensor([7, 3, 3, 199]) / 255)
    assert (inputs.dtype, target.dtype, inputs.device.type) == (torch.float32, torch.int64, "cpu")
    inputs, target = numbered(3).batch([])
    assert (inputs.shape, target.shape) == ((0, 3, 2, 2), (0,))
    assert len(numbered(3).subset(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize("indices", [[1, 4], (1, 4), range(1, 5, 3), slice(1, 5, 3), torch.tensor([1, 4])])
def test_indices_come_in_any_usual_form(indices: Any) -> None:
    inputs, target = numbered(6).batch(indices)
    assert target.tolist() == [1, 4]
    assert len(inputs) == 2
    assert numbered(6).subset(indices).labels.tolist() == [1, 4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bytes_become_numbers_from_0_to_1_rounded_once(dtype: torch.dtype) -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    inputs, _ = Split(images, torch.zeros(256, dtype=torch.int64)).batch(slice(None), dtype=dtype)
    exact = torch.arange(256, dtype=torch.float64) / 255
    expected = exact if dtype == torch.float64 else exact.float()
    assert inputs.dtype == dtype
    assert torch.equal(inputs.flatten(), expected.to(dtype))
    # Back to bytes without loss where the format has the bits, so attacks can start from the very image.
    if dtype in (torch.float32, torch.float64):
        assert torch.equal((inputs * 255).round().to(torch.uint8), images)


def test_batches_and_subsets_share_nothing_with_the_split() -> None:
    split, state = numbered(5), torch.get_rng_state()
    images, labels = split.images.clone(), split.labels.clone()
    assert {one.device.type for one in split.batch([0, 1], device="meta")} == {"meta"}
    for dtype in (torch.float32, torch.float64):
        for cut in split.batch(slice(None), dtype=dtype):
            cut.fill_(0)
    part = split.subset(slice(None))
    part.images.fill_(9)
    part.labels.fill_(9)
    split_validation(split, 2, 0)
    assert torch.equal(split.images, images)
    assert torch.equal(split.labels, labels)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_split_and_no_batch_is_refused() -> None:
    within = "indices: expected .* from 0 to 2"
    wrong: list[tuple[Any, str]] = [([0, 3], within), ([-1], within), (torch.tensor([3]), within)]
    integers = "indices: expected integers"
    wrong += [(torch.tensor(values), integers) for values in ([True, False, True], [0.5], 1)]
    for indices, message in wrong:
        with pytest.raises(UsageError, match=message):
            numbered(3).batch(indices)
    with pytest.raises(UsageError, match=r"dtype: expected a floating-point dtype, but got torch\.uint8"):
        numbered(3).batch([0], dtype=torch.uint8)
    labels, images = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 1, 3, 3)
    for other, message in (
        (images, "images: expected a uint8 tensor"),
        (images[:, 0].byte(), "images: expected a uint8 tensor"),
        (images[[0, 0, 1]].byte(), "labels: expected an int64"),
    ):
        with pytest.raises(UsageError, match=message):
            Split(other, labels)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a", "b"), ("a", "b")),
        (("crane", "b", "crane"), ("crane (class 0)", "b", "crane (class 2)")),
        (("a\ud800", "b"), (r"a\ud800", "b")),
        (("",) * 10, tuple(f" (class {number})" for number in range(10))),
        (("a", "a", "a (class 0)"), ("a (class 0)", "a (class 1)", "a (class 0) (class 2)")),
    ],
)
def test_equal_class_names_are_told_apart(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    data = Dataset("own", numbered(2), numbered(2), names, "", "")
    assert data.classes == expected
    assert len(set(data.classes)) == data.num_classes


@given(count=st.integers(2, 250), share=st.floats(0, 1), seed=SEEDS)
def test_held_out_parts_are_disjoint_and_cover_everything_in_order(
    count: int, share: float, seed: int
) -> None:
    size = min(max(round(count * share), 1), count - 1)
    kept, held = held_out(count, size, seed, "validation")
    assert len(held) == size
    assert sorted(kept + held) == list(range(count))
    assert (kept, held) == (sorted(kept), sorted(held))
    assert (kept, held) == held_out(count, size, seed, "validation")
    training, validation = split_validation(numbered(count), size, seed)
    assert (training.labels.tolist(), validation.labels.tolist()) == (kept, held)
    for part in (training, validation):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)


def test_seed_and_purpose_decide_the_division() -> None:
    held = {
        (seed, purpose): tuple(held_out(1000, 100, seed, purpose)[1])
        for seed in range(5)
        for purpose in ("validation", "other")
    }
    assert len(set(held.values())) == len(held)
    # Independent draws of 100 among 1,000 share 10 on average, with a standard deviation of 2.8.
    assert len(set(held[0, "validation"]) & set(held[1, "validation"])) < 30


def test_the_order_is_a_fixed_one() -> None:
    # A data set's own split may never change: these are SHA-256's, so no library's version can move them.
    assert hashed_order(range(8), 0, "mnist-5k") == [6, 7, 1, 2, 5, 0, 3, 4]


@given(sizes=st.lists(st.integers(2, 40), min_size=1, max_size=6), fraction=st.floats(0.05, 0.95), seed=SEEDS)
def test_stratified_takes_the_same_share_of_every_class(sizes: list[int], fraction: float, seed: int) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    train, test = stratified(labels, fraction, seed, "folder")
    assert sorted(train + test) == list(range(len(labels)))
    for label, size in enumerate(sizes):
        tested = sum(labels[index] == label for index in test)
        assert 1 <= tested <= size - 1
        assert abs(tested - size * fraction) <= 1
    assert (train, test) == stratified(labels, fraction, seed, "folder")


def test_stratified_parts_start_with_all_classes() -> None:
    labels = [index // 500 for index in range(5000)]
    for part in stratified(labels, 0.2, 0, "mnist-5k"):
        first = [labels[index] for index in part[:200]]
        # 20 of each class are expected among the first 200, with a standard deviation of 4.2.
        assert all(3 <= first.count(label) <= 40 for label in range(10))


def test_divisions_that_leave_nothing_are_refused() -> None:
    for size in (0, -1, 10, 11):
        with pytest.raises(UsageError, match="size: expected an integer from 1 to 9"):
            held_out(10, size, 0, "validation")
    for labels, fraction, message in (
        *(([0, 0, 1, 1], fraction, "fraction") for fraction in (0.0, 1.0, -0.1, float("nan"))),
        ([0, 0, 1], 0.5, "class 1: expected at least 2"),
    ):
        with pytest.raises(UsageError, match=message):
            stratified(labels, fraction, 0, "folder")


def pillow(images: np.ndarray) -> np.ndarray:
    planes = images.reshape(-1, *images.shape[-2:])
    result = [np.asarray(ImageOps.equalize(Image.fromarray(plane))) for plane in planes]
    return np.stack(result).reshape(images.shape)


@settings(max_examples=200, deadline=None)
@given(
    images=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 24), st.integers(1, 24)),
        elements=st.integers(0, 255),
    )
)
def test_equalised_planes_are_pillow_s(images: np.ndarray) -> None:
    before = images.copy()
    result = equalise_levels(images)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, pillow(images))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("levels", [1, 2, 3, 17, 256])
@pytest.mark.parametrize("side", [8, 28, 32, 128])
def test_equalising_few_and_many_levels_is_pillow_s(levels: int, side: int) -> None:
    generator = np.random.default_rng(levels)
    palette = generator.choice(256, size=levels, replace=False).astype(np.uint8)
    # Squared uniforms make some levels much more frequent than others.
    images = palette[(generator.random((5, 3, side, side)) ** 2 * levels).astype(int)]
    np.testing.assert_array_equal(equalise_levels(images), pillow(images))


def test_planes_do_not_see_each_other_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 90, size=(11, 3, 16, 16), dtype=np.uint8)
    whole = equalise_levels(images)
    assert (whole.min(), whole.max()) == (0, 255)
    monkeypatch.setattr("veridical.data.arrays._CHUNK", 4)
    np.testing.assert_array_equal(equalise_levels(images), whole)
    np.testing.assert_array_equal(equalise_levels(images[3:4, 1:2]), whole[3:4, 1:2])
    assert equalise_levels(images[:0]).shape == (0, 3, 16, 16)
