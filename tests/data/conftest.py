"""Small data sets of every layout, written by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from veridical.data import array_files

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root on a machine without any other data."""
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.delenv("VERIDICAL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(array_files, "DEBIAN_FASHION", tmp_path / "debian")
    return folder


@pytest.fixture
def draw() -> Callable[..., tuple[Images, Labels]]:
    """Random images of a shape (N, ...) and labels below `classes`, the same for the same arguments."""

    def make(*shape: int, classes: int = 10, seed: int = 0) -> tuple[Images, Labels]:
        generator = np.random.default_rng(seed)
        images = generator.integers(0, 256, size=shape, dtype=np.uint8)
        return images, (np.arange(shape[0]) % classes).astype(np.uint8)

    return make


@pytest.fixture
def members(draw: Callable[..., tuple[Images, Labels]]) -> Callable[..., dict[str, Any]]:
    """The arrays of an .npz file: 20 training and 10 test images of a shape (H, W) or (H, W, C)."""

    def make(*shape: int, train: int = 20, test: int = 10, classes: int = 10) -> dict[str, Any]:
        x_train, y_train = draw(train, *shape, classes=classes)
        x_test, y_test = draw(test, *shape, classes=classes, seed=1)
        return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}

    return make
