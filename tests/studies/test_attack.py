"""attack_run: what a folder holds, how options become settings, and what it refuses."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.attacks.robustness import measure_robustness
from veridical.jobs import Progress
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.files import read_json
from veridical.studies.attack import Attack, count_attacked
from veridical.training.run import load

from .conftest import options_for

TRAPPED = ("json", "multiprocessing", "numpy", "pickle", "rich", "torch", "typing", "yaml")


@pytest.fixture
def by_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 16 images, so that the thirty there are make two."""
    monkeypatch.setattr("veridical.attacks.robustness.batch_size", lambda *_: 16)


def test_the_folder_holds_the_numbers_of_measure_robustness(place: Path) -> None:
    folder = place / "natural-attack"
    document = read_json(folder / "result.json")
    assert list(document) == ["schema", "results", "config", "environment", "timing", "files", "study"]
    results, config = document["results"], document["config"]
    run = load(place / "natural")
    lengths: dict[str, Any] = {"steps": 3, "step_size": 0.01, "pgd_steps": 3, "pgd_step_size": 0.01}
    direct = measure_robustness(
        run.model, run.data().test, radius=0.1, k=8, **lengths, examples=20, pictures=32
    )
    assert results == direct.to_dict()
    assert results["kendall_tau"]["n"] == results["correctly_classified"]
    assert (config["protocol"]["name"], config["protocol"]["steps"]) == ("paper-fast", 3)
    assert config["evaluation"]["radius"] == config["radii"][0] == 0.1
    assert config["attack"] == {"direction": "topk", "k": 8}
    # Neither paths nor the machine are part of what makes two results equal.
    assert str(place) not in str({key: value for key, value in config.items() if key not in ("run", "data")})
    assert document["environment"]["run"] == str(place / "natural")
    with np.load(folder / "examples.npz", allow_pickle=False) as arrays:
        assert len(arrays["kendall_tau"]) == 20
        assert arrays["classes"].tolist() == ["0", "1", "2"]
        right = arrays["predicted"] == arrays["label"]
        assert np.nanmean(arrays["kendall_tau"][right]) == pytest.approx(results["kendall_tau"]["value"])


def test_the_same_options_find_it_finished(place: Path) -> None:
    options = options_for(place, "natural")
    before = read_json(place / "natural-attack" / "result.json")
    told: list[Progress] = []
    again = Attack(options).run(lambda _, state: told.append(state))
    assert {(state.done, state.reused) for state in told} == {(1, 1)}
    assert again.results == before["results"]
    assert again.document["timing"] == before["timing"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 19}, "examples is 20 there, 19 here"),
        ({"protocol": "strong"}, 'protocol.name is "paper-fast" there, "strong" here'),
        ({"run": "adversarial"}, "run.weights"),
        ({"out": "natural"}, "`veridical train` made it, and this is `veridical attack`"),
        ({"run": "natural-attack", "out": "new"}, "not of a training"),
    ],
)
def test_another_attack_is_not_mixed_in(place: Path, changes: dict[str, Any], message: str) -> None:
    paths = {name: str(place / changes[name]) for name in ("run", "out") if name in changes}
    with pytest.raises((UsageError, RunError), match=message):
        Attack(options_for(place, "natural", **changes | paths)).run()


@pytest.mark.usefixtures("by_sixteen")
def test_interrupted_and_continued_it_ends_the_same(place: Path, tmp_path: Path) -> None:
    options = options_for(place, "natural", out=str(tmp_path / "a"), examples=30)

    def interrupt(_: str, state: Progress) -> None:
        if state.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Attack(options).run(interrupt)
    assert not (tmp_path / "a" / "result.json").exists()
    assert count_attacked(tmp_path / "a") == 16
    told: list[Progress] = []
    continued = Attack(options).run(lambda _, state: told.append(state))
    assert (told[0].done, told[0].reused, told[-1].done) == (1, 1, 2)
    unbroken = Attack(replace(options, out=str(tmp_path / "b"))).run()
    assert (continued.results, continued.config) == (unbroken.results, unbroken.config)


def test_batches_of_before_a_measure_was_added_are_examined_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, told = options_for(place, "natural", out=str(tmp_path / "a"), examples=9, steps=1), []
    with monkeypatch.context() as before:
        before.setattr("veridical.studies.attack.measures", lambda _: {})
        Attack(options).run()
    for _ in range(2):
        Attack(options).run(lambda _, state: told.append(state.reused))
    assert (told[0], told[-1]) == (0, 1)


def test_radii_make_a_curve_whose_main_point_is_the_runs_and_threads_are_given_back(
    place: Path, tmp_path: Path
) -> None:
    options = options_for(place, "adversarial", out=str(tmp_path / "a"), radius=[0.2, 0.1, 0.05], examples=9)
    threads = torch.get_num_threads()
    document = Attack(replace(options, threads=threads + 1)).run().document
    assert (torch.get_num_threads(), document["environment"]["threads"]) == (threads, threads + 1)
    assert document["results"]["radius"] == 0.1
    assert [row["radius"] for row in document["results"]["curve"]] == [0.05, 0.1, 0.2]
    with np.load(tmp_path / "a" / "examples.npz") as arrays:
        assert arrays["radius-0.2/kendall_tau"].shape == (9,)
    other = replace(options, out=str(tmp_path / "b"), radius=[0.02, 0.3], examples=3)
    assert Attack(other).run().results["radius"] == 0.3


def test_directions_methods_and_norms(place: Path, tmp_path: Path) -> None:
    def attacked(name: str, **changes: object) -> dict[str, Any]:
        options = options_for(place, "natural", out=str(tmp_path / name), examples=6, **changes)
        return dict(Attack(options).run().document)

    region = attacked("region", attack="target", region=[0, 4, 0, 4])
    assert region["config"]["attack"] == {"direction": "target", "top": 0, "bottom": 4, "left": 0, "right": 4}
    assert attacked("centre", attack="mass-centre")["config"]["attack"] == {"direction": "mass-centre"}
    gradient = attacked("gradient", attack="random", attribution="input-gradient")
    assert gradient["config"]["attribution"]["method"] == "InputGradient"
    assert gradient["results"]["kendall_tau"]["value"] < 1
    smooth = attacked("smooth", attribution="smoothgrad", seed=3, steps=1)
    assert (smooth["config"]["attribution"]["seed"], smooth["results"]["kendall_tau"]["n"] > 0) == (3, True)
    expected = attacked("expected", attribution="expected-gradients", steps=1)["config"]["attribution"]
    assert expected["baselines"]["shape"] == [64, 1, 8, 8]
    with pytest.raises(UsageError, match=r"attribution: expected one of input-gradient.*--attack random"):
        attacked("noise", attribution="random")
    assert attacked("noise", attribution="random", attack="random")["results"]["kendall_tau"]["value"] == 1
    sphere = attacked("sphere", norm="l2", radius=[0.5])
    assert sphere["config"]["evaluation"]["step_size"] == 0.05
    held = attacked("held", split="validation")
    assert held["config"]["data"]["split"] == "validation"
    assert held["config"]["data"]["images"] == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": "target"}, "region"),
        ({"region": [0, 4, 0, 4]}, "region"),
        ({"attack": "target", "region": [0, 4]}, "four numbers"),
        ({"attack": "target", "region": [0, 9, 0, 4]}, "does not lie in maps of 8 x 8"),
        ({"norm": "l2"}, "give one"),
        ({"k": 65}, "k"),
        ({"data": "mnist-5k"}, r"trained on .*stripes.*\[1, 8, 8\].*mnist-5k"),
        ({"device": "cuda:99"}, "cuda"),
    ],
)
def test_options_that_cannot_be_used(
    place: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Attack(options_for(place, "natural", out=str(tmp_path / "a"), **changes)).run()
    assert not (tmp_path / "a").exists(), "the corrected command must find no claim in its way"


@pytest.mark.usefixtures("by_sixteen")
def test_workers_share_the_batches_and_change_nothing(place: Path, tmp_path: Path) -> None:
    changes = {"examples": 30, "radius": [0.05, 0.1], "store": str(tmp_path / "two-store")}
    one = Attack(options_for(place, "natural", out=str(tmp_path / "one"), **changes | {"store": None})).run()
    options = options_for(place, "natural", out=str(tmp_path / "two"), workers=9, **changes)
    told: list[Progress] = []
    two = Attack(options).run(lambda _, state: told.append(state))
    assert two.document["environment"]["workers"] == told[-1].total == 4, "two batches at two radii"
    assert (two.results, two.config) == (one.results, one.config)
    pictures = [(tmp_path / name / "examples.npz").read_bytes() for name in ("one", "two")]
    assert pictures[0] == pictures[1]
    # What one attack did, another with the same store need not do again.
    few = replace(options, out=str(tmp_path / "few"), radius=[0.1], examples=16, workers=1)
    Attack(few).run(lambda _, state: told.append(state))
    assert (told[-1].total, told[-1].reused) == (1, 1)


def test_retrained_weights_are_another_attack(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "natural", tmp_path / "run")
    options = options_for(place, "natural", run=str(tmp_path / "run"), out=str(tmp_path / "a"), examples=3)

    def retrain(*_: object) -> None:
        for name in ("model.safetensors", "result.json"):
            shutil.copy(place / "adversarial" / name, tmp_path / "run" / name)

    with pytest.raises(RunError, match="not those planned with"):
        Attack(options).run(retrain)
    with pytest.raises(UsageError, match=r"run\.weights"):
        Attack(options).run()


@pytest.mark.skipif(os.name != "posix", reason="the pool is for POSIX systems")
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["attack", "--workers", "2", "--examples", "20", "--steps", "1", "--pgd-steps", "1"], 0),
        (["diffroar", "--attribution", "own:method"], 2),
        (["diffroar", "--attribution", "own:method", "--trust-code"], 5),
    ],
)
def test_modules_in_the_current_folder_do_not_stand_for_pythons_own(
    place: Path, tmp_path: Path, command: list[str], code: int
) -> None:
    trap = f"open({str(tmp_path / 'RAN')!r}, 'a').write(__name__ + ' ')\n"
    for name in TRAPPED:
        (tmp_path / f"{name}.py").write_text(trap)
    (tmp_path / "own.py").write_text("import sys\nsys.exit(5)\n")
    ran = [sys.executable, "-m", "veridical", *command, "--run", str(place / "natural"), "--out", "out"]
    ran += ["--progress", "false"]
    done = subprocess.run(ran, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "RAN").exists(), (tmp_path / "RAN").read_text()


def test_a_model_by_its_weights_gives_the_runs_results(place: Path, tmp_path: Path) -> None:
    before = read_json(place / "natural-attack" / "result.json")
    model: dict[str, Any] = {
        "model": "mlp",
        "model_options": {"width": 16},
        "weights": str(place / "natural" / "model.safetensors"),
        "data": str(place / "stripes.npz"),
    }
    result = Attack(options_for(place, "natural", run=None, out=str(tmp_path / "out"), **model)).run()
    assert result.results == before["results"]
    assert {key for key, value in before["config"].items() if result.config[key] != value} == {"run"}
    assert "How mlp on" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(UsageError, match="--split validation is for a run"):
        Attack(options_for(place, "natural", run=None, out=str(tmp_path / "v"), split="validation", **model))
