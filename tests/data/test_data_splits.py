from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veridical.data.arrays import hashed_order, held_out, stratified
from veridical.runtime.errors import UsageError

SEEDS = st.integers(0, 2**32)


@given(count=st.integers(2, 300), share=st.floats(0, 1), seed=SEEDS)
def test_held_out_parts_are_disjoint_and_cover_everything_in_order(
    count: int, share: float, seed: int
) -> None:
    size = min(max(round(count * share), 1), count - 1)
    kept, held = held_out(count, size, seed, "validation")
    assert len(held) == size
    assert sorted(kept + held) == list(range(count))
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert (kept, held) == held_out(count, size, seed, "validation")


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
    program = "from veridical.data.arrays import hashed_order; print(hashed_order(range(8), 0, 'mnist-5k'))"
    elsewhere = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == "[6, 7, 1, 2, 5, 0, 3, 4]"


@pytest.mark.parametrize("size", [0, -1, 10, 11])
def test_a_division_that_leaves_nothing_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="size: expected an integer from 1 to 9"):
        held_out(10, size, 0, "validation")


@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.95),
    seed=SEEDS,
)
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


def test_a_class_of_one_example_cannot_be_divided() -> None:
    with pytest.raises(UsageError, match="class 1: expected at least 2"):
        stratified([0, 0, 1], 0.5, 0, "folder")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_fractions_outside_0_to_1_are_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match="fraction"):
        stratified([0, 0, 1, 1], fraction, 0, "folder")
