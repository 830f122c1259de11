"""Every file of finished commands x every damage: one error that names it, never another exception."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.cli.main import main
from veridical.runtime.errors import DataError, RunError, UsageError
from veridical.runtime.files import claim_folder, digest, pack_arrays
from veridical.studies.attack import Attack
from veridical.studies.attack_page import name_attacks, write_attack_page
from veridical.studies.diffroar import DiffRoar, DiffRoarOptions
from veridical.studies.diffroar_page import write_diffroar_page
from veridical.training.run import load

ERRORS = (RunError, DataError, UsageError)
READERS: dict[str, Callable[[Path], object]] = {
    "natural": load,
    "natural-attack": Attack.read,
    "damaged-diffroar": DiffRoar.read,
}
FOLDERS = tuple(READERS)


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made of whatever was read, but not drawn: that takes seconds a page."""
    monkeypatch.setattr("veridical.report.page.inline_svg", lambda *_: ("", 380.0))


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """The folders of a run, of an attack on it and of a DiffROAR measurement."""
    DiffRoar(
        DiffRoarOptions(
            run=str(place / "natural"),
            out=str(place / "damaged-diffroar"),
            levels=[0.1, 0.5],
            repeats=2,
            control_repeats=1,
            baselines=["random"],
            epochs=0.2,
            gallery=2,
            workers=1,
            progress=False,
        )
    ).run()
    return place


def read(folder: Path) -> None:
    """Do what commands do with such a folder."""
    if folder.name == "natural":
        load(folder)
    elif folder.name == "natural-attack":
        write_attack_page(folder / "page.html", name_attacks([Attack.read(folder)]), title="", lead="")
    else:
        measured = DiffRoar.read(folder)
        write_diffroar_page(folder / "page.html", {"one": measured}, title="", lead="")


def _put(make: Callable[[Path], object], path: Path) -> None:
    path.unlink()
    make(path)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BYTES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "a folder": partial(_put, Path.mkdir),
    "a pipe": partial(_put, os.mkfifo),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "NUL": lambda path: path.write_bytes(b"\0\1" * 500),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe junk\n" * 9),
    "a list": lambda path: path.write_bytes(b"[1]\n"),
    "null": lambda path: path.write_bytes(b"null\n"),
    "nested": lambda path: path.write_bytes(b"[" * 99_999 + b"\n"),
    "a bit": _flip,
}
FILES = [("natural", name) for name in ("claim.json", "result.json", "log.jsonl", "model.safetensors")]
FILES += [(folder, name) for folder in FOLDERS[1:] for name in ("result.json", "examples.npz")]


def _no_damage(name: str, damage: str) -> bool:
    """A log may be missing or end in the middle, as a kill leaves it; a bit of a text may be any other."""
    return (name == "log.jsonl" and damage in ("missing", "empty", "cut", "NUL")) or (
        damage == "a bit" and not name.endswith((".npz", ".safetensors"))
    )


@pytest.mark.parametrize("damage", BYTES)
@pytest.mark.parametrize(("folder", "name"), FILES)
def test_wrong_bytes(finished: Path, tmp_path: Path, folder: str, name: str, damage: str) -> None:
    copy = shutil.copytree(finished / folder, tmp_path / folder)
    BYTES[damage](copy / name)
    try:
        read(copy)
    except ERRORS as error:
        assert re.search(f"{re.escape(str(copy))}[^\n]*$", str(error))  # noqa: PT017 - it may also be read
        assert "allow_pickle" not in str(error)  # noqa: PT017 - as above
    else:
        assert _no_damage(name, damage)


@pytest.mark.parametrize("damage", [name for name in BYTES if name not in ("missing", "a bit")])
def test_a_claim_of_wrong_bytes(tmp_path: Path, damage: str) -> None:
    folder = claim_folder(tmp_path / "out", "attack", {"a": [1, 2, 3]})
    BYTES[damage](folder / "claim.json")
    with pytest.raises(ERRORS, match=r"claim\.json"):
        claim_folder(folder, "attack", {"a": [1, 2, 3]})


OTHERS: tuple[Any, ...] = (..., None, "text", [1], {"a": 1}, -1, 2.5, 10**400, True, [], {}, "")


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, a list's last entry standing for all."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*place, key))
    elif isinstance(value, list):
        for inner in value[-1:]:
            yield from places(inner, (*place, len(value) - 1))


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The document with another value at a place; without its key for `Ellipsis`."""
    whole = inner = deepcopy(document)
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return whole


Changes = list[tuple[tuple[Any, ...], Any]]


def taken(copy: Path, name: str, document: Any, changes: Changes, read: Callable[[Path], object]) -> bool:
    """Whether a file with changes can be read; if not, the error names its folder."""
    for place, value in changes:
        document = changed(document, place, value)
    (copy / name).write_text(json.dumps(document))
    try:
        read(copy)
    except ERRORS as error:
        assert str(copy) in str(error), changes  # noqa: PT017 - what is not read is not checked
        return False
    except Exception as error:
        raise AssertionError(str(changes)) from error
    return True


def show(copy: Path, name: str, document: Any, changes: Changes) -> None:
    """Draw a page of a file with changes: all at once, or halves of them where not all are taken together."""
    if not taken(copy, name, document, changes, read) and len(changes) > 1:
        half = len(changes) // 2
        show(copy, name, document, changes[:half])
        show(copy, name, document, changes[half:])


@pytest.mark.parametrize(("folder", "name"), [entry for entry in FILES if entry[1].endswith(".json")])
def test_wrong_structure(finished: Path, tmp_path: Path, folder: str, name: str) -> None:
    copy = shutil.copytree(finished / folder, tmp_path / folder)
    document = json.loads((copy / name).read_text())
    assert taken(copy, name, document, [], read)
    one_by_one = ((place, OTHERS[number % len(OTHERS)]) for number, place in enumerate(places(document)))
    kept = [change for change in one_by_one if taken(copy, name, document, [change], READERS[folder])]
    while kept:  # what lies deepest first: a change above it would hide it
        inner = [one for one in kept if not any(one[0] == o[0][: len(one[0])] for o in kept if o != one)]
        show(copy, name, document, inner)
        kept = [one for one in kept if one not in inner]


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "of another shape": lambda array: array[..., None],
    "shorter": lambda array: array[:-1],
    "of text": lambda array: np.full(array.shape, "x"),
    "of numbers": lambda array: np.full(array.shape, 1j),
    "too large": lambda array: array if array.dtype.kind == "U" else np.full_like(array, 100),
    "none": lambda array: array[:0],
}


@pytest.mark.parametrize("damage", ARRAYS)
@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_other_arrays_with_a_right_digest(finished: Path, tmp_path: Path, folder: str, damage: str) -> None:
    copy = shutil.copytree(finished / folder, tmp_path / folder)
    path, document = copy / "examples.npz", json.loads((copy / "result.json").read_text())
    with np.load(path) as archive:
        arrays = dict(archive)
    for name, array in arrays.items():
        without = {other: kept for other, kept in arrays.items() if other != name}
        for others in (without | {name: ARRAYS[damage](array)}, without):
            content = pack_arrays(others)
            path.write_bytes(content)
            changes: Changes = [(("files",), {path.name: digest(content)})]
            taken(copy, "result.json", document, changes, read)


@pytest.mark.parametrize("command", ["attack", "demo", "diffroar", "leakage", "one-layer", "sanity"])
@pytest.mark.parametrize("option", ["--device=cuda:99", "--store=FILE", "--threads=0"])
def test_a_refused_command_leaves_no_claim(
    finished: Path, tmp_path: Path, command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    given = [option.replace("FILE", str(tmp_path / "file")), "--out", str(tmp_path / "out")]
    if command in ("attack", "sanity", "diffroar"):
        given += ["--run", str(finished / "natural")]
    assert main([command, *given]) == 2
    assert not (tmp_path / "out").exists()
    assert option[2:].split("=", maxsplit=1)[0] in capsys.readouterr().err
