"""Coordinates from the greatest value down, with a rule for equal values that is said aloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_uniform

Ties = Literal["random", "stable"]
TIES: tuple[Ties, ...] = ("random", "stable")


def descending(
    values: Tensor,
    *,
    ties: Ties = "random",
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
    purpose: str = "ties",
) -> Tensor:
    """Positions of the values (N, D) of each row, the greatest first; int64 (N, D) on their device.

    ties: "random" puts equal values in an order that depends on (seed, purpose, number of the example) alone,
    so on no batching; "stable" keeps them in the order of their positions, which favours the upper rows of an
    image. indices: the examples' numbers in their data set; None counts from 0. Raises UsageError for another
    rule and for indices that are not one integer for each row.
    """
    examples = len(values)
    if ties not in TIES:
        raise argument_error("ties", ties, "random or stable")
    numbers = torch.arange(examples) if indices is None else torch.as_tensor(indices).cpu()
    if numbers.shape != (examples,):
        raise argument_error("indices", indices, f"{examples} integers, one for each example")
    ordered, found = values.sort(dim=1, descending=True, stable=True)
    if ties == "random":
        tied = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()[:, 0]
        if len(tied):
            found[tied] = _shuffled(values[tied], seed, purpose, numbers[tied.cpu()])
    return found


def _shuffled(values: Tensor, seed: int, purpose: str, numbers: Tensor) -> Tensor:
    """Positions (n, D) from the greatest value down, equal ones in random order."""
    noise = per_example_uniform(values.shape[1:], seed, purpose, numbers, torch.float64, values.device)
    shuffled = noise.argsort(dim=1)
    # A stable sort of shuffled positions keeps equal ones in the order of the shuffle.
    found = values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    return shuffled.gather(1, found)
