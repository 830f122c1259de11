"""Training from end to end on tiny data."""

import hashlib
import importlib
import json
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from veridical.attacks.ball import Linf, Noise
from veridical.data import Dataset
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.options import TrainOptions
from veridical.training.checkpoint import pack
from veridical.training.log import read_log
from veridical.training.loop import train
from veridical.training.objectives import Inner, ObjectiveValue, RobustAttribution
from veridical.training.penalties import AttributionPenalty
from veridical.training.run import Run, load

Trained = Callable[..., Run]

LONGER: dict[str, Any] = {"epochs": 12.0, "learning_rate": 1e-2, "averaging": 0.8}


def weights_of(run: Run) -> dict[str, Tensor]:
    return run.model.state_dict()


@pytest.mark.parametrize(
    ("objective", "given"),
    [
        ("natural", {}),
        ("adversarial", {"radius": 0.05}),
        ("ig-norm", {"radius": 0.05, "inner_score": "size"}),
        ("ig-sum-norm", {"radius": 0.05, "beta_from": 0.3}),
        ("input-gradient", {"radius": 0.05}),
        ("loss-change", {"radius": 0.05}),
        ("natural", {"model": "cnn", "model_options": {}}),
    ],
)
def test_every_objective_learns_the_stripes(trained: Trained, objective: str, given: dict[str, Any]) -> None:
    run = trained("run", objective=objective, **LONGER, **given)
    results = run.result["results"]
    assert results["natural_accuracy"]["value"] > 0.9
    assert results["natural_accuracy"]["n"] == 60
    assert results["validation"]["natural_accuracy"]["n"] == 40
    if objective == "natural":
        assert results["adversarial_accuracy"] is None
    else:
        assert results["adversarial_accuracy"]["value"] > 0.8
    losses = [line["loss"] for line in read_log(run.folder) if line["kind"] == "steps"]
    assert losses[-1] < 0.5 * losses[0]
    if given.get("model") == "cnn":
        assert run.result["environment"]["layout"] == "channels_last"
        assert weights_of(run)["conv2.weight"].is_contiguous(memory_format=torch.channels_last)


def test_the_folder_holds_what_the_run_says(trained: Trained) -> None:
    inner = {"inner_score": "size", "inner_start": "random", "inner_steps": 4, "nodes": 2}
    run = trained("run", objective="ig-norm", radius=0.05, epochs=2.5, **inner)
    assert sorted(path.name for path in run.folder.iterdir() if path.name[0] != ".") == [
        "claim.json", "log.jsonl", "model.safetensors", "result.json"
    ]  # fmt: skip
    document = json.loads((run.folder / "result.json").read_text())
    assert document == run.result
    assert list(document) == ["schema", "results", "config", "environment", "timing", "files"]
    assert document["config"] == json.loads(json.dumps(run.settings.to_dict()))
    results = document["results"]
    objective = results["objective"]
    assert {name: objective[name] for name in inner} == inner
    assert {"what", "paper", "used"} == set(results["deviations"][0])
    assert results["adversarial_attack"]["radius"] == 0.05
    assert document["timing"]["examples_per_second"] > 0
    assert document["environment"]["seed"] == 0
    # The log sums up steps and epochs.
    epochs = [line for line in read_log(run.folder) if line["kind"] == "epoch"]
    assert [(line["step"], line["epoch"]) for line in epochs] == [(10, 1.0), (20, 2.0), (25, 2.5)]
    assert run.history == tuple(epochs)
    accuracy = results["validation"]["natural_accuracy"]["value"]
    assert run.history[-1]["validation_natural_accuracy"] == accuracy
    steps = [line for line in read_log(run.folder) if line["kind"] == "steps"]
    assert {"loss", "natural_loss", "gradient_norm", "learning_rate"} <= set(steps[0])


def test_a_finished_run_is_only_loaded_and_others_are_refused_in_its_folder(
    tmp_path: Path, stripes: Dataset, trained: Trained
) -> None:
    import fcntl

    def times(folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != ".lock"}

    folder = tmp_path / "run"
    leftover, checkpoint = folder / ".log.jsonl.123.abc.tmp", folder / "checkpoints" / "step-00000002.pt"
    folder.mkdir()
    leftover.write_text("half")
    run = trained("run")
    assert not leftover.exists()
    before = times(run.folder)
    # Killed between the result and the removal of what led to it.
    checkpoint.parent.mkdir()
    checkpoint.touch()
    leftover.write_text("half")
    inputs, _ = stripes.test.batch(range(5))
    for again in (trained("run"), load(run.folder)):
        assert not again.model.training
        assert (again.settings, again.result) == (run.settings, run.result)
        assert torch.equal(again.model(inputs), run.model(inputs))
    # What kills left behind is cleared away.
    assert times(run.folder) == before
    for change in ({"learning_rate": 0.1}, {"seed": 1}, {"objective": "adversarial"}):
        with pytest.raises(UsageError, match=next(iter(change))):
            trained("run", **change)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process"):
            trained("run")


def test_a_seed_decides_everything_but_what_is_delivered(
    tmp_path: Path, stripes: Dataset, trained: Trained
) -> None:
    """Options may be an object with replaced fields; of two averages the mean is what is delivered."""
    given: dict[str, Any] = {"objective": "adversarial", "radius": 0.05}
    changed: list[dict[str, Any]] = [{}, {"seed": 1}, {"averaging": 0.0}]
    one, seeded, averaged = (weights_of(trained(str(n), **given, **more)) for n, more in enumerate(changed))
    first = load(tmp_path / "0")
    options = TrainOptions(out=str(tmp_path / "again"), model="mlp", model_options={"width": 16}, **given)
    again = train(options, progress=False, data=stripes, validation=40, batch_size=20, epochs=3.0)
    assert again.settings == first.settings
    assert all(torch.equal(one[name], weights_of(again)[name]) for name in one)
    for other in (seeded, averaged):
        assert not any(torch.equal(one[name], other[name]) for name in one if "weight" in name)


class Own(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 3))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layers(inputs)
        return logits


def test_a_model_data_and_objective_of_the_callers_own(trained: Trained) -> None:
    objective = RobustAttribution(
        AttributionPenalty(l1=1.0), Linf(0.05), inner=Inner(steps=2, step_size=0.05)
    )
    model = Own().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given: dict[str, Any] = {"epochs": 8.0, "learning_rate": 1e-2, "averaging": 0.8}
    run = trained("run", model=model, objective=objective, **given)
    assert run.result["results"]["natural_accuracy"]["value"] > 0.9
    assert run.result["results"]["adversarial_attack"]["radius"] == 0.05
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(weights_of(run)["layers.1.weight"], before["layers.1.weight"])
    with pytest.raises(UsageError, match=r"load\(folder, model=\.\.\.\)"):
        load(run.folder)
    again = load(run.folder, model=Own())
    assert all(torch.equal(value, weights_of(run)[name]) for name, value in weights_of(again).items())
    with pytest.raises(RunError, match=r"layers\.1\.weight is \(8, 64\) float32 there, \(9, 64\)"):
        load(run.folder, model=Own(9))
    for changed in ({"model": Own(9)}, {"equalise": True}):
        with pytest.raises(UsageError, match=next(iter(changed))):
            trained("run", **{"model": Own(), "objective": objective, **given, **changed})


class Masked(Own):
    """With a constant of -inf, and a weight that torch's older weight_norm makes of two others."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers[1] = nn.utils.weight_norm(self.layers[1])
        self.register_buffer("mask", torch.tensor([0.0, 0.0, float("-inf")]))

    def forward(self, inputs: Tensor) -> Tensor:
        attended: Tensor = torch.softmax(self.mask, 0).sum() * super().forward(inputs)
        return attended


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_masks_and_weights_made_of_others_can_be_trained(trained: Trained) -> None:
    model = Masked()
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    run = trained("run", model=model, model_options={}, averaging=0.5)
    assert load(run.folder, model=model).result == run.result
    assert run.result["results"]["natural_accuracy"]["value"] > 0.5


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (nn.Linear(64, 2), r"3 classes of stripes, but got .Sequential with 2 logits"),
        (nn.LazyLinear(3), r"1\.weight.*no shape"),
        (nn.Unflatten(1, (64, 1)), "returned shape"),
        (nn.Sequential(nn.Linear(64, 3), nn.Softmax(1)), "probabilities"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, trained: Trained, last: nn.Module, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        trained("run", model=nn.Sequential(nn.Flatten(), last), objective="adversarial", radius=0.05)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_a_training_does_not_depend_on_who_calls(
    trained: Trained, mode: Callable[[], AbstractContextManager[object]]
) -> None:
    given: dict[str, Any] = {"objective": "ig-norm", "radius": 0.05, "steps": 2}
    plain = weights_of(trained("plain", **given))
    with mode():
        other = weights_of(trained("other", **given))
    assert all(torch.equal(value, plain[name]) for name, value in other.items())


@dataclass(frozen=True)
class Explodes:
    """The natural loss, until its data set's image number `image` is met."""

    after: int

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
    ) -> ObjectiveValue:
        del generator
        CALLS.append(len(inputs))
        loss = nn.functional.cross_entropy(model(inputs), target, reduction="none")
        factor = torch.ones_like(loss)
        if len(CALLS) > self.after:
            factor[3] = float("nan")
        return ObjectiveValue(loss * factor)


CALLS: list[int] = []


def test_a_loss_that_is_not_finite_stops_with_step_images_and_checkpoint(
    tmp_path: Path, trained: Trained
) -> None:
    CALLS.clear()
    flags = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with pytest.raises(RunError, match="not finite at step 14 for 1 of 20 images") as caught:
        trained("run", objective=Explodes(14), threads=1)
    stopped = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert stopped["step"] == 14
    assert stopped["images"] == [stopped["batch"][3]]
    assert len(set(stopped["batch"])) == 20
    assert ", ".join(map(str, stopped["batch"][:16])) in str(caught.value)
    assert stopped["checkpoint"].endswith("step-00000010.pt")
    assert "step-00000010" in str(caught.value)
    assert Path(stopped["checkpoint"]).is_file()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.backends.mkldnn.matmul.fp32_precision == flags  # type: ignore[attr-defined]


def steep_root(
    model: nn.Module, inputs: Tensor, target: Tensor, generator: Noise | None = None
) -> ObjectiveValue:
    """A finite loss whose gradient is not."""
    del target, generator
    return ObjectiveValue((0 * model(inputs)).square().sum(1).sqrt())


def test_a_run_that_stopped_names_its_images_by_their_numbers_in_the_data_set_and_is_not_loaded(
    tmp_path: Path, stripes: Dataset, trained: Trained
) -> None:
    with pytest.raises(RunError, match="the gradient was not finite at step 0"):
        trained("run", objective=steep_root, validation=200, batch_size=40)
    with pytest.raises(RunError, match="not finished"):
        load(tmp_path / "run")
    with pytest.raises(RunError, match="no such folder"):
        load(tmp_path / "nothing")
    (tmp_path / "claim.json").write_text(json.dumps({"kind": "demo", "config": {}}))
    with pytest.raises(RunError, match="holds the results of `veridical demo`"):
        load(tmp_path)
    batch = json.loads((tmp_path / "run" / "stopped.json").read_text())["batch"]
    held = torch.ones(240, dtype=torch.bool)
    held[batch] = False
    run = trained("other", validation=200, batch_size=40)
    assert torch.equal(run.validation_images(stripes).images, stripes.train.images[held])
    none = trained("none", validation=0, steps=2)
    assert none.history == ()
    assert none.result["results"]["validation"] is None
    assert none.settings.train_examples == 240
    with pytest.raises(UsageError, match="validation=0"):
        none.validation_images(stripes)


def test_tensorboard_events_are_written_on_request_and_refused_before_the_folder_is_claimed(
    tmp_path: Path, trained: Trained
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        with pytest.raises(UsageError, match="not installed"):
            trained("run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's own imports
        module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
        run = trained("run", tensorboard=True)
        events = module.EventAccumulator(str(run.folder / "tensorboard"))
        events.Reload()
        assert [event.step for event in events.Scalars("validation_natural_accuracy")] == [10, 20, 30]


def test_damaged_changed_weights_and_those_that_are_not_finite_are_refused(trained: Trained) -> None:
    run = trained("run", steps=2)
    tensors = load_tensors((run.folder / "model.safetensors").read_bytes())
    (run.folder / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        load(run.folder)
    for change, recorded, message in (
        (lambda value: 2 * value, False, "SHA-256"),
        (lambda value: value * torch.nan, True, "not finite"),
        (lambda value: value * torch.inf, True, "not finite"),
        (lambda value: value[:1], True, "another model"),
    ):
        content = pack({name: change(value) for name, value in tensors.items()})
        (run.folder / "model.safetensors").write_bytes(content)
        if recorded:
            files = {"model.safetensors": hashlib.sha256(content).hexdigest()}
            (run.folder / "result.json").write_text(json.dumps({**run.result, "files": files}))
        with pytest.raises(RunError, match=rf"model\.safetensors.*{message}"):
            load(run.folder)


def test_a_run_finds_its_data_again_and_refuses_others(
    tmp_path: Path, stripes: Dataset, trained: Trained
) -> None:
    def write(flip: bool) -> None:
        splits = {"train": stripes.train, "test": stripes.test}
        arrays: dict[str, Any] = {f"x_{name}": split.images[:, 0].numpy() for name, split in splits.items()}
        arrays |= {f"y_{name}": split.labels.numpy() for name, split in splits.items()}
        arrays["x_test"] = arrays["x_test"][::-1] if flip else arrays["x_test"]
        np.savez(tmp_path / "stripes.npz", **arrays)

    write(flip=False)
    run = trained("run", data=tmp_path / "stripes.npz", steps=2)
    assert run.settings.data["name"] == str(tmp_path / "stripes.npz")
    assert run.data().checksum == run.settings.data["checksum"]
    write(flip=True)
    with pytest.raises(RunError, match="checksum"):
        run.data()


def test_a_growing_ball_begins_with_the_clean_loss_and_is_part_of_the_settings(trained: Trained) -> None:
    """In the first step the ball is a point, so the loss is the clean one; later it is not."""

    def loss(name: str, **given: Any) -> float:
        still = {"radius": 0.3, "learning_rate": 0.0, "validation": 0, "batch_size": 240}
        run = trained(name, objective="adversarial", **still, **given)
        return fmean(line["loss"] for line in read_log(run.folder) if line["kind"] == "steps")

    clean = loss("clean", training_radius=0.0, steps=1)
    assert loss("growing", radius_warm_up=1.0, steps=1) == pytest.approx(clean, rel=1e-6)
    # No weight moves, so the mean over four steps is that of balls of 0, 1/4, 2/4 and 3/4.
    assert clean < loss("grown", radius_warm_up=1.0, steps=4) < loss("whole", steps=4)
