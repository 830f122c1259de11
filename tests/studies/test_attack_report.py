"""Finished attacks side by side: what compares, what is shown, and the commands that do it."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.cli.main import main
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.files import read_json, write_json
from veridical.studies.attack_report import sections, write_attack_report
from veridical.studies.attack_run import attack_run
from veridical.studies.attacked import (
    Attacked,
    check_comparable,
    named,
    read_attack,
    run_title,
    training_log,
)

from .conftest import options_for


@pytest.fixture
def both(place: Path) -> dict[str, Attacked]:
    return named([read_attack(place / f"{name}-attack") for name in ("natural", "adversarial")])


def test_titles(both: dict[str, Attacked]) -> None:
    natural, adversarial = both.values()
    assert list(both) == ["Natural training", "Adversarial training"]
    elsewhere = Attacked(Path("again"), natural.document, natural.arrays)
    titles = ["Natural training (natural-attack)", "Natural training (again)", "Adversarial training"]
    assert list(named([natural, elsewhere, adversarial])) == titles
    assert list(named([natural, adversarial], ["a", "b"])) == ["a", "b"]
    with pytest.raises(UsageError, match="2 names"):
        named([natural, adversarial], ["a"])
    with pytest.raises(UsageError, match="a different name"):
        named([natural, natural])
    assert run_title(adversarial) == "Adversarial training"


def test_sections_show_the_same_examples_of_every_class(both: dict[str, Attacked]) -> None:
    first, second = sections(both, gallery=6)
    assert len(first.gallery) == len(second.gallery) == 6
    for here, there in zip(first.gallery, second.gallery, strict=True):
        np.testing.assert_array_equal(here.image, there.image)
        assert here.label == there.label
    assert sorted(item.label for item in first.gallery) == ["0", "0", "1", "1", "2", "2"]
    attacked = both["Natural training"]
    assert first.metrics["kendall_tau"] == attacked.results["kendall_tau"]
    assert first.trace is not None
    assert first.trace.shape == (attacked.results["correctly_classified"], 3)
    assert len(first.distributions["kendall_tau"]) == attacked.results["correctly_classified"]
    assert first.k == 8
    # Stripes are in no paper.
    assert not first.published
    assert not first.recalled


def test_published_numbers_stand_beside_the_same_attack_only(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "natural-attack", tmp_path / "a")
    document = read_json(tmp_path / "a" / "result.json")

    def published(**changes: Any) -> bool:
        changed = document | {"config": document["config"] | changes}
        changed["config"]["data"] = document["config"]["data"] | {"name": "fashion-mnist"}
        write_json(tmp_path / "a" / "result.json", changed)
        (section,) = sections({"a": read_attack(tmp_path / "a")})
        return bool(section.published) and bool(section.recalled)

    assert published()
    assert not published(evaluation=document["config"]["evaluation"] | {"radius": 0.2})
    assert not published(norm="l2")
    assert not published(attack={"direction": "random"})
    assert not published(attribution={"method": "InputGradient"})


def test_attacks_of_another_kind_do_not_compare(
    place: Path, tmp_path: Path, both: dict[str, Attacked]
) -> None:
    check_comparable(both)
    attack_run(options_for(place, "natural", out=str(tmp_path / "a"), examples=5))
    other = read_attack(tmp_path / "a")
    with pytest.raises(UsageError, match="do not compare: their examples differs, 20 and 5"):
        write_attack_report(
            tmp_path / "r.html", {"a": both["Natural training"], "b": other}, title="", lead=""
        )


def test_a_folder_that_is_no_attack_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        read_attack(tmp_path)
    with pytest.raises(RunError, match="not a finished attack"):
        read_attack(place / "natural")


def test_training_logs_have_a_record_per_epoch(place: Path, tmp_path: Path) -> None:
    records = training_log(place / "adversarial")
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[0]["loss"] > records[-1]["loss"] > 0
    assert records[-1]["validation_accuracy"] > 0.5
    assert "perturbed_loss" in records[0]["parts"]
    assert training_log(tmp_path) == []


def test_the_attack_command_writes_a_page_and_prints_the_numbers(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["attack", "--run", str(place / "natural"), "--out", str(tmp_path / "a"), "--examples", "6"]
    arguments += ["--steps", "2", "--radius", "0.05", "0.1", "--progress=false"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "CO, Kendall's tau" in shown
    assert f"report: {tmp_path / 'a' / 'report.html'}" in shown.replace("\n", "")
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "Natural training" in page
    assert not re.search(r"(src|href)=\"http", page)
    results = read_json(tmp_path / "a" / "result.json")["results"]
    assert len(results["curve"]) == 2
    assert main([*arguments[:-1], "--seed", "3"]) == 2
    assert "seed is 0 there, 3 here" in capsys.readouterr().err


def test_the_compare_command_puts_attacks_side_by_side(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(place / "natural-attack"), str(place / "adversarial-attack")]
    assert main(["compare", "--attacks", *folders, "--out", str(tmp_path / "c")]) == 0
    shown = capsys.readouterr().out
    assert "Adversarial training" in shown
    assert "explanations" in shown
    document = read_json(tmp_path / "c" / "result.json")
    assert list(document["results"]) == ["Natural training", "Adversarial training"]
    assert "Adversarial training" in (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert main(["compare", "--attacks", folders[0], "--out", str(tmp_path / "d")]) == 2
    assert "at least two" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
