"""diffroar_run: what a folder holds, that it continues, where it runs, and what it refuses."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.cli.main import main
from veridical.faithfulness import forecast, retraining
from veridical.faithfulness.diffroar import diffroar
from veridical.jobs import InProcess, ProcessPool, Progress, workers_of
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.files import read_json, write_json
from veridical.studies.diffroar import DiffRoar, DiffRoarOptions
from veridical.studies.study import executor_of

LEVELS = [0.25, 0.5]


def diffroar_options(folder: Path, run: str = "natural", **changes: Any) -> DiffRoarOptions:
    """A quick measurement of `folder`/`run`; all of them share one store."""
    values: dict[str, Any] = {
        "run": str(folder / run),
        "out": str(folder / f"{run}-diffroar"),
        "store": str(folder / "store"),
        "levels": LEVELS,
        "repeats": 2,
        "steps": 6,
        "baselines": ["random"],
        "gallery": 4,
        "workers": 1,
        "progress": False,
        **changes,
    }
    return DiffRoarOptions(**values)


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are predicted from a few steps: their accuracy is not what these tests are about."""
    monkeypatch.setattr(forecast, "SECONDS", 0.01)


@pytest.fixture(scope="module")
def measured(place: Path) -> Path:
    """The folder of a finished measurement of the natural run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "SECONDS", 0.01)
        DiffRoar(diffroar_options(place)).run()
    return place / "natural-diffroar"


def test_the_folder_holds_the_numbers_of_diffroar(place: Path, measured: Path, tmp_path: Path) -> None:
    document = read_json(measured / "result.json")
    assert list(document) == ["schema", "results", "config", "environment", "timing", "files", "study"]
    results, config = document["results"], document["config"]
    assert [point["level"] for point in results["curve"]] == LEVELS
    for point, judged in zip(results["curve"], results["verdicts"], strict=True):
        tops, bottoms = point["top"]["repeats"], point["bottom"]["repeats"]
        assert len(tops) == 2
        assert point["difference"]["repeats"] == pytest.approx(np.subtract(tops, bottoms).tolist())
        assert judged["verdict"] in ("satisfied", "violated", "undecided")
    assert results["control"]["chance"] == pytest.approx(1 / 3)
    assert (config["run"]["objective"], config["training"]["steps"]) == ("natural", 6)
    assert document["environment"]["executor"] == "InProcess"
    assert document["environment"]["attribution"] == "input-gradient"
    # Two levels, two ends: twice for the attribution, twice for the random order, once for the masks.
    assert document["timing"]["retrainings"] == 2 * 2 * (2 + 2 + 1)
    direct = diffroar(
        place / "natural",
        out=tmp_path / "direct",
        levels=LEVELS,
        repeats=2,
        baselines=["random"],
        store=place / "store",
        steps=6,
    )
    assert direct.to_dict() == results
    # Every retraining was found in the store that both share.
    assert direct.timing["reused"] == direct.timing["retrainings"]


def test_a_fill_that_is_a_number_is_read_again(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured, tmp_path / "number")
    document = read_json(tmp_path / "number" / "result.json")
    document["config"]["measured"]["fill"] = 0.25
    write_json(tmp_path / "number" / "result.json", document)
    assert DiffRoar.read(tmp_path / "number").config["measured"]["fill"] == 0.25


def test_pictures_show_what_the_networks_saw(measured: Path) -> None:
    with np.load(measured / "examples.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    # The labels run 0, 1, 2, 0, 1, 2, ...: the first of each class, then the second of the first.
    assert found["index"].tolist() == [0, 1, 2, 3]
    assert found["label"].tolist() == [0, 1, 2, 0]
    assert found["unmasked"].shape == (4, 2, 2, 1, 8, 8)
    fill = read_json(measured / "result.json")["config"]["fill"]["values"][0]
    grey = round(255 * fill)
    for image, order, levels in zip(found["image"], found["order"], found["unmasked"], strict=True):
        assert sorted((order * 63).round().astype(int).ravel()) == list(range(64))
        for level, (top, bottom) in zip(LEVELS, levels, strict=True):
            kept = int(level * 64)
            first, last = order >= 1 - (kept - 0.5) / 63, order <= (kept - 0.5) / 63
            np.testing.assert_array_equal(top[0], np.where(first, image[0], grey))
            np.testing.assert_array_equal(bottom[0], np.where(last, image[0], grey))


def test_the_same_options_find_it_finished_and_others_are_refused(place: Path, measured: Path) -> None:
    before = read_json(measured / "result.json")
    told: list[tuple[str, Progress]] = []
    again = DiffRoar(diffroar_options(place)).run(lambda what, state: told.append((what, state)))
    assert (again.results, again.config) == (before["results"], before["config"])
    assert {(what, state.done, state.reused) for what, state in told} == {("retraining", 20, 20)}
    with pytest.raises(UsageError, match="belongs to another run"):
        DiffRoar(diffroar_options(place, repeats=3)).run()
    with pytest.raises(UsageError, match="belongs to another command"):
        DiffRoar(diffroar_options(place, out=str(place / "natural"))).run()
    with pytest.raises(RunError, match="not a finished diffroar"):
        DiffRoar.read(place / "natural-attack")
    assert read_json(measured / "result.json")["results"] == before["results"]


def test_a_failing_retraining_is_told_and_the_others_are_kept(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = diffroar_options(
        place, out=str(tmp_path / "out"), store=None, levels=[0.5], baselines=[], control=False
    )
    trained = retraining.train_fresh

    def failing(values: Any, *rest: Any) -> Any:
        if values["kept"]["end"] == "top" and values["seed"] == 1:
            print("the disk is full of eels")
            raise OSError("eels")
        return trained(values, *rest)

    # Costs are predicted with another name for the same function.
    monkeypatch.setattr(retraining, "train_fresh", failing)
    with pytest.raises(RunError) as caught:
        DiffRoar(options).run()
    for told in ("1 of 4 jobs failed", "top 32 of 64, seed 1", "eels"):
        assert told in str(caught.value)
    assert not (tmp_path / "out" / "result.json").exists()
    monkeypatch.setattr(retraining, "train_fresh", trained)
    document = DiffRoar(options).run().document
    assert (document["timing"]["retrainings"], document["timing"]["reused"]) == (4, 3)


@pytest.mark.parametrize("store", ["", "natural"])
@pytest.mark.parametrize("command", ["diffroar", "sanity"])
def test_a_store_in_a_folder_of_something_else_is_refused_before_anything_is_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, store: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(place / "natural"))
    run, named = str(place / "natural"), str(place / store) if store else store
    assert main([command, "--run", run, "--store", named, "--out", "out", "--workers", "1"]) == 2
    assert os.listdir(tmp_path) == []
    assert sorted(os.listdir(place / "natural")) == before


@pytest.mark.parametrize(("workers", "kind"), [(1, InProcess), (3, ProcessPool)])
def test_where_retrainings_run(place: Path, workers: int, kind: type) -> None:
    with executor_of(diffroar_options(place, device="cpu", workers=workers)) as executor:
        assert isinstance(executor, kind)
        assert workers_of(executor) == workers


def test_a_remote_scheduler_without_tls_is_refused(place: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed (extra cluster)")
    options = diffroar_options(place, scheduler="tcp://192.0.2.1:8786")
    with pytest.raises(UsageError, match="--insecure"):
        DiffRoar(options).run()


def test_processes_give_the_same_numbers(place: Path, measured: Path, tmp_path: Path) -> None:
    alone = read_json(measured / "result.json")["results"]
    changes: dict[str, Any] = {"levels": [0.5], "baselines": [], "control": False, "store": None}
    options = diffroar_options(place, out=str(tmp_path / "out"), workers=2, **changes)
    document = DiffRoar(options).run().document
    assert document["environment"]["executor"] == "ProcessPool"
    assert document["timing"]["reused"] == 0
    assert 0 < document["timing"]["sent_bytes_per_job"] < 8000, "images travelled"
    assert document["results"]["curve"] == [point for point in alone["curve"] if point["level"] == 0.5]


def test_a_model_by_its_weights_has_the_runs_ranking(place: Path, measured: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"levels": [0.5], "baselines": [], "control": False, "store": None}
    given["stacked"] = "auto"
    weights = str(place / "natural" / "model.safetensors")
    model: dict[str, Any] = {"model": "mlp", "model_options": {"width": 16}, "weights": weights}
    given |= {"out": str(tmp_path / "out"), "data": str(place / "stripes.npz")}
    options = replace(diffroar_options(place, **given), run=None, **model)
    result = DiffRoar(options).run()
    before = read_json(measured / "result.json")
    assert result.document["timing"]["stacks"] == 1
    assert result.config["weights"] == before["config"]["weights"]
    ours, theirs = (one["rankings"]["judged"] for one in (result.results, before["results"]))
    assert ours["checksum"] == theirs["checksum"]
    assert result.config["model"]["name"] == "mlp"  # what is retrained, with the recipe "fast"
    assert "mark what a network can learn from?" in (tmp_path / "out" / "report.html").read_text()
