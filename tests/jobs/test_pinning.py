"""What workers may use: cores, threads, GPUs."""

import os
import stat
from pathlib import Path

import pytest

from veridical.jobs import pool
from veridical.jobs.pool import usable_cores, visible_cards, worker_environments
from veridical.runtime.errors import UsageError

CARDS = "CUDA_VISIBLE_DEVICES"


def cards_of(environments: list[dict[str, str]]) -> list[str | None]:
    return [environment.get(CARDS) for environment in environments]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three GPUs, as the driver's tool lists them."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(CARDS, raising=False)


def test_workers_are_as_many_as_cores_divided_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "usable_cores", lambda: 8)
    assert len(worker_environments(None, 1, None, 1)) == 8
    assert len(worker_environments(None, 3, None, 1)) == 2
    assert len(worker_environments(None, 9, None, 1)) == 1
    (environment,) = worker_environments(1, 3, None, 1)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert CARDS not in environment, "the GPUs of a CPU pool are nobody's business"


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)]
)
def test_a_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(pool, "_CPU_QUOTA", tmp_path / "cpu.max")
    assert usable_cores() == 4
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cores() == cores


@pytest.mark.usefixtures("driver")
def test_each_worker_gets_one_card_and_each_card_its_workers() -> None:
    assert visible_cards() == ("0", "1", "2")
    assert cards_of(worker_environments(None, 1, "all", 1)) == ["0", "1", "2"]
    assert cards_of(worker_environments(None, 1, [0, 2], 2)) == ["0", "2", "0", "2"]
    # Fewer workers than places spread over the cards.
    assert cards_of(worker_environments(3, 1, [1, 2], 2)) == ["1", "2", "1"]
    with pytest.raises(UsageError, match="per_gpu"):
        worker_environments(4, 1, "all", 1)
    with pytest.raises(UsageError, match="from 0 to 2"):
        worker_environments(None, 1, [3], 1)
    with pytest.raises(UsageError, match="gpus"):
        worker_environments(None, 1, [], 1)
    with pytest.raises(UsageError, match="gpus"):
        worker_environments(None, 1, "0", 1)


def test_numbers_count_among_the_cards_that_we_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CARDS, "5, GPU-8d3e")
    assert cards_of(worker_environments(None, 1, [1, 0], 1)) == ["GPU-8d3e", "5"]


@pytest.mark.parametrize("named", ["", "-1"])
def test_without_cards_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv(CARDS, named)
    with pytest.raises(UsageError, match="none is visible"):
        worker_environments(None, 1, "all", 1)
    monkeypatch.delenv(CARDS)
    monkeypatch.setenv("PATH", "")
    assert visible_cards() == ()


@pytest.mark.parametrize(("workers", "threads", "per_gpu"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_below_one_are_refused(workers: int, threads: int, per_gpu: int) -> None:
    with pytest.raises(UsageError, match="from 1"):
        worker_environments(workers, threads, None, per_gpu)
