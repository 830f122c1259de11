"""The sanity check of a small run on stripes: similarities, verdicts, and when new trainings say nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.studies.sanity import Sanity, SanityOptions

NAMES = ("input-gradient", "random")
FEW: dict[str, Any] = {"tests": ["cascading"], "attribution": ["input-gradient"]}


def test_every_test_has_its_numbers(checked: SanityOptions) -> None:
    study = Sanity.read(checked.out)
    results = study.results
    assert study.document["timing"]["jobs"] == 3 + 2 * (1 + 4 + 3)
    assert results["examples"] == 30
    assert set(results["trainings"]) == {"true", "labels", "data"}
    for kind, training in results["trainings"].items():
        assert training["training_accuracy"]["value"] > 0.95, kind
    assert results["trainings"]["true"]["test_accuracy"]["value"] > 0.9
    assert results["trainings"]["data"]["test_accuracy"]["value"] < 0.8
    for name in NAMES:
        entry = results["attributions"][name]
        for order, counts in (("cascading", [1, 2, 3]), ("independent", [1, 1, 1])):
            assert [state["stage"] for state in entry[order]] == ["classify", "hidden2", "hidden1"]
            assert [state["randomised"] for state in entry[order]] == counts
        # The logits' layer comes first in both orders, with the same fresh weights.
        assert entry["cascading"][0] == entry["independent"][0] | {"randomised": 1}
        assert set(entry["verdicts"]) == {"weights", "labels", "data"}
        assert set(entry["unrelated"]) == {"other image", "noise"}


def test_noise_that_looks_at_no_network_is_invariant_and_gradients_are_not(checked: SanityOptions) -> None:
    study = Sanity.read(checked.out)
    attributions = study.results["attributions"]
    assert "random is nearly invariant against random weights" in " ".join(Sanity.findings(study))
    for state in attributions["random"]["cascading"]:
        for remaining in state["remaining"].values():
            assert remaining["value"] == pytest.approx(1.0)
    for test in ("weights", "labels", "data"):
        assert attributions["random"]["verdicts"][test]["verdict"] == "nearly invariant"
        assert attributions["input-gradient"]["verdicts"][test]["verdict"] != "nearly invariant"
    last = attributions["input-gradient"]["cascading"][-1]["similarity"]["spearman_signed"]
    assert abs(last["value"]) < 0.3


def test_the_maps_of_every_network_are_kept_for_the_page(checked: SanityOptions) -> None:
    arrays = Sanity.read(checked.out).arrays
    assert arrays["image"].shape == (2, 1, 8, 8)
    assert arrays["input-gradient/cascading"].shape == (3, 2, 8, 8)
    assert arrays["input-gradient/labels"].shape == (2, 8, 8)
    assert not np.array_equal(arrays["input-gradient/own"], arrays["input-gradient/cascading"][-1])
    assert np.array_equal(arrays["random/own"], arrays["random/cascading"][-1])


def test_weights_alone_need_no_training(checked: SanityOptions, tmp_path: Path) -> None:
    """And a model by its weights gives the results of its run."""
    run = Path(checked.run or "")
    named = {"run": None, "model": "mlp", "model_options": {"width": 16}, **FEW, "gallery": 0}
    named |= {"weights": str(run / "model.safetensors"), "data": str(run.parent / "stripes.npz")}
    study = Sanity(replace(checked, out=str(tmp_path / "out"), **named)).run()
    assert study.results["trainings"] == {}
    ours, theirs = (
        one.results["attributions"]["input-gradient"] for one in (study, Sanity.read(checked.out))
    )
    assert set(ours["verdicts"]) == {"weights"}
    assert ours["cascading"] == theirs["cascading"]
    assert ours["unrelated"] == theirs["unrelated"]
    page = (study.folder / "report.html").read_text()
    assert "Do the maps care what mlp has learnt?" in page
    assert "No images were asked for." in page


def test_smoothed_maps_and_complexity(checked: SanityOptions, tmp_path: Path) -> None:
    names = ["input-gradient", "random", "expected-gradients"]
    tests: dict[str, Any] = {"tests": ["cascading", "smooth", "efficient"], "attribution": names}
    options = replace(checked, out=str(tmp_path / "out"), smooth_samples=3, **tests)
    study = Sanity(options).run()
    # Each attribution's unrelated maps, twice, two draws of two cascades, and its complexity, all at once.
    assert study.document["timing"]["jobs"] == 3 * (2 + 2 * 2 + 1)
    entries = study.results["attributions"]
    for entry in entries.values():
        assert set(entry["verdicts"]) == {"weights", "smooth"}
        assert [state["stage"] for state in entry["smooth"]] == ["hidden1", "hidden2", "classify"]
        assert [state["randomised"] for state in entry["smooth"]] == [1, 2, 3]
        assert entry["smooth_unrelated"] != entry["unrelated"]
        assert entry["efficient"]["undefined"] == 0
    assert entries["random"]["verdicts"]["smooth"]["verdict"] == "nearly invariant"
    still = entries["random"]["efficient"]
    assert still["trained"] == pytest.approx(still["randomised"], nan_ok=False)
    assert (still["verdict"], still["rise"]["value"]) == ("does not rise", 0)
    moved = entries["input-gradient"]["efficient"]
    assert 0 < moved["trained"]["value"] < np.log(200)
    assert moved["rise"]["value"] != 0
    # The cascade of the others is that of another study.
    assert (
        entries["random"]["cascading"]
        == Sanity.read(checked.out).results["attributions"]["random"]["cascading"]
    )
    assert "random: its maps are no more complex in networks with random weights" in " ".join(
        Sanity.findings(study)
    )
    assert list(Sanity.tables(study)) == ["Verdicts", "Complexity"]
    page = (study.folder / "report.html").read_text()
    assert "Complexity of the maps" in page
    assert "from the image up, maps smoothed: random" in page
    assert "3 noisy images, deviation 0.1" in page


def test_complexity_alone_has_no_empty_table(checked: SanityOptions, tmp_path: Path) -> None:
    alone: dict[str, Any] = {"tests": ["efficient"], "attribution": ["input-gradient"], "gallery": 0}
    study = Sanity(replace(checked, out=str(tmp_path / "out"), **alone)).run()
    assert list(Sanity.tables(study)) == ["Complexity"]
    assert len(Sanity.findings(study)) == 1


def test_labels_that_were_not_learnt_decide_nothing(checked: SanityOptions, tmp_path: Path) -> None:
    short = {**FEW, "tests": ["labels"], "epochs": 1.0, "train_examples": 120}
    results = Sanity(replace(checked, out=str(tmp_path / "out"), **short)).run().results
    assert results["attributions"]["input-gradient"]["verdicts"]["labels"]["verdict"] == "undecided"
    assert any("permuted labels got only" in note for note in results["notes"])
