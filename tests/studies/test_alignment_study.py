"""The alignment study: shares inside known regions, runs grouped by what they were trained with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.data import load
from veridical.data.masked import load_masked
from veridical.runtime.errors import DataError, UsageError
from veridical.runtime.files import read_json
from veridical.studies import alignment
from veridical.studies.alignment import Alignment, AlignmentOptions
from veridical.studies.maps import region_record, regions_of
from veridical.training.run import load as load_run


def test_the_numbers_are_those_of_the_models(trained: Path, aligned: AlignmentOptions) -> None:
    document = read_json(Path(aligned.out) / "result.json")
    natural = document["results"]["models"]["Natural training"]
    data = load_masked(trained / "patches.npz")
    regions = data.test_mask[:24]
    mass, one_map = [], []
    for seed in (0, 1):
        model = load_run(trained / f"natural-{seed}").model
        inputs, _ = data.test.batch(range(24))
        inputs.requires_grad_()
        gradient = torch.autograd.grad(model(inputs).amax(1).sum(), inputs)[0].abs()[:, 0].double()
        shares = gradient / gradient.sum((1, 2), keepdim=True)
        mass.append((shares * regions).sum((1, 2)))
        mean = shares.mean(0)
        one_map.append((mean * regions).sum((1, 2)))
    found = natural["maps"]["input-gradient"]
    assert found["mass"]["seeds"]["value"] == pytest.approx(float(torch.stack(mass).mean()), rel=1e-5)
    assert found["one_map"]["seeds"]["value"] == pytest.approx(float(torch.stack(one_map).mean()), rel=1e-5)
    beyond = float((torch.stack(mass) - torch.stack(one_map)).mean())
    assert found["beyond_one_map"]["examples"]["value"] == pytest.approx(beyond, rel=1e-3, abs=1e-6)
    assert found["mass"]["examples"]["n"] == 24
    assert natural["seeds"] == [0, 1]
    assert document["results"]["area"]["value"] == pytest.approx(4 / 64)
    assert set(natural["maps"]) == {"input-gradient", "smoothgrad"}
    assert document["timing"]["jobs"] == 3 * 2 * 3


def test_what_tells_is_where_the_maps_lie(aligned: AlignmentOptions) -> None:
    results = read_json(Path(aligned.out) / "result.json")["results"]
    maps = results["models"]["Natural training"]["maps"]["input-gradient"]
    assert maps["excess"]["examples"]["low"] > 0
    assert maps["topk"][0]["examples"]["value"] > 2 * results["area"]["value"]
    assert results["reference"] == "Natural training"
    (difference,) = results["differences"].values()
    # One run beside two: paired by image, not by seed.
    assert difference["input-gradient"]["examples"]["n"] == 24
    assert difference["input-gradient"]["seeds"]["value"] is None


def test_neither_the_batch_nor_the_stretch_changes_a_result(
    aligned: AlignmentOptions, tmp_path: Path
) -> None:
    before = read_json(Path(aligned.out) / "result.json")["results"]["models"]
    options = replace(aligned, out=str(tmp_path / "out"), batch=24)
    again = Alignment(options).run().results["models"]
    for title, model in before.items():
        for name, maps in model["maps"].items():
            for measure in ("mass", "auc", "beyond_one_map"):
                values = [one[measure]["examples"]["value"] for one in (again[title]["maps"][name], maps)]
                assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6), (title, name, measure)


def test_runs_of_one_recipe_are_one_model_and_no_run_counts_twice(aligned: AlignmentOptions) -> None:
    # Within masks, unlike on a black ground, every attribution is measured.
    plan = Alignment(replace(aligned, attribution=["gradient-x-input", "random"]))
    assert plan.region["words"] == "the planted patch"
    assert {title: len(members) for title, members in plan.models.items()} == {
        "Natural training": 2,
        "Adversarial training (linf 0.1)": 1,
    }
    named = Alignment(replace(aligned, titles=["plain", "robust"]))
    assert list(named.models) == ["plain", "robust"]
    with pytest.raises(UsageError, match="different runs"):
        Alignment(replace(aligned, run=(aligned.run or [])[:1] * 2))


def test_data_of_another_kind_or_without_regions_is_refused(
    trained: Path, aligned: AlignmentOptions, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="masks"):
        Alignment(replace(aligned, out=str(tmp_path / "out"), data=str(trained / "noise.npz")))
    with pytest.raises(DataError, match=r"mnist-5k: no foreground is known.*--data"):
        region_record(load("mnist-5k"))
    arrays: dict[str, Any] = {
        f"x_{part}": np.full((6, 4, 4), 99, dtype=np.uint8) for part in ("train", "test")
    }
    arrays |= {f"y_{part}": np.arange(6) % 3 for part in ("train", "test")}
    np.savez(tmp_path / "small.npz", **arrays)
    with pytest.raises(UsageError, match="of 3 classes"):
        Alignment(replace(aligned, out=str(tmp_path / "out"), data=str(tmp_path / "small.npz")))


def test_regions_of_signs_and_garments(
    tmp_path: Path, aligned: AlignmentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = np.array([[8, 8, 2, 1, 5, 6]] * 43)
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = np.full((43, 8, 8, 3), 99, dtype=np.uint8)
        arrays[f"y_{part}"], arrays[f"box_{part}"] = np.arange(43), boxes
    np.savez(tmp_path / "gtsrb.npz", **arrays)
    signs = load("gtsrb", tmp_path)
    found = regions_of(signs)
    assert found.shape == (43, 8, 8)
    assert bool(found[:, 1:7, 2:6].all())
    assert int(found[0].sum()) == 24
    record = region_record(signs)
    assert (record["kind"], record["words"]) == ("box", "the sign's bounding box")
    # On a black ground, what multiplies by the image is zero whatever the model does.
    monkeypatch.setattr(alignment, "region_record", lambda _: record)
    with pytest.raises(UsageError, match="black ground"):
        Alignment(replace(aligned, out=str(tmp_path / "out"), attribution=["gradient-x-input"]))


def test_a_model_by_its_weights_gives_the_runs_results(
    trained: Path, aligned: AlignmentOptions, tmp_path: Path
) -> None:
    weights = str(trained / "adversarial-0" / "model.safetensors")
    named: dict[str, Any] = {"model": "mlp", "model_options": {"width": 16}, "weights": weights}
    named |= {"data": str(trained / "patches.npz"), "attribution": ["input-gradient"]}
    result = Alignment(replace(aligned, out=str(tmp_path / "out"), run=None, **named)).run()
    ours, theirs = result.results["models"]["mlp"], Alignment.read(aligned.out).results["models"]
    theirs = theirs["Adversarial training (linf 0.1)"]
    assert ours["accuracy"] == theirs["accuracy"]
    for measure in ("mass", "auc", "beyond_one_map"):  # the batches are others, so only up to rounding
        values = [one["maps"]["input-gradient"][measure]["examples"]["value"] for one in (ours, theirs)]
        assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6)
