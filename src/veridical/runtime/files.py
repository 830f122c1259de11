"""Files that are either whole or absent: atomic writes, JSON, and the claim that ties a folder to one run."""

import contextlib
import json
import math
import numbers
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from veridical.runtime.errors import RunError, UsageError, fail_argument

CLAIM = "claim.json"
_ABSENT = object()
_MOST_TOLD = 6


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` (text as UTF-8) so that `path` holds the old content or all of the new, even after a kill.

    The folder must exist. The bytes reach the disk before the name does, and the name before this returns.
    """
    content = data.encode() if isinstance(data, str) else data
    with atomic(Path(path)) as file:
        file.write(content)


@contextlib.contextmanager
def atomic(target: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that becomes `target` when the block ends, and vanishes if it raises."""
    # The temporary file lies in the same folder, since a rename is atomic only within one file system. Its
    # name starts with a dot: what a killed process leaves behind is not taken for a file of the run.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can open folders."""
    with contextlib.suppress(PermissionError):  # Windows refuses to open a folder; its renames are journalled
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | os.PathLike[str], obj: object) -> None:
    """Write plain values as indented JSON, atomically and in insertion order; NaN and infinities become null.

    Mappings with text keys, sequences, numbers (numpy scalars too), text, paths, booleans and None are plain;
    anything else is a `UsageError` that names its place.
    """
    plain = to_plain(obj, "value")
    write_atomic(path, json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; a missing or damaged one is a `RunError`."""
    source = Path(path)
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{source} does not exist. Check the folder, or run the command that writes it."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(
            f"{source} is not valid JSON ({error}). Delete it and run its command again."
        ) from error


def to_plain(obj: object, place: str) -> Any:
    """Turn `obj` into what the json module writes and reads back unchanged; `place` names it in errors."""
    if obj is None or isinstance(obj, str | bool):
        return obj
    if isinstance(obj, numbers.Integral):
        return int(obj)
    if isinstance(obj, numbers.Real):
        number = float(obj)
        return number if math.isfinite(number) else None
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise fail_argument(f"{place}: key", key, "text keys only")
        return {key: to_plain(value, f"{place}.{key}") for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_plain(value, f"{place}[{index}]") for index, value in enumerate(obj)]
    raise fail_argument(
        place, obj, "a value that JSON can hold", "Convert it to numbers, text, lists or mappings."
    )


def claim_folder(
    path: str | os.PathLike[str], kind: str, config: Mapping[str, object], force: bool = False
) -> Path:
    """Create the folder, or enter it again, for the one run described by (`kind`, `config`); return its path.

    The claim is kept in `claim.json`. A folder with another run's claim, or with files and no claim, is
    refused with a `UsageError` that names what differs; `force` replaces the claim and touches no other file.
    Names that start with a dot are not looked at.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise fail_argument(
            "out", str(folder), "a folder, or a name that is free", "A file is there."
        ) from None
    claim = {"kind": kind, "config": to_plain(dict(config), "config")}
    if not force:
        existing = read_json(folder / CLAIM) if (folder / CLAIM).exists() else None
        if existing is None:
            _refuse_foreign_files(folder)
        elif existing == claim:
            return folder
        else:
            _refuse_other_claim(folder, existing, claim)
    write_json(folder / CLAIM, claim)
    return folder


def _refuse_foreign_files(folder: Path) -> None:
    """Raise when a folder that nobody claimed holds anything."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UsageError(
            f"{folder} holds files of something else ({shown}). "
            "Name a new or empty folder, so that nothing is mixed."
        )


def _refuse_other_claim(folder: Path, existing: object, claim: Mapping[str, object]) -> None:
    """Raise: another command's folder, or the options in which the run in it and the one asked for differ."""
    owner = existing.get("kind") if isinstance(existing, Mapping) else None
    if isinstance(owner, str) and owner != claim["kind"]:
        raise UsageError(
            f"{folder} belongs to another command: `veridical {owner}` made it, and this is "
            f"`veridical {claim['kind']}`. Name another folder."
        )
    raise UsageError(
        f"{folder} belongs to another run: {'; '.join(_different(existing, claim))}. "
        "Name another folder, or repeat the same options."
    )


def _different(existing: object, claim: Mapping[str, object]) -> list[str]:
    """What differs in words: an option once, of however many trainings it is part, and not without end."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for place, before, now in _differences(existing, claim):
        found.setdefault((place.rpartition(".")[2], _told(before), _told(now)), []).append(place)
    told = [
        f"{option if len(places) > 1 else places[0]} is {before} there, {now} here"
        + (f" (in {len(places)} places)" if len(places) > 1 else "")
        for (option, before, now), places in found.items()
    ]
    return told[:_MOST_TOLD] + (
        [f"{len(told) - _MOST_TOLD} more differences"] if len(told) > _MOST_TOLD else []
    )


def _differences(before: object, now: object, place: str = "") -> Iterator[tuple[str, object, object]]:
    """Walk two JSON values and yield (dotted place, before, now) wherever they differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            # The options are what a user typed, so they are named without the claim's own "config." in front.
            inner = key if place in ("", "config") else f"{place}.{key}"
            yield from _differences(before.get(key, _ABSENT), now.get(key, _ABSENT), inner)
    elif before != now:
        yield place or "the claim", before, now


def _told(value: object) -> str:
    if value is _ABSENT:
        return "absent"
    # A whole training, say, which would drown what else differs.
    return "given" if isinstance(value, Mapping) else json.dumps(value)
