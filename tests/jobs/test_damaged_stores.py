"""Every file that a store or a ranking keeps, damaged: named, or of no consequence."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.faithfulness.ranking import Ranking
from veridical.jobs import InProcess, Job, Store, run_jobs
from veridical.runtime.errors import RunError, UsageError

JOB = Job("job_functions:leave_arrays", {"count": 4})


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _flip(place: float) -> Callable[[Path], object]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1
        path.write_bytes(content)

    return flip


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{
        name: lambda path, content=content: path.write_bytes(content)  # type: ignore[misc]
        for name, content in {
            "empty": b"",
            "junk": b"junk" * 50,
            "bytes": bytes(range(256)),
            "null": b"null",
            "list": b"[]",
            "number": b"9" * 5000,
            "deep": b"[" * 20_000 + b"]" * 20_000,
            "no key": b"{}",
            "other types": b'{"result": [], "seconds": "x", "store": 3, "schema": null, "ended": {}}',
        }.items()
    },
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "pipe": _pipe,
    "folder": _folder,
    **{f"a bit at {place:.2f}": _flip(place) for place in np.linspace(0.01, 0.99, 12).tolist()},
}


def _job_again(store: Store, job: Job = JOB) -> Any:
    (outcome,) = run_jobs([job], store, InProcess(), trust_code=True).values()
    if outcome.status == "failed":
        raise RunError(outcome.error)
    return outcome.result, {name: one.tolist() for name, one in store.arrays(job, "arrays.npz").items()}


def _of_a_store(name: str) -> Callable[[Path], tuple[Path, Callable[[], Any]]]:
    def make(folder: Path) -> tuple[Path, Callable[[], Any]]:
        store = Store(folder)
        _job_again(store)
        path = folder / name if name == "store.json" else store.folder(JOB) / name
        return path, lambda: _job_again(Store(folder))

    return make


def _ranking(folder: Path) -> tuple[Path, Callable[[], Any]]:
    ranks = np.arange(24, dtype=np.int16).reshape(2, 12)
    Ranking(ranks, ranks[::-1], (3, 2, 2), {"seed": 0, "weights": "abc" * 20}).save(folder / "ranks.npz")

    def read() -> Any:
        found = Ranking.load(folder / "ranks.npz")
        return found.train.tolist(), found.test.tolist(), found.shape, found.describe()

    return folder / "ranks.npz", read


FILES = {
    **{name: _of_a_store(name) for name in ("store.json", "result.json", "arrays.npz")},
    "ranks.npz": _ranking,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_or_changes_nothing(tmp_path: Path, name: str, damage: str) -> None:
    path, read = FILES[name](tmp_path)
    before = read()
    DAMAGES[damage](path)
    try:
        after = read()
    except (RunError, UsageError) as error:
        assert str(path) in str(error)  # noqa: PT017 - or nothing happens
    else:
        assert after == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["lease.json", "log.txt", "job.json", ".lock"])
def test_damage_of_an_unfinished_job_is_named_or_waited_out(tmp_path: Path, name: str, damage: str) -> None:
    store = Store(tmp_path, stale_after=0.05)
    folder = store.folder(JOB)
    folder.mkdir(parents=True)
    (folder / name).write_text("{}" * 40)
    DAMAGES[damage](folder / name)
    try:
        result = run_jobs([JOB], store, InProcess(), trust_code=True, poll_seconds=0.01)[JOB.id]
    except (RunError, UsageError) as error:
        assert str(folder / name) in str(error)  # noqa: PT017
    else:
        assert result.status == "done" or str(folder / name) in str(result.error)


@pytest.mark.parametrize("content", ["claim.json", "model.safetensors", "abc", "0g"])
def test_a_folder_of_something_else_is_no_store(tmp_path: Path, content: str) -> None:
    (tmp_path / "ab").mkdir()  # as a store has
    (tmp_path / content).mkdir()
    with pytest.raises(UsageError, match=f"^store: .*{content}"):
        Store(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(["ab", content])


def test_an_empty_name_is_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^store: "):
        Store("")
    assert os.listdir(tmp_path) == []
    Store(tmp_path / "~0")  # a name like any other


def test_what_killed_writers_left_is_removed_when_a_command_begins(tmp_path: Path) -> None:
    folder = Store(tmp_path).folder(JOB)
    folder.mkdir(parents=True)
    own, other = folder / f".result.json.{os.getpid()}.0.tmp", folder / ".lease.json.999999999.0.tmp"
    own.touch()
    other.touch()
    Store(tmp_path)
    assert (own.exists(), other.exists()) == (True, False)


@pytest.mark.parametrize("file", ["arrays.npz", "result.json"])
def test_a_full_disk_is_told_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("numpy.savez_compressed" if file == "arrays.npz" else "os.fsync", full)
        with pytest.raises(RunError, match="No space left on device") as caught:
            _job_again(store)
    place = store.folder(JOB) if file == "arrays.npz" else store.folder(JOB) / file
    assert str(place) in str(caught.value)
    assert _job_again(store)[0]["sum"] == 66.0
