"""Which processes share a command, and which device each of them gets."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from veridical.cli.main import main
from veridical.jobs import ProcessPool
from veridical.runtime.errors import UsageError
from veridical.runtime.guards import thread_count
from veridical.training.distributed import ALONE, ProcessGroup, join_processes


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
