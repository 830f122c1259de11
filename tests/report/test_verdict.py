"""The words on top of the page: the numbers in them, and no claim that the intervals do not carry."""

from collections.abc import Callable
from typing import Any

import pytest

from veridical.report import ModelSection, Protocol
from veridical.report.formats import Interval, finite, percents, radius_text, signed
from veridical.report.verdict import verdict

Build = Callable[..., ModelSection]
CLAIM = "the 95% intervals do not overlap"


def metrics(topk: float, tau: float, half: float = 0.02, accuracy: float = 0.9) -> dict[str, Any]:
    values = {"natural_accuracy": accuracy, "topk_intersection": topk, "kendall_tau": tau}
    return {name: {"value": v, "low": v - half, "high": v + half, "n": 100} for name, v in values.items()}


def headline(first: dict[str, Any], other: dict[str, Any]) -> str:
    sections = [ModelSection("Natural", first, k=100), ModelSection("Robust", other, k=100)]
    (text,) = verdict(sections, None).headlines
    return text


def test_the_paragraph_states_what_was_measured() -> None:
    sections = [
        ModelSection("Natural", metrics(0.312, 0.178, accuracy=0.964), k=100),
        ModelSection("Robust", metrics(0.724, 0.612, accuracy=0.903), k=100),
    ]
    said = verdict(sections, Protocol(0.1), pixels=784)
    assert said.headlines == (
        (
            "The explanations of \u201cRobust\u201d hold better than those of \u201cNatural\u201d: "
            f"the share of kept pixels and the rank correlation are higher, and {CLAIM}."
        ),
    )
    assert said.paragraphs[0] == (
        "Under an attack that changes no pixel by more than 0.1 (0 is black, 1 is white) and leaves the "
        "prediction as it was, the explanation of \u201cNatural\u201d keeps 31% of its 100 most important "
        "pixels; that of \u201cRobust\u201d keeps 72%. "
        "Two unrelated rankings of 784 pixels would share 13% by chance."
    )
    assert "is 0.18 for \u201cNatural\u201d and 0.61 for \u201cRobust\u201d." in said.paragraphs[1]
    assert said.paragraphs[2].endswith(f"On unchanged images the second is less accurate, and {CLAIM}.")


def test_overlapping_intervals_claim_no_difference() -> None:
    text = headline(metrics(0.50, 0.50), metrics(0.53, 0.53))
    assert text.startswith("This run shows no difference")
    assert "do not overlap" not in text
    assert "better" not in text


def test_accuracy_is_called_different_only_when_it_is() -> None:
    def price(accuracy: float) -> str:
        sections = [
            ModelSection("Natural", metrics(0.3, 0.3, accuracy=0.9), k=100),
            ModelSection("Robust", metrics(0.7, 0.7, accuracy=accuracy), k=100),
        ]
        return verdict(sections, None).paragraphs[2]

    assert price(0.85).endswith(f"On unchanged images the second is less accurate, and {CLAIM}.")
    assert price(0.95).endswith(f"On unchanged images the second is more accurate, and {CLAIM}.")
    assert price(0.91).endswith("The 95% intervals of their accuracies on unchanged images overlap.")


def test_touching_intervals_count_as_overlapping() -> None:
    first, other = metrics(0.5, 0.5), metrics(0.6, 0.6)
    for name in ("topk_intersection", "kendall_tau"):
        first[name]["high"] = other[name]["low"] = 0.55
    assert headline(first, other).startswith("This run shows no difference")


def test_one_measure_apart_is_named_and_the_other_is_not_hidden() -> None:
    text = headline(metrics(0.3, 0.5), metrics(0.7, 0.52))
    assert f"the share of kept pixels is higher, and {CLAIM}." in text
    assert text.endswith("For the rank correlation the intervals overlap.")


def test_a_worse_model_is_called_worse() -> None:
    text = headline(metrics(0.7, 0.7), metrics(0.3, 0.3))
    assert "hold less well than those of \u201cNatural\u201d" in text
    assert "are lower" in text


def test_measures_that_contradict_each_other_are_both_told() -> None:
    text = headline(metrics(0.3, 0.7), metrics(0.7, 0.3))
    assert text.startswith("The two measures disagree")
    assert "the share of kept pixels is higher, the rank correlation is lower" in text


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_without_intervals_nothing_is_compared(gap: float | None) -> None:
    other = metrics(0.9, 0.9)
    for name in ("topk_intersection", "kendall_tau", "natural_accuracy"):
        other[name]["low"] = gap
    sections = [ModelSection("Natural", metrics(0.1, 0.1), k=100), ModelSection("Robust", other, k=100)]
    said = verdict(sections, None)
    assert "cannot be compared" in said.headlines[0]
    assert "do not overlap" not in " ".join([*said.headlines, *said.paragraphs])


def test_a_model_without_the_measure_is_said_to_lack_it() -> None:
    sections = [ModelSection("Natural", {}, k=100), ModelSection("Robust", metrics(0.7, 0.6), k=100)]
    said = verdict(sections, None).paragraphs[0]
    assert "the explanation of \u201cRobust\u201d keeps 70%" in said
    assert "for \u201cNatural\u201d the most important pixels that stay were not measured" in said


def test_every_other_model_is_compared_with_the_first() -> None:
    sections = [
        ModelSection(str(place), metrics(value, value), k=100) for place, value in enumerate((0.3, 0.5, 0.7))
    ]
    first, second = verdict(sections, None).headlines
    assert "\u201c1\u201d hold better than those of \u201c0\u201d" in first
    assert "\u201c2\u201d hold better than those of \u201c0\u201d" in second


def test_a_single_model_is_described_and_not_compared() -> None:
    said = verdict([ModelSection("Robust", metrics(0.724, 0.6), k=100)], None)
    (headline,) = said.headlines
    assert headline == (
        "After the attack, explanations keep 72% of their most important pixels "
        "(95% interval 70.4% to 74.4%)."
    )
    assert "better" not in " ".join(said.paragraphs)


def test_no_claim_ever_without_disjoint_intervals() -> None:
    for step in range(9):
        other = 0.4 + 0.01 * step
        text = headline(metrics(0.4, 0.4), metrics(other, other))
        disjoint = other - 0.02 > 0.4 + 0.02
        assert ("do not overlap" in text) == disjoint, step


def test_percent_shows_decimals_where_whole_numbers_would_mislead() -> None:
    assert percents([0.312, 0.724]) == ["31%", "72%"]
    assert percents([0.669, 0.673]) == ["66.9%", "67.3%"]
    assert percents([0.996, 0.5]) == ["99.6%", "50.0%"]
    assert percents([0.0, 1.0]) == ["0%", "100%"]
    assert percents([0.5, 0.5]) == ["50%", "50%"]


def test_radii_read_as_people_write_them() -> None:
    assert radius_text(0.1) == "0.1"
    assert radius_text(0.3) == "0.3"
    assert radius_text(8 / 255) == "8/255"
    assert radius_text(0.0123456) == "0.0123456"


def test_numbers_have_a_real_minus_and_no_negative_zero() -> None:
    assert signed(-0.25, 2) == "\u22120.25"
    assert signed(-0.001, 2) == "0.00"
    assert finite("0.5") is None
    assert finite(float("inf")) is None
    assert finite(0) == 0.0
    assert Interval.read({"value": 0.0, "low": None, "high": float("nan"), "n": 3}) == Interval(
        0.0, None, None, 3
    )
