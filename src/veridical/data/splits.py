"""Dividing examples into two parts by seed, in a way that no version of a random generator can change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from veridical.runtime.errors import argument_error


def hashed_order(indices: Iterable[int], seed: int, purpose: str) -> list[int]:
    """The indices in an order that depends on (seed, purpose) alone: by SHA-256 of (seed, purpose, index).

    A split is part of what a data set is: a generator whose algorithm changes with a library's version would
    move images between training and testing.
    """
    return sorted(indices, key=lambda index: hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest())


def held_out(count: int, size: int, seed: int, purpose: str) -> tuple[list[int], list[int]]:
    """Divide range(count) into (kept, held out), `size` of them held out; both ascending."""
    if not 0 < size < count:
        raise argument_error(
            "size", size, f"an integer from 1 to {count - 1} ({count} examples, some must remain)"
        )
    order = hashed_order(range(count), seed, purpose)
    return sorted(order[size:]), sorted(order[:size])


def stratified(
    labels: Sequence[int], fraction: float, seed: int, purpose: str
) -> tuple[list[int], list[int]]:
    """Divide the examples into (training, testing), the same fraction of every class for testing.

    Of n examples of a class round(n * fraction) are for testing, at least one and at most n - 1. Both lists
    are in hashed order, so that the first examples of a file sorted by class are not all of one class. Raises
    UsageError for a class of a single example, which cannot be on both sides.
    """
    if not 0.0 < fraction < 1.0:
        raise argument_error("fraction", fraction, "a number between 0 and 1, both excluded")
    members: dict[int, list[int]] = {}
    order = hashed_order(range(len(labels)), seed, purpose)
    for index in order:
        members.setdefault(int(labels[index]), []).append(index)
    held: set[int] = set()
    for label, indices in members.items():
        if len(indices) < 2:
            raise argument_error(
                f"class {label}", "1 example", "at least 2, so that training and testing get one each"
            )
        held.update(indices[: min(max(round(len(indices) * fraction), 1), len(indices) - 1)])
    # Not in the order of the draw: there the classes whose share was complete first would come first.
    shuffled = hashed_order(order, seed, f"{purpose}/order")
    return [index for index in shuffled if index not in held], [index for index in shuffled if index in held]
