"""Who may run a job: on one machine by the lock, between machines by a lease that is touched."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from veridical.jobs import lease as module
from veridical.jobs.lease import LEASE, Lease, Observer, acquire

# Holds the lease of the folder it is given, says so, and stays.
OWNER = """
import sys, time
from pathlib import Path
from veridical.jobs.lease import acquire
with acquire(Path(sys.argv[1]), 0.3):
    print("held", flush=True)
    time.sleep(60)
"""

Until = Callable[..., None]


def held(folder: Path, stale: tuple[int, int] | None = None) -> Lease:
    lease = acquire(folder, 60.0, stale)
    assert lease is not None
    return lease


def from_another_machine(folder: Path) -> Path:
    """A lease as another machine would leave it; its file lock is not seen here."""
    path = folder / LEASE
    path.write_text(json.dumps({"system": "another", "host": "there", "pid": 7, "token": "theirs"}))
    return path


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path) as first:
        assert acquire(tmp_path, 60.0) is None
        assert Observer(1e-9).is_free(tmp_path) == (False, None)
        assert not first.is_lost()
        assert json.loads((tmp_path / LEASE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LEASE).exists()
    assert Observer(60.0).is_free(tmp_path) == (True, None)
    with held(tmp_path):
        pass


def test_a_killed_owner_is_noticed_at_once_on_its_own_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        assert acquire(tmp_path, 60.0) is None
        owner.kill()
    assert (tmp_path / LEASE).exists()
    assert Observer(60.0).is_free(tmp_path)[0]
    with held(tmp_path) as lease:
        assert not lease.is_lost()


def test_an_owner_here_that_is_stopped_is_named_once(
    tmp_path: Path, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Observer(0.05)
    with held(tmp_path):  # touched every 10 s only

        def named() -> bool:
            assert observer.is_free(tmp_path) == (False, None)
            return bool(caplog.messages)

        until(named)
        assert observer.is_free(tmp_path) == (False, None)
    (message,) = caplog.messages
    assert f"process {os.getpid()} " in message
    assert str(tmp_path) in message


def test_a_job_that_nobody_begins_is_named_too(
    tmp_path: Path, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Observer(0.05)
    observer.report_silence(tmp_path)
    time.sleep(0.06)
    observer.report_silence(tmp_path)
    assert not caplog.messages, "it was given to no worker"

    def named() -> bool:
        observer.report_silence(tmp_path, given=True)
        return bool(caplog.messages)

    until(named)
    assert str(tmp_path) in caplog.messages[0]


def test_an_owner_elsewhere_is_left_alone_while_its_lease_is_touched(tmp_path: Path) -> None:
    path = from_another_machine(tmp_path)
    observer = Observer(0.2)
    for _ in range(15):
        os.utime(path)
        assert acquire(tmp_path, 60.0) is None
        assert observer.is_free(tmp_path)[0] is False
        time.sleep(0.02)


@pytest.mark.parametrize("content", [None, "", "{"], ids=["whole", "emptied by a power cut", "damaged"])
def test_an_owner_elsewhere_whose_lease_stands_still_is_replaced(
    tmp_path: Path, until: Until, content: str | None
) -> None:
    path = from_another_machine(tmp_path)
    if content is not None:
        path.write_text(content)
    os.utime(path, (0, 0))  # however far its clock is behind, we wait with ours
    observer = Observer(0.1)
    free, stale = observer.is_free(tmp_path)
    assert not free
    until(lambda: observer.is_free(tmp_path)[0])
    assert observer.is_free(tmp_path) == (True, stale)
    assert acquire(tmp_path, 60.0) is None, "only who watched may take over"
    with held(tmp_path, stale):
        # Another one that watched the same lease comes too late.
        assert acquire(tmp_path, 60.0, stale) is None


def test_an_owner_that_slept_knows_and_leaves_the_newer_lease_alone(tmp_path: Path) -> None:
    with held(tmp_path) as lease:
        newer = from_another_machine(tmp_path)
        assert lease.is_lost()
        before = newer.read_text(), newer.stat().st_mtime_ns
    assert (newer.read_text(), newer.stat().st_mtime_ns) == before
    newer.unlink()
    with held(tmp_path) as lease:
        newer.unlink()  # the other was done meanwhile
        assert lease.is_lost()


def test_of_many_only_one_gets_it_also_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fcntl", None)
    gate = threading.Barrier(8)

    def get(_: int) -> Lease | None:
        gate.wait()
        return acquire(tmp_path, 60.0)

    with ThreadPoolExecutor(8) as threads:
        (lease,) = [lease for lease in threads.map(get, range(8)) if lease is not None]
    assert not lease.is_lost()
    assert [path.name for path in tmp_path.iterdir()] == [LEASE]
    observer = Observer(1e-9)
    free, stale = observer.is_free(tmp_path)
    assert not free
    assert observer.is_free(tmp_path) == (True, stale), "this one is not touched"
    assert stale is not None


def test_a_disk_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with held(tmp_path) as lease:
        assert acquire(tmp_path, 60.0) is None
        assert not lease.is_lost()


def test_a_lease_is_touched_until_it_is_given_up(tmp_path: Path, until: Until) -> None:
    lease = acquire(tmp_path, 0.06)
    assert lease is not None
    with lease:
        for _ in range(3):
            before = (tmp_path / LEASE).stat().st_mtime_ns
            until(lambda seen=before: (tmp_path / LEASE).stat().st_mtime_ns != seen)
    time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_deleted_folder_is_free(tmp_path: Path) -> None:
    assert Observer(1.0).is_free(tmp_path / "gone") == (True, None)
