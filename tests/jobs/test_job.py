"""A job from its id to its result: what can be one, where its files lie, and one run of it with its log."""

import hashlib
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from veridical.jobs import InProcess, Job, Store, run_jobs
from veridical.jobs.execution import _log_to, execute, task
from veridical.jobs.store import load_function
from veridical.runtime.errors import RunError, UsageError

NAME = "job_functions:echo"


def test_the_id_is_the_hash_of_function_and_values() -> None:
    text = '{"function":"job_functions:echo","values":{"a":[1,2.5],"b":{"c":null,"d":"\\u00e9"}}}'
    job = Job(NAME, {"b": {"d": "é", "c": None}, "a": (1, 2.5)})
    assert job.id == hashlib.sha256(text.encode()).hexdigest()[:24]
    # And of nothing else; paths become text.
    elsewhere = Job(NAME, dict(job.values), {"data": Path("/a/b")}, "label", 3.0)  # type: ignore[dict-item]
    assert (elsewhere.id, elsewhere.where) == (job.id, {"data": "/a/b"})
    others = (NAME, {"x": 2}), (NAME, {"y": 2}), (NAME, {"x": "2"}), ("job_functions:fail", {"x": 2})
    assert len({Job(function, dict(values)).id for function, values in others}) == 4


def test_a_job_does_not_change_with_the_values_it_was_made_of() -> None:
    values: dict[str, Any] = {"levels": [0.1]}
    job = Job(NAME, values)
    before = job.id
    values["levels"].append(0.2)
    assert job.values == {"levels": [0.1]}
    assert Job(**job.record()) == job
    assert Job(**job.record()).id == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"function": "no colon"}, "function"),
        ({"function": "a.b:c.d"}, "function"),
        ({"values": {"a": [1.0, float("nan")]}}, r"values\.a\[1\]"),
        ({"values": {"a": {"b": float("inf")}}}, r"values\.a\.b"),
        ({"values": {"a": object()}}, r"values\.a"),
        ({"values": {1: 2}}, "values"),
        ({"where": {"data": 3}}, r"where\.data"),
        ({"cost": -1.0}, "cost"),
        ({"cost": float("nan")}, "cost"),
    ],
)
def test_what_cannot_be_a_job_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Job(**({"function": NAME, "values": {}} | change))


@pytest.mark.parametrize(
    "name",
    [
        "veridical.jobs.store:Path",  # imported there, not made there
        "veridical.jobs.store:MARK",
        "veridical.jobs.store:nothing",
        "veridical.jobs.nowhere:Store",
    ],
)
def test_our_own_modules_give_only_what_they_define(name: str) -> None:
    with pytest.raises(UsageError, match="function"):
        load_function(name)
    assert load_function("veridical.jobs.run:run_jobs").__name__ == "run_jobs"
    assert load_function(NAME, trust_code=True).__name__ == "echo"


JOB = Job("job_functions:echo", {"x": 1}, {"data": "/somewhere"}, "the label")


def test_a_jobs_folder_tells_all_about_it(store: Store) -> None:
    assert store.result(JOB) is None
    outcome = run_jobs([JOB], store, InProcess(), trust_code=True)[JOB.id]
    folder = store.root / JOB.id[:2] / JOB.id
    assert store.folder(JOB) == store.folder(JOB.id) == folder
    assert json.loads((folder / "job.json").read_text()) == {"id": JOB.id} | JOB.record()
    assert store.result(JOB) == store.result(JOB.id) == outcome.result
    record = store.record(JOB)
    assert record is not None
    assert sorted(record) == ["environment", "files", "result", "seconds"]
    assert record["seconds"] == outcome.seconds
    assert "echo of {'x': 1}" in store.log_tail(JOB)
    # Nothing but what the documentation names, and no draft.
    names = {path.name for path in folder.iterdir()}
    assert names == {".lock", "job.json", "log.txt", "result.json"}


def test_the_tail_of_a_log_is_short(store: Store) -> None:
    folder = store.folder(JOB)
    folder.mkdir(parents=True)
    assert store.log_tail(JOB) == ""
    (folder / "log.txt").write_text("\n".join(f"line {number} é" for number in range(5000)))
    tail = store.log_tail(JOB).splitlines()
    assert (len(tail), tail[0], tail[-1]) == (20, "line 4980 é", "line 4999 é")
    (folder / "log.txt").write_text("x" * 10**6)
    assert store.log_tail(JOB) == "x" * 4000


def test_a_store_is_made_once_however_many_begin(tmp_path: Path) -> None:
    gate = threading.Barrier(8)

    def make(_: int) -> str:
        gate.wait()
        return Store(tmp_path / "new" / "store").token

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(make, range(8)))) == 1
    assert [path.name for path in (tmp_path / "new" / "store").iterdir()] == ["store.json"]


def test_a_machine_that_has_something_else_there_says_so(tmp_path: Path, store: Store) -> None:
    assert Store(store.root, token=store.token).root == store.root
    other = Store(tmp_path / "other")
    for root in (other.root, tmp_path / "missing"):
        with pytest.raises(RunError, match="share"):
            Store(root, token=store.token)
    assert not (tmp_path / "missing").exists()


def test_what_cannot_be_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="A file is there"):
        Store(tmp_path / "file")
    with pytest.raises(UsageError, match="stale_after"):
        Store(tmp_path / "store", stale_after=0.0)


def answer(store: Store, function: str, trust_code: bool = True, **values: Any) -> dict[str, Any]:
    return execute(task(Job(f"job_functions:{function}", values), store, trust_code))


@pytest.mark.parametrize(
    ("function", "error", "logged"),
    [
        ("fail", "ValueError: no good", "last words"),
        ("leave", "SystemExit: 3", "sys.exit(3)"),
        ("return_text", "job_functions:return_text returned 'text'", "RunError"),
        ("return_unknown", "result.here.there", "UsageError"),
        ("missing", "a function in job_functions", "UsageError"),
    ],
)
def test_what_goes_wrong_is_the_answer(store: Store, function: str, error: str, logged: str) -> None:
    got = answer(store, function)
    assert got["status"] == "failed"
    assert error in got["error"]
    assert logged in got["log_tail"]
    # The next call tries it again.
    assert answer(store, function)["status"] == "failed"
    log = store.folder(Job(f"job_functions:{function}", {})) / "log.txt"
    assert log.read_text().count("--- begun") == 2


def test_a_worker_asks_for_trust_and_for_its_own_version(store: Store) -> None:
    assert "trust_code" in answer(store, "echo", trust_code=False)["error"]
    got = execute(task(Job(NAME, {}), store, True) | {"version": "0.0.1"})
    assert got["status"] == "failed"
    assert "0.0.1" in got["error"]


def test_an_owner_that_slept_writes_no_result(store: Store) -> None:
    job = Job("job_functions:lose_lease", {})
    assert execute(task(job, store, True)) == {"status": "busy"}
    assert store.result(job) is None


def test_a_thread_prints_into_the_log_of_its_own_job_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = sys.stdout, sys.stderr
    gate = threading.Barrier(3)

    def work(name: str) -> None:
        with _log_to(tmp_path / name):
            gate.wait()
            print("from", name)
            gate.wait()
            print("an error of", name, file=sys.stderr)

    with ThreadPoolExecutor(2) as threads:
        ended = threads.map(work, ("a", "b"))
        gate.wait()
        print("from elsewhere")
        gate.wait()
        assert list(ended) == [None, None]
    logs = [(tmp_path / name).read_text() for name in ("a", "b")]
    assert logs == [f"from {name}\nan error of {name}\n" for name in ("a", "b")]
    assert (sys.stdout, sys.stderr) == streams
    assert capsys.readouterr() == ("from elsewhere\n", "")
