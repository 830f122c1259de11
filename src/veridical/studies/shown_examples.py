"""Which examples of a data set a page shows."""

from __future__ import annotations

from torch import Tensor


def first_of_each_class(labels: Tensor, count: int) -> list[int]:
    """The first `count` examples when they come by class: each class's first, then each one's second.

    labels: int64 (N,). Returns their numbers in rising order.
    """
    seen: dict[int, int] = {}
    ranked = []
    for place, label in enumerate(labels.tolist()):
        ranked.append((seen.get(label, 0), place))
        seen[label] = seen.get(label, 0) + 1
    return sorted(place for _, place in sorted(ranked)[: max(0, count)])
