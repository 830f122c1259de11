"""How large a map is on the blocks of an input: on the one that carries the label, its likes, the others."""

from __future__ import annotations

import torch
from torch import Tensor

from veridical.runtime.errors import argument_error
from veridical.runtime.lengths import length
from veridical.runtime.record import record


@record
class RoleMagnitudes:
    """Magnitudes per example, (N,) each, at least 0.

    Attributes
    ----------
    signal
        On the block that carries this example's label.
    other
        Mean over the other task-relevant blocks; NaN where there is none.
    noise
        Mean over the blocks that never carry a label; NaN where there is none.
    evenness
        Least over greatest magnitude on the task-relevant blocks, from 0 to 1; NaN where all are 0.
    """

    signal: Tensor
    other: Tensor
    noise: Tensor
    evenness: Tensor


def block_magnitudes(attribution: Tensor, blocks: int) -> Tensor:
    """Euclidean length of the map on each of `blocks` equal stretches of an example, (N, blocks)."""
    flat = attribution.flatten(1)
    if blocks < 1 or flat.shape[1] % blocks:
        raise argument_error("blocks", blocks, f"a number of equal blocks in {flat.shape[1]} values")
    return length(flat.unflatten(1, (blocks, -1)))


def by_role(magnitudes: Tensor, block: Tensor, relevant: int) -> RoleMagnitudes:
    """Magnitudes (N, blocks) by what the blocks are to each example; higher is more marked.

    block: int64 (N,), the block that carries each label, below `relevant`. The first `relevant` blocks can
    carry a label. Source: Shah, Jain, Netrapalli (2021), section 5.
    """
    if not 1 <= relevant <= magnitudes.shape[1]:
        raise argument_error("relevant", relevant, f"a number of blocks from 1 to {magnitudes.shape[1]}")
    if block.shape != magnitudes.shape[:1] or bool(((block < 0) | (block >= relevant)).any()):
        raise argument_error("block", block, f"one number from 0 to {relevant - 1} per example")
    could = magnitudes[:, :relevant]
    signal = could.gather(1, block[:, None])[:, 0]
    own = torch.zeros_like(could, dtype=torch.bool).scatter_(1, block[:, None], True)
    # Left out rather than subtracted: a difference of large numbers would round what is near 0.
    other = could.masked_fill(own, 0.0).sum(1) / (relevant - 1) if relevant > 1 else signal * float("nan")
    return RoleMagnitudes(
        signal=signal,
        other=other,
        noise=magnitudes[:, relevant:].mean(1),
        evenness=could.amin(1) / could.amax(1),
    )
