"""The paper's numbers: complete, marked, in range and not to be changed by accident."""

import dataclasses

import pytest

from veridical.studies.published import MEASURES, PUBLISHED, ROWS, Figure, published, recalled

OBJECTIVES = ("natural", "adversarial", "ig-norm", "ig-sum-norm")


def test_every_data_set_has_every_objective_once() -> None:
    expected = {
        (data, name) for data in ("mnist", "fashion-mnist", "gtsrb", "flowers17") for name in OBJECTIVES
    }
    assert set(PUBLISHED) == expected
    assert len(ROWS) == len(expected)


def test_only_three_natural_accuracies_are_published() -> None:
    for data, objective in PUBLISHED:
        stated = {"natural_accuracy"} if objective != "adversarial" else set()
        assert set(published(data, objective)) == stated
        assert set(recalled(data, objective)) == set(MEASURES) - stated


def test_numbers_are_fractions_with_the_paper_s_digits() -> None:
    for row in ROWS:
        for name in MEASURES:
            figure: Figure = getattr(row, name)
            assert 0 <= figure.value < 1
            assert figure.value == round(figure.value, 4)


def test_a_known_row() -> None:
    assert published("fashion-mnist", "ig-sum-norm") == {"natural_accuracy": 0.8544}
    assert recalled("fashion-mnist", "ig-sum-norm") == {
        "adversarial_accuracy": 0.7026,
        "topk_intersection": 0.7208,
        "kendall_tau": 0.6747,
    }


def test_what_the_paper_does_not_have_is_empty() -> None:
    assert published("mnist-5k", "natural") == {}
    assert recalled("fashion-mnist", "input-gradient") == {}


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROWS[0].natural_accuracy.value = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        PUBLISHED["mnist", "natural"] = ROWS[1]  # type: ignore[index]
