"""One piece of work as plain values: what names it, what it is called with, and which code may run."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from veridical.runtime.errors import argument_error
from veridical.runtime.files import to_plain
from veridical.runtime.registry import TRUST_HINT, import_named

# (values, folder, where) -> result, as plain values. What it keeps in the folder outlives a kill.
JobFunction = Callable[[dict[str, Any], Path, dict[str, str]], Mapping[str, Any]]

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_OWN = "veridical."


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
