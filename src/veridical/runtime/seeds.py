"""Randomness as an explicit argument: streams keyed by (seed, purpose, index), no global generators."""

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from veridical.runtime.errors import argument_error


def stream(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator that depends on nothing but (seed, purpose, index).

    Two purposes ("weights", "shuffle", ...) of one seed are unrelated. PyTorch's CPU generator starts from 32
    bits of its seed: for very many streams, as one per example, use `per_example_uniform` or `_normal`.
    """
    # A hash, not a sum: neighbouring seeds and indices must not give neighbouring states.
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(_digest(seed, purpose, index)[:8], "little"))
    return generator


def seed_global(seed: int) -> None:
    """Set torch's global generators, for foreign code that draws from them; see `guards.preserved_rng`.

    `torch.manual_seed` formats the call stack for devices that nobody has used yet, which takes longer than
    some training steps.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _draw_per_example(
    draw: Literal["random", "standard_normal"],
    shape: Sequence[int],
    seed: int,
    purpose: str,
    indices: Tensor | Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Noise of shape (len(indices), *shape), of which row i depends on (seed, purpose, indices[i]) alone.

    `shape` is one example's; `indices` are the examples' numbers in their data set. So neither the batch size
    nor the way that a data set is cut among processes changes what an example gets. Drawn in float64, then
    rounded to `dtype`.
    """
    numbers = indices.tolist() if isinstance(indices, Tensor) else [int(index) for index in indices]
    rows = np.empty((len(numbers), math.prod(shape)), dtype=np.float64)
    # Philox takes a 128-bit key, so no two of a data set's streams coincide (32-bit seeds would, by birthday,
    # from some ten thousand examples on). One generator is set to the start of each stream: to make a new one
    # takes seven times as long, as it asks the system for a seed first.
    philox = np.random.Philox(key=0)
    generator, start = np.random.Generator(philox), philox.state
    for row, number in zip(rows, numbers, strict=True):
        start["state"]["key"] = np.frombuffer(_digest(seed, purpose, number)[:16], dtype="<u8")
        philox.state = start
        getattr(generator, draw)(out=row)
    return torch.from_numpy(rows.reshape(len(numbers), *shape)).to(device=device, dtype=dtype)


# Noise uniform in [0, 1]; shapes and keys as `_draw_per_example` says.
per_example_uniform = partial(_draw_per_example, "random")
# Standard normal noise, likewise.
per_example_normal = partial(_draw_per_example, "standard_normal")


def _digest(seed: int, purpose: str, index: int) -> bytes:
    """Hash the triple; integers of any size and sign are allowed, booleans and floats are mistakes."""
    for name, value in (("seed", seed), ("index", index)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise argument_error(name, value, "an int")
    return hashlib.sha256(f"{seed}/{index}/{purpose}".encode()).digest()
