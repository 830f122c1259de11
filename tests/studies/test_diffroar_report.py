"""Pages of finished DiffROAR measurements: titles, what compares, and that the page shows the results."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.runtime.errors import RunError, UsageError
from veridical.studies.diffroar_curves import figure, table
from veridical.studies.diffroar_report import (
    Measured,
    attribution_name,
    check_comparable,
    model_title,
    named,
    read_measured,
    sections,
    write_measured_report,
)

LEVELS = [0.1, 0.5]
Build = Callable[..., Measured]


def number(*repeats: float) -> dict[str, Any]:
    value = sum(repeats) / len(repeats)
    return {"repeats": list(repeats), "value": value, "low": value - 0.02, "high": value + 0.02}


def curve(top: float, bottom: float) -> list[dict[str, Any]]:
    return [
        {
            "level": level,
            "coordinates": round(level * 48),
            "top": number(top, top + 0.01),
            "bottom": number(bottom, bottom),
            "difference": number(top - bottom, top - bottom + 0.01),
        }
        for level in LEVELS
    ]


@pytest.fixture
def measured() -> Build:
    """A measurement as a folder would hold it, of 4 x 4 colour images; changes go into its config."""

    def build(objective: str = "natural", attribution: str = "input-gradient", **changes: Any) -> Measured:
        robust = None if objective == "natural" else {"norm": "l2", "radius": 1.0}
        design = {"mode": "keep", "order": "absolute", "per": "value", "fill": "mean", "ties": "random"}
        config = {
            "run": {"objective": objective, "robust": robust, "model": {"name": "mlp"}},
            "weights": objective,
            "data": {"name": "stripes", "train": 240, "test": 30},
            "attribution": {"method": "InputGradient"},
            "measured": {**design, "repeats": 2, "levels": LEVELS},
            "fill": {"kind": "constant", "values": [0.5]},
            "model": {"name": "mlp", "options": {}},
            "training": {"objective": "natural", "steps": 6, "batch_size": 24},
        }
        verdicts = [
            {"level": level, "verdict": "satisfied", "value": 0.205, "low": 0.1, "high": 0.3}
            for level in LEVELS
        ]
        control = [{"level": level, "top": number(0.4), "bottom": number(0.3)} for level in LEVELS]
        results = {
            "curve": curve(0.8, 0.6),
            "verdicts": verdicts,
            "baselines": {"random": curve(0.7, 0.7)},
            "control": {"chance": 0.34, "curve": control},
            "roar": [],
            "kar": [{"level": level, "accuracy": number(0.8, 0.81)} for level in LEVELS],
            "rankings": {"judged": {"coordinates": 48, "zero_share": 0.125}},
            "notes": ["A note."],
        }
        environment = {"torch": "2.9", "attribution": attribution, "run": f"runs/{objective}"}
        document = {
            "schema": 1,
            "results": results,
            "config": {**config, **changes},
            "environment": environment,
            "timing": {"retrainings": 20},
        }
        random = np.random.default_rng(0)
        arrays = {
            "index": np.array([0, 3]),
            "image": random.integers(0, 256, (2, 3, 4, 4), dtype=np.uint8),
            "label": np.array([1, 0]),
            "order": random.random((2, 4, 4), dtype=np.float32),
            "levels": np.array(LEVELS),
            "unmasked": random.integers(0, 256, (2, 2, 2, 3, 4, 4), dtype=np.uint8),
            "classes": np.array(["cat", "dog"]),
        }
        return Measured(Path(f"runs/{objective}-{attribution}"), deepcopy(document), arrays)

    return build


def test_titles_are_as_short_as_they_can_be(measured: Build) -> None:
    natural, robust = measured(), measured("adversarial")
    assert list(named([natural])) == ["input-gradient"]
    assert list(named([natural, robust])) == [
        "input-gradient, Natural training",
        "input-gradient, Adversarial training (l2 1)",
    ]
    other = measured(attribution="maps/smoothgrad.npz")
    assert list(named([natural, other])) == ["input-gradient", "smoothgrad.npz"]
    three = named([natural, other, robust])
    assert list(three)[:2] == ["input-gradient, Natural training", "smoothgrad.npz, Natural training"]
    assert list(named([natural, robust], ["a", "b"])) == ["a", "b"]
    for titles in (["a"], ["a", "a"]):
        with pytest.raises(UsageError, match="titles"):
            named([natural, robust], titles)
    assert model_title(robust) == "Adversarial training (l2 1)"
    assert attribution_name(other) == "smoothgrad.npz"


def test_two_of_the_same_are_told_apart_by_their_folders(measured: Build) -> None:
    one = measured()
    other = Measured(Path("elsewhere/second"), one.document, one.arrays)
    assert list(named([one, other])) == [
        "input-gradient (natural-input-gradient)",
        "input-gradient (second)",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"name": "other", "train": 240, "test": 30}}, "their data differs"),
        ({"training": {"objective": "natural", "steps": 7, "batch_size": 24}}, "their training differs"),
        ({"model": {"name": "cnn", "options": {}}}, "their model differs"),
        ({"fill": {"kind": "constant", "values": [0.0]}}, "their fill differs"),
    ],
)
def test_only_the_same_retraining_compares(measured: Build, changes: dict[str, Any], told: str) -> None:
    check_comparable({"a": measured(), "b": measured("adversarial")})
    with pytest.raises(UsageError, match=told):
        check_comparable({"a": measured(), "b": measured(**changes)})


def test_the_order_of_the_ranking_must_agree_and_levels_need_not(measured: Build) -> None:
    one, other = measured(), measured("adversarial")
    check_comparable({"a": one, "b": measured(measured={**other.config["measured"], "levels": [0.2]})})
    signed = measured(measured={**other.config["measured"], "order": "signed"})
    with pytest.raises(UsageError, match="their order differs, absolute and signed"):
        check_comparable({"a": one, "b": signed})


def test_sections_hold_what_was_measured(measured: Build) -> None:
    (section,) = sections(named([measured()]))
    assert section.levels == LEVELS
    assert section.subtitle == "mlp, Natural training"  # the rest is the title
    assert (section.coordinates, section.chance) == (48, 0.34)
    first = section.gallery[0]
    assert first.label == "dog"
    assert first.image.shape == (4, 4, 3)
    arrays = measured().arrays
    np.testing.assert_allclose(first.image[1, 2] * 255, arrays["image"][0, :, 1, 2])
    np.testing.assert_allclose(first.unmasked[0.5][0][3, 1] * 255, arrays["unmasked"][0, 1, 0, :, 3, 1])
    np.testing.assert_allclose(first.unmasked[0.1][1][0, 0] * 255, arrays["unmasked"][0, 0, 1, :, 0, 0])


def test_pictures_are_of_the_images_that_all_have(measured: Build) -> None:
    one, other = measured(), measured("adversarial")
    other.arrays["index"][:] = [3, 5]
    here, there = sections(named([one, other]))
    assert [item.label for item in here.gallery] == ["cat"]
    assert [item.label for item in there.gallery] == ["dog"]
    other.arrays["index"][:] = [4, 5]
    assert [len(section.gallery) for section in sections(named([one, other]))] == [0, 0]


def test_the_page_says_how_it_was_measured(measured: Build, tmp_path: Path) -> None:
    found = named([measured(), measured("adversarial")])
    found["input-gradient, Natural training"].document["results"]["notes"].append("Only here.")
    page = write_measured_report(tmp_path / "page.html", found, title="Both", lead="A lead.")
    text = page.read_text(encoding="utf-8")
    for told in (
        "stripes, 240 training and 30 test images",
        "objective natural, steps 6, batches of 24",
        "training mean of each channel",
        "12.5%",
        "input-gradient, Natural training: Only here.",
        "tells networks more at every level",
        "Adversarial training (l2 1)",
    ):
        assert told in text, told
    assert text.count("A note.") == 1


def test_a_folder_of_something_else_is_refused(tmp_path: Path, place: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        read_measured(tmp_path)
    shutil.copytree(place / "natural-attack", tmp_path / "attack")
    with pytest.raises(RunError, match="not a finished measurement"):
        read_measured(tmp_path / "attack")


def test_the_table_of_a_document_has_the_numbers_of_the_results(measured: Build) -> None:
    natural, alone = measured(), measured("adversarial")
    alone.results["verdicts"][0].update(verdict="undecided", low=None, high=None)
    alone.document["results"]["control"] = None
    lines = table({"natural": natural, "robust": alone}).splitlines()
    assert len(lines) == 2 + 2 * len(LEVELS)
    assert lines[2] == ("| natural | 10% | 80.5 | 60.0 | +20.5 (+10.0 to +30.0) | satisfied | 40.0 | 30.0 |")
    assert lines[4] == "| robust | 10% | 80.5 | 60.0 | +20.5 | undecided |  |  |"


def test_the_figure_of_a_document_draws_the_differences(measured: Build) -> None:
    found = {"natural": measured(), "robust": measured("adversarial")}
    lines = figure(found).axes[0].get_lines()
    drawn = [np.asarray(line.get_xydata()).tolist() for line in lines]
    assert drawn.count([[0.1, 0.205], [0.5, 0.205]]) == 2
