"""The structure of plain values, written down as type annotations and checked in values that were read."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from veridical.runtime.errors import argument_error

_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
    type(None): "null",
}

_hints = cache(partial(get_type_hints, include_extras=True))


def misfit(value: object, form: Any, place: str = "") -> str | None:
    """What in a plain value does not fit an annotation, as "config.seed: expected ..."; None if all does.

    form: bool, int, float (whole numbers too), str, None, Any, Literal, unions, list[...] and Sequence[...]
    (tuples fit), dict[str, ...] and Mapping[str, ...], a TypedDict (further keys are left alone) or a
    dataclass (its fields by name, no others). place: what the value is called.
    """
    return next(_misfits(value, form, place), None)


def _misfits(value: object, form: Any, place: str) -> Iterator[str]:
    origin, arguments = get_origin(form) or form, get_args(form)
    if form is Any or form is object:
        return
    if origin in (Union, types.UnionType):
        yield from _of_none(value, arguments, place)
    elif origin is NotRequired:
        yield from _misfits(value, arguments[0], place)
    elif origin is Literal:
        if not any(type(value) is type(one) and value == one for one in arguments):
            yield _said(place, value, f"one of {', '.join(map(repr, arguments))}")
    elif is_typeddict(form) or dataclasses.is_dataclass(form):
        yield from _of_fields(value, form, place)
    elif origin in (list, Sequence, dict, Mapping):
        yield from _of_parts(value, origin in (dict, Mapping), arguments, place)
    else:
        kind = type(None) if form is None else form
        allowed = (int, float) if kind is float else kind
        right = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
        if not right or (isinstance(value, int) and abs(value) > 2**64):  # of more, nothing could be made
            yield _said(place, value, _WORDS[kind])


def _of_parts(value: object, named: bool, arguments: Sequence[Any], place: str) -> Iterator[str]:
    """What does not fit in a list, or a mapping if the parts are `named`, whose last argument they fit."""
    inner = arguments[-1] if arguments else Any
    if named and isinstance(value, Mapping):
        for key, one in value.items():
            yield from _misfits(one, inner, _inner(place, key))
    elif not named and isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from _misfits(one, inner, f"{place}[{index}]")
    else:
        yield _said(place, value, _WORDS[dict if named else list])


def _of_none(value: object, forms: Sequence[Any], place: str) -> Iterator[str]:
    """Why the value is none of several forms: in detail if there is one beside null."""
    if any(next(_misfits(value, one, place), None) is None for one in forms):
        return
    others = [one for one in forms if one is not type(None)]
    if len(others) == 1:
        yield from _misfits(value, others[0], place)
    else:
        yield _said(place, value, " or ".join(_WORDS.get(get_origin(one) or one, str(one)) for one in forms))


def _of_fields(value: object, form: Any, place: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield _said(place, value, "a mapping")
        return
    hints = _hints(form)
    if is_typeddict(form):
        # Not from __required_keys__, which misses what `from __future__ import annotations` leaves as text.
        required = {key for key, inner in hints.items() if get_origin(inner) is not NotRequired}
    else:
        fields, nothing = dataclasses.fields(form), dataclasses.MISSING
        required = {one.name for one in fields if one.default is nothing and one.default_factory is nothing}
        yield from (f"{_inner(place, key)}: not known here." for key in value if key not in hints)
    yield from (f"{_inner(place, key)}: missing." for key in hints if key in required and key not in value)
    for key, inner in hints.items():
        if key in value:
            yield from _misfits(value[key], inner, _inner(place, key))


def _inner(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _said(place: str, value: object, expected: str) -> str:
    if value is None or isinstance(value, list | dict):  # a kind is enough: it may be the whole file
        return f"{place or 'content'}: expected {expected}, but got {_WORDS[type(value)]}."
    return str(argument_error(place or "content", value, expected))
