from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from veridical.data import Dataset, Split, split_validation
from veridical.runtime.errors import UsageError


def numbered(count: int) -> Split:
    """Image i is filled with i and labelled i."""
    images = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Split(images, torch.arange(count))


def test_a_batch_holds_the_asked_examples_in_order() -> None:
    inputs, target = numbered(200).batch([7, 3, 3, 199])
    assert inputs.shape == (4, 3, 2, 2)
    assert target.tolist() == [7, 3, 3, 199]
    assert torch.equal(inputs[:, 0, 0, 0], torch.tensor([7, 3, 3, 199]) / 255)
    assert inputs.dtype == torch.float32
    assert target.dtype == torch.int64
    assert inputs.device.type == "cpu"


@pytest.mark.parametrize("indices", [[1, 4], (1, 4), range(1, 5, 3), slice(1, 5, 3), torch.tensor([1, 4])])
def test_indices_come_in_any_usual_form(indices: list[int]) -> None:
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


def test_the_device_is_the_batch_s_alone() -> None:
    split = numbered(4)
    inputs, target = split.batch([0, 1], device="meta")
    assert inputs.device.type == target.device.type == "meta"
    assert split.images.device.type == split.labels.device.type == "cpu"


def test_batches_and_subsets_share_nothing_with_the_split() -> None:
    split = numbered(5)
    images, labels = split.images.clone(), split.labels.clone()
    for dtype in (torch.float32, torch.float64):
        inputs, target = split.batch(slice(None), dtype=dtype)
        inputs.fill_(0.5)
        target.fill_(0)
    part = split.subset(slice(None))
    part.images.fill_(9)
    part.labels.fill_(9)
    assert torch.equal(split.images, images)
    assert torch.equal(split.labels, labels)


def test_the_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    split_validation(numbered(50), 10, 0)[0].batch([0])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_batch_is_empty() -> None:
    inputs, target = numbered(3).batch([])
    assert inputs.shape == (0, 3, 2, 2)
    assert target.shape == (0,)
    assert len(numbered(3).subset(torch.tensor([], dtype=torch.int64))) == 0


@pytest.mark.parametrize("indices", [[0, 3], [-1], torch.tensor([3])])
def test_indices_outside_are_refused(indices: list[int]) -> None:
    with pytest.raises(UsageError, match="expected indices from 0 to 2"):
        numbered(3).batch(indices)


@pytest.mark.parametrize("indices", [torch.tensor([True, False, True]), torch.tensor([0.5]), torch.tensor(1)])
def test_tensors_that_are_no_indices_are_refused(indices: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="indices: expected integers"):
        numbered(3).batch(indices)


def test_whole_number_dtypes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"dtype: expected a floating-point dtype, but got torch\.uint8"):
        numbered(3).batch([0], dtype=torch.uint8)


def test_a_split_checks_its_tensors() -> None:
    with pytest.raises(UsageError, match="images: expected a uint8 tensor"):
        Split(torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UsageError, match="images"):
        Split(torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UsageError, match="labels: expected an int64"):
        Split(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


@given(count=st.integers(2, 200), size=st.integers(1, 199), seed=st.integers(0, 1000))
def test_validation_and_training_share_nothing_and_lose_nothing(count: int, size: int, seed: int) -> None:
    size = min(size, count - 1)
    training, validation = split_validation(numbered(count), size, seed)
    assert len(validation) == size
    assert sorted(training.labels.tolist() + validation.labels.tolist()) == list(range(count))
    for part in (training, validation):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)


def test_the_validation_split_depends_on_the_seed_alone() -> None:
    held = [tuple(split_validation(numbered(200), 40, seed)[1].labels.tolist()) for seed in (0, 0, 1, 2)]
    assert held[0] == held[1]
    assert len(set(held)) == 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("a", "b"), ("a", "b")),
        (("crane", "b", "crane"), ("crane (class 0)", "b", "crane (class 2)")),
        (("a\ud800", "b"), (r"a\ud800", "b")),
        (("",) * 10, tuple(f" (class {number})" for number in range(10))),
        (("a", "a", "a (class 0)"), ("a (class 0)", "a (class 1)", "a (class 0) (class 2)")),
    ],
)
def test_equal_class_names_are_told_apart(given: tuple[str, ...], told: tuple[str, ...]) -> None:
    data = Dataset("own", numbered(2), numbered(2), given, "", "")
    assert data.classes == told
    assert len(set(data.classes)) == data.num_classes
