"""Batches for many retrainings at once: what they have in common is cut out once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from veridical.data import Split
from veridical.faithfulness.fills import ConstantFill
from veridical.faithfulness.unmasking import MaskSplit, UnmaskedSplit, mask
from veridical.models.layers import Standardise
from veridical.runtime.errors import argument_error


class Batches:
    """The same part of the data set as each of R retrainings sees it, standardised.

    splits: one for each, over the same images, with a constant fill. Where one is asked for several
    retrainings' examples, images and ranks that they share are read once, and no image is held twice.
    """

    def __init__(self, splits: Sequence[Split], standardise: Standardise, device: torch.device) -> None:
        self.device = device
        self.splits: list[UnmaskedSplit] = []
        for split in splits:
            if not isinstance(split, UnmaskedSplit) or not isinstance(split.fill, ConstantFill):
                raise argument_error("splits", split, "an UnmaskedSplit with a constant fill")
            self.splits.append(split)
        self.images = Split(splits[0].images, splits[0].labels)
        self.standardise = standardise
        one = torch.ones(1, self.images.images.shape[1], 1, 1, device=device)
        # To standardise before filling in gives the same floats as after, once instead of R times.
        self.seen = standardise(one)
        self.fills = [standardise(one * self._fill(split)) for split in self.splits]
        self._room = torch.empty(0, device=device)

    def batch(self, numbers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs (R, n, D) and target (R, n) of each retraining's examples; inputs hold until the next call.

        numbers: R index tensors (n,). Those that are one object are looked up once.
        """
        shape = self.images.images.shape[1:]
        wanted = (len(self.splits), len(numbers[0]), *shape)
        if self._room.shape != wanted:
            self._room = torch.empty(wanted, device=self.device)
        cut: dict[int, tuple[Tensor, Tensor]] = {}
        ranks: dict[tuple[int, int], Tensor] = {}
        for row, (split, chosen) in enumerate(zip(self.splits, numbers, strict=True)):
            if id(chosen) not in cut:
                inputs, target = self.images.batch(chosen, device=self.device)
                cut[id(chosen)] = self.standardise(inputs), target
            key = id(split.ranks), id(chosen)
            if key not in ranks:
                ranks[key] = self._ranks(split, chosen)
            stays = mask(ranks[key], split.kept, shape)
            seen = self.seen if isinstance(split, MaskSplit) else cut[id(chosen)][0]
            torch.where(stays, seen, self.fills[row], out=self._room[row])
        return self._room.flatten(2), torch.stack([cut[id(chosen)][1] for chosen in numbers])

    def _ranks(self, split: UnmaskedSplit, chosen: Tensor) -> Tensor:
        numbers = chosen.numpy() if len(split.ranks) > 1 else np.zeros(1, dtype=np.int64)
        return torch.from_numpy(split.ranks[numbers]).to(self.device)

    def _fill(self, split: UnmaskedSplit) -> Tensor | float:
        """The constants (1, C, 1, 1); a mask is 0 where nothing is shown."""
        fill = split.fill
        assert isinstance(fill, ConstantFill)
        if isinstance(split, MaskSplit):
            return 0.0
        return torch.tensor(fill.values, device=self.device).reshape(1, -1, 1, 1)


def stackable(values: Mapping[str, Any]) -> bool:
    """Whether a retraining, by the values of its job, can be one of many in a stack.

    It is an `mlp` with the natural objective, unchanged images and a constant fill: imputation takes longer
    than the training, and every retraining needs its own.
    """
    training, fill = values["training"], values["fill"]
    return (
        values["model"]["name"] == "mlp"
        and training["objective"] == "natural"
        and training.get("augment", "none") == "none"
        and not training.get("bf16")
        and (fill is None or fill["kind"] == "constant")
    )
