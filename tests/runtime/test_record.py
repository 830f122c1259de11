"""Records of arrays: told by kind and shape, whatever they hold, and equal to themselves alone."""

import dataclasses
import importlib
import pkgutil
import typing
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import veridical
from veridical.runtime.checking import _describe, record

MODULES = [one.name for one in pkgutil.walk_packages(veridical.__path__, "veridical.")]
CLASSES = sorted(
    {
        value
        for module in (importlib.import_module(name) for name in MODULES if not name.endswith("__main__"))
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
        if value.__module__.startswith("veridical.")
    },
    key=lambda one: f"{one.__module__}.{one.__qualname__}",
)


def is_record(kind: Any) -> bool:
    """Compared by identity and frozen: what counts its own steps is no record."""
    return kind.__eq__ is object.__eq__ and bool(kind.__dataclass_params__.frozen)


RECORDS = [one for one in CLASSES if is_record(one)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_frozen_dataclass_with_tensors_is_a_record(kind: Any) -> None:
    try:
        hints = typing.get_type_hints(kind)
    except NameError:  # a type that is imported for type checkers alone
        hints = {}
    held = {hint for name, hint in hints.items() if name in {one.name for one in dataclasses.fields(kind)}}
    if kind.__dataclass_params__.frozen and held & {Tensor, Tensor | None, np.ndarray}:
        assert kind in RECORDS


VALUES: list[object] = [
    torch.zeros(1000, 3, 20, 20),
    np.zeros((5000, 7), dtype=np.uint8),
    {str(key): torch.zeros(100) for key in range(100)},
    tuple(torch.zeros(100) for _ in range(100)),
    nn.Linear(2, 2),
    "word " * 1000,
    [],
    None,
]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_its_words_are_few_whatever_it_holds(kind: Any) -> None:
    for value in VALUES:
        held = object.__new__(kind)
        for field in dataclasses.fields(kind):
            object.__setattr__(held, field.name, value)
        assert repr(held).startswith(f"{kind.__name__}(")
        assert len(repr(held)) <= 300
        assert "\n" not in repr(held)
    assert kind.__repr__ is _describe


def test_the_words_say_what_there_is() -> None:
    @record
    class Inner:
        images: Tensor

    @record
    class Outer(Inner):
        _: dataclasses.KW_ONLY
        inner: Inner
        model: nn.Module
        parts: tuple[int, ...] = (1, 2)
        name: str = "digits"

    found = Outer(images=torch.zeros(2, 3), inner=Inner(torch.zeros(4, dtype=torch.uint8)), model=nn.ReLU())
    assert repr(found) == (
        "Outer(images=float32 (2, 3), inner=Inner(images=uint8 (4,)), model=ReLU, parts=2 of tuple, "
        "name='digits')"
    )
    assert found != Outer(images=found.images, inner=found.inner, model=found.model)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]
