"""Beginning a training with the weights of a finished run instead of fresh ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from veridical.runtime.errors import UsageError
from veridical.runtime.record import record
from veridical.training.checkpoint import check_tensors, packed, put_into, weights
from veridical.training.settings import Settings


@record
class Beginning:
    """The delivered weights of a finished run, from which another training goes on.

    folder: where the run lies, for messages. settings: what it was trained with. state: its weights by name.
    """

    folder: Path
    settings: Settings
    state: Mapping[str, Tensor]

    def put_into(self, model: nn.Module) -> None:
        """Give `model` these weights, in place. Raises RunError, which says what differs."""
        own = weights(model)
        check_tensors(self.folder, self.state, own)
        put_into(own, self.state)

    def check(self, settings: Settings) -> None:
        """Raise a UsageError if images that the new training holds out were trained on in the run."""
        same_data = self.settings.data["checksum"] == settings.data["checksum"]
        same_split = (self.settings.validation, self.settings.seed) == (settings.validation, settings.seed)
        if settings.validation and same_data and not same_split:
            raise UsageError(
                f"initial_run: {self.folder} held out {self.settings.validation} images by seed "
                f"{self.settings.seed}, this training would hold out {settings.validation} by seed "
                f"{settings.seed}, and validate on images that the weights have seen. Give the run's own "
                "seed and validation, or validation=0."
            )

    def record(self) -> dict[str, Any]:
        """What decides the weights, as plain values; `epochs` counts those of the run's own beginning too."""
        before = self.settings.initial
        return {
            "weights": hashlib.sha256(packed(self.state)).hexdigest(),
            "objective": self.settings.objective,
            "epochs": self.settings.epochs + (before["epochs"] if before else 0.0),
        }
