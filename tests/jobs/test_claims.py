"""Who may run a job: on one system by the lock, between systems by the heartbeat."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from veridical.jobs import attempts
from veridical.jobs.attempts import attempt_path, create_attempt, last_attempt
from veridical.jobs.claims import Claim, Watch, take

# Claims the folder it is given, says so, and stays.
OWNER = """
import sys, time
from pathlib import Path
from veridical.jobs.claims import take
with take(Path(sys.argv[1]), every=0.05) as claim:
    print(claim.attempt, flush=True)
    time.sleep(60)
"""


def claimed(folder: Path, takeover: int | None = None) -> Claim:
    claim = take(folder, 10.0, takeover)
    assert claim is not None
    return claim


def from_another_system(folder: Path, attempt: int = 1) -> Path:
    """An attempt as another machine would leave it; its file lock is not seen here."""
    assert create_attempt(folder, attempt)
    path = attempt_path(folder, attempt)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"system": "another"}))
    return path


def test_one_claim_at_a_time_and_attempts_count(tmp_path: Path) -> None:
    with claimed(tmp_path) as first:
        assert first.attempt == 1
        assert take(tmp_path, 10.0) is None
        assert Watch(1e-9).free(tmp_path) == (False, None)
        first.end("failed")
    record = json.loads(attempt_path(tmp_path, 1).read_text())
    assert (record["ended"], record["pid"]) == ("failed", os.getpid())
    assert record["start"] <= record["end"]
    with claimed(tmp_path) as second:
        assert second.attempt == 2


def test_a_killed_owner_is_noticed_at_once_on_its_own_system(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "1\n"
        assert take(tmp_path, 10.0) is None
        owner.kill()
    with claimed(tmp_path) as claim:
        assert claim.attempt == 2


def test_an_owner_here_that_is_stopped_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with claimed(tmp_path):  # its heart beats every 10 s only
        watch = Watch(0.05)
        deadline = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < deadline:
            assert watch.free(tmp_path) == (False, None)
            time.sleep(0.01)
        assert watch.free(tmp_path) == (False, None)
    (message,) = caplog.messages
    assert str(attempt_path(tmp_path, 1)) in message


def test_an_owner_elsewhere_is_left_alone_while_its_heart_beats(tmp_path: Path) -> None:
    path = from_another_system(tmp_path)
    watch = Watch(0.2)
    for _ in range(15):
        os.utime(path)
        assert take(tmp_path, 10.0) is None
        assert watch.free(tmp_path) == (False, None)
        time.sleep(0.02)


def test_an_owner_elsewhere_whose_heart_stands_still_is_replaced(tmp_path: Path) -> None:
    path = from_another_system(tmp_path)
    os.utime(path, (0, 0))  # however far its clock is behind, we wait with ours
    watch = Watch(0.1)
    assert watch.free(tmp_path) == (False, None)
    deadline = time.monotonic() + 10
    while watch.free(tmp_path) == (False, None):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert watch.free(tmp_path) == (True, 1)
    assert take(tmp_path, 10.0) is None, "only who watched may take over"
    with claimed(tmp_path, takeover=1) as claim:
        assert claim.attempt == 2
        # Another one that watched attempt 1, too, comes too late.
        assert take(tmp_path, 10.0, takeover=1) is None


def test_an_attempt_that_says_it_ended_needs_no_wait(tmp_path: Path) -> None:
    path = from_another_system(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ended": "failed"}))
    assert Watch(1e9).free(tmp_path) == (True, None)
    with claimed(tmp_path) as claim:
        assert claim.attempt == 2


def test_an_attempt_that_a_power_cut_emptied_is_waited_for(tmp_path: Path) -> None:
    attempt_path(tmp_path, 1).write_text("")
    assert take(tmp_path, 10.0) is None
    watch = Watch(1e-9)
    watch.free(tmp_path)
    assert watch.free(tmp_path) == (True, 1)


def test_only_one_process_creates_an_attempt(tmp_path: Path) -> None:
    gate, made = threading.Barrier(8), []

    def create() -> None:
        gate.wait()
        made.append(create_attempt(tmp_path, 1))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]
    assert [name.name for name in tmp_path.iterdir()] == ["attempt-1.json"]


def test_a_disk_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    assert create_attempt(tmp_path, 1)
    assert not create_attempt(tmp_path, 1)
    assert json.loads(attempt_path(tmp_path, 1).read_text())["attempt"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["attempt-1.json"]


def test_without_file_locks_the_heartbeat_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "fcntl", None)
    with claimed(tmp_path):
        assert take(tmp_path, 10.0) is None
        watch = Watch(1e-9)
        assert watch.free(tmp_path) == (False, None)
        assert watch.free(tmp_path) == (True, 1), "this one's heart beats every 10 s only"
    assert Watch(1e9).free(tmp_path) == (True, None)


def test_the_heart_of_a_claim_beats_until_it_is_given_up(tmp_path: Path) -> None:
    claim = take(tmp_path, 0.01)
    assert claim is not None
    path = attempt_path(tmp_path, 1)
    with claim:
        deadline = time.monotonic() + 30
        for _ in range(3):
            before = path.stat().st_mtime_ns
            while path.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline
                time.sleep(0.005)
    before = path.stat().st_mtime_ns
    time.sleep(0.05)
    assert path.stat().st_mtime_ns == before


def test_an_owner_that_was_overtaken_knows_and_leaves_the_newer_attempt_alone(tmp_path: Path) -> None:
    with claimed(tmp_path) as claim:
        assert not claim.overtaken()
        assert create_attempt(tmp_path, 2)
        before = attempt_path(tmp_path, 2).read_text()
        assert claim.overtaken()
    assert attempt_path(tmp_path, 2).read_text() == before
    assert json.loads(attempt_path(tmp_path, 1).read_text())["ended"] is None


def test_a_deleted_folder_is_free(tmp_path: Path) -> None:
    assert Watch(1.0).free(tmp_path / "gone") == (True, None)
    assert last_attempt(tmp_path / "gone") == 0
