"""Where results lie, and what a damaged or foreign store does."""

import json
import threading
from pathlib import Path

import pytest

from veridical.jobs import InProcess, Job, Store, run_jobs
from veridical.runtime.errors import RunError, UsageError

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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seconds": 1}'])
def test_a_damaged_result_is_an_error_that_names_the_file(store: Store, content: str) -> None:
    store.folder(JOB).mkdir(parents=True)
    (store.folder(JOB) / "result.json").write_text(content)
    with pytest.raises(RunError, match=r"result\.json"):
        store.result(JOB)


def test_a_store_is_made_once_however_many_begin(tmp_path: Path) -> None:
    gate, tokens = threading.Barrier(8), []

    def make() -> None:
        gate.wait()
        tokens.append(Store(tmp_path / "new" / "store").token)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 8
    assert len(set(tokens)) == 1
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
