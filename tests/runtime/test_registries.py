"""Names of our own, of installed packages and of trusted code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from veridical.runtime.errors import UsageError
from veridical.runtime.registry import Registry, load_factory


@dataclass(frozen=True)
class Shape:
    name: str
    factory: str | Callable[..., Any] = "math:hypot"


PLUGIN = """
from runtime_shapes import Shape
SQUARE, WRONG, NOT_OURS = Shape("square"), Shape("something else"), "text"
def area(side, *, unit): return side * side
"""
POINTS = """[shapes.test]
square = own_shapes:SQUARE
missing = own_shapes:NOTHING
broken = broken_shapes:ENTRY
renamed = own_shapes:WRONG
text = own_shapes:NOT_OURS
circle = own_shapes:NOTHING
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with entry points, some of them broken, on Python's path."""
    (tmp_path / "own_shapes.py").write_text(PLUGIN)
    (tmp_path / "broken_shapes.py").write_text("1 / 0")
    information = tmp_path / "own_shapes-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: own-shapes\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(POINTS)
    monkeypatch.setitem(sys.modules, "runtime_shapes", sys.modules[__name__])
    monkeypatch.delitem(sys.modules, "own_shapes", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def shapes() -> Registry[Shape]:
    own = (Shape("circle"), Shape("triangle"))
    return Registry("shape", "shapes.test", Shape, own, wrap=Shape, positional=["side"], named=["unit"])


def test_own_names_need_no_package() -> None:
    registry = shapes()
    assert registry.names() == ("circle", "triangle")
    assert registry.get("circle") == Shape("circle")
    assert "circle" in registry
    assert "square" not in registry
    registry.register(Shape("line"))
    assert [entry.name for entry in registry.entries()] == [*registry] == ["circle", "triangle", "line"]
    # A factory is imported late, when it is asked for.
    assert load_factory(registry.get("line").factory)(3, 4) == 5


@pytest.mark.usefixtures("installed")
def test_an_installed_package_adds_names_and_changes_none() -> None:
    registry = shapes()
    assert registry.names() == ("circle", "triangle", "broken", "missing", "renamed", "square", "text")
    assert "own_shapes" not in sys.modules  # names are read, nothing is imported
    assert registry.get("circle") == Shape("circle")  # the package's own "circle" is broken
    assert registry.get("square") == Shape("square")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "shape: broken of the installed package own-shapes .* ZeroDivisionError"),
        ("missing", "missing of the installed package own-shapes cannot be loaded: AttributeError"),
        ("renamed", "shape renamed: expected a Shape of that name behind own_shapes:WRONG"),
        ("text", "shape text: expected a Shape of that name .*, but got 'text'"),
    ],
)
def test_a_broken_package_is_an_error_where_it_is_named_and_a_warning_elsewhere(
    name: str, message: str
) -> None:
    registry = shapes()
    with pytest.raises(UsageError, match=message):
        registry.get(name)
    with pytest.warns(UserWarning, match="own_shapes|own-shapes") as warned:
        assert [entry.name for entry in registry.entries()] == ["circle", "triangle", "square"]
    assert len(warned) == 4


def test_two_packages_with_one_name_are_ambiguous(installed: Path) -> None:
    other = installed / "other_shapes-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-shapes\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[shapes.test]\nsquare = other_shapes:SQUARE\n")
    with pytest.raises(UsageError, match="square is ambiguous: other-shapes and own-shapes"):
        shapes().get("square")


@pytest.mark.usefixtures("installed")
def test_a_callable_runs_only_when_trusted_and_of_the_form() -> None:
    registry = shapes()
    with pytest.raises(UsageError, match=r"base_shape: .*--trust-code"):
        registry.get("own_shapes:area", argument="base_shape")
    entry = registry.get("own_shapes:area", trust_code=True)
    assert entry.name == "own_shapes:area"
    assert load_factory(entry.factory)(3, unit="cm") == 9
    with pytest.raises(UsageError, match=r"called as \(side, unit=\.\.\.\)"):
        registry.get("os:getcwd", trust_code=True)
    with pytest.raises(UsageError, match="one of circle"):
        Registry("shape", "shapes.test", Shape, [Shape("circle")]).get("own_shapes:area", trust_code=True)


@pytest.mark.parametrize("entry", [Shape("circle"), Shape("a:b"), Shape(""), "circle"])
def test_an_entry_needs_a_name_of_its_own(entry: Any) -> None:
    with pytest.raises(UsageError, match="shape: expected"):
        shapes().register(entry)
    with pytest.raises(UsageError, match=r"one of circle, triangle or package.*Did you mean circle\?"):
        shapes().get("cirle")
