"""Pages of finished DiffROAR measurements: titles, what compares, and that the page shows the results."""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.runtime.errors import UsageError
from veridical.studies.diffroar_page import (
    differences_figure,
    diffroar_headline,
    diffroar_table,
    diffroar_verdict,
    name_measurements,
    write_diffroar_page,
)
from veridical.studies.study import StudyResult

LEVELS = [0.1, 0.5]
Build = Callable[..., StudyResult]


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

    def build(objective: str = "natural", attribution: str = "input-gradient", **changes: Any) -> StudyResult:
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
        judged = {"verdict": "satisfied", "value": 0.205, "low": 0.1, "high": 0.3}
        results = {
            "curve": curve(0.8, 0.6),
            "verdicts": [{"level": level, **judged} for level in LEVELS],
            "baselines": {"random": curve(0.7, 0.7)},
            "control": {
                "chance": 0.34,
                "curve": [{"level": level, "top": number(0.4), "bottom": number(0.3)} for level in LEVELS],
            },
            "roar": [],
            "kar": [{"level": level, "accuracy": number(0.8, 0.81)} for level in LEVELS],
            "rankings": {"judged": {"coordinates": 48, "zero_share": 0.125}},
            "notes": ["A note."],
        }
        document = {
            "results": results,
            "config": {**config, **changes},
            "environment": {"torch": "2.9", "attribution": attribution, "run": f"runs/{objective}"},
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
        return StudyResult(Path(f"runs/{objective}-{attribution}"), deepcopy(document), arrays)

    return build


def test_titles_are_as_short_as_they_can_be(measured: Build) -> None:
    natural, robust = measured(), measured("adversarial")
    assert list(name_measurements([natural])) == ["input-gradient"]
    assert list(name_measurements([natural, robust])) == [
        "input-gradient, Natural training",
        "input-gradient, Adversarial training (l2 1)",
    ]
    other = measured(attribution="maps/smoothgrad.npz")
    assert list(name_measurements([natural, other])) == ["input-gradient", "smoothgrad.npz"]
    three = name_measurements([natural, other, robust])
    assert list(three)[:2] == ["input-gradient, Natural training", "smoothgrad.npz, Natural training"]
    assert list(name_measurements([natural, robust], ["a", "b"])) == ["a", "b"]
    for titles in (["a"], ["a", "a"]):
        with pytest.raises(UsageError, match="titles"):
            name_measurements([natural, robust], titles)
    again = StudyResult(Path("elsewhere/second"), natural.document, natural.arrays)
    by_folder = ["input-gradient (natural-input-gradient)", "input-gradient (second)"]
    assert list(name_measurements([natural, again])) == by_folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"name": "other", "train": 240, "test": 30}}, "their data differs"),
        ({"training": {"objective": "natural", "steps": 7, "batch_size": 24}}, "their training differs"),
        ({"model": {"name": "cnn", "options": {}}}, "their model differs"),
        ({"fill": {"kind": "constant", "values": [0.0]}}, "their fill differs"),
        ({"measured": {"order": "signed"}}, "their order differs, absolute and signed"),
        ({"measured": {"levels": [0.2]}}, None),
    ],
)
def test_only_the_same_retraining_compares_and_levels_need_not_agree(
    measured: Build, tmp_path: Path, changes: dict[str, Any], told: str | None
) -> None:
    design = {"measured": measured().config["measured"] | changes.get("measured", {})}
    found = {"a": measured(), "b": measured("adversarial", **changes | design)}
    with pytest.raises(UsageError, match=told) if told else nullcontext():
        page_of(tmp_path, found)


def page_of(folder: Path, measured: dict[str, StudyResult]) -> str:
    path = write_diffroar_page(folder / "page.html", measured, title="Title", lead="Lead.")
    return re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))


def test_pictures_are_of_the_images_that_all_have(measured: Build, tmp_path: Path) -> None:
    one, other = measured(), measured("adversarial")
    page = page_of(tmp_path, {"one": one})
    assert page.count('<img src="data') == 2 * 2 * (1 + len(LEVELS))
    assert "image labelled dog, bottom 50% left of the coordinates by one" in page
    assert "order of importance by one" in page
    other.arrays["index"][:] = [3, 5]
    page = page_of(tmp_path, {"one": one, "other": other})
    assert "Image 1, labelled cat" in page
    assert "Image 2" not in page
    other.arrays["index"][:] = [4, 5]
    assert "Image 1" not in page_of(tmp_path, {"one": one, "other": other})


def test_the_page_says_how_it_was_measured(
    measured: Build, tmp_path: Path, check_page: Callable[[Path], None]
) -> None:
    found = name_measurements([measured(), measured("adversarial")])
    found["input-gradient, Natural training"].document["results"]["notes"].append("Only here.")
    text = page_of(tmp_path, found)
    check_page(tmp_path / "page.html")
    for told in ("240 training and 30 test images", "training mean of each channel", "12.5%"):
        assert told in text, told
    assert "input-gradient, Natural training: Only here." in text
    assert text.count("A note.") == 1


def test_the_table_has_the_numbers_of_the_results(measured: Build) -> None:
    natural, alone = measured(), measured("adversarial")
    alone.results["verdicts"][0].update(verdict="undecided", low=None, high=None, as_good=["masks", "random"])
    alone.document["results"]["control"] = None
    heads, _, *lines = diffroar_table({"natural": natural, "robust": alone}).to_markdown().splitlines()
    assert heads.startswith("| attribution | level | top kept | bottom kept | difference | verdict |")
    assert len(lines) == 2 * len(LEVELS)
    assert lines[0].startswith("| natural | 10% | 80.5% | 60.0% | +20.5 (+10.0 to +30.0) | satisfied |")
    assert lines[0].endswith("| 40.0% | 30.0% |")
    assert lines[2].startswith("| robust | 10% | 80.5% | 60.0% | +20.5 | undecided (masks, random order) |")
    assert lines[2].endswith("| \u2014 | \u2014 |")


def test_the_figure_draws_the_differences_and_zero(measured: Build) -> None:
    found = {"natural": measured(), "robust": measured("adversarial")}
    lines = differences_figure(found).axes[0].get_lines()
    drawn = [np.asarray(line.get_xydata()).tolist() for line in lines]
    assert drawn.count([[0.1, 0.205], [0.5, 0.205]]) == 2
    assert [[0, 0], [1, 0]] in drawn


def with_verdicts(
    one: StudyResult,
    values: Sequence[float],
    verdicts: Sequence[str | tuple[str, ...]],
    half: float | None = 0.01,
) -> StudyResult:
    """A measurement with a verdict for each of LEVELS, and what is as good behind it where it is a tuple."""
    found = one.results["verdicts"]
    for point, value, said in zip(found, values, verdicts, strict=True):
        verdict, *as_good = (said,) if isinstance(said, str) else said
        ends = {"low": None, "high": None} if half is None else {"low": value - half, "high": value + half}
        point.update(verdict=verdict, value=value, as_good=as_good, **ends)
    return one


MASKS = ("undecided", "masks")


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        (("satisfied", "satisfied"), "tells networks more at every level."),
        (("undecided", "undecided"), "undecided at every level; no difference of the two ends is shown."),
        (("violated", "satisfied"), "tells networks more at 50% and less at 10%."),
        ((MASKS, "satisfied"), "more at 50%; undecided at 10%, where it does not beat the masks alone."),
        (
            ((*MASKS, "random"),) * 2,
            "undecided at every level, where it does not beat the masks alone or a random order.",
        ),
        ((MASKS, "undecided"), "at 10%, where it does not beat the masks alone; undecided at 50%."),
    ],
)
def test_the_headline_says_every_verdict(
    measured: Build, verdicts: tuple[str | tuple[str, ...], ...], told: str
) -> None:
    text = diffroar_headline("Natural", with_verdicts(measured(), [0.0, 0.0], verdicts))
    assert text.startswith("\u201cNatural\u201d: ")
    assert text.endswith(told)


def test_a_level_is_told_with_its_counts_and_interval(measured: Build, tmp_path: Path) -> None:
    one = with_verdicts(measured(), [-0.08, 0.05], ["violated", MASKS], half=0.07)
    page = page_of(tmp_path, {"one": one})
    # 10% of 48 coordinates are 4.8, so 5.
    assert (
        "10%, violated: Networks that see only the 5 most attributed coordinates reach 80.5%, those that "
        "see only the 5 least attributed 60.0%: \u22128.0 points, 95% interval \u221215.0 to \u22121.0 (2 "
        "repeats). Their "
        "masks alone give 40.0% and 30.0%." in page
    )
    assert "\u22122.0 to +12.0 (2 repeats), which holds zero." in page
    assert "Undecided: it does not beat the masks alone." in page
    assert "A random order differs by" in page
    assert "10% is 5 of 48 coordinates; 50% is 24 of 48 coordinates." in page
    removed = measured(measured={**one.config["measured"], "mode": "remove"})
    page = page_of(tmp_path, {"one": removed})
    assert "Networks that see all but the 24 most attributed coordinates reach 80.5%" in page
    assert "Accuracy without the bottom minus accuracy without the top" in page
    assert "top 10% taken from the coordinates by one" in page


def test_what_is_not_known_is_said(measured: Build, tmp_path: Path) -> None:
    one = with_verdicts(measured(), [0.1, 0.1], ["undecided"] * 2, half=None)
    one.results["curve"][0]["top"]["value"] = None
    page = page_of(tmp_path, {"one": one})
    assert "10%, undecided: not measured." in page
    assert "of a single repeat, which has no interval" in page
    assert not {"nan", "None"} & set(re.sub("<style>.*</style>|<[^>]+>", " ", page).split())


def test_others_lie_apart_only_with_disjoint_intervals(measured: Build) -> None:
    first = with_verdicts(measured(), [-0.08, 0.05], ["violated", "satisfied"])
    other = with_verdicts(measured("adversarial"), [0.1, 0.06], ["satisfied", "satisfied"])
    (told,) = diffroar_verdict({"Natural": first, "Robust": other}).text
    assert told == (
        "The difference of \u201cRobust\u201d beside that of \u201cNatural\u201d: higher at 10%; the 95% "
        "intervals overlap at 50%."
    )
    single = with_verdicts(measured("adversarial"), [0.1, 0.06], ["undecided"] * 2, half=None)
    assert diffroar_verdict({"Natural": first, "Single": single}).text == []


@pytest.mark.parametrize("leaks", [False, True])
def test_a_leak_of_the_masks_is_named_only_where_there_is_one(measured: Build, leaks: bool) -> None:
    one = measured()
    ends = {"top": number(0.12) | {"leaks": False}, "bottom": number(0.34) | {"leaks": leaks}}
    one.results["control"]["curve"] = [{"level": 0.5, **ends}]
    told = " ".join(diffroar_verdict({"one": one}).text)
    assert "reach at most 34.0% (bottom, 50%); always naming the largest class gives 34.0%" in told
    assert ("The shape of the masks tells about the class" in told) is leaks


def test_one_of_roar_and_kar_alone_has_no_chart_of_its_own(measured: Build, tmp_path: Path) -> None:
    one = measured()
    assert "ROAR and KAR" not in page_of(tmp_path, {"one": one})
    one.results["roar"].extend({"level": level, "accuracy": number(0.7)} for level in LEVELS)
    page = page_of(tmp_path, {"one": one})
    assert "ROAR and KAR" in page
    assert "ROAR: top removed: from 70.0% at 10% to 70.0% at 50%" in page


def test_more_than_a_page_can_tell_apart_are_refused(measured: Build, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="several pages"):
        page_of(tmp_path, {str(number): measured() for number in range(7)})
