"""The public names of `import veridical`."""

import ast
import importlib
from pathlib import Path

import pytest

import veridical


@pytest.mark.parametrize("name", veridical.__all__)
def test_every_public_name_resolves_to_itself(name: str) -> None:
    value = getattr(veridical, name)
    assert value is getattr(veridical, name)
    # A class or function is the one that its own module holds, under its own name.
    home = getattr(value, "__module__", None)
    if home is not None:
        assert getattr(importlib.import_module(home), name) is value
        assert value.__name__ == name
    assert name in dir(veridical)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(veridical.__file__).read_text(encoding="utf-8"))
    ifs = [node for node in tree.body if isinstance(node, ast.If)]
    (block,) = (node for node in ifs if ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(seen) | {"__version__"} == set(veridical.__all__)
    for name, module in seen.items():
        assert module is not None
        assert getattr(importlib.import_module(module), name) is getattr(veridical, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = veridical.no_such_name
