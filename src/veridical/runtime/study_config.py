"""Options of commands that have not been made studies of one file yet; free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from veridical.runtime.checking import (
    FilePath,
    Limit,
)
from veridical.runtime.options import (
    DataChoice,
    Machine,
)

Shown = Annotated[int, Limit(1, 1000)]


@dataclass(frozen=True, kw_only=True)
class DemoOptions(DataChoice, Machine):
    """Train a natural and a robust model, attack the explanations of both, and show them side by side.

    Args:
        out: Folder of everything; None is runs/demo, or runs/demo-short. The same command continues in it.
        data: Name of a data set, an .npz file or a folder of class folders.
        short: Less training, fewer images and steps, for a quick look.
        seed: Seed of weights, batches and noise.
        progress: Show progress bars.
    """

    out: FilePath | None = None
    data: FilePath = "mnist-5k"
    short: bool = False
