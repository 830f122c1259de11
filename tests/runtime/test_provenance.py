"""What a result says about itself."""

from pathlib import Path

import torch

import veridical
from veridical.runtime.files import read_json, write_json
from veridical.runtime.guards import thread_count
from veridical.runtime.provenance import environment, result_document


def test_the_environment_is_plain_and_says_what_computed() -> None:
    told = environment("cpu", torch.float64, threads=3, seed=11)
    assert told["veridical"] == veridical.__version__
    assert told["torch"] == str(torch.__version__)
    assert (told["device"], told["gpu"], told["dtype"], told["threads"], told["seed"]) == (
        "cpu",
        None,
        "float64",
        3,
        11,
    )
    assert told["cpu"]
    assert {type(value) for value in told.values()} <= {str, int, type(None)}


def test_threads_default_to_what_torch_uses() -> None:
    with thread_count(2):
        assert environment("cpu", "bfloat16")["threads"] == 2


def test_the_document_has_the_five_parts_and_survives_json(tmp_path: Path) -> None:
    results = {"natural_accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100}}
    document = result_document(
        results, {"data": "mnist"}, environment("cpu", torch.float32), {"seconds": 1.5}
    )
    assert list(document) == ["schema", "results", "config", "environment", "timing", "files"]
    assert document["schema"] == 1
    write_json(tmp_path / "result.json", document)
    assert read_json(tmp_path / "result.json") == document
