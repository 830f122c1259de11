"""What `train` is given in place of names: taken, or refused by name and type; nothing is dropped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import veridical
from veridical.attacks.ball import ball
from veridical.attacks.protocols import protocol
from veridical.attribution.method import AttributionMethod
from veridical.attribution.registry import create_attribution
from veridical.data.lookup import data_root
from veridical.jobs.store import Store
from veridical.runtime.errors import UsageError
from veridical.runtime.files import claim_folder, read_json
from veridical.training.run import load as load_run

TENSORS = TensorDataset(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": DataLoader(TENSORS)}, "data: expected a name.* got a DataLoader"),
        ({"data": TENSORS}, "data: expected a name.* got a TensorDataset"),
        ({"model": nn.Linear}, "model: expected a name.* got the class Linear"),
        ({"objective": nn.CrossEntropyLoss()}, "objective: expected a name.* cannot be called so"),
        ({"objective": nn.Linear}, "objective: expected a name.* got the class Linear"),
        ({"lr": 0.1}, "Did you mean learning_rate"),
        ({"epocs": 3}, "Did you mean epochs"),
        ({"out": None}, "out"),
        ({"model_options": {"depth": 3}}, "depth"),
        ({"model": "cmn"}, "Did you mean cnn"),
        ({"data": "mnist5k"}, "Did you mean mnist-5k"),
        ({"objective": "igsum"}, "Did you mean ig-sum-norm"),
        ({"model_options": {"initialization": "he"}}, "Did you mean initialisation"),
    ],
)
def test_what_train_cannot_take_is_refused_by_name(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {"data": "mnist-5k", "epochs": 1.0, "out": tmp_path / "run"} | given
    options = {name: value for name, value in options.items() if name != "out" or value is not None}
    with pytest.raises(UsageError, match=words):
        veridical.train(progress=False, **options)
    with pytest.raises(UsageError, match="options: expected TrainOptions"):
        veridical.train("mnist-5k", out=tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "method", [veridical.IntegratedGradients, veridical.InputGradient, veridical.SmoothGrad]
)
def test_a_method_that_is_given_a_model_says_when_it_comes(method: Callable[..., AttributionMethod]) -> None:
    with pytest.raises(UsageError, match="The model is given to the method"):
        method(nn.Flatten())


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: veridical.build("resnet", shape=(1, 8, 8), num_classes=2, seed=0), "resnet18"),
        (lambda: veridical.IntegratedGradients(rule="gauss"), "gauss-legendre"),
        (lambda: veridical.InputGradient("logits"), "logit"),  # type: ignore[arg-type]
        (lambda: protocol("paper_fas"), "paper-fast"),
        (lambda: ball("l-inf", 0.1), "linf"),
        (lambda: veridical.load("fashion_mnist"), "fashion-mnist"),
        (lambda: create_attribution("smoothgrads"), "smoothgrad"),
    ],
)
def test_near_names_are_suggested(call: Callable[[], Any], meant: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean {meant}"):
        call()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("os:system", "called as .model, inputs, target"),
        ("veridical.attribution.methods:InputGradient", "called as"),
        ("a..b:f", "cannot be imported"),
        ("os:no_such_name", "a name that os has"),
        ("broken_here:f", "broken_here:f cannot be imported: ZeroDivisionError"),
        (":f", "of the form"),
        ("os:", "of the form"),
    ],
)
def test_trusted_code_of_another_form_is_refused(
    spec: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_here.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=words):
        create_attribution(spec, trust_code=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda path: veridical.load(f"{path}.npz"),
        lambda path: veridical.load("mnist", root=path),
        load_run,
        lambda path: claim_folder(path, "kind", {}),
        read_json,
        Store,
        lambda _path: data_root(),
    ],
)
def test_a_home_that_is_nobodys_makes_no_folder(
    call: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERIDICAL_DATA", "~nobody-of-this-name")
    with pytest.raises(UsageError, match="~USER"):
        call("~nobody-of-this-name/x")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert claim_folder("~/x", "kind", {}) == tmp_path / "home" / "x"
    assert Store("~/s").root == tmp_path / "home" / "s"
    assert not list(tmp_path.glob("~*"))
