"""What is examined: one model is the same whether a run, its weights or a callable name it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from veridical.data.arrays import Arrays
from veridical.runtime.errors import DataError, RunError, UsageError
from veridical.runtime.options import SubjectChoice
from veridical.training.loop import train
from veridical.training.subject import load_model, load_subject

from .conftest import write_photos


class Flat(nn.Sequential):
    """A linear model of a caller's own."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
        nn.init.ones_(self.linear.weight)

    @property
    def linear(self) -> nn.Linear:
        layer = self[1]
        assert isinstance(layer, nn.Linear)
        return layer


def make_flat(num_classes: int, bias: float = 0.0) -> nn.Module:
    """A factory that asks for the number of classes alone."""
    model = Flat(num_classes)
    nn.init.constant_(model.linear.bias, bias)
    return model


def own_images(root: str | None) -> Arrays:
    """Images of a caller's own, as `--data module:callable` names them."""
    del root
    images, labels = np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8), np.arange(6) % 3
    return Arrays(images, labels, images, labels)


def not_a_model() -> str:
    return "nothing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images.npz and class folders of the same size, and a run on the former."""
    place = tmp_path_factory.mktemp("subject")
    draws = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 60), ("test", 12)):
        arrays[f"x_{part}"] = draws.integers(0, 256, (count, 8, 8)).astype(np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(place / "images.npz", **arrays)
    train(
        out=str(place / "run"),
        data=str(place / "images.npz"),
        model="mlp",
        model_options={"width": 4},
        objective="natural",
        epochs=1.0,
        batch_size=20,
        progress=False,
    )
    return place


def choice(**given: Any) -> SubjectChoice:
    texts: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items()
    }
    return SubjectChoice(**texts)


def test_a_run_and_its_weights_are_one_subject(folder: Path, tmp_path: Path) -> None:
    run = load_subject(choice(run=folder / "run"))
    torch.save(run.model.state_dict(), tmp_path / "weights.pt")
    inputs, _ = run.data.test.batch(range(4))
    for weights in (folder / "run" / "model.safetensors", tmp_path / "weights.pt"):
        named = load_subject(
            choice(model="mlp", model_options={"width": 4}, weights=weights, data=folder / "images.npz")
        )
        assert named.digest == run.digest
        assert named.describe()["weights"] == run.describe()["weights"]
        assert not named.model.training
        torch.testing.assert_close(named.model(inputs), run.model(inputs), rtol=0, atol=0)
        # A job loads the same model again, and refuses another one.
        torch.testing.assert_close(
            load_model(named.source, named.digest)(inputs), run.model(inputs), rtol=0, atol=0
        )
    with pytest.raises(RunError, match="not those planned with"):
        load_model(run.source, "0" * 64)


def test_a_callable_is_a_subject_where_it_is_trusted(folder: Path) -> None:
    given = {"model": f"{__name__}:make_flat", "data": folder / "images.npz", "model_options": {"bias": 2.0}}
    with pytest.raises(UsageError, match="trust_code"):
        load_subject(choice(**given))
    subject = load_subject(choice(**given, trust_code=True))
    assert subject.title == f"{__name__}:make_flat"
    inputs, _ = subject.data.test.batch(range(2))
    expected = inputs.flatten(1).sum(1, keepdim=True).expand(-1, 3) + 2
    torch.testing.assert_close(subject.model(inputs), expected)
    assert json.dumps(subject.describe())
    torch.testing.assert_close(load_model(subject.source, subject.digest, trust_code=True)(inputs), expected)


def test_what_names_no_subject_is_refused(folder: Path, tmp_path: Path) -> None:
    data, run = folder / "images.npz", folder / "run"
    weights = run / "model.safetensors"
    torch.save({"layers": {"weight": torch.zeros(1)}}, tmp_path / "nested.pt")
    (tmp_path / "rubbish.pt").write_bytes(b"rubbish")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "a run .* or a model"),
        ({"run": run, "model": "mlp", "data": data, "weights": weights}, "not both"),
        ({"model": "mlp", "weights": weights}, "data"),
        ({"model": "mlp", "data": data}, "a file of weights of mlp"),
        ({"model": "mpl", "data": data, "weights": weights}, "mlp"),
        ({"model": "mlp", "data": data, "weights": tmp_path / "none.pt"}, "no such file"),
        ({"model": "mlp", "data": data, "weights": weights}, "5 of another shape"),
        ({"model": "mlp", "data": data, "weights": tmp_path / "nested.pt"}, "no state_dict of tensors"),
        ({"model": "mlp", "data": data, "weights": tmp_path / "rubbish.pt"}, "without running code"),
        ({"model": f"{__name__}:make_flat", "data": data, "model_options": {"depth": 2}}, "depth"),
        ({"model": f"{__name__}:not_a_model", "data": data}, "nn.Module"),
        ({"run": run, "data": "mnist-5k"}, "trained on"),
    ]
    for given, message in wrong:
        with pytest.raises((UsageError, RunError), match=message):
            load_subject(choice(**given, trust_code=True))


def test_a_subject_is_examined_on_class_folders_and_on_images_of_ones_own(
    folder: Path, tmp_path: Path
) -> None:
    run = load_subject(choice(run=folder / "run"))
    for part in ("train", "test"):
        for label in range(3):
            (tmp_path / part / f"class-{label}").mkdir(parents=True)
            for number in range(4):
                pixels = np.full((8, 8), 20 * number + label, dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / f"class-{label}" / f"{number}.png")
    given = {"model": "mlp", "model_options": {"width": 4}, "weights": folder / "run" / "model.safetensors"}
    on_folders = load_subject(choice(**given, data=tmp_path))
    assert (on_folders.digest, len(on_folders.data.test)) == (run.digest, 12)
    with pytest.raises(UsageError, match="trust_code"):
        load_subject(choice(run=folder / "run", data=f"{__name__}:own_images"))
    on_own = load_subject(choice(run=folder / "run", data=f"{__name__}:own_images", trust_code=True))
    assert (on_own.digest, len(on_own.split("test"))) == (run.digest, 6)
    with pytest.raises(UsageError, match="Leave --data out"):
        on_own.split("validation")


def test_weights_are_found_below_prefixes_and_in_checkpoints(folder: Path, tmp_path: Path) -> None:
    run = load_subject(choice(run=folder / "run"))
    state = run.model.state_dict()
    forms = {
        "wrapped": {f"module.{name}": value for name, value in state.items()},
        "compiled": {f"_orig_mod.model.{name}": value for name, value in state.items()},
        "checkpoint": {"epoch": 3, "state_dict": state},
        "half": {name: value.half().float() for name, value in state.items()},
    }
    given = {"model": "mlp", "model_options": {"width": 4}, "data": folder / "images.npz"}
    for name, stored in forms.items():
        torch.save(stored, tmp_path / f"{name}.pt")
        subject = load_subject(choice(**given, weights=tmp_path / f"{name}.pt"))
        assert (subject.digest == run.digest) is (name != "half")
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "more.pt")
    with pytest.raises(RunError, match=r"1 left over \(extra\)"):
        load_subject(choice(**given, weights=tmp_path / "more.pt"))
    torch.save(dict(list(state.items())[1:]), tmp_path / "less.pt")
    with pytest.raises(RunError, match=r"1 missing \(hidden1\.weight\)"):
        load_subject(choice(**given, weights=tmp_path / "less.pt"))


def test_files_of_other_sizes_are_cut_as_the_models_library_says(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 40, 50, each=3)
    given = {"model": "torchvision:squeezenet1_1", "data": tmp_path / "photos"}
    torch.save(torchvision.models.squeezenet1_1(num_classes=3).state_dict(), tmp_path / "weights.pt")
    small = load_subject(choice(**given, weights=tmp_path / "weights.pt", image_size=32))
    assert dict(small.data.options) == {"size": 32, "crop_from": round(32 * 256 / 224)}
    assert small.facts["model"]["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    again = load_model(small.source, small.digest)
    inputs, _ = small.data.test.batch(range(3))
    torch.testing.assert_close(again(inputs), small.model(inputs))
    with pytest.raises(DataError, match="images of one size"):
        load_subject(choice(model=f"{__name__}:make_flat", data=tmp_path / "photos", trust_code=True))
