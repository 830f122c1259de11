"""A data set of two classes for commands."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of dark and bright 8x8 images."""
    random = np.random.default_rng(0)
    labels = np.arange(80) % 2
    images = (labels[:, None, None] * 120 + random.integers(0, 120, (80, 8, 8))).astype(np.uint8)
    path = tmp_path_factory.mktemp("squares") / "squares.npz"
    np.savez(path, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
    return path
