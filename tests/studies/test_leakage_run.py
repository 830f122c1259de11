"""A small leakage study: what is trained, what is shared, what tables and figures say of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from veridical.cli.main import main
from veridical.jobs import Progress
from veridical.metrics.localisation import LEVELS
from veridical.runtime.errors import RunError, UsageError
from veridical.studies.leakage import Leakage, LeakageOptions, LevelsOptions, compare_levels, draw_levels
from veridical.studies.study import Context, StudyResult

NATURAL, ROBUST = "Natural training", "Adversarial training (linf 0.1)"


def picture(_model: object, inputs: Tensor, *_: object, **__: object) -> Tensor:
    """An explanation of a caller's own: the image."""
    return inputs.clone()


@pytest.fixture
def study(leaked: LeakageOptions) -> StudyResult:
    """What the finished study found, read anew: a test may change it."""
    return Leakage.read(leaked.out)


def test_every_training_has_accuracies_and_measures_with_intervals(study: StudyResult) -> None:
    results = study.results
    assert list(results["models"]) == [NATURAL, ROBUST]
    for by_position in results["models"].values():
        assert list(by_position) == ["random", "top"]
        for model in by_position.values():
            assert model["accuracy"]["seeds"]["n"] == 2
            assert [each["n"] for each in model["accuracy"]["each"]] == [30, 30]
            assert [each["n"] for each in model["under_attack"]["linf 0.1"]["each"]] == [10, 10]
            null = model["maps"]["input-gradient"]["null"]
            assert [point["examples"]["n"] for point in null["topk"]] == [20] * 7
            assert null["area"]["examples"]["value"] == 0.5
            assert 0 <= null["zero"]["seeds"]["value"] <= 1
    pairs = {"left_at_ink", "left_in_block", "same_digit", "other_class", "of_the_digit"}
    for title in (NATURAL, ROBUST):
        maps = {at: results["models"][title][at]["maps"]["input-gradient"] for at in ("random", "top")}
        assert pairs <= maps["random"].keys()
        assert not pairs & maps["top"].keys()


def test_leakage_is_the_difference_that_other_instances_make(study: StudyResult) -> None:
    for title, models in study.results["models"].items():
        here, there = (models[at]["maps"]["input-gradient"]["null"] for at in ("random", "top"))
        found = study.results["leakage"]["input-gradient"][title]
        for interval in ("examples", "seeds"):
            expected = here["mass"][interval]["value"] - there["mass"][interval]["value"]
            assert found["mass"][interval]["value"] == pytest.approx(expected, abs=1e-12)
        last = here["topk"][-1]["seeds"]["value"] - there["topk"][-1]["seeds"]["value"]
        assert found["topk"][-1]["seeds"]["value"] == pytest.approx(last, abs=1e-12)


def test_studies_with_one_store_share_trainings(leaked: LeakageOptions, study: StudyResult) -> None:
    seen: dict[str, Progress] = {}
    changes: dict[str, Any] = {"position": ["random"], "objective": ["natural"], "out": f"{leaked.out}-wider"}
    names = ["input-gradient", "gradient-x-input"]
    results = Leakage(replace(leaked, **changes, attribution=names)).run(seen.__setitem__).results
    stages = {stage: (state.total, state.reused) for stage, state in seen.items()}
    assert stages == {"training": (2, 2), "explaining": (6, 4)}
    assert results["leakage"] == {}
    maps, there = (one["models"][NATURAL]["random"]["maps"] for one in (results, study.results))
    assert maps["input-gradient"] == there["input-gradient"]
    # Black pixels have no part in gradient x input.
    assert maps["gradient-x-input"]["null"]["zero"]["seeds"]["value"] > 0.1


def test_results_of_other_data_are_not_taken(leaked: LeakageOptions, tmp_path: Path) -> None:
    plan = Leakage(leaked)
    values = {**plan.all_cases[0].values, "data": {"checksum": "0" * 64}}
    with pytest.raises(RunError, match="other images than were planned with"):
        Leakage.train(values, Context(tmp_path, None, plan.where()))


def test_every_radius_goes_with_its_norm(leaked: LeakageOptions) -> None:
    given: dict[str, Any] = {"norm": ["linf", "l2"], "radius": [0.1, 1.5]}
    assert Leakage(replace(leaked, norm=["l2"], radius=[0.5, 1])).balls == [("l2", 0.5), ("l2", 1.0)]
    assert Leakage(replace(leaked, norm=["linf", "l2"])).balls == [("linf", 0.1), ("l2", 1.0)]
    plan = Leakage(replace(leaked, objective=["natural", "ig-norm"], position=["top"], **given))
    assert plan.titles == [NATURAL, "IG-NORM (linf 0.1)", "IG-NORM (l2 1.5)"]
    robust = [arm.settings.robust for arm in plan.conditions]
    assert [(one.norm, one.radius) for one in robust if one is not None] == [("linf", 0.1), ("l2", 1.5)]


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_for_documents_has_every_level(study: StudyResult) -> None:
    head, _, *lines = map(cells_of, compare_levels(LevelsOptions([str(study.folder)])).splitlines())
    assert head[4:] == ["2.5%", "5%", "10%", "15%", "20%", "25%", "30%", "mass"]
    assert len(lines) == 2 * 2
    assert lines[3][:2] == [ROBUST, "BlockMNIST-Top"]
    found = study.results["models"][ROBUST]["top"]
    null = found["maps"]["input-gradient"]["null"]
    measured = {"accuracy": found["accuracy"], "under PGD": found["under_attack"]["linf 0.1"]}
    for column, two in {**measured, "10%": null["topk"][2], "mass": null["mass"]}.items():
        interval = two["seeds"]
        half = max(min(interval["high"], 1) - interval["value"], interval["value"] - max(interval["low"], 0))
        assert lines[3][head.index(column)] == f"{100 * interval['value']:.1f} ±{100 * half:.1f}"
    assert lines[0][3] == ""  # natural training has no ball


def test_the_figure_for_documents_draws_every_training(study: StudyResult, tmp_path: Path) -> None:
    drawn = draw_levels({"MLP": study}, LevelsOptions([]))
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["MLP, BlockMNIST", "MLP, BlockMNIST-Top"]
    for axes, position in zip(drawn.axes, ("random", "top"), strict=True):
        for line, title in zip(axes.lines, (NATURAL, ROBUST), strict=False):  # then the area's level
            shares = study.results["models"][title][position]["maps"]["input-gradient"]["null"]["topk"]
            expected = [(k, two["seeds"]["value"]) for k, two in zip(LEVELS, shares, strict=True)]
            np.testing.assert_array_equal(line.get_xydata(), expected)
        assert not axes.collections  # intervals over two seeds are wider than any share
    # Each kind of training is named once, below all charts.
    named = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert named == [NATURAL, ROBUST, "its share of the area"]
    target = tmp_path / "new" / "null.svg"
    assert main(["leakage-levels", str(study.folder), "--figure", str(target)]) == 0
    assert "leaked, BlockMNIST-Top" in target.read_text()  # the folder's name


def test_documents_choose_studies_balls_and_levels(study: StudyResult) -> None:
    given: dict[str, Any] = {"folders": [str(study.folder)] * 2, "titles": ["MLP", "CNN"]}
    table = compare_levels(LevelsOptions(**given, ball="linf 0.1", levels=[0.05, 0.2]))
    head, _, *lines = map(cells_of, table.splitlines())
    assert head[5:] == ["5%", "20%", "mass"]
    assert [line[0] for line in lines] == ["MLP"] * 4 + ["CNN"] * 4
    for training in study.config["models"][ROBUST].values():
        training["radius"] = 0.2
    drawn = draw_levels({"MLP": study}, LevelsOptions([], ball="linf 0.1"))
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [NATURAL, "its share of the area"]
    wrong = {"ball": "l2 1", "attribution": "random", "titles": ["MLP", "MLP"], "levels": [0.07]}
    for name, value in wrong.items():
        with pytest.raises(UsageError, match=name):
            compare_levels(LevelsOptions(**given | {name: value}))


def set_accuracy(study: StudyResult, title: str, value: float) -> None:
    """As if both trainings of a kind had this accuracy, on either data set."""
    for found in study.results["models"][title].values():
        found["accuracy"] = {"seeds": {"value": value, "n": 2}, "examples": None}


def test_one_training_of_each_kind_shows_no_cause(study: StudyResult) -> None:
    for title in study.results["models"]:
        set_accuracy(study, title, 0.9)
    assert all("igits of other instances" in sentence for sentence in Leakage.findings(study))
    for found in study.results["leakage"]["input-gradient"].values():
        found["mass"]["seeds"]["n"] = 1
        found["mass"]["examples"] = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 20}
    for sentence in Leakage.findings(study):
        assert "several seeds would show" in sentence
        assert "add " not in sentence.replace("add to it", "")


def test_code_of_the_caller_explains_where_it_is_trusted(leaked: LeakageOptions) -> None:
    name = f"{__name__}:picture"
    changes: dict[str, Any] = {"attribution": [name], "out": f"{leaked.out}-own", "objective": ["natural"]}
    with pytest.raises(UsageError, match="trust_code"):
        Leakage(replace(leaked, **changes))
    result = Leakage(replace(leaked, **changes, trust_code=True)).run()
    maps = result.results["models"][NATURAL]["random"]["maps"][name]
    # The picture is drawn in the digit's block, and in the null block's frame.
    assert 0 < maps["null"]["mass"]["seeds"]["value"] < 1


def test_a_training_that_learnt_nothing_is_called_so(study: StudyResult) -> None:
    set_accuracy(study, ROBUST, 0.35)  # of three classes
    set_accuracy(study, NATURAL, 0.9)
    natural, robust = Leakage.findings(study)
    warning = "it has hardly learnt anything (accuracy 35.0%, guessing 33.3%)"
    assert robust.endswith(f"On BlockMNIST-Top {warning}, so nothing follows from its maps.")
    assert robust.count("hardly learnt") == 2
    assert "hardly" not in natural
    # A mean over trainings hides the one that failed.
    study.results["models"][NATURAL]["top"]["accuracy"]["each"] = [{"value": 0.35}, {"value": 0.97}]
    sentence = Leakage.findings(study)[0]
    assert "On BlockMNIST-Top it has hardly learnt anything (1 of 2 trainings; accuracy 35.0%" in sentence
    assert "Digits of other instances" not in sentence
