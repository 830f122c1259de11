"""The readers of our own files: whatever is wrong with one is a RunError that names it, and the field."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import pytest

from veridical.runtime import files
from veridical.runtime.checking import check_structure
from veridical.runtime.errors import RunError, UsageError


class Inner(TypedDict):
    value: float | None
    kind: Literal["a", "b"]


class Form(TypedDict):
    steps: int
    names: list[str]
    parts: dict[str, Inner]
    note: NotRequired[str]


GOOD: dict[str, Any] = {"steps": 3, "names": ["x"], "parts": {"p": {"value": 0.5, "kind": "a"}}}

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"steps": 3, "na',
    "not UTF-8": b'{"steps": "\xff"}',
    "NUL": b'{"steps": "\x00"}',
    "nested": b"[" * 100_000,
    "nested but whole": b'{"a":' * 200 + b"1" + b"}" * 200,
    "NaN": b'{"steps": NaN}',
    "infinite": b'{"steps": 1e999}',
    "huge number": b'{"steps": 1' + b"0" * 5000 + b"}",
    "half a character": b'{"steps": "\\ud800"}',
    "list": b"[]",
    "null": b"null",
    "number": b"3",
}


@pytest.mark.parametrize("damage", TEXTS)
def test_json_of_any_wrong_bytes(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(TEXTS[damage])
    with pytest.raises(RunError, match=r"record\.json is damaged: .*Delete it"):
        files.read_json(path)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"steps": None}, r"steps: expected an integer, but got null"),
        ({"steps": True}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"names": "x"}, "names"),
        ({"names": [1]}, r"names\[0\]: expected a text"),
        ({"parts": []}, "parts: expected a mapping of names to values, but got a list"),
        ({"parts": {"p": {"value": "1", "kind": "a"}}}, r"parts\.p\.value"),
        ({"parts": {"p": {"value": 1, "kind": "c"}}}, r"parts\.p\.kind: expected one of a, b"),
        ({"parts": {"p": {"kind": "a"}}}, r"parts\.p\.value: missing"),
        ({"note": 1}, "note"),
    ],
)
def test_json_of_wrong_structure(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    path = tmp_path / "record.json"
    files.write_json(path, GOOD)
    assert files.read_json(path, Form) == GOOD
    files.write_json(path, GOOD | change)
    with pytest.raises(RunError, match=rf"record\.json is damaged: {field}"):
        files.read_json(path, Form)


@pytest.mark.parametrize("place", ["missing", "folder", "pipe", "loop", "huge"])
@pytest.mark.parametrize(
    "read",
    [
        files.read_json,
        files.read_bytes,
        files.read_arrays,
        lambda path: files.read_bytes(path, sha256="0" * 64),
    ],
)
def test_what_is_no_readable_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], place: str
) -> None:
    path = tmp_path / "record"
    if place == "folder":
        path.mkdir()
    elif place == "pipe":
        os.mkfifo(path)
    elif place == "loop":
        path.symlink_to(path)
    elif place == "huge":
        monkeypatch.setattr(files, "MOST_TEXT", 10)
        path.write_bytes(b" " * 11)
    if place == "huge" and read == files.read_bytes:
        assert len(files.read_bytes(path)) == 11
        return
    with pytest.raises(RunError, match="record"):
        read(path)


@pytest.mark.parametrize("junk", [b"[]", b'{"steps": "x"}', b"{", b"\xff", b"junk"])
def test_lines_of_something_else_are_named(tmp_path: Path, junk: bytes) -> None:
    class Line(TypedDict):
        steps: int

    path, line = tmp_path / "log.jsonl", b'{"steps": 3}\n'
    path.write_bytes(line + junk)  # a kill cut the last line, or a power cut left zeros
    assert len(files.read_json_lines(path, Line)) == 1
    path.write_bytes(line + b"\0" * 40)
    assert len(files.read_json_lines(path, Line)) == 1
    path.write_bytes(line + junk + b"\n" + line)
    with pytest.raises(RunError, match=r"log\.jsonl, line 2, is damaged"):
        files.read_json_lines(path, Line)


ARRAYS: dict[str, Any] = {"index": np.arange(4), "image": np.zeros((4, 1, 2, 2), np.uint8)}
FORMS = {"index": "iu N", "image": "u N *"}


def _saved(path: Path, **arrays: Any) -> None:
    np.savez(path, **{**ARRAYS, **arrays})


def _header_of(path: Path, shape: str) -> None:
    """A member whose header says more than there is."""
    _saved(path)
    content = path.read_bytes()
    assert content.count(b"'shape': (4,)") == 1
    path.write_bytes(
        content.replace(b"'shape': (4,), }" + b" " * 10, f"'shape': ({shape},), }}".encode().ljust(26))
    )


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(b"junk" * 100),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "one bit": lambda path: path.write_bytes(
        path.read_bytes().replace(b"\x02" + b"\0" * 7, b"\x03" + b"\0" * 7)
    ),
    "pickled": lambda path: _saved(path, index=np.array([{}, {}, {}, {}], dtype=object)),
    "a text": lambda path: _saved(path, index=np.array(["1", "2", "3", "4"])),
    "another length": lambda path: _saved(path, index=np.arange(5)),
    "another shape": lambda path: _saved(path, index=np.zeros((4, 1), int)),
    "other members": lambda path: np.savez(path, other=np.arange(4)),
    "a header of too much": lambda path: _header_of(path, "10**9"),
    "a header of far too much": lambda path: _header_of(path, "4000000000"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_arrays_that_are_not_what_was_written(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "examples.npz"
    _saved(path)
    assert set(files.read_arrays(path, FORMS)) == set(ARRAYS)
    DAMAGES[damage](path)
    with pytest.raises(RunError, match=r"examples\.npz is damaged: .*Delete it") as caught:
        files.read_arrays(path, FORMS)
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("change", [{"steps": 4}, {"names": []}, {"seal": "0" * 64}, {"further": None}])
def test_a_record_that_was_edited(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "record.json"
    files.write_sealed(path, GOOD)
    assert files.read_json(path, Form, sealed=True) == GOOD
    sha256 = files.digest(files.read_bytes(path))
    assert files.read_bytes(path, sha256=sha256) == path.read_bytes()
    files.write_json(path, files.read_json(path) | change)
    with pytest.raises(RunError, match=r"record\.json is damaged: .*seal"):
        files.read_json(path, Form, sealed=True)
    with pytest.raises(RunError, match=r"record\.json is damaged: .*SHA-256"):
        files.read_bytes(path, sha256=sha256)


def test_annotations_are_read_as_they_are_meant() -> None:
    for value, form in ((3, float), (None, None), ((1, 2), list[int]), ({"a": {"b": []}}, dict[str, Any])):
        check_structure(value, form)
    with pytest.raises(UsageError, match=r"content: expected an integer or a text, but got a list\."):
        check_structure(json.loads("[1]"), int | str)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": 1}, None),
        ({"a": 1, "more": 2, "b": [{"x": {"c": None}, "y": {"c": {"d": "text"}}}]}, None),
        ({}, r"a: missing\."),
        ({"a": 1, "b": 3}, "b: expected a list of values, each a mapping of names to values, but got 3"),
        ({"a": 1, "b": [{"x": {"c": 3}}]}, r"b\[0\]\.x\.c: expected a mapping, but got 3"),
        ({"a": 1, "b": [{"x": {"c": {"d": 3}}}]}, r"b\[0\]\.x\.c\.d: expected a text, but got 3"),
    ],
)
def test_forms_that_are_written_out(value: object, told: str | None) -> None:
    with pytest.raises(UsageError, match=told) if told else contextlib.nullcontext():
        check_structure(value, {"a": int, "b?": [{"*": {"c": ({"d": str}, None)}}]})
