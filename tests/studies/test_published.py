"""The paper's numbers: complete, marked, in range and not to be changed by accident."""

from veridical.studies.attack_page import MEASURES, PAPER_NUMBERS, paper_numbers

OBJECTIVES = ("natural", "adversarial", "ig-norm", "ig-sum-norm")
DATA = ("mnist", "fashion-mnist", "gtsrb", "flowers17")


def test_every_network_has_its_numbers_and_three_natural_accuracies_are_published() -> None:
    assert set(PAPER_NUMBERS) == {(one, name) for one in DATA for name in OBJECTIVES}
    for (data, objective), numbers in PAPER_NUMBERS.items():
        # Fractions with the paper's digits.
        assert all(0 <= value < 1 and value == round(value, 4) for value in numbers)
        stated = {"natural_accuracy"} if objective != "adversarial" else set()
        published, recalled = (paper_numbers(data, objective, mark) for mark in ("published", "recalled"))
        assert (set(published), set(recalled)) == (stated, set(MEASURES) - stated)
        assert {**published, **recalled} == dict(zip(MEASURES, numbers, strict=True))


def test_what_the_paper_does_not_have_is_empty() -> None:
    assert paper_numbers("mnist-5k", "natural", "published") == {}
    assert paper_numbers("fashion-mnist", "input-gradient", "recalled") == {}
