"""The paper's numbers: complete, marked, in range and not to be changed by accident."""

from veridical.studies.attack_page import MEASURES, PAPER_NUMBERS, paper_numbers

OBJECTIVES = ("natural", "adversarial", "ig-norm", "ig-sum-norm")


def test_every_data_set_has_every_objective() -> None:
    data = ("mnist", "fashion-mnist", "gtsrb", "flowers17")
    assert set(PAPER_NUMBERS) == {(one, name) for one in data for name in OBJECTIVES}


def test_only_three_natural_accuracies_are_published() -> None:
    for data, objective in PAPER_NUMBERS:
        stated = {"natural_accuracy"} if objective != "adversarial" else set()
        assert set(paper_numbers(data, objective, "published")) == stated
        assert set(paper_numbers(data, objective, "recalled")) == set(MEASURES) - stated


def test_numbers_are_fractions_with_the_paper_s_digits() -> None:
    for numbers in PAPER_NUMBERS.values():
        assert len(numbers) == len(MEASURES)
        assert all(0 <= value < 1 and value == round(value, 4) for value in numbers)


def test_a_known_row() -> None:
    assert paper_numbers("fashion-mnist", "ig-sum-norm", "published") == {"natural_accuracy": 0.8544}
    assert paper_numbers("fashion-mnist", "ig-sum-norm", "recalled") == {
        "adversarial_accuracy": 0.7026,
        "topk_intersection": 0.7208,
        "kendall_tau": 0.6747,
    }


def test_what_the_paper_does_not_have_is_empty() -> None:
    assert paper_numbers("mnist-5k", "natural", "published") == {}
    assert paper_numbers("fashion-mnist", "input-gradient", "recalled") == {}
