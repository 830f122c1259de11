"""The log: neither lost nor repeated lines."""

from contextlib import suppress
from pathlib import Path

import pytest

from veridical.runtime.errors import RunError
from veridical.training.log import LOG, Log, read_log


def test_lines_after_the_checkpoint_are_removed_and_written_again(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss": step / 3})
    log.close()
    again = Log(tmp_path, 20)
    again.write(30, {"loss": 10.0, "rate": float("nan")})
    again.sync()
    again.close()
    assert read_log(tmp_path) == [
        {"step": 10, "loss": 10 / 3},
        {"step": 20, "loss": 20 / 3},
        {"step": 30, "loss": 10.0, "rate": None},
    ]


def test_a_line_is_on_file_at_once_and_dropped_where_a_kill_cut_it_short(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    log = Log(tmp_path, 0)
    log.write(10, {"loss": 1.0})
    assert read_log(tmp_path) == [{"step": 10, "loss": 1.0}]
    log.close()
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 20, "lo')
    assert read_log(tmp_path) == [{"step": 10, "loss": 1.0}]
    again = Log(tmp_path, 20)
    again.write(30, {"loss": 3.0})
    again.close()
    assert [line["step"] for line in read_log(tmp_path)] == [10, 30]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    log._file.close()
    with Path("/dev/full").open("a", encoding="utf-8", buffering=1) as full, suppress(OSError):
        log._file = full
        for act in (lambda: log.write(1, {"loss": 1.0}), log.close):
            with pytest.raises(RunError, match="/dev/full cannot be written: No space left"):
                act()
