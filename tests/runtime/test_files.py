"""Atomic writes, JSON, and folders that belong to one run."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from veridical.runtime import files
from veridical.runtime.errors import RunError, UsageError


def test_a_write_replaces_the_content_or_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    files.write_atomic(path, b"\x00old")
    files.write_atomic(path, "tau: \N{GREEK SMALL LETTER TAU}")
    assert path.read_text(encoding="utf-8") == "tau: \N{GREEK SMALL LETTER TAU}"

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunError, match=r"result\.json cannot be written: No space left"):
        files.write_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "tau: \N{GREEK SMALL LETTER TAU}"
    assert os.listdir(tmp_path) == ["result.json"]


def test_the_new_name_appears_only_after_the_bytes_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.bin"
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        order.append("sync")
        fsync(descriptor)

    def recorded_replace(source: Path, target: Path) -> None:
        assert source.read_bytes() == b"content"
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    files.write_atomic(path, b"content")
    assert order == ["sync", "rename", "sync"]  # the file, its name, the folder


def test_json_keeps_order_and_turns_non_finite_numbers_into_null(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    values = {"z": [1, 2.5, np.float32(0.5), np.int64(7)], "a": math.nan, "path": Path("x"), "flag": True}
    files.write_json(path, values | {"n": None, "up": -math.inf})
    assert not any(word in path.read_text() for word in ("NaN", "Infinity"))
    read = files.read_json(path)
    assert list(read) == ["z", "a", "path", "flag", "n", "up"]
    assert read == {"z": [1, 2.5, 0.5, 7], "a": None, "path": "x", "flag": True, "n": None, "up": None}
    assert isinstance(read["z"][3], int)


@pytest.mark.parametrize(
    ("value", "place"), [({"a": [{"b": {1, 2}}]}, r"value\.a\[0\]\.b"), ({"a": {3: "x"}}, r"value\.a: key")]
)
def test_json_names_the_place_of_what_it_cannot_hold(tmp_path: Path, value: object, place: str) -> None:
    with pytest.raises(UsageError, match=place):
        files.write_json(tmp_path / "result.json", value)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_claimed_once_and_entered_again_with_the_same_options(tmp_path: Path) -> None:
    config = {"data": "mnist", "ball": {"radius": 0.3}, "radii": (0.1, 0.2)}
    folder = files.claim_folder(tmp_path / "runs" / "a", "train", config)
    (folder / "log.jsonl").write_text("{}\n")
    assert files.claim_folder(folder, "train", config) == folder
    claim = json.loads((folder / files.CLAIM).read_text())
    assert claim == {"kind": "train", "config": config | {"radii": [0.1, 0.2]}}


def test_another_runs_folder_is_refused_with_the_options_that_differ(tmp_path: Path) -> None:
    def config(radius: float, **more: int) -> dict[str, object]:
        return {"data": "mnist", "ball": {"radius": radius, "norm": "linf"}, **more}

    files.claim_folder(tmp_path, "train", config(0.3, epochs=3))
    before = (tmp_path / files.CLAIM).read_bytes()
    with pytest.raises(UsageError) as caught:
        files.claim_folder(tmp_path, "train", config(0.1, steps=5))
    message = str(caught.value)
    for part in ("ball.radius is 0.3 there, 0.1", "epochs is 3 there, absent", "steps is absent there, 5"):
        assert f"{part} here" in message
    assert not any(word in message for word in ("data", "norm"))
    assert (tmp_path / files.CLAIM).read_bytes() == before


def test_an_option_of_many_trainings_is_named_once_and_a_whole_one_is_not_spelt_out(tmp_path: Path) -> None:
    def config(steps: int, names: str) -> dict[str, object]:
        return {"models": {name: {"steps": steps, "rate": 0.1} for name in names}}

    files.claim_folder(tmp_path, "leakage", config(4, "abcd"))
    with pytest.raises(UsageError, match=r"another run: steps is 4 there, 2 here \(in 4 places\)\. Name"):
        files.claim_folder(tmp_path, "leakage", config(2, "abcd"))
    with pytest.raises(UsageError) as caught:
        files.claim_folder(tmp_path, "leakage", config(4, "ae"))
    assert "models.b is given there, absent here" in str(caught.value)
    assert "rate" not in str(caught.value)
    with pytest.raises(UsageError, match="2 more differences"):
        files.claim_folder(tmp_path, "leakage", config(4, "efgh"))


def test_another_commands_folder_is_refused_by_its_name_alone(tmp_path: Path) -> None:
    files.claim_folder(tmp_path, "train", {"data": "mnist", "epochs": 3})
    before = (tmp_path / files.CLAIM).read_bytes()
    for config in ({"data": "mnist", "epochs": 3}, {"data": "gtsrb", "steps": 5}, {}):
        with pytest.raises(UsageError) as caught:
            files.claim_folder(tmp_path, "attack", config)
        message = str(caught.value)
        assert "`veridical train` made it, and this is `veridical attack`" in message
        assert not any(word in message for word in ("epochs", "steps", "data", "kind", "options"))
    assert (tmp_path / files.CLAIM).read_bytes() == before


def test_a_folder_with_foreign_files_is_refused_and_hidden_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / ".gitkeep").touch()
    (tmp_path / ".result.json.123.abcd.tmp").touch()  # what a killed write leaves
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        files.claim_folder(tmp_path, "train", {})
    (tmp_path / "thesis.tex").unlink()
    assert files.claim_folder(tmp_path, "train", {}) == tmp_path


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    for path in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(UsageError, match="A file is there"):
            files.claim_folder(path, "train", {})


def test_of_two_claims_at_once_the_first_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = files._refuse_foreign_files

    def slow_look(folder: Path) -> None:
        look(folder)
        monkeypatch.setattr(files, "_refuse_foreign_files", look)
        files.claim_folder(folder, "train", {"seed": 2})
        (folder / "log.jsonl").touch()

    monkeypatch.setattr(files, "_refuse_foreign_files", slow_look)
    with pytest.raises(UsageError, match="seed is 2 there, 1 here"):
        files.claim_folder(tmp_path, "train", {"seed": 1})
    assert files.read_claim(tmp_path)["config"] == {"seed": 2}
    assert sorted(os.listdir(tmp_path)) == ["claim.json", "log.jsonl"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    assert files.create_json(tmp_path / "a.json", {"n": 1})
    assert not files.create_json(tmp_path / "a.json", {"n": 2})
    assert files.read_json(tmp_path / "a.json") == {"n": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_killed_writers_left_is_removed_when_the_folder_is_entered_again(tmp_path: Path) -> None:
    folder = files.claim_folder(tmp_path / "out", "train", {})
    (folder / "parts").mkdir()
    killed = (
        "import os, pathlib, sys; from veridical.runtime.files import atomic\n"
        "with atomic(pathlib.Path(sys.argv[1])): os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", killed, str(folder / "parts" / "a.npz")], check=False)
    elsewhere, old = (folder / f".a.json.4194999.{token * 8}.tmp" for token in ("ef", "fe"))
    for path in (elsewhere, old, folder / ".claim.json.4194999.abcd.tmp", folder / ".mine.tmp"):
        path.touch()
    os.utime(old, (0, 0))
    assert len(list((folder / "parts").iterdir())) == 1
    with files.atomic(folder / "now"):
        files.claim_folder(folder, "train", {})
    assert not list((folder / "parts").iterdir())
    left = sorted(os.listdir(folder))
    assert left == [elsewhere.name, ".mine.tmp", "claim.json", "now", "parts"]
