"""One retraining: against training on images that were unmasked by hand, and through interruptions."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.data import Dataset, Split, load
from veridical.data.dataset import describe_source, load_source, write_source
from veridical.faithfulness.ranking import (
    Ranking,
    linear_options,
    measure_linear_importances,
)
from veridical.faithfulness.retraining import (
    ACCURACY,
    RUN,
    hash_recipe,
    resolve_architecture,
    resolve_training,
    retrain,
    train_fresh,
)
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.options import TrainOptions
from veridical.training.loop import train
from veridical.training.recipes import Settings, resolve


def by_hand(data: Dataset, ranking: Ranking) -> Dataset:
    """The upper half of the ranking, black elsewhere: as bytes, which is exact."""
    parts = {}
    for part, split, ranks in (("train", data.train, ranking.train), ("test", data.test, ranking.test)):
        shown = torch.from_numpy(ranks < 32).reshape(split.images.shape)
        parts[part] = Split(split.images * shown, split.labels)
    return dataclasses.replace(data, train=parts["train"], test=parts["test"], checksum="1" * 64)


def test_a_retraining_is_training_on_unmasked_images(
    marked_data: Dataset, telling: Ranking, values: dict[str, Any], where: dict[str, str], tmp_path: Path
) -> None:
    result = retrain(values, tmp_path, where)
    options: dict[str, Any] = {"model": "mlp", "model_options": {"width": 16}, "seed": 7, "epochs": 1.0}
    options |= {"batch_size": 30, "learning_rate": 0.01, "averaging": 0.0, "objective": "natural"}
    options |= {"validation": 0, "device": "cpu", "progress": False}
    direct = train(data=by_hand(marked_data, telling), out=str(tmp_path / "direct"), **options)
    assert result["accuracy"] == direct.result["results"]["natural_accuracy"]["value"]
    assert result["correct"] == round(result["accuracy"] * 400)
    assert result["examples"] == 400
    assert result["accuracy"] > 0.7  # 0.5 without the four pixels
    # No weights and no images are left behind, whatever there is of a job.
    files = sorted(path.name for path in (tmp_path / RUN).iterdir() if path.name[0] != ".")
    assert files == ["claim.json", "log.jsonl", "result.json"]
    claim = json.loads((tmp_path / RUN / "claim.json").read_text())
    assert claim["config"]["data"]["options"]["unmasked"]["kept"] == {"end": "top", "count": 32}


def test_an_interrupted_job_goes_on_and_a_finished_one_stays(
    values: dict[str, Any], where: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = retrain(values, tmp_path / "whole", where)

    def killed(_path: Path, _content: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("veridical.faithfulness.retraining.write_sealed", killed)
        with pytest.raises(KeyboardInterrupt):
            retrain(values, tmp_path / "job", where)
    assert not (tmp_path / "job" / ACCURACY).exists()
    steps = (tmp_path / "job" / RUN / "log.jsonl").read_bytes()
    again = retrain(values, tmp_path / "job", where)
    for name in ("accuracy", "correct", "examples"):
        assert again[name] == whole[name]
    assert (tmp_path / "job" / RUN / "log.jsonl").read_bytes() == steps
    # Neither data nor training are asked for any more.
    assert retrain(values, tmp_path / "job", {}) == again


def test_a_ranking_or_data_set_that_changed_is_noticed(
    values: dict[str, Any], where: dict[str, str], tmp_path: Path
) -> None:
    swapped = dict.fromkeys(where, list(where.values())[-1]) | {"data": where["data"]}
    with pytest.raises(RunError, match="not the ranking that was planned with"):
        retrain(values, tmp_path / "job", swapped)
    changed = {**values, "data": {"checksum": "2" * 64}}
    with pytest.raises(RunError, match="not those that were planned with"):
        retrain(changed, tmp_path / "job", where)


def test_a_data_set_in_memory_comes_back_from_its_file(marked_data: Dataset, tmp_path: Path) -> None:
    where = write_source(marked_data, tmp_path / "data.npz")
    loaded = load_source(where, load(where["data"]).checksum)
    assert torch.equal(loaded.train.images, marked_data.train.images)
    assert torch.equal(loaded.test.labels, marked_data.test.labels)
    assert loaded.classes == marked_data.classes
    # A second look does not read the file again.
    assert load_source(where, loaded.checksum) is loaded
    two = Split(marked_data.train.images.repeat(1, 2, 1, 1), marked_data.train.labels)
    with pytest.raises(UsageError, match="1 or 3 channels"):
        write_source(dataclasses.replace(marked_data, train=two), tmp_path / "two.npz")


def test_sources_by_name_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VERIDICAL_DATA", raising=False)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "own").mkdir()
    assert describe_source("mnist", None, {}) == {"data": "mnist"}
    assert describe_source("own", "here", {"size": 8, "test_fraction": 0.2}) == {
        "data": str(tmp_path / "own"),
        "data_root": str(tmp_path / "here"),
        "data_options": '{"size": 8}',
    }
    monkeypatch.setenv("VERIDICAL_DATA", str(tmp_path / "there"))
    assert describe_source("mnist", None, {})["data_root"] == str(tmp_path / "there")


def settings_of(data: Dataset, **options: Any) -> Settings:
    record = resolve_architecture("mlp", {"width": 16}, data, None, trust_code=False)
    return resolve(
        TrainOptions(out=".", **options), data=data.describe(), model=record, train_size=len(data.train)
    )


def test_the_recipe_is_the_runs(marked_data: Dataset) -> None:
    recipe = {"recipe": "paper", "objective": "ig-sum-norm", "radius": 0.1, "beta": 0.4, "optimiser": "sgd"}
    more = {"batch_size": 20, "epochs": 3.0, "learning_rate": 0.02, "augment": "shift-rotate"}
    run = settings_of(marked_data, **recipe, **more, validation=100)
    natural = resolve_training(marked_data, run.model, run, "natural", {})
    assert natural["objective"] == "natural"
    assert "radius" not in natural
    assert natural["optimiser"] == "sgd"
    assert natural["augment"] == "shift-rotate"
    # The run held 100 of 600 images out; a retraining has all of them, for as many epochs.
    assert (natural["validation"], natural["train_examples"]) == (0, 600)
    assert natural["steps"] == 90
    same = resolve_training(marked_data, run.model, run, "same", {})
    assert (same["objective"], same["radius"], same["beta"]) == ("ig-sum-norm", 0.1, 0.4)
    # Both are complete: resolving them again changes nothing, and the sum over a batch comes from the recipe.
    for fields, robust in ((natural, None), (same, run.robust)):
        again = settings_of(marked_data, **fields)
        assert again.robust == robust
        assert again.optimise == dataclasses.replace(run.optimise, steps=90)


def test_overrides_replace_the_recipe(marked_data: Dataset) -> None:
    run = settings_of(marked_data, epochs=3.0, batch_size=20, train_examples=200, validation=0)
    plain = resolve_training(marked_data, run.model, run, "natural", {"learning_rate": None})
    assert (plain["train_examples"], plain["steps"]) == (200, 30)
    given = {"steps": 7, "batch_size": 10, "train_examples": 50, "averaging": 0.0}
    changed = resolve_training(marked_data, run.model, run, "natural", given)
    assert {name: changed[name] for name in given} == given
    half = resolve_training(marked_data, run.model, run, "natural", {"epochs": 1.5})
    assert half["steps"] == 15
    with pytest.raises(UsageError, match="Did you mean epochs"):
        resolve_training(marked_data, run.model, run, "natural", {"epoch": 1})
    with pytest.raises(UsageError, match="no run was given"):
        resolve_training(marked_data, run.model, None, "same", {})


FACTORY = """
from torch import nn

def linear(*, shape, num_classes, seed):
    layer = nn.Linear(shape[0] * shape[1] * shape[2], num_classes)
    nn.init.constant_(layer.weight, 0.001 * seed)
    return nn.Sequential(nn.Flatten(), layer)
"""


def test_architectures_by_name_and_by_code(
    marked_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_architectures.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    run = settings_of(marked_data)
    assert resolve_architecture(None, {}, marked_data, run, trust_code=False) == run.model
    name = "own_architectures:linear"
    with pytest.raises(UsageError, match="--trust-code"):
        resolve_architecture(name, {}, marked_data, run, trust_code=False)
    record = resolve_architecture(name, {}, marked_data, run, trust_code=True)
    assert len(record["source"]) == 64
    training = {"objective": "natural", "steps": 1, "learning_rate": 0.0, "validation": 0}
    values = {"model": record, "seed": 3, "training": training}
    with pytest.raises(UsageError, match="--trust-code"):
        train_fresh(values, marked_data, tmp_path / "not", {})
    model = train_fresh(values, marked_data, tmp_path / "run", {"trust_code": "yes", "device": "cpu"}).model
    assert float(next(model.parameters())[0, 0].detach()) == pytest.approx(0.003)
    own = dataclasses.replace(run, model={**run.model, "name": "own"})
    for settings in (None, own):
        with pytest.raises(UsageError, match="retrain_model: a retraining starts from a fresh model"):
            resolve_architecture(None, {}, marked_data, settings, trust_code=True)


def test_the_recipes_source_is_its_code_without_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from veridical.faithfulness import retraining

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(retraining, "SOURCES", ("some_recipe",))
    path, digests = tmp_path / "some_recipe.py", []
    for text in (
        '"""What it does."""\ndef f():\n    """How."""\n    return 1  # why\n',
        "def f():\n    return 1\n",
        "def f():\n    return 2\n",
    ):
        path.write_text(text)
        hash_recipe.cache_clear()
        digests.append(hash_recipe())
    hash_recipe.cache_clear()
    assert digests[0] == digests[1] != digests[2]


def test_the_linear_model_finds_the_marked_pixels(
    marked_data: Dataset, where: dict[str, str], tmp_path: Path
) -> None:
    values = {"data": {"checksum": load(where["data"]).checksum}, "options": linear_options(marked_data)}
    result = measure_linear_importances(values, tmp_path / "job", where)
    weight = np.asarray(result["importances"]).reshape(8, 8)
    largest = set(weight.ravel().argsort()[-4:].tolist())
    assert largest == {2 * 8 + 5, 2 * 8 + 6, 3 * 8 + 5, 3 * 8 + 6}
    assert result["accuracy"] > 0.8
    # Called again after a kill, it finds the run finished.
    assert measure_linear_importances(values, tmp_path / "job", where) == result
