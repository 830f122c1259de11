"""A small leakage study from options to the page: what is trained, what continues, what is refused."""

from __future__ import annotations

import json
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
from veridical.studies.leakage import (
    Leakage,
    LeakageOptions,
    LevelsOptions,
    compare_levels,
    draw_levels,
)
from veridical.studies.study import Context


def picture(_model: object, inputs: Tensor, *_: object, **__: object) -> Tensor:
    """An explanation of a caller's own: the image."""
    return inputs.clone()


NATURAL, ROBUST = "Natural training", "Adversarial training (linf 0.1)"


def write_bars(path: Path) -> None:
    """An .npz of 8x8 images on black: the class is the column of a bar, the grey levels are random."""
    draws = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for name, count in (("train", 160), ("test", 30)):
        labels = np.arange(count) % 3
        images = np.zeros((count, 8, 8), dtype=np.uint8)
        for row, label in enumerate(labels):
            images[row, 1:7, 1 + 2 * label : 3 + 2 * label] = draws.integers(150, 256, (6, 2))
        arrays |= {f"x_{name}": images, f"y_{name}": labels}
    np.savez(path, **arrays)


def options_in(folder: Path, **changes: Any) -> LeakageOptions:
    values: dict[str, Any] = {
        "out": str(folder / "study"),
        "store": str(folder / "store"),
        "source": str(folder / "bars.npz"),
        "model_options": {"width": 12},
        "objective": ["natural", "adversarial"],
        "seeds": 2,
        "epochs": 1.0,
        "batch_size": 40,
        "explained": 20,
        "attacked": 10,
        "workers": 1,
        "progress": False,
        **changes,
    }
    return LeakageOptions(**values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study, its store and its source."""
    place = tmp_path_factory.mktemp("leakage")
    write_bars(place / "bars.npz")
    Leakage(options_in(place)).run()
    return place


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "study" / "result.json").read_text())
    return found


def stages(seen: dict[str, Progress]) -> dict[str, tuple[int, int]]:
    return {stage: (state.total, state.reused) for stage, state in seen.items()}


def test_every_training_has_accuracies_and_measures_with_intervals(folder: Path) -> None:
    results = document(folder)["results"]
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


def test_leakage_is_the_difference_that_other_instances_make(folder: Path) -> None:
    results = document(folder)["results"]
    for title in (NATURAL, ROBUST):
        here, there = (
            results["models"][title][at]["maps"]["input-gradient"]["null"] for at in ("random", "top")
        )
        found = results["leakage"]["input-gradient"][title]
        for interval in ("examples", "seeds"):
            expected = here["mass"][interval]["value"] - there["mass"][interval]["value"]
            assert found["mass"][interval]["value"] == pytest.approx(expected, abs=1e-12)
        last = here["topk"][-1]["seeds"]["value"] - there["topk"][-1]["seeds"]["value"]
        assert found["topk"][-1]["seeds"]["value"] == pytest.approx(last, abs=1e-12)


def test_the_same_command_continues_and_finds_everything_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = document(folder)
    (folder / "study" / "result.json").unlink()
    monkeypatch.setattr(Leakage, "train", None)
    monkeypatch.setattr(Leakage, "explain", None)
    seen: dict[str, Progress] = {}
    Leakage(options_in(folder)).run(seen.__setitem__)
    assert stages(seen) == {"training": (8, 8), "explaining": (16, 16)}
    assert {key: document(folder)[key] for key in ("results", "config")} == {
        key: before[key] for key in ("results", "config")
    }


def test_studies_with_one_store_share_trainings(folder: Path) -> None:
    seen: dict[str, Progress] = {}
    wider = options_in(
        folder,
        out=str(folder / "wider"),
        position=["random"],
        objective=["natural"],
        attribution=["input-gradient", "gradient-x-input"],
    )
    results = Leakage(wider).run(seen.__setitem__).results
    assert stages(seen) == {"training": (2, 2), "explaining": (6, 4)}
    assert results["leakage"] == {}
    maps = results["models"][NATURAL]["random"]["maps"]
    there = document(folder)["results"]["models"][NATURAL]["random"]["maps"]
    assert maps["input-gradient"] == there["input-gradient"]
    # Black pixels have no part in gradient x input.
    assert maps["gradient-x-input"]["null"]["zero"]["seeds"]["value"] > 0.1


def test_another_study_in_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="belongs to another run: seeds"):
        Leakage(options_in(folder, seeds=1)).run()


def test_results_of_other_data_are_not_taken(folder: Path) -> None:
    plan = Leakage(options_in(folder))
    values = {**plan.all_cases[0].values, "data": {"checksum": "0" * 64}}
    with pytest.raises(RunError, match="other images than were planned with"):
        Leakage.train(values, Context(folder / "nowhere", None, plan.where()))


def test_every_radius_goes_with_its_norm(folder: Path) -> None:
    given = {"norm": ["linf", "l2"], "radius": [0.1, 1.5]}
    assert Leakage(options_in(folder, norm=["l2"], radius=[0.5, 1])).balls == [("l2", 0.5), ("l2", 1.0)]
    assert Leakage(options_in(folder, norm=["linf", "l2"])).balls == [("linf", 0.1), ("l2", 1.0)]
    plan = Leakage(options_in(folder, objective=["natural", "ig-norm"], position=["top"], **given))
    assert plan.titles == [NATURAL, "IG-NORM (linf 0.1)", "IG-NORM (l2 1.5)"]
    robust = [arm.settings.robust for arm in plan.conditions]
    assert [(one.norm, one.radius) for one in robust if one is not None] == [("linf", 0.1), ("l2", 1.5)]
    refused: list[tuple[dict[str, Any], str]] = [
        ({"norm": ["linf", "l2"], "radius": [0.1]}, "one norm, or one for each"),
        ({"radius": []}, "one norm, or one for each"),
        ({"radius": [0.1, 0.1]}, "different radii"),
        ({"radius": [-0.1], "objective": ["natural"]}, "radius"),
    ]
    for wrong, message in refused:
        with pytest.raises(UsageError, match=message):
            Leakage(options_in(folder, **wrong))


def test_options_that_do_not_fit_are_refused(folder: Path) -> None:
    cases = {
        "objective": [],
        "position": ["top", "top"],
        "attribution": [],
        "seeds": 0,
        "explained": 1,
        "gallery": -1,
    }
    for name, value in cases.items():
        with pytest.raises(UsageError, match=name):
            Leakage(options_in(folder, **{name: value}))


def test_the_page_says_what_was_found_without_loading_anything(folder: Path) -> None:
    study = Leakage.read(folder / "study")
    page = Leakage.write_page(study).read_text()
    for text in ("BlockMNIST-Top", ROBUST, "The same digit in the other place", "How sure the models are"):
        assert text in page
    assert "of the top 5% of input-gradient" in page
    assert not [part for part in ("src=", "href=") if f'{part}"http' in page]
    with pytest.raises(RunError, match="does not exist"):
        Leakage.read(folder / "nothing")


def test_the_table_for_documents_has_every_level(folder: Path) -> None:
    head, _, *lines = compare_levels(LevelsOptions([str(folder / "study")])).splitlines()
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert columns[4:] == ["2.5%", "5%", "10%", "15%", "20%", "25%", "30%", "mass"]
    assert len(lines) == 2 * 2
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells[:2] == [ROBUST, "BlockMNIST-Top"]
    found = document(folder)["results"]["models"][ROBUST]["top"]
    for column, two in (
        ("accuracy", found["accuracy"]),
        ("under PGD", found["under_attack"]["linf 0.1"]),
        ("10%", found["maps"]["input-gradient"]["null"]["topk"][2]),
        ("mass", found["maps"]["input-gradient"]["null"]["mass"]),
    ):
        interval = two["seeds"]
        half = max(min(interval["high"], 1) - interval["value"], interval["value"] - max(interval["low"], 0))
        assert cells[columns.index(column)] == f"{100 * interval['value']:.1f} ±{100 * half:.1f}"
    assert [cell.strip() for cell in lines[0].strip("|").split("|")][3] == ""  # natural training has no ball


def test_the_figure_for_documents_draws_natural_training_and_one_ball(folder: Path, tmp_path: Path) -> None:
    study = Leakage.read(folder / "study")
    drawn = draw_levels({"MLP": study}, LevelsOptions([]))
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["MLP, BlockMNIST", "MLP, BlockMNIST-Top"]
    for axes, position in zip(drawn.axes, ("random", "top"), strict=True):
        for line, title in zip(axes.lines, (NATURAL, ROBUST, None), strict=True):
            if title is not None:  # the last one is the area's level
                shares = study.results["models"][title][position]["maps"]["input-gradient"]["null"]["topk"]
                expected = [(k, two["seeds"]["value"]) for k, two in zip(LEVELS, shares, strict=True)]
                np.testing.assert_array_equal(line.get_xydata(), expected)
        assert not axes.collections  # intervals over two seeds are wider than any share
    # Each kind of training is named once, below all charts.
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [
        NATURAL,
        ROBUST,
        "its share of the area",
    ]
    assert (
        main(["leakage-levels", str(folder / "study"), "--figure", str(tmp_path / "new" / "null.svg")]) == 0
    )
    assert "study, BlockMNIST-Top" in (tmp_path / "new" / "null.svg").read_text()  # the folder's name


def test_documents_choose_studies_balls_and_levels(folder: Path) -> None:
    given: dict[str, Any] = {"folders": [str(folder / "study")] * 2, "titles": ["MLP", "CNN"]}
    table = compare_levels(LevelsOptions(**given, ball="linf 0.1", levels=[0.05, 0.2]))
    head, _, *lines = table.splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]][5:] == ["5%", "20%", "mass"]
    assert [line.split("|")[1].strip() for line in lines] == ["MLP"] * 4 + ["CNN"] * 4
    wider = Leakage.read(folder / "study")
    for training in wider.config["models"][ROBUST].values():
        training["radius"] = 0.2
    drawn = draw_levels({"MLP": wider}, LevelsOptions([], ball="linf 0.1"))
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == [NATURAL, "its share of the area"]
    cases: list[dict[str, Any]] = [
        {"ball": "l2 1"},
        {"attribution": "random"},
        {"titles": ["MLP", "MLP"]},
        {"titles": ["MLP"]},
        {"levels": [0.07]},
    ]
    for wrong in cases:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            compare_levels(LevelsOptions(**{**given, **wrong}))


def test_one_training_of_each_kind_shows_no_cause(folder: Path) -> None:
    study = Leakage.read(folder / "study")
    for by_position in study.results["models"].values():
        for found in by_position.values():  # as if all had learnt
            found["accuracy"] = {"seeds": {"value": 0.9, "n": 2}, "examples": None}
    assert all("igits of other instances" in sentence for sentence in Leakage.findings(study))
    for found in study.results["leakage"]["input-gradient"].values():
        found["mass"]["seeds"]["n"] = 1
        found["mass"]["examples"] = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 20}
    for sentence in Leakage.findings(study):
        assert "several seeds would show" in sentence
        assert "add " not in sentence.replace("add to it", "")


def test_code_of_the_caller_explains_where_it_is_trusted(folder: Path) -> None:
    name = f"{__name__}:picture"
    options = options_in(folder, attribution=[name], out=str(folder / "own"), objective=["natural"])
    with pytest.raises(UsageError, match="trust_code"):
        Leakage(options)
    result = Leakage(replace(options, trust_code=True)).run()
    maps = result.results["models"][NATURAL]["random"]["maps"][name]
    # The picture is drawn in the digit's block, and in the null block's frame.
    assert 0 < maps["null"]["mass"]["seeds"]["value"] < 1


def test_a_training_that_learnt_nothing_is_called_so(folder: Path) -> None:
    study = Leakage.read(folder / "study")
    for found in study.results["models"][ROBUST].values():
        # Of three classes; the other training is left as it was.
        found["accuracy"] = {
            kind: {"value": 0.35, "low": 0.3, "high": 0.4, "n": 2} for kind in ("examples", "seeds")
        }
    for found in study.results["models"][NATURAL].values():
        found["accuracy"] = {
            kind: {"value": 0.9, "low": 0.8, "high": 1.0, "n": 2} for kind in ("examples", "seeds")
        }
    natural, robust = Leakage.findings(study)
    warning = (
        "it has hardly learnt anything (accuracy 35.0%, guessing 33.3%), so nothing follows from its maps."
    )
    assert robust.endswith(f"On BlockMNIST-Top {warning}")
    assert robust.count("hardly learnt") == 2
    assert "hardly" not in natural
    # A mean over trainings hides the one that failed.
    top = study.results["models"][NATURAL]["top"]["accuracy"]
    top["each"] = [{"value": 0.35}, {"value": 0.97}]
    sentence = Leakage.findings(study)[0]
    assert "On BlockMNIST-Top it has hardly learnt anything (1 of 2 trainings; accuracy 35.0%" in sentence
    assert "Digits of other instances" not in sentence


def test_the_command_measures_prints_and_names_its_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--source", str(folder / "bars.npz"), "--store", str(folder / "store"), "--no-progress"]
    small = ["--model-options.width", "12", "--seeds", "1", "--epochs", "1", "--batch-size", "40"]
    few = ["--explained", "20", "--attacked", "10", "--workers", "1"]
    out = str(folder / "by-command")
    arguments = ["leakage", "--data", "block-mnist", "--objective", "natural", *shared, *small, *few]
    assert main([*arguments, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "Natural training: of the top 5% of input-gradient" in printed
    assert f"report: {out}/report.html" in printed
    assert Path(out, "report.html").stat().st_size > 10_000
    assert main([*arguments, "--out", out, "--norm", "linf", "l2", "--radius", "0.1"]) == 2
    assert "one norm, or one for each" in capsys.readouterr().err
