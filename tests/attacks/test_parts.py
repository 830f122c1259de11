"""Parts of a measurement on disk: whole or absent, and never another configuration's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.attacks.parts import PartStore
from veridical.runtime.errors import RunError, UsageError
from veridical.runtime.files import pack_arrays


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    store = PartStore(tmp_path / "parts", {"a": 1})
    arrays: dict[str, Any] = {
        "numbers": np.array([1.5, np.nan]),
        "flags": np.array([True, False]),
        "names": np.array(["coat", "shirt"]),
        "none": np.zeros((0, 3), dtype=np.float32),
    }
    assert store.get("x") is None
    assert not store.has("x")
    store.put("x", arrays)
    assert store.has("x")
    found = store.get("x")
    assert found is not None
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_another_configuration_sees_nothing(tmp_path: Path) -> None:
    PartStore(tmp_path, {"seed": 0, "k": 1}).put("x", {"a": np.arange(3)})
    assert PartStore(tmp_path, {"seed": 1, "k": 1}).get("x") is None
    # The order in which settings are written down is no setting.
    assert PartStore(tmp_path, {"k": 1, "seed": 0}).get("x") is not None


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    store = PartStore(tmp_path, {})
    store.put("x", {"a": np.arange(1000)})
    path = next(tmp_path.rglob("x.npz"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match=r"x\.npz is damaged: .*Delete it"):
        store.get("x")


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="numbers, booleans or text"):
        pack_arrays({"a": np.array([{}], dtype=object)})
    store = PartStore(tmp_path, {})
    store.put("x", {"a": np.arange(3)})
    np.savez(next(tmp_path.rglob("x.npz")), a=np.array([{}], dtype=object))
    with pytest.raises(RunError, match="damaged"):
        store.get("x")


def test_configurations_must_be_plain(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="config"):
        PartStore(tmp_path, {"model": object()})
