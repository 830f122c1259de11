"""Models of other libraries and of one's own, trained on from the weights in a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import veridical
from veridical.cli.main import main
from veridical.faithfulness.retraining import resolve_architecture, resolve_training, train_fresh
from veridical.models.external import ModelSource, build_examined
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.options import SubjectChoice, TrainingGrid
from veridical.training import loop
from veridical.training.checkpoint import digest_weights
from veridical.training.run import Run, load
from veridical.training.subject import fresh_model, load_subject
from veridical.training.task import study_settings

from .conftest import write_photos

Trained = Callable[..., Run]
RESNET = {"model": "torchvision:resnet18"}
SIZE, MEAN, STD = 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Narrow(nn.Sequential):
    """A network of a caller's own, with batch normalisation and a head whose logits are an entry."""

    def __init__(self, classes: int) -> None:
        body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        super().__init__(body, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, classes))

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"scores": super().forward(inputs), "inputs": inputs}


def make_narrow(num_classes: int) -> nn.Module:
    """A factory that knows nothing of seeds."""
    return Narrow(num_classes)


def seeded(make: Callable[[], Any]) -> Any:
    """A model whose weights are not those that training would begin with, its statistics included."""
    with torch.random.fork_rng():
        torch.manual_seed(77)
        model = make()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
                nn.init.normal_(layer.running_mean, 0.0, 0.1)
        return model


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draws, arrays = np.random.default_rng(0), dict[str, Any]()
    for part, count in (("train", 48), ("test", 12)):
        labels = np.arange(count) % 3
        pixels = draws.integers(0, 120, (count, SIZE, SIZE, 3))
        pixels[np.arange(count), :, :, labels] += 100  # the class is a colour
        arrays |= {f"x_{part}": pixels.astype(np.uint8), f"y_{part}": labels}
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def tuned(tmp_path: Path, images: Path) -> Trained:
    """`train` for a few steps, called with the name of its folder and options."""

    def call(name: str, **given: Any) -> Run:
        usual: dict[str, Any] = {"data": str(images), "objective": "natural", "steps": 2, "batch_size": 16}
        usual |= {"validation": 0, "averaging": 0.0, "device": "cpu", "progress": False}
        return veridical.train(**{"out": tmp_path / name, **usual, **given})

    return call


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    model = seeded(lambda: torchvision.models.resnet18(num_classes=3))
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, tmp_path / "resnet.pt")
    return tmp_path / "resnet.pt"


@pytest.fixture
def narrow(tmp_path: Path) -> Path:
    state = seeded(lambda: Narrow(3)).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "narrow.pt")
    return tmp_path / "narrow.pt"


def narrow_options(weights: Path) -> dict[str, Any]:
    return {"model": f"{__name__}:make_narrow", "output": "scores", "trust_code": True, "init": weights}


def audited(images: Path, weights: Path, **given: Any) -> str:
    """The digest of the weights that every command would examine."""
    return load_subject(SubjectChoice(data=str(images), weights=str(weights), **given), device="cpu").digest


def fresh_resnet(seed: int) -> nn.Module:
    source = ModelSource("torchvision:resnet18")
    return build_examined(source, shape=(3, SIZE, SIZE), num_classes=3, seed=seed)


def learnt(run: Run) -> dict[str, Tensor]:
    """The parameters by the names that they have in the file."""
    return {name.removeprefix("model."): value for name, value in run.model.named_parameters()}


def test_the_initial_weights_are_those_of_the_file_and_of_the_audit(
    images: Path, tuned: Trained, resnet: Path, narrow: Path
) -> None:
    still = {"learning_rate": 0.0, "weight_decay": 0.0}
    for weights, given in ((resnet, {**RESNET, "init": resnet}), (narrow, narrow_options(narrow))):
        run = tuned(weights.stem, **given, **still)
        assert run.settings.initial is not None
        named = {key: value for key, value in given.items() if key != "init"}
        assert run.settings.initial["weights"] == audited(images, weights, **named)
        file = torch.load(weights, weights_only=True)
        stored = {name.removeprefix("module."): value for name, value in file.get("state_dict", file).items()}
        assert all(torch.equal(value, stored[name]) for name, value in learnt(run).items())
        moved = tuned(f"{weights.stem}-moved", **given)
        assert moved.settings.initial == run.settings.initial
        assert any(not torch.equal(value, stored[name]) for name, value in learnt(moved).items())
        used = {one["what"]: one["used"] for one in run.result["results"]["deviations"]}
        assert used["weights at the start"] == "those of a file"


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet10t"])
def test_running_statistics_take_in_each_batch_once_and_only_it(
    spec: str, images: Path, tmp_path: Path, tuned: Trained
) -> None:
    library, _, name = spec.partition(":")
    if library == "timm":
        timm = pytest.importorskip("timm")
        theirs = seeded(lambda: timm.create_model(name, num_classes=3))
    else:
        theirs = seeded(lambda: torchvision.models.get_model(name, num_classes=3))
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    given = {"model": spec, "init": tmp_path / "weights.pt", "learning_rate": 0.0, "weight_decay": 0.0}
    own: Any = tuned("one", **given, steps=1, batch_size=48).model
    arrays = np.load(images)
    inputs = torch.from_numpy(arrays["x_train"]).movedim(-1, 1) / 255
    theirs.train()(own.standardise(inputs))  # the images of the one step, in another order
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(own.model.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    # The ascent and the map look at the model in eval mode.
    robust = tuned("two", **given, objective="ig-norm", radius=0.01, steps=2).model.state_dict()
    counts = {int(value) for key, value in robust.items() if key.endswith("num_batches_tracked")}
    assert counts == {2}


def test_an_interrupted_fine_tuning_goes_on_to_the_same_weights(
    tuned: Trained, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {**narrow_options(narrow), "steps": 4, "averaging": 0.9}
    given |= {"objective": "adversarial", "radius": 0.01, "checkpoint_seconds": 0.0}
    whole = tuned("whole", **given)
    one_step = loop._Session._one_step

    def stop(session: Any) -> float:
        if session.step == 2:
            raise KeyboardInterrupt
        return one_step(session)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Session, "_one_step", stop)
        with pytest.raises(KeyboardInterrupt):
            tuned("broken", **given)
    other = tmp_path / "other.pt"
    torch.save({name: value + 1 for name, value in torch.load(narrow, weights_only=True).items()}, other)
    with pytest.raises(UsageError, match=r"initial\.weights"):
        tuned("broken", **given | {"init": other})
    # The file may have moved: its content counts.
    broken = tuned("broken", **given | {"init": narrow.rename(tmp_path / "moved.pt")})
    assert broken.settings == whole.settings
    assert digest_weights(broken.model) == digest_weights(whole.model)


def test_the_run_is_attacked_and_built_anew_like_any_other(
    tuned: Trained, images: Path, resnet: Path, narrow: Path, tmp_path: Path
) -> None:
    given = ["--model", RESNET["model"], "--init", str(resnet), "--data", str(images), "--steps", "2"]
    given += ["--batch-size", "16", "--objective", "natural", "--device", "cpu", "--progress=false"]
    assert main(["train", *given, "--out", str(tmp_path / "run")]) == 0
    run = load(tmp_path / "run")
    arguments = ["--run", str(run.folder), "--radius", "0.02", "--examples", "2", "--workers", "1"]
    arguments += ["--attribution", "input-gradient", "--device", "cpu", "--progress=false"]
    assert main(["attack", *arguments, "--out", str(tmp_path / "attack")]) == 0
    config = json.loads((tmp_path / "attack" / "result.json").read_text())["config"]
    assert config["run"]["model"]["name"] == "torchvision:resnet18"
    subject = load_subject(SubjectChoice(run=str(run.folder)), device="cpu")
    fresh = fresh_model(subject.source, (3, SIZE, SIZE), 3)
    assert fresh is not None
    expected = fresh_resnet(5)
    assert digest_weights(fresh(5)) == digest_weights(expected)
    assert digest_weights(fresh(6)) != digest_weights(expected)
    # Nobody but the callable knows its initial weights.
    own = tuned("own", **narrow_options(narrow))
    chosen = SubjectChoice(run=str(own.folder), trust_code=True)
    assert fresh_model(load_subject(chosen, device="cpu").source, (3, SIZE, SIZE), 3) is None
    with pytest.raises(UsageError, match="trust"):
        load(own.folder)
    inputs = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    kept: Any = own.model
    torch.testing.assert_close(load(own.folder, trust_code=True).model(inputs), kept.model(inputs)["scores"])


def test_a_retraining_starts_from_fresh_weights_or_says_why_not(
    tuned: Trained, resnet: Path, tmp_path: Path
) -> None:
    run = tuned("run", **RESNET, init=resnet)
    record = resolve_architecture(None, {}, run.data(), run.settings, trust_code=False)
    assert record == run.settings.model
    with pytest.raises(UsageError, match="Give epochs, or steps"):
        resolve_training(run.data(), record, run.settings, "natural", {})
    training = resolve_training(
        run.data(), record, run.settings, "natural", {"steps": 1, "learning_rate": 0.0}
    )
    values = {"model": record, "seed": 3, "training": training | {"weight_decay": 0.0}}
    again = train_fresh(values, run.data(), tmp_path / "fresh", {"device": "cpu"}).model
    expected = fresh_resnet(3)
    # A job reads it again from its folder.
    assert load(tmp_path / "fresh").settings.model == record
    own = dict(again.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in expected.named_parameters())
    # Without a seed nobody knows whether a callable's weights are fresh.
    with pytest.raises(UsageError, match="seed"):
        resolve_architecture(f"{__name__}:make_narrow", {}, run.data(), None, trust_code=True)


def test_a_folder_of_transformers_is_trained_on_and_needed_no_more(
    tuned: Trained, tmp_path: Path, images: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=SIZE, patch_size=8, num_labels=3)
    theirs = seeded(lambda: transformers.ViTForImageClassification(config).eval())
    theirs.save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=list(MEAN), image_std=list(STD)
    ).save_pretrained(tmp_path / "vit")
    given: dict[str, Any] = {"model": f"hf:{tmp_path / 'vit'}", "learning_rate": 0.0, "weight_decay": 0.0}
    run = tuned("run", **given, objective="ig-norm", radius=0.01)
    assert run.settings.initial is not None
    subject = load_subject(SubjectChoice(model=given["model"], data=str(images)), device="cpu")
    assert run.settings.initial["weights"] == subject.digest
    grid = TrainingGrid(model=given["model"], objective=["natural"])
    with pytest.raises(UsageError, match="weights are fresh"):
        list(study_settings(grid, [("linf", 0.1)], run.data()))
    with pytest.raises(UsageError, match="saved folder"):
        resolve_architecture(None, {}, run.data(), run.settings, trust_code=False)
    shutil.rmtree(tmp_path / "vit")
    inputs = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (MEAN, STD))
    expected = theirs((inputs - mean) / std).logits
    torch.testing.assert_close(load(run.folder).model(inputs), expected, rtol=1e-4, atol=1e-5)
    where = load_subject(SubjectChoice(run=str(run.folder)), device="cpu").source
    assert fresh_model(where, (3, SIZE, SIZE), 3) is not None
    (run.folder / "architecture" / "config.json").write_text("{}")
    with pytest.raises(RunError, match="not what the run was trained with"):
        load(run.folder)


def test_class_folders_are_cut_in_training_as_in_the_audit(
    tuned: Trained, resnet: Path, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos", 20, 24, each=4)
    photos: dict[str, Any] = {**RESNET, "data": str(tmp_path / "photos"), "image_size": SIZE}
    run = tuned("run", **photos, init=resnet, batch_size=6)
    examined = load_subject(SubjectChoice(**photos, weights=str(resnet)), device="cpu").data
    assert run.data().checksum == run.settings.data["checksum"] == examined.checksum
    # Other folders are brought to the size that the run was trained at.
    shutil.copytree(tmp_path / "photos", tmp_path / "others")
    assert run.data(name=str(tmp_path / "others")).shape == (3, SIZE, SIZE)


def test_a_module_of_ones_own_begins_with_a_file_too(tuned: Trained, tmp_path: Path) -> None:
    state = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))).state_dict()
    torch.save(state, tmp_path / "linear.pt")
    module: Any = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 3))
    before = module[1].weight.detach().clone()
    given: dict[str, Any] = {"init": tmp_path / "linear.pt", "learning_rate": 0.0, "weight_decay": 0.0}
    run = tuned("run", model=module, **given)
    assert all(torch.equal(value, state[name]) for name, value in run.model.state_dict().items())
    assert torch.equal(module[1].weight, before)
    with pytest.raises(UsageError, match="input_mean: this is for networks by name"):
        tuned("not", model=module, input_mean=[0.5])
    # A network of ours with its images shifted is another one, and recorded as such.
    plain, shifted = (
        tuned("plain", model="mlp"),
        tuned("shifted", model="mlp", input_mean=[0.5], input_std=[0.5]),
    )
    assert "preprocessing" not in plain.settings.model
    inputs = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    inner: Any = shifted.model
    torch.testing.assert_close(load(shifted.folder).model(inputs), inner.model((inputs - 0.5) / 0.5))


def test_what_cannot_be_trained_on_is_refused_and_leaves_no_folder(
    tuned: Trained, resnet: Path, narrow: Path, tmp_path: Path
) -> None:
    run = tuned("run", model="mlp", model_options={"width": 4})
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model": f"export:{resnet}", "init": resnet, "trust_code": True}, "can be trained, .* mode"),
        ({"model": "torchvision:resnet81"}, "Did you mean torchvision:resnet18"),
        ({"model": "torchvision:resnet18", "init": narrow}, "missing"),
        ({"model": "torchvision:resnet18", "init": tmp_path / "none.pt"}, "init: .* no such file"),
        ({"model": "torchvision:resnet18", "init": run.folder}, r"model\.safetensors"),
        ({"model": "torchvision:resnet18", "model_options": {"num_classes": 5}}, "of 5 logits"),
        (
            {"model": "mlp", "model_options": {"width": 4}, "init": resnet, "initial_run": run.folder},
            "give one",
        ),
        ({**narrow_options(narrow), "trust_code": False}, "trust"),
        ({**narrow_options(narrow), "output": None}, "scores, inputs"),
        ({"model": "torchvision:resnet18", "data": run.data(), "image_size": 8}, "taken as it is"),
    ]
    for number, (given, message) in enumerate(wrong):
        with pytest.raises((UsageError, RunError), match=message):
            tuned(f"refused-{number}", **given)
        assert not (tmp_path / f"refused-{number}").exists()
