"""Frozen dataclasses of arrays: told in few words, and not compared by value, which arrays do not have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")
_LONGEST, _PART = 280, 60


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """`dataclass(frozen=True, eq=False)` whose repr gives kind and shape of arrays, not their numbers."""
    # With repr=False dataclass leaves the one that is set here.
    cls.__repr__ = _describe  # type: ignore[method-assign]
    return dataclass(frozen=True, eq=False, repr=False)(cls)


def _describe(self: Any) -> str:
    parts = [f"{one.name}={_describe_value(getattr(self, one.name))}" for one in fields(self) if one.repr]
    return _shorten(f"{type(self).__name__}({', '.join(parts)}", _LONGEST) + ")"


def _describe_value(value: Any) -> str:
    """A value in a few words: an array's kind and shape, a collection's size, a network's class."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None and not isinstance(value, type):
        return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
    if isinstance(value, Mapping | list | tuple) and value:
        return f"{len(value)} of {type(value).__name__}"
    if hasattr(value, "named_parameters"):
        return type(value).__name__
    return _shorten(repr(value), _LONGEST if getattr(type(value), "__repr__", None) is _describe else _PART)


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
