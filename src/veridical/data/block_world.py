"""The synthetic world of blocks: one block carries the label, half of them could, the others never do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from veridical.runtime.checking import Checked, Length, Seed, Size, record
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import per_example_normal, per_example_uniform


@record
class BlockExamples:
    """Inputs float64 (N, blocks * block_size), target int64 (N,), 1 for y = +1 and 0 for y = -1, and block.

    block: int64 (N,), the number of the block that carries each example's label.
    """

    inputs: Tensor
    target: Tensor
    block: Tensor

    def __len__(self) -> int:
        return len(self.target)

    @property
    def sign(self) -> Tensor:
        """The label y as +1 or -1, float64 (N,)."""
        return self.target.double() * 2 - 1


@dataclass(frozen=True)
class BlockWorld(Checked):
    """x = [x_1 ... x_d]: x_j = y u* + eta g_j for one j of the first d/2 blocks, x_i = eta g_i elsewhere.

    y is uniform on +-1 and j on the first d/2 blocks, which are task-relevant; the others are noise. The g_i
    are uniform on the unit ball. blocks: d, even. block_size: numbers in a block. noise: eta, at least 0.
    direction: u*, `block_size` numbers; None is the vector of unit length with equal entries.
    Source: Shah, Jain, Netrapalli (2021), section 5.
    """

    blocks: Size = 10
    block_size: Size = 1
    noise: Length = 0.0
    direction: tuple[float, ...] | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks % 2:
            raise argument_error("blocks", self.blocks, "an even number of at least 2")
        if self.direction is not None:
            given = torch.tensor(self.direction, dtype=torch.float64)
            if given.shape != (self.block_size,) or not 0 < float(given.norm()) < float("inf"):
                expected = f"{self.block_size} finite numbers, not all of them 0"
                raise argument_error("direction", self.direction, expected)

    @property
    def relevant(self) -> int:
        """d/2, the number of task-relevant blocks."""
        return self.blocks // 2

    @property
    def size(self) -> int:
        """Numbers in an input."""
        return self.blocks * self.block_size

    @property
    def signal(self) -> Tensor:
        """u*, float64 (block_size,)."""
        if self.direction is None:
            return torch.full((self.block_size,), self.block_size**-0.5, dtype=torch.float64)
        return torch.tensor(self.direction, dtype=torch.float64)

    def points(self) -> BlockExamples:
        """The d examples without noise, each block with y = +1, then each with y = -1."""
        block = torch.arange(self.relevant).repeat(2)
        target = torch.arange(2).flip(0).repeat_interleave(self.relevant)
        return self._place(torch.zeros(self.blocks, self.blocks, self.block_size).double(), target, block)

    def corners(self) -> BlockExamples:
        """The d examples of the support that a sum over the relevant blocks tells apart least.

        The noise of every relevant block points against the label: g_i = -y u* / |u*|; noise blocks are 0.
        """
        clean = self.points()
        against = -clean.sign[:, None, None] * self.signal / self.signal.norm()
        noise = torch.zeros(self.blocks, self.blocks, self.block_size, dtype=torch.float64)
        noise[:, : self.relevant] = self.noise * against
        return self._place(noise, clean.target, clean.block)

    def examples(self, count: int, part: str = "train") -> BlockExamples:
        """`count` draws; example i depends, but for rounding, on (seed, part, i) alone, not on `count`."""
        numbers = range(count)
        purpose = f"blocks, {part}, label and place"
        draws = per_example_uniform((2,), self.seed, purpose, numbers, torch.float64)
        target = (draws[:, 0] < 0.5).long()
        # A draw is below 1, but its product can round up to the number of blocks.
        block = (draws[:, 1] * self.relevant).long().clamp_max(self.relevant - 1)
        shape = (self.blocks, self.block_size)
        if not self.noise:
            return self._place(torch.zeros(count, *shape, dtype=torch.float64), target, block)
        normal = per_example_normal(shape, self.seed, f"blocks, {part}, directions", numbers, torch.float64)
        purpose = f"blocks, {part}, lengths"
        share = per_example_uniform((self.blocks, 1), self.seed, purpose, numbers, torch.float64)
        # Uniform in the ball: a uniform direction, and a length with density proportional to r^(size - 1).
        noise = normal / normal.norm(dim=2, keepdim=True) * share ** (1 / self.block_size)
        return self._place(self.noise * noise, target, block)

    def describe(self) -> dict[str, Any]:
        """Plain values from which `BlockWorld` is made again."""
        direction = None if self.direction is None else list(self.direction)
        return asdict(self) | {"direction": direction}

    def _place(self, noise: Tensor, target: Tensor, block: Tensor) -> BlockExamples:
        """Add y u* to one block of noise (N, blocks, block_size), which is changed, and flatten it."""
        sign = target.double() * 2 - 1
        # In place: `noise` was made for this.
        noise[torch.arange(len(block)), block] += sign[:, None] * self.signal
        return BlockExamples(noise.flatten(1), target, block)
