"""The alignment study: shares inside known regions, runs grouped by what they were trained with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.data import load
from veridical.data.masked import load_masked, save_masked
from veridical.data.shortcut import shortcut
from veridical.runtime.errors import DataError, RunError, UsageError
from veridical.runtime.files import read_json
from veridical.runtime.options import ShortcutOptions
from veridical.studies import alignment
from veridical.studies.alignment import Alignment, AlignmentOptions
from veridical.studies.maps import region_record, regions_of
from veridical.training.loop import train
from veridical.training.run import load as load_run

RUNS = (("natural", 0), ("natural", 1), ("adversarial", 0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with patches.npz, of which only a masked patch tells the class, and three runs on it."""
    folder = tmp_path_factory.mktemp("patches")
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 240), ("test", 30)):
        arrays[f"x_{part}"] = generator.integers(0, 120, (count, 8, 8)).astype(np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(folder / "noise.npz", **arrays)
    planted = shortcut(ShortcutOptions(source=str(folder / "noise.npz"), rate=1.0, size=2, test="agreeing"))
    save_masked(folder / "patches.npz", planted)
    for objective, seed in RUNS:
        train(
            out=str(folder / f"{objective}-{seed}"),
            data=str(folder / "patches.npz"),
            model="mlp",
            model_options={"width": 16},
            objective=objective,
            seed=seed,
            epochs=4.0,
            batch_size=20,
            averaging=0.0,
            progress=False,
        )
    return folder


def study_options(folder: Path, out: Path, **changes: Any) -> AlignmentOptions:
    values: dict[str, Any] = {
        "run": [str(folder / f"{objective}-{seed}") for objective, seed in RUNS],
        "out": str(out),
        "examples": 24,
        "batch": 7,
        "gallery": 3,
        "workers": 1,
        "progress": False,
        **changes,
    }
    return AlignmentOptions(**values)


@pytest.fixture(scope="module")
def studied(trained: Path) -> AlignmentOptions:
    options = study_options(trained, trained / "study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "STRETCH", 10)  # three jobs for each run and attribution
        Alignment(options).run()
    return options


def test_the_numbers_are_those_of_the_models(trained: Path, studied: AlignmentOptions) -> None:
    document = read_json(Path(studied.out) / "result.json")
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


def test_what_tells_is_where_the_maps_lie(studied: AlignmentOptions) -> None:
    results = read_json(Path(studied.out) / "result.json")["results"]
    maps = results["models"]["Natural training"]["maps"]["input-gradient"]
    assert maps["excess"]["examples"]["low"] > 0
    assert maps["topk"][0]["examples"]["value"] > 2 * results["area"]["value"]
    assert results["reference"] == "Natural training"
    (difference,) = results["differences"].values()
    # One run beside two: paired by image, not by seed.
    assert difference["input-gradient"]["examples"]["n"] == 24
    assert difference["input-gradient"]["seeds"]["value"] is None


def test_neither_the_batch_nor_the_stretch_changes_a_result(
    studied: AlignmentOptions, tmp_path: Path
) -> None:
    before = read_json(Path(studied.out) / "result.json")["results"]["models"]
    options = replace(studied, out=str(tmp_path / "out"), batch=24)
    again = Alignment(options).run().results["models"]
    for title, model in before.items():
        for name, maps in model["maps"].items():
            for measure in ("mass", "auc", "beyond_one_map"):
                values = [one[measure]["examples"]["value"] for one in (again[title]["maps"][name], maps)]
                assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-6), (title, name, measure)


def test_the_same_options_continue_and_others_are_refused(
    studied: AlignmentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "STRETCH", 10)
    reused: list[tuple[int, int]] = []
    Alignment(studied).run(lambda _what, state: reused.append((state.reused, state.total)))
    assert set(reused) == {(18, 18)}
    with pytest.raises(UsageError, match="belongs to another run"):
        Alignment(replace(studied, examples=20)).run()


def test_runs_of_one_recipe_are_one_model_and_no_run_counts_twice(trained: Path, tmp_path: Path) -> None:
    plan = Alignment(study_options(trained, tmp_path))
    assert {title: len(members) for title, members in plan.models.items()} == {
        "Natural training": 2,
        "Adversarial training (linf 0.1)": 1,
    }
    named = Alignment(study_options(trained, tmp_path, titles=["plain", "robust"]))
    assert list(named.models) == ["plain", "robust"]
    with pytest.raises(UsageError, match="different runs"):
        Alignment(study_options(trained, tmp_path, run=[str(trained / "natural-0")] * 2))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"run": []}, UsageError, "at least one folder"),
        ({"titles": ["one"]}, UsageError, "2 names"),
        ({"titles": ["one", "one"]}, UsageError, "different name"),
        ({"attribution": ["smoothgrad", "smoothgrad"]}, UsageError, "different values"),
        ({"examples": 1}, UsageError, "at least 2"),
        ({"batch": 0}, UsageError, "batch"),
        ({"gallery": -1}, UsageError, "gallery"),
        ({"attribution": ["nothing"]}, UsageError, "input-gradient, input-gradient-loss"),
        ({"attribution": ["json:loads"]}, UsageError, "trust_code"),
        ({"run": ["nowhere"]}, RunError, "not the folder of a run"),
    ],
)
def test_what_does_not_fit_is_refused(
    trained: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Alignment(study_options(trained, tmp_path, **changes))


def test_data_of_another_kind_or_without_regions_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="masks"):
        Alignment(study_options(trained, tmp_path / "out", data=str(trained / "noise.npz"))).run()
    arrays: dict[str, Any] = {
        f"x_{part}": np.full((6, 4, 4), 99, dtype=np.uint8) for part in ("train", "test")
    }
    arrays |= {f"y_{part}": np.arange(6) % 3 for part in ("train", "test")}
    np.savez(tmp_path / "small.npz", **arrays)
    with pytest.raises(UsageError, match="of 3 classes"):
        Alignment(study_options(trained, tmp_path / "out", data=str(tmp_path / "small.npz")))


def test_every_attribution_is_measured_on_masks(trained: Path, tmp_path: Path) -> None:
    names = ["gradient-x-input", "random"]
    result = Alignment(study_options(trained, tmp_path / "out", attribution=names)).run()
    measured = result.results["models"]["Adversarial training (linf 0.1)"]["maps"]
    assert set(measured) == set(names)
    assert (
        measured["gradient-x-input"]["mass"]["examples"]["value"]
        > measured["random"]["mass"]["examples"]["value"]
    )
    assert result.config["region"]["words"] == "the planted patch"


def test_a_model_that_knows_nothing_is_called_so(studied: AlignmentOptions) -> None:
    study = Alignment.read(studied.out)
    assert not any("hardly learnt" in sentence for sentence in Alignment.findings(study))
    for model in study.results["models"].values():
        model["accuracy"] = {
            kind: {"value": 0.3, "low": 0.2, "high": 0.4, "n": 2} for kind in ("examples", "seeds")
        }
    for sentence in Alignment.findings(study):
        assert "hardly learnt anything (accuracy 30.0%, guessing 33.3%)" in sentence


def test_regions_of_signs_and_garments(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
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
        Alignment(study_options(trained, tmp_path / "out", attribution=["gradient-x-input"]))


def test_the_page_shows_what_was_found(studied: AlignmentOptions) -> None:
    study = Alignment.read(studied.out)
    page = Alignment.write_page(study).read_text(encoding="utf-8")
    for line in Alignment.findings(study):
        assert line.replace("'", "&#39;") in page
    for row in [row for table in Alignment.tables(study).values() for row in table.drawn()[1]]:
        for cell in row:  # the interval stands below its value
            assert all(part in page for part in cell.removesuffix(")").split(" ("))
    assert page.count("Share of the k% strongest values that lie inside") == 2  # a chart for each attribution
    assert "data:image/png" in page
    assert "% inside" in page
    with pytest.raises(RunError, match=r"result\.json does not exist"):
        Alignment.read(Path(studied.out).parent)


def test_a_data_set_without_regions_says_so() -> None:
    with pytest.raises(DataError, match=r"mnist-5k: no foreground is known.*--data"):
        region_record(load("mnist-5k"))


def test_a_model_by_its_weights_gives_the_runs_results(
    trained: Path, studied: AlignmentOptions, tmp_path: Path
) -> None:
    result = Alignment(
        study_options(
            trained,
            tmp_path / "out",
            run=None,
            model="mlp",
            model_options={"width": 16},
            weights=str(trained / "adversarial-0" / "model.safetensors"),
            data=str(trained / "patches.npz"),
        )
    ).run()
    before = read_json(Path(studied.out) / "result.json")["results"]["models"]
    ours, theirs = result.results["models"]["mlp"], before["Adversarial training (linf 0.1)"]
    assert ours["accuracy"] == theirs["accuracy"]
    for name, maps in theirs["maps"].items():
        assert ours["maps"][name]["mass"]["examples"]["value"] == pytest.approx(
            maps["mass"]["examples"]["value"], rel=1e-6
        )
