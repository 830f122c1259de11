"""Dataclasses of the house: options checked by their annotations, records of arrays; free of torch.

What a value may be is written down as its annotation and checked in one place.

Options (`Checked`), arguments of functions (`checked`) and the content of our own files (`check_structure`)
are refused in the same words, options before any work and before a folder is made. Limits of a number stand
in its annotation: `examples: Count | None = None`, or `Annotated[int, Limit(2, 16)]`.
"""

from __future__ import annotations

import dataclasses
import inspect
import numbers
import os
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, partial, wraps
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    ParamSpec,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from veridical.runtime.errors import UsageError, argument_error, nearest

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


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

    def to_schema(self) -> Iterator[tuple[str, float]]:
        """The limits as keywords of a JSON Schema."""
        yield ("exclusiveMinimum" if self.above else "minimum"), self.low
        yield ("exclusiveMaximum" if self.below else "maximum"), self.high

    def __str__(self) -> str:
        """The limits as what follows "a number"."""
        if self.low == -(2**63):
            return " of 64 bits"
        low, high = (f"{end:,.15g}" for end in (self.low, self.high))
        if not self.above and not self.below:
            return f" from {low} to {high}"
        least, most = "above" if self.above else "of at least", "below" if self.below else "up to"
        return f" {least} {low} and {most} {high}"


# Threads of a process, or processes: more than this machine can be meant to run are refused.
MOST_PROCESSES = max(64, 4 * (os.cpu_count() or 1))

Seed = Annotated[int, Limit(-(2**63), 2**63 - 1)]
Count = Annotated[int, Limit(1, 10**9)]
Repeats = Annotated[int, Limit(1, 1000)]
Processes = Annotated[int, Limit(1, MOST_PROCESSES)]
Width = Annotated[int, Limit(1, 10**6)]
Size = Annotated[int, Limit(1, 10**4)]
Steps = Annotated[int, Limit(0, 10**4)]
Pictures = Annotated[int, Limit(0, 1000)]
Pixel = Annotated[float, Limit(-1e6, 1e6)]
Factor = Annotated[float, Limit(0, 1e6)]
StepSize = Annotated[float, Limit(0, 1e4, above=True)]
Share = Annotated[float, Limit(0, 1)]
Decay = Annotated[float, Limit(0, 1, below=True)]
Contrast = Annotated[float, Limit(0, 1, above=True)]
Level = Annotated[float, Limit(0, 1, above=True, below=True)]
Length = Annotated[float, Limit(0, 1e4)]
_OF_IMAGES = "around images"
# Of a ball around an image: beside the norm linf, more than 1 is refused too.
Radius = Annotated[float, Limit(0, 1e4), _OF_IMAGES]

_IS_PATH = "a path"
# A text that is, or may be, the name of a file or folder, in which ~ is the user's own.
FilePath = Annotated[str, _IS_PATH]

# Metadata of an option of several values, those without a flag on a command line.
POSITIONAL = {"positional": True}


def needs(option: str, *values: Any) -> dict[str, Any]:
    """Metadata of an option that has an effect only where another has one of `values`, or any at all."""
    return {"needs": (option, values)}


class Checked:
    """A dataclass whose fields hold what their annotations say, within their limits.

    Paths become text with ~ resolved, numbers of NumPy those of Python, sequences the field's list or tuple.
    Anything else raises UsageError.
    """

    def __post_init__(self) -> None:
        kind: Any = type(self)
        # A frozen dataclass refuses plain assignment, also of what it was given in another form.
        for name, hint in option_hints(kind).items():
            object.__setattr__(self, name, check_value(name, getattr(self, name), hint))
        _check_radii(self)
        _check_needs(self)


@cache
def option_hints(options: Any) -> Mapping[str, Any]:
    """What each field of a class of options takes: its resolved annotation, limits included."""
    hints = get_type_hints(options, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(options)}


def checked(*own: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function so that its arguments are checked as options are; not those that it checks itself.

    Nor those that may be tensors or modules, of which more has to be said than their type.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)
        plain = [
            n for n, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD and n not in own
        ]

        # At the first call: when a function is decorated, names of its module may still be missing.
        @cache
        def hints() -> dict[str, Any]:
            resolved = get_type_hints(function, include_extras=True)
            return {name: resolved[name] for name in plain if "torch" not in str(resolved[name])}

        @wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            given = signature.bind(*args, **kwargs)  # defaults are left alone: they fit by themselves
            for name, value in given.arguments.items():
                if name in hints():
                    given.arguments[name] = check_value(name, value, hints()[name])
            return function(*given.args, **given.kwargs)

        return call

    return decorate


def check_value(name: str, value: Any, hint: Any) -> Any:
    """The value as the annotation has it; a UsageError where it cannot be."""
    return _fit(name, value, hint, plain=False)


def check_structure(value: object, form: Any) -> None:
    """Raise a UsageError that names the field, as in "config.seed", unless plain values fit an annotation.

    form: as for options, and beside that a TypedDict (further keys are left alone) or a dataclass (its fields
    by name, no others). Or written out: {"name": str, "seed?": int} is a TypedDict whose seed may be missing,
    {"*": form} has any keys, [form] is a list, (form, None) a choice. Only that is checked.
    """
    _fit("", value, form, plain=True)


def json_schema(form: Any) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the plain values that `check_structure` takes for an annotation."""
    kind, arguments = _parts(form)
    if kind is Annotated or kind is NotRequired:
        limits = [mark for mark in arguments[1:] if isinstance(mark, Limit)]
        return json_schema(arguments[0]) | {key: end for mark in limits for key, end in mark.to_schema()}
    if kind in _UNIONS:
        return {"anyOf": [json_schema(one) for one in arguments]}
    if kind is Literal:
        return {"enum": list(arguments)}
    if kind in (list, tuple, Sequence):
        items = json_schema(arguments[0]) if arguments else {}
        return {"type": "array"} | ({"items": items} if items else {})
    if kind in (dict, Mapping):
        values = json_schema(arguments[-1]) if arguments else {}
        return {"type": "object"} | ({"additionalProperties": values} if values else {})
    if isinstance(kind, dict) or is_typeddict(kind) or dataclasses.is_dataclass(kind):
        hints, required = _fields_of(kind)
        properties = {key: json_schema(inner) for key, inner in hints.items()}
        known = {} if isinstance(kind, dict) or is_typeddict(kind) else {"additionalProperties": False}
        return {"type": "object", "properties": properties, "required": sorted(required)} | known
    if kind in (Any, object):
        return {}
    return {"type": _JSON_TYPES[kind]}


def as_path(path: str | os.PathLike[str], name: str = "path") -> Path:
    """The path with a leading ~ or ~user resolved; a UsageError for a user unknown here."""
    if not isinstance(path, str | os.PathLike):
        raise argument_error(name, path, "the path of a file or folder")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        hint = "Write ./ in front if the name itself begins with ~."
        raise argument_error(name, os.fspath(path), "~ or ~USER of this machine", hint) from None


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise a UsageError unless the value is an integer of at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise argument_error(name, value, f"an integer of at least {least}")


def check_positive(name: str, value: object, expected: str = "a finite number above 0") -> None:
    """Raise a UsageError unless the value is a finite number above 0."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 < float(value) < float("inf"):
        raise argument_error(name, value, expected)


_MISFIT = object()
_UNIONS = (Union, types.UnionType)
_NONE = type(None)
_LONGEST = 4096
_WORDS: Mapping[Any, str] = {
    str: "a text",
    bool: "true or false",
    _NONE: "null",
    list: "a list",
    dict: "a mapping",
    Callable: "a function",
}
_JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", None: "null", _NONE: "null"}
_hints = cache(partial(get_type_hints, include_extras=True))


def _fit(place: str, value: Any, hint: Any, *, plain: bool) -> Any:
    """The value as the annotation has it; a UsageError that names the place where it does not fit.

    plain: it was read from a file. Texts may be any then, dataclasses are mappings, and an error does not
    show a list or mapping, which may be the whole file.
    """
    result = _convert(place, value, hint, plain)
    if result is not _MISFIT:
        return result
    if plain and (value is None or isinstance(value, list | dict)):
        raise UsageError(f"{place or 'content'}: expected {_words(hint)}, but got {_WORDS[type(value)]}.")
    known = [name for one in _members(hint) if get_origin(one) is Literal for name in get_args(one)]
    names = [name for name in known if isinstance(name, str)]
    near = nearest(value, names)  # None for all but texts
    meant = f"Did you mean {near}?" if near else ""
    raise argument_error(place or "content", value, _words(hint), meant)


def _convert(place: str, value: Any, hint: Any, plain: bool, marks: Sequence[Any] = ()) -> Any:
    """The value as the annotation has it, or _MISFIT; a UsageError where it fits but for one of its parts.

    marks: what `Annotated` says of this annotation.
    """
    kind, arguments = _parts(hint)
    # Before all else: what stands around an annotation changes no value, only its limits.
    if kind is Annotated or kind is NotRequired:
        return _convert(place, value, arguments[0], plain, arguments[1:])
    if kind in _UNIONS:
        return _any_of(place, value, arguments, plain)
    if kind in (int, float):
        return _number(value, kind, marks)
    if (kind is str and not plain) or kind is os.PathLike:
        return _text(place, value, is_path=_IS_PATH in marks)
    if kind is Literal:  # compared one by one: a value given may have no hash
        return value if any(_is_same(value, one) for one in arguments) else _MISFIT
    if kind in (list, tuple, Sequence):
        return _sequence(place, value, kind, arguments[0] if arguments else Any, plain)
    if kind in (dict, Mapping):
        return _mapping(place, value, arguments[-1] if arguments else Any, plain)
    if isinstance(kind, dict) or is_typeddict(kind) or (plain and dataclasses.is_dataclass(kind)):
        return _record(place, value, kind)
    if kind is Callable:
        return value if callable(value) and not isinstance(value, type) else _MISFIT
    return value if kind in (Any, object) or isinstance(value, kind or _NONE) else _MISFIT


def _any_of(place: str, value: Any, members: Sequence[Any], plain: bool) -> Any:
    """The value as the first alternative that takes it; else the fault of the part that kept one from it."""
    # A list with one bad number is told by that number, not as "no list or null".
    fault = None
    for hint in members:
        try:
            result = _convert(place, value, hint, plain)
        except UsageError as error:
            fault = fault or error
            continue
        if result is not _MISFIT:
            return result
    if fault:
        raise fault
    return _MISFIT


def _is_same(value: Any, one: Any) -> bool:
    """Whether two plain values are equal and of one kind: true is not 1."""
    return isinstance(value, type(one)) and isinstance(value, bool) is isinstance(one, bool) and value == one


def _number(value: Any, kind: type, marks: Sequence[Any]) -> Any:
    wide: Any = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wide):
        return _MISFIT
    if isinstance(value, int) and abs(value) > 2**64:  # of more, nothing could be made
        return _MISFIT
    if not all(mark.holds(value) for mark in marks if isinstance(mark, Limit)):
        return _MISFIT
    # An integer stays one where a number is expected: records of it are compared as they are.
    builtin = type(value).__module__ == "builtins"
    return value if builtin else kind(value)


def _text(place: str, value: Any, *, is_path: bool) -> Any:
    if not isinstance(value, str | os.PathLike):
        return _MISFIT
    text = os.fspath(value)
    short = isinstance(text, str) and 0 < len(text) <= _LONGEST
    if not short or "\0" in text or not _is_encodable(text):
        expected = f"a text in UTF-8, not empty, without NUL and of at most {_LONGEST:,} characters"
        raise argument_error(place, value, expected)
    return str(as_path(text, place)) if is_path and text.startswith("~") else text


def _is_encodable(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # lone surrogates: bytes of a command line that are not UTF-8
        return False


def _sequence(place: str, value: Any, kind: Any, inner: Any, plain: bool) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value  # an array or a tensor
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return _MISFIT
    members = [_fit(f"{place}[{index}]", one, inner, plain=plain) for index, one in enumerate(value)]
    return members if kind is list else tuple(members)


def _mapping(place: str, value: Any, inner: Any, plain: bool) -> Any:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return _MISFIT
    if inner is Any:
        return value
    return {key: _fit(_below(place, key), one, inner, plain=plain) for key, one in value.items()}


def _record(place: str, value: Any, form: Any) -> Any:
    """A mapping whose keys are those of a form: a TypedDict, written out, or the fields of a dataclass."""
    if not isinstance(value, Mapping):
        return _MISFIT
    hints, required = _fields_of(form)
    if not isinstance(form, dict) and not is_typeddict(form):
        for key in value:
            if key not in hints:
                raise UsageError(f"{_below(place, key)}: not known here.")
    # In the order of the form, so that the first fault told is the same on every machine.
    for key, inner in hints.items():
        if key in value:
            _fit(_below(place, key), value[key], inner, plain=True)
        elif key in required:
            raise UsageError(f"{_below(place, key)}: missing.")
    return value


def _fields_of(form: Any) -> tuple[Mapping[str, Any], Collection[str]]:
    """The annotations of a form's keys, and the keys that must be there."""
    if isinstance(form, dict):
        hints = {key.removesuffix("?"): inner for key, inner in form.items()}
        return hints, hints.keys() & form.keys()
    hints = _hints(form)
    if is_typeddict(form):
        # Not from __required_keys__, which misses what `from __future__ import annotations` leaves as text.
        return hints, {key for key, inner in hints.items() if get_origin(inner) is not NotRequired}
    return hints, {one.name for one in dataclasses.fields(form) if _default(one) is dataclasses.MISSING}


def _below(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _parts(hint: Any) -> tuple[Any, Any]:
    """An annotation's kind and arguments, also of a form that is written out."""
    if isinstance(hint, list | tuple):
        return (list if isinstance(hint, list) else Union), hint
    if isinstance(hint, dict) and "*" in hint:
        return dict, (str, hint["*"])
    return get_origin(hint) or hint, get_args(hint)


def _members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union but for None, which only says that a value may be left out."""
    kind, arguments = _parts(hint)
    members = arguments if kind in _UNIONS else (hint,)
    return tuple(one for one in members if one not in (None, _NONE)) or (_NONE,)


def _words(hint: Any) -> str:
    """The values that an annotation allows, as what follows "expected"."""
    return " or ".join(_words_of(one, ()) for one in _members(hint))


def _words_of(hint: Any, marks: Sequence[Any]) -> str:
    kind, arguments = _parts(hint)
    if kind is Annotated or kind is NotRequired:
        return _words_of(arguments[0], arguments[1:])
    if kind in (int, float):
        limits = [str(mark) for mark in marks if isinstance(mark, Limit)]
        return "".join(["an integer" if kind is int else "a number", *limits])
    if kind is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if kind in (list, tuple, Sequence) and arguments:
        return f"a list of values, each {_words(arguments[0])}"
    if kind in (dict, Mapping) and arguments:
        return "a mapping of names to values"
    is_form = isinstance(kind, dict) or is_typeddict(kind)
    return "a mapping" if is_form else _WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")


def _check_needs(options: Any) -> None:
    """Refuse what was given and has no effect beside the other options."""
    for field in dataclasses.fields(options):
        other, values = field.metadata.get("needs", ("", ()))
        # What equals its default may not have been given at all, as in a file of all options.
        if not hasattr(options, other) or getattr(options, field.name) == _default(field):
            continue
        given = getattr(options, other)
        given = given if isinstance(given, list | tuple) else [given]
        if not any(one in values if values else one for one in given):
            needed = f"{other} {' or '.join(values)}" if values else other
            raise UsageError(f"{field.name} has an effect only with {needed}. Leave {field.name} out.")


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _check_radii(options: Any) -> None:
    """Refuse balls of linf that are wider than all images, whose values are from 0 to 1."""
    if getattr(options, "norm", None) not in ("linf", ["linf"]):
        return
    kind: Any = type(options)
    for name, hint in option_hints(kind).items():
        given = getattr(options, name) if _is_marked(hint, _OF_IMAGES) else None
        for radius in given if isinstance(given, list) else [given]:
            if radius is not None and radius > 1:
                raise UsageError(f"{name}: {radius} in linf is wider than the images, which are in [0, 1].")


def _is_marked(hint: Any, mark: str) -> bool:
    own = getattr(hint, "__metadata__", ())
    return mark in own or any(_is_marked(one, mark) for one in get_args(hint))


# Characters at most of a record in words, and of one of its values.
_OF_RECORD, _OF_VALUE = 280, 60


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
def record(cls: type[_T]) -> type[_T]:
    """A frozen dataclass of arrays: not compared by value, and told by their kind and shape, not numbers."""
    # With repr=False dataclass leaves the one that is set here.
    cls.__repr__ = _describe  # type: ignore[method-assign]
    # Of a parent that is compared by value all its records would be equal: they have none of its fields.
    cls.__eq__ = object.__eq__  # type: ignore[method-assign]
    cls.__hash__ = object.__hash__  # type: ignore[method-assign]
    return dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)


def _describe(self: Any) -> str:
    shown = [one.name for one in dataclasses.fields(self) if one.repr]
    parts = ", ".join(f"{name}={_short_words(getattr(self, name))}" for name in shown)
    return _shorten(f"{type(self).__name__}({parts}", _OF_RECORD) + ")"


def _short_words(value: Any) -> str:
    """A value in a few words: an array's kind and shape, a collection's size, a network's class."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None and not isinstance(value, type):
        return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    if isinstance(value, Mapping | list | tuple) and value:
        return f"{len(value)} of {type(value).__name__}"
    if hasattr(value, "named_parameters"):
        return type(value).__name__
    is_record = getattr(type(value), "__repr__", None) is _describe
    return _shorten(repr(value), _OF_RECORD if is_record else _OF_VALUE)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
