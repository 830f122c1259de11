"""The table of networks: names without torch, errors that say what is possible, configurations."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from veridical.models import MODELS, build, model_config
from veridical.runtime.errors import UsageError

SIZES: dict[str, Any] = {"shape": (3, 32, 32), "num_classes": 7}


def test_names_need_no_torch_and_building_imports_nothing_but_the_network() -> None:
    program = """
import sys
from veridical.models import MODELS, build
assert "torch" not in sys.modules
import torch
before = set(sys.modules)
for name in MODELS:
    build(name, shape=(3, 8, 8), num_classes=3, seed=0)
print(*MODELS)
print(*(name for name in sys.modules if name not in before and not name.startswith("veridical.")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == " ".join(MODELS) + "\n\n"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet50", {}, "one of cnn, rar-resnet, mlp, resnet18"),
        ("cnn", {"width": 3}, "option of model 'cnn': expected one of .*'width'.*mean .*; std"),
        ("cnn", {"initialisation": 1.5}, "one of paper, he, paper-he or a number from 0 to 1, but got 1.5"),
        ("cnn", {"initialisation": True}, "or a number from 0 to 1, but got True"),
        ("cnn", {"activation": "tanh"}, "one of relu, silu, gelu or a number from 0.01 to 1,000, but got"),
        ("mlp", {"activation": 0}, "one of relu, silu, gelu or a number from 0.01 to 1,000, but got 0"),
        ("mlp", {"width": 0}, "option width of model 'mlp': expected an integer from 1 to 16,384, but got 0"),
        ("mlp", {"width": True}, "expected an integer from 1 to 16,384, but got True"),
        ("resnet18", {"width": 10**6}, "expected an integer from 1"),
        ("mlp", {"mean": 10**400}, "expected a number from -1,000,000"),
        ("mlp", {"std": 1e-300}, "expected a number from 1e-06"),
        ("mlp", {"mean": [[0.5]]}, "expected a number from -1,000,000"),
        ("resnet18", {"norm": "layer"}, "expected one of group, none, batch, but got 'layer'"),
        ("resnet18", {"mean": [0.5, 0.5]}, "one per channel"),
        ("resnet18", {"std": [0.5, 0.0, 0.5]}, "from 1e-06"),
        ("resnet18", {"mean": float("nan")}, "a number"),
        ("cnn", {"mean": "0.5"}, "a number"),
        ("cnn", {"shape": (1, 27, 28)}, "divisible by 4 .* use mlp, resnet18"),
        ("cnn", {"shape": (28, 28)}, "channels, height, width"),
        ("cnn", {"shape": (1, 28, 0)}, r"shape\[2\]: expected an integer from 1"),
        ("cnn", {"num_classes": 0}, "num_classes: expected an integer from 1"),
        ("cnn", {"seed": 0.5}, "seed: expected an int"),
    ],
)
def test_errors_say_what_is_possible(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, **{**SIZES, "seed": 0, **arguments})


@pytest.mark.parametrize("name", MODELS.names())
def test_config_goes_through_json_and_builds_the_same_network(name: str) -> None:
    known = MODELS.get(name).options or {}
    mine: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "units": 1}
    options = {key: value for key, value in mine.items() if key in known}
    config = json.loads(json.dumps(model_config(name, **SIZES, **options)))
    assert set(config["options"]) == set(known)
    chosen = {key: config[key] for key in ("shape", "num_classes")} | config["options"]
    again = build(config["name"], seed=3, **chosen).eval()
    inputs = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert_close(again(inputs), build(name, **SIZES, seed=3, **options).eval()(inputs), rtol=0, atol=0)
    assert all(option.meaning for option in known.values())
    # A number in place of a name is recorded as one kind of number.
    for given, kept in ((0, 0.0), (1, 1.0), (0.3, 0.3), ("he", "he")) if name == "cnn" else ():
        recorded = model_config("cnn", **SIZES, initialisation=given)["options"]["initialisation"]
        assert (recorded, type(recorded)) == (kept, type(kept))


def test_the_docs_list_every_network_with_its_options() -> None:
    page = Path(__file__).parents[2] / "docs" / "data-and-models.md"
    rows = []
    for entry in MODELS.entries():
        options = (entry.options or {}).items()
        told = "; ".join(f"`{name}` ({option.default}): {option.meaning}" for name, option in options)
        sizes = "any" if entry.divisor == 1 else f"multiples of {entry.divisor}"
        rows.append(f"| `{entry.name}` | {entry.summary} | {sizes} | {told} |")
    assert "\n".join(rows) in page.read_text(encoding="utf-8")


NETS = """
from torch import nn
def linear(shape, num_classes, seed, *, bias=True):
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes, bias=bias))
def text(shape, num_classes, seed): return "no network"
"""


def test_a_callable_of_ones_own_is_built_where_code_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"model: .*--trust-code"):
        build("own_nets:linear", **SIZES, seed=0)
    network = build("own_nets:linear", **SIZES, seed=0, trust_code=True, bias=False)
    assert isinstance(network, nn.Sequential)
    assert network(torch.zeros(2, 3, 32, 32)).tolist() == [[0.0] * 7] * 2
    config = model_config("own_nets:linear", **SIZES, trust_code=True, bias=False)
    assert len(config.pop("source")) == 64
    assert config == {"name": "own_nets:linear", **SIZES, "shape": [3, 32, 32], "options": {"bias": False}}
    with pytest.raises(UsageError, match=r"an nn\.Module from own_nets:text"):
        build("own_nets:text", **SIZES, seed=0, trust_code=True)
    with pytest.raises(UsageError, match="called as"):
        build("own_nets:linear", **SIZES, seed=0, trust_code=True, width=3)
