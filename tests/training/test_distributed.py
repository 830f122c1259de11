"""Trainings that are killed, and processes that share every batch: bits and files of one unbroken run."""

import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from veridical.attacks.ball import L2, Ball, Linf, NoiseRows
from veridical.cli.commands import COMMANDS
from veridical.cli.main import main
from veridical.cli.options import parse_options
from veridical.jobs import ProcessPool
from veridical.runtime.errors import UsageError
from veridical.runtime.guards import thread_count
from veridical.training.distributed import ALONE, ProcessGroup, Share, join_processes
from veridical.training.loop import train

SOURCE = Path(__file__).parents[2] / "src"
SCRIPT = Path(__file__).with_name("forked.py")

RunPython = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not torch.distributed.is_available(), reason="needs fork and torch.distributed"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run_python: RunPython) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    code, _, errors = run_python(folder, str(SCRIPT), str(folder))
    assert code == 0, errors
    return folder


def outcomes(place: Path, name: str, count: int = 2) -> list[dict[str, Any]]:
    files = [place / "outcomes" / f"{name}.{rank}.json" for rank in range(count)]
    return [json.loads(file.read_text()) for file in files]


def messages(place: Path, name: str) -> list[str]:
    return [f"{told['error']}: {told['message']}" for told in outcomes(place, name)]


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [(0, "-warm"), (1000, "-augmented")],
    ids=["checkpoint every step, warm starts", "checkpoint every epoch, augmented"],
)
def test_killed_runs_end_with_the_bits_of_an_unbroken_one(
    tmp_path: Path, run_python: RunPython, seconds: int, kind: str
) -> None:
    code, printed, errors = run_python(tmp_path, str(SCRIPT), str(tmp_path), "1", "6", str(seconds), kind)
    assert code == 0, errors
    assert "failed" not in errors
    assert int(printed) >= 3, "hardly any kill hit a running session"
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    assert (killed / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert log(killed) == log(unbroken)
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (killed, unbroken))
    assert (one["results"], one["config"]) == (other["results"], other["config"])
    names = [sorted(path.name for path in folder.iterdir()) for folder in (killed, unbroken)]
    assert names[0] == names[1]


@pytest.mark.parametrize("kind", ["", "-augmented", "-warm"])
def test_two_processes_train_what_one_does(place: Path, kind: str) -> None:
    assert outcomes(place, f"pair{kind}") == [{"value": None}, {"value": None}]
    one, two = (load_file(place / f"{name}{kind}" / "model.safetensors") for name in ("alone", "pair"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-10, atol=1e-12)
    assert not torch.equal(one["classify.weight"], two["classify.weight"]), "the batches were not shared"
    for line, other in zip(log(place / f"alone{kind}"), log(place / f"pair{kind}"), strict=True):
        assert line.pop("kind") == other.pop("kind")
        assert line == pytest.approx(other, rel=1e-9)


def test_the_result_says_how_many_processes_there_were(place: Path) -> None:
    one, two = (json.loads((place / name / "result.json").read_text()) for name in ("alone", "pair"))
    assert [one["environment"]["processes"], two["environment"]["processes"]] == [1, 2]
    assert (one["results"], one["config"]) == (two["results"], two["config"])
    names = ["claim.json", "log.jsonl", "model.safetensors", "result.json"]
    assert sorted(path.name for path in (place / "pair").iterdir() if path.name[0] != ".") == names


def test_after_a_kill_two_processes_continue_with_the_same_bits(place: Path) -> None:
    assert not (place / "outcomes" / "killed.1.json").exists()
    (told, *_) = outcomes(place, "killed", 1)
    assert told["error"] == "RunError"
    assert "process 0 of 2 lost the others" in told["message"]
    assert outcomes(place, "continued") == [{"value": None}, {"value": None}]
    broken, unbroken = place / "killed", place / "pair"
    assert (broken / "model.safetensors").read_bytes() == (unbroken / "model.safetensors").read_bytes()
    assert log(broken) == log(unbroken)
    assert outcomes(place, "finished") == [{"value": None}, {"value": None}]


def test_an_image_that_breaks_one_process_is_named_by_all(place: Path) -> None:
    one, two = (json.loads((place / name / "stopped.json").read_text()) for name in ("white-alone", "white"))
    assert two["images"] == [20]
    assert {**one, "checkpoint": None} == {**two, "checkpoint": None}
    first, second = messages(place, "white")
    assert first.startswith("RunError: the loss was not finite at step")
    assert second.startswith("RunError: process 0 of 2 stopped: the loss was not finite")


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("raises", r"RunError: process 1 .*'no step today'", "ValueError: no step today"),
        ("norm", r"UsageError: Net has batch normalisation \(extra\)", "RunError: process 0 .* Net has"),
        ("statistics", "RunError: after step 5 processes 0 and 1 hold", "RunError: after step 5 processes 0"),
        ("small", "UsageError: batch_size: expected an image", "RunError: process 0 .* batch_size"),
        ("other", "RunError: process 1 of 2 stopped:", "UsageError:"),
        ("step", "RunError: process 1 of 2 stopped: in", "RunError: in"),
    ],
)
def test_an_error_of_one_process_ends_both(place: Path, name: str, first: str, second: str) -> None:
    for message, expected in zip(messages(place, name), (first, second), strict=True):
        assert re.match(expected, message)


def test_a_refused_training_leaves_no_folder(place: Path) -> None:
    assert not (place / "norm").exists()
    assert "seed is 0 there, 1 here" in messages(place, "other")[0]


def test_gradients_are_added_where_any_process_has_one(place: Path) -> None:
    both, of_the_first = [[3.0] * 3] * 2, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert outcomes(place, "gradients") == [{"value": [both, of_the_first, None, [1.0, 1.0]]}] * 2


def test_layers_draw_unrelated_noise_and_the_first_process_its_own(place: Path) -> None:
    first, second = (told["value"] for told in outcomes(place, "dropout"))
    assert first == Share(ProcessGroup(), 4).layer_seed(0, 3)
    assert first != second


@pytest.mark.parametrize("ball", [Linf(0.1), L2(1.0)])
def test_an_example_gets_its_noise_in_whatever_process_it_is(ball: Ball) -> None:
    origin = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = ball.random_start(origin, torch.Generator().manual_seed(2))
    parts = []
    for rank in range(3):
        rows = Share(ProcessGroup(rank, 3), 7).rows
        noise = NoiseRows(torch.Generator().manual_seed(2), rows, 7)
        parts.append(ball.random_start(origin[rows], noise))
        with pytest.raises(UsageError, match="was asked for 1"):
            ball.random_start(origin[:1], noise)
    assert [len(part) for part in parts] == [2, 2, 3]
    assert torch.equal(torch.cat(parts), whole)


def test_the_documented_commands_are_understood() -> None:
    from torch.distributed.run import get_args_parser

    text = (SOURCE.parent / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("torchrun -")]
    found = [get_args_parser().parse_args(line[1:]) for line in lines]
    assert [given.training_script for given in found] == ["veridical"] * len(found)
    assert [given.training_script_args[0] for given in found] == ["train"]
    for given in found:
        name, *argv = given.training_script_args
        assert COMMANDS[name].is_shared
        parse_options(COMMANDS[name].options(), argv, prog=name)


def test_torchrun_starts_the_command(place: Path, tmp_path: Path, run_python: RunPython) -> None:
    options = ["--data", str(place / "shades.npz"), "--model", "mlp", "--objective", "ig-sum-norm"]
    options += ["--steps", "6", "--batch-size", "15", "--optimiser", "sgd", "--threads", "1"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "veridical", "train", *options, "--out", str(tmp_path / "two")]
    code, printed, errors = run_python(tmp_path, *torchrun, *command)
    assert code == 0, errors
    assert printed.count("finished") == 1
    given: dict[str, Any] = {"model": "mlp", "objective": "ig-sum-norm", "steps": 6, "batch_size": 15}
    given |= {"data": str(place / "shades.npz"), "optimiser": "sgd", "threads": 1, "progress": False}
    alone = train(out=str(tmp_path / "one"), **given)
    weights = load_file(tmp_path / "two" / "model.safetensors")
    for name, weight in alone.model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert result["environment"]["processes"] == 2
    assert result["config"] == json.loads(json.dumps(alone.settings.to_dict()))


def _started(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(size))


def _with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_a_scheduler_s_variables_alone_start_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with join_processes() as group:
        assert group is ALONE


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
@pytest.mark.parametrize("text", ["", "x", "-1", "2.0", "9" * 20, "2", "\u0663"])
def test_junk_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    _started(monkeypatch, 0, 2)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv(name, "0" if (name, text) == ("WORLD_SIZE", "2") else text)
    with pytest.raises(UsageError, match=rf"^{name}: expected a whole number"), join_processes("cpu"):
        raise AssertionError("joined nobody")
    if name == "WORLD_SIZE":
        assert main(["data"]) == 2
        assert "torchrun" in capsys.readouterr().err


@pytest.mark.parametrize("number", [0, -1, 100_000, 2**31, 2**70, 2.5])
def test_threads_and_processes_are_bounded_wherever_they_are_taken(number: Any) -> None:
    places: dict[str, Callable[[], object]] = {
        "threads": lambda: thread_count(number).__enter__(),
        "workers": lambda: ProcessPool(number),
        "per_gpu": lambda: ProcessPool(per_gpu=number),
    }
    for name, take in places.items():
        with pytest.raises(UsageError, match=f"^{name}: expected an integer from 1 to"):
            take()


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _started(monkeypatch, 0, 1)
    with join_processes() as group:
        assert group is ALONE
        assert not torch.distributed.is_initialized()
    tensor = torch.arange(3)
    assert group.all_reduce(tensor) is tensor
    assert tensor.tolist() == [0, 1, 2]
    assert group.broadcast({"a": 1}) == {"a": 1}
    for block in (group.guarded, group.in_turn):
        with pytest.raises(ZeroDivisionError), block():
            raise ZeroDivisionError


def test_processes_that_cannot_find_each_other_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _started(monkeypatch, 0, 2)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match=r"MASTER_ADDR.*with torchrun"), join_processes("cpu"):
        raise AssertionError("joined nobody")


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_gpus(monkeypatch, 2)
    assert ProcessGroup(3, 4, 1).device("auto") == torch.device("cuda", 1)
    assert ProcessGroup(3, 4, 1).device("cpu") == torch.device("cpu")
    assert ALONE.device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="number 3 of a machine with 2 GPUs"):
        ProcessGroup(2, 3, 2).device("cuda")
    with pytest.raises(UsageError, match="auto, cpu or cuda for 2 processes"):
        ProcessGroup(0, 2, 0).device("cuda:1")
    _with_gpus(monkeypatch, 0)
    assert ProcessGroup(1, 2, 1).device("auto") == torch.device("cpu")


@pytest.mark.parametrize("command", ["data", "compare", "demo"])
def test_commands_that_cannot_be_shared_refuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    _started(monkeypatch, 0, 2)
    assert main([command]) == 2
    assert "2 processes cannot share this command" in capsys.readouterr().err
