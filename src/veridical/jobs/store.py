"""A job, which is one piece of work as plain values, and the store of results, one folder for each job."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from veridical.runtime.checking import as_path
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import create_json, read_arrays, read_json, sweep, to_plain
from veridical.runtime.registry import TRUST_HINT, import_named

# (values, folder, where) -> result, as plain values. What it keeps in the folder outlives a kill.
JobFunction = Callable[[dict[str, Any], Path, dict[str, str]], Mapping[str, Any]]

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_OWN = "veridical."

MARK = "store.json"
JOB, LOG, RESULT = "job.json", "log.txt", "result.json"
_JOBS = re.compile("[0-9a-f]{2}")


@dataclass(frozen=True)
class Job:
    """A function by name and all that its result depends on.

    function: "package.module:name", called as a `JobFunction`. values: what the result depends on, checksums
    of the data included; they are kept as JSON keeps them (tuples as lists), and numbers must be finite.
    where: paths, which may differ from machine to machine. label: for people. cost: predicted seconds, for
    the order of submission and the time left. Only function and values make the `id`.
    """

    function: str
    values: Mapping[str, Any]
    where: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    cost: float = 1.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.function):
            raise argument_error("function", self.function, 'a name such as "package.module:function"')
        _check_finite(self.values, "values")
        if not (math.isfinite(self.cost) and self.cost >= 0):
            raise argument_error("cost", self.cost, "predicted seconds, finite and not negative")
        where = to_plain(dict(self.where), "where")
        for key, path in where.items():
            if not isinstance(path, str):
                raise argument_error(f"where.{key}", path, "a path")
        # Copies, so that nobody changes a job after its id was taken.
        object.__setattr__(self, "values", to_plain(dict(self.values), "values"))
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "cost", float(self.cost))

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def id(self) -> str:
        """24 hexadecimal digits of the SHA-256 of {function, values} as JSON with sorted keys."""
        content = {"function": self.function, "values": self.values}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def record(self) -> dict[str, Any]:
        """All fields as plain values: `Job(**record)` is the job again."""
        return asdict(self)


def load_function(name: str, trust_code: bool = False) -> JobFunction:
    """Import what "package.module:name" names; anything but Veridical's own code needs `trust_code`."""
    check_trusted(name, trust_code)
    function = import_named("function", name, f"a function in {name.partition(':')[0]}")
    # A module of ours also holds what it imported itself: "veridical.x:Path" would be foreign code.
    if not callable(function) or not (trust_code or str(function.__module__).startswith(_OWN)):
        raise argument_error("function", name, "a function that Veridical defines")
    return function  # type: ignore[no-any-return]


def check_trusted(name: str, trust_code: bool) -> None:
    """Raise a UsageError for a function outside Veridical, unless the caller trusts it."""
    if not trust_code and not name.startswith(_OWN):
        raise argument_error("function", name, "a function of Veridical", TRUST_HINT)


def _check_finite(value: object, place: str) -> None:
    """Refuse NaN and infinities: as JSON's null they would give different jobs one id."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_finite(inner, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_finite(inner, f"{place}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise argument_error(place, value, "a finite number", 'Name it as text, such as "inf".')


class _Record(TypedDict):
    """A job's result.json; written sealed. files: the SHA-256 of each .npz file that the job left."""

    result: dict[str, Any]
    seconds: float
    environment: dict[str, Any]
    files: NotRequired[dict[str, str]]


class _Mark(TypedDict):
    """What tells one store from another; deleted, it is written anew."""

    schema: Literal[1]
    store: str


class Store:
    """Finished and unfinished jobs below `root`, each in root/<id[:2]>/<id>/; the folder is made if needed.

    A job's folder holds job.json, log.txt, lease.json while it runs, what the job itself keeps there, and,
    once it is done, result.json (`_Record`). stale_after: seconds without a sign of life after which a job
    on another machine counts as dead; on one machine a dead owner is noticed at once. token: of a store that
    another process made; then it is a RunError if this machine does not see the same folder.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, stale_after: float = 60.0, token: str | None = None
    ) -> None:
        if stale_after <= 0:
            raise argument_error("stale_after", stale_after, "a positive number of seconds")
        if not os.fspath(root):
            raise argument_error("store", root, "the name of a folder")
        self.root = as_path(root, "store").absolute()
        self.stale_after = stale_after
        mark = self.root / MARK
        if token is None:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                expected = "a folder, or a name that is free"
                raise argument_error("store", str(root), expected, "A file is there.") from None
            _check_own(self.root)
            sweep(self.root)
            if not mark.exists():
                # Two commands may start at once; the second finds the first one's.
                create_json(mark, {"schema": 1, "store": secrets.token_hex(8)})
        # It tells two folders of one path apart, on machines that do not share a disk.
        self.token = read_json(mark, _Mark)["store"] if token is None or mark.exists() else ""
        if token not in (None, self.token):
            raise RunError(
                f"this machine ({platform.node()}) does not see the store {self.root}, or has another one "
                "there. All workers need it at the same path, on a disk that they share."
            )

    def folder(self, job: Job | str) -> Path:
        """Where the job, or the job of that id, keeps its files; it may not exist yet."""
        name = job if isinstance(job, str) else job.id
        return self.root / name[:2] / name

    def record(self, job: Job | str) -> dict[str, Any] | None:
        """Return {result, seconds, environment, files}, or None when the job is not done."""
        path = self.folder(job) / RESULT
        # Most looks are at jobs that have no result, so the file is asked for before it is read.
        if not path.exists():
            return None
        return {**read_json(path, _Record, sealed=True)}

    def result(self, job: Job | str) -> dict[str, Any] | None:
        """Return what the job's function returned, or None when it is not done."""
        record = self.record(job)
        return None if record is None else record["result"]

    def arrays(self, job: Job | str, name: str) -> dict[str, Any]:
        """The arrays of an .npz file that a finished job left in its folder; a RunError if it is damaged."""
        folder, record = self.folder(job), self.record(job)
        assert record is not None
        hint = f"Delete the folder {folder} and repeat the command."
        if not (folder / name).exists():
            raise RunError(f"{folder / name} does not exist, though its job is done. {hint}")
        return read_arrays(folder / name, sha256=record.get("files", {}).get(name), hint=hint)

    def log_tail(self, job: Job | str, lines: int = 20, limit: int = 4000) -> str:
        """Return the last lines, at most `limit` bytes of text, of what the job printed; "" without a log."""
        try:
            path = self.folder(job) / LOG
            with path.open("rb") if path.is_file() else io.BytesIO() as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _check_own(root: Path) -> None:
    """Raise a UsageError for a folder in which other things lie than a store, marked or not, has."""
    names = sorted(os.listdir(root))
    if MARK in names:
        return
    others = [name for name in names if not (name.startswith(".") or _JOBS.fullmatch(name))]
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        expected = "the folder of a store, or one that is new or empty"
        raise argument_error("store", str(root), expected, f"It holds something else ({shown}).")
