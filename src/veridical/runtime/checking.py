"""The one check of every option's value, by its field's annotation and by LIMITS; free of torch.

Classes of options inherit `Checked`, and functions are decorated by `checked`: an option is refused in the
same words from a command line, a file or Python, before any work and before a folder is made.
"""

from __future__ import annotations

import inspect
import numbers
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import cache, wraps
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from veridical.runtime.errors import UsageError, argument_error, nearest
from veridical.runtime.files import as_path
from veridical.runtime.process_group import MOST

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Limit(NamedTuple):
    """The numbers from low to high; `above` and `below` leave out the end itself. NaN is in none."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether the number is within."""
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def words(self) -> str:
        """The limits as what follows "a number"."""
        if self.low == -(2**63):
            return " of 64 bits"
        low, high = (f"{end:,.15g}" for end in (self.low, self.high))
        if not self.above and not self.below:
            return f" from {low} to {high}"
        least, most = "above" if self.above else "of at least", "below" if self.below else "up to"
        return f" {least} {low} and {most} {high}"


_SHARE, _COUNT, _FACTOR = Limit(0, 1), Limit(1, 10**9), Limit(0, 1e6)
_LENGTH = Limit(0, 1e4)
_POSITIVE = Limit(0, 1e4, above=True)

LIMITS: Mapping[str, Limit] = {
    **dict.fromkeys(("weight", "beta", "learning_rate", "weight_decay", "deviation"), _FACTOR),
    **dict.fromkeys(("radius", "training_radius", "inner_step_size"), _LENGTH),
    **dict.fromkeys(("step_size", "pgd_step_size"), _POSITIVE),
    **dict.fromkeys(("radius_warm_up", "beta_from", "rate", "fill", "position", "noise"), _SHARE),
    **dict.fromkeys(("averaging", "warm_up"), Limit(0, 1, below=True)),
    **dict.fromkeys(("contrast", "null_contrast"), Limit(0, 1, above=True)),
    **dict.fromkeys(("train_examples", "test_examples", "examples", "explained", "attacked", "k"), _COUNT),
    **dict.fromkeys(("repeats", "control_repeats", "seeds", "restarts"), Limit(1, 1000)),
    **dict.fromkeys(("threads", "workers"), Limit(1, MOST)),
    **dict.fromkeys(("width", "sweep_width", "batch", "batch_size"), Limit(1, 10**6)),
    **dict.fromkeys(("size", "tile", "blocks", "block_size", "nodes", "inner_nodes"), Limit(1, 10**4)),
    **dict.fromkeys(("margin", "region", "inner_steps", "window", "share"), Limit(0, 10**4)),
    "levels": Limit(0, 1, above=True, below=True),
    "epochs": Limit(0, 1e5, above=True),
    "steps": _COUNT,
    "pgd_steps": Limit(1, 10**5),
    "validation": Limit(0, 10**9),
    "layout": Limit(2, 16),
    "moved": Limit(0, 10**4),
    **dict.fromkeys(("gallery", "pictures"), Limit(0, 1000)),
    "shape": Limit(1, 10**5),
    "num_classes": Limit(1, 10**5),
    **dict.fromkeys(("bounds", "baseline"), Limit(-1e6, 1e6)),
    "rows": _COUNT,
    "samples": Limit(1, 10**6),
    "max_nodes": Limit(1, 10**4),
    "tolerance": Limit(0, 1e6, above=True),
    "checkpoint_seconds": Limit(0, 1e9),
    **dict.fromkeys(("seed", "split_seed"), Limit(-(2**63), 2**63 - 1)),
}
"""The possible values of a number by the option's name, which means the same in every command.

Where one command differs its field says so: `field(default=8, metadata=limited(0, 1000))`.
"""

NEEDS: Sequence[tuple[str, str, tuple[Any, ...]]] = (
    ("insecure", "scheduler", ()),
    ("control_repeats", "control", ()),
    ("retrain_model_options", "retrain_model", ()),
    ("region", "attack", ("target",)),
    ("tile", "null", ("scramble",)),
)
"""Options that have an effect only where another has one of these values, or (none named) any at all."""

PATHS = {"out", "run", "store", "data", "source", "data_root", "initial_run", "attacks", "folders"}
PATHS |= {"retrain_model", "attribution"}
"""Options that are, or may be, the name of a file or folder, in which ~ is the user's own."""


def limited(low: float, high: float, *, above: bool = False, below: bool = False) -> dict[str, Limit]:
    """Metadata of a field whose limits are its own."""
    return {"limit": Limit(low, high, above, below)}


class Checked:
    """A dataclass whose fields hold what their annotations say, within their limits.

    Paths become text with ~ resolved, numbers of NumPy those of Python, sequences the field's list or tuple.
    Anything else raises UsageError.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, (hint, limit) in rules(kind).items():
            object.__setattr__(self, name, taken(name, getattr(self, name), hint, limit))
        _check_radii(self)
        _check_needs(self)


@cache
def rules(options: Any) -> Mapping[str, tuple[Any, Limit | None]]:
    """What each field of a class of options takes: its resolved annotation, and the limits of its numbers."""
    hints = get_type_hints(options)
    return {
        field.name: (hints[field.name], field.metadata.get("limit", LIMITS.get(field.name)))
        for field in fields(options)
    }


def checked(*own: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function so that its arguments are taken as options are; not those that it checks itself.

    Nor those that may be tensors or modules, of which more has to be said than their type.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)
        plain = [
            n for n, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD and n not in own
        ]

        @cache
        def hints() -> dict[str, Any]:
            found = get_type_hints(function)
            return {name: found[name] for name in plain if "torch" not in str(found[name])}

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            given = signature.bind(*args, **kwargs)
            for name, value in given.arguments.items():
                if name in hints():
                    given.arguments[name] = taken(name, value, hints()[name], LIMITS.get(name))
            return function(*given.args, **given.kwargs)

        return call

    return decorate


def taken(name: str, value: Any, hint: Any, limit: Limit | None = None) -> Any:
    """The value as the annotation has it; a UsageError where it cannot be."""
    for one in _members(hint):
        found = _fitted(name, value, one, limit)
        if found is not _MISFIT:
            return found
    near = nearest(
        value, [known for one in _members(hint) if get_origin(one) is Literal for known in get_args(one)]
    )
    raise argument_error(name, value, wanted(hint, limit), f"Did you mean {near}?" if near else "")


def wanted(hint: Any, limit: Limit | None = None) -> str:
    """The values that an annotation allows, as what follows "expected"."""
    return " or ".join(_words(one, limit) for one in _members(hint, bare=True))


_MISFIT = object()
_LONGEST = 4096
_WORDS = {str: "a text", bool: "true or false", type(None): "null"}


def _members(hint: Any, *, bare: bool = False) -> tuple[Any, ...]:
    """The alternatives of a union; bare: without None, which only says that an option may be left out."""
    found = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(one for one in found if one is not type(None)) if bare else found


def _words(hint: Any, limit: Limit | None) -> str:
    origin = get_origin(hint)
    if hint in (int, float):
        return ("an integer" if hint is int else "a number") + (limit.words() if limit else "")
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin in (list, tuple, Sequence):
        return f"a list of values, each {wanted(get_args(hint)[0], limit)}"
    if origin is not None:
        return "a function" if origin is Callable else "a mapping of names to values"
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")


def _fitted(name: str, value: Any, hint: Any, limit: Limit | None) -> Any:
    """The value as one alternative has it, or _MISFIT; a UsageError for a text that no option can be."""
    origin = get_origin(hint)
    if hint in (int, float):
        return _number(value, hint, limit)
    if hint is str or origin is os.PathLike:
        return _text(name, value)
    if origin is Literal:
        return value if isinstance(value, str) and value in get_args(hint) else _MISFIT
    if origin in (list, tuple, Sequence):
        value = value.tolist() if hasattr(value, "tolist") else value  # an array or a tensor
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            return _MISFIT
        members = [taken(name, one, get_args(hint)[0], limit) for one in value]
        return members if origin is list else tuple(members)
    if origin in (dict, Mapping):
        return _mapping(name, value, get_args(hint))
    if origin is Callable:
        return value if callable(value) and not isinstance(value, type) else _MISFIT
    return value if hint is Any or isinstance(value, hint) else _MISFIT


def _number(value: Any, kind: type, limit: Limit | None) -> Any:
    wide: Any = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wide) or (limit and not limit.holds(value)):
        return _MISFIT
    # An integer stays one where a number is expected: records of it are compared as they are.
    builtin = type(value).__module__ == "builtins"
    return value if builtin else kind(value)


def _text(name: str, value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        return _MISFIT
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text or len(text) > _LONGEST or not _encodable(text):
        expected = f"a text in UTF-8, not empty, without NUL and of at most {_LONGEST:,} characters"
        raise argument_error(name, value, expected)
    return str(as_path(text, name)) if name in PATHS and text.startswith("~") else text


def _encodable(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # lone surrogates: bytes of a command line that are not UTF-8
        return False


def _mapping(name: str, value: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return _MISFIT
    if arguments[-1] is Any:
        return value
    return {key: taken(f"{name}.{key}", one, arguments[-1]) for key, one in value.items()}


def _check_needs(options: Any) -> None:
    """Refuse what was given and has no effect beside the other options."""
    known = {field.name: field for field in fields(options)}
    for name, other, values in NEEDS:
        if name not in known or other not in known or getattr(options, name) == _default(known[name]):
            continue
        found = getattr(options, other)
        chosen = found if isinstance(found, list | tuple) else [found]
        if not any(one in values if values else one for one in chosen):
            needed = f"{other} {' or '.join(values)}" if values else other
            raise UsageError(f"{name} has an effect only with {needed}. Leave {name} out.")


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _check_radii(options: Any) -> None:
    """Refuse balls of linf that are wider than all images, whose values are from 0 to 1."""
    norms = getattr(options, "norm", None)
    kind: Any = type(options)
    if norms not in ("linf", ["linf"]):
        return
    for name in ("radius", "training_radius"):
        found = getattr(options, name, None)
        for radius in found if isinstance(found, list) else [found]:
            if radius is not None and radius > 1 and rules(kind)[name][1] is LIMITS[name]:
                raise UsageError(f"{name}: {radius} in linf is wider than the images, which are in [0, 1].")
