"""From attributions to ranks: which coordinate of an instance comes first, kept once for a whole data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from veridical.faithfulness.stored import read_array, write_arrays
from veridical.metrics.descending import descending
from veridical.runtime.errors import DataError, RunError, UsageError, argument_error, unknown_name_error
from veridical.runtime.files import AGAIN
from veridical.runtime.options import OrderName, PerName, TiesName
from veridical.runtime.record import record

Part = Literal["train", "test"]
Ranks = npt.NDArray[np.int16] | npt.NDArray[np.int32]

ORDERS: tuple[OrderName, ...] = ("absolute", "signed", "squared")


@record
class Ranking:
    """The ranks of every coordinate of the instances of a data set; rank 0 is the most important.

    train, test: int16 (int32 where that is too short) of shape (N, D), N the first so many instances, or
    (1, D) for one order of all instances. D is C * H * W, coordinates in the order of a flattened (C, H, W)
    image, or H * W if whole pixels are ranked. shape: (C, H, W) of the images. record: plain values that say
    how it was made.
    """

    train: Ranks
    test: Ranks
    shape: tuple[int, int, int]
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        sizes = (channels * height * width, height * width)
        for name, ranks in (("train", self.train), ("test", self.test)):
            if ranks.ndim != 2 or ranks.shape[1] not in sizes or ranks.dtype not in (np.int16, np.int32):
                expected = f"int16 or int32 ranks (N, {sizes[0]}) or (N, {sizes[1]})"
                raise argument_error(f"ranks {name}", ranks, expected)
        if self.train.shape[1] != self.test.shape[1]:
            raise argument_error("ranks test", self.test, f"(N, {self.coordinates}), as the training ranks")

    @property
    def coordinates(self) -> int:
        """D: how many coordinates are ranked."""
        count: int = self.train.shape[1]
        return count

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the ranks; how they came about is not part of it."""
        digest = hashlib.sha256(f"{self.shape}".encode())
        for ranks in (self.train, self.test):
            digest.update(f"{ranks.dtype.str}{ranks.shape}".encode())
            digest.update(np.ascontiguousarray(ranks).data)
        return digest.hexdigest()

    def of(self, part: Part) -> Ranks:
        """The ranks of one part of the data set."""
        return self.train if part == "train" else self.test

    def describe(self) -> dict[str, Any]:
        """Plain values: the checksum, the number of coordinates, and how the ranking was made."""
        return {"checksum": self.checksum, "coordinates": self.coordinates, **self.record}

    def save(self, path: Path) -> None:
        """Write an .npz file, atomically: members train, test, shape, record (JSON), digest (of all)."""
        text = json.dumps(dict(self.record), allow_nan=False).encode()
        arrays = {"train": self.train, "test": self.test, "shape": np.asarray(self.shape, dtype=np.int64)}
        digest = np.frombuffer(self._digest(text), dtype=np.uint8)
        write_arrays(path, {**arrays, "record": np.frombuffer(text, dtype=np.uint8), "digest": digest})

    def _digest(self, record: bytes) -> bytes:
        return hashlib.sha256(self.checksum.encode() + record).digest()

    @classmethod
    def load(cls, path: Path) -> Ranking:
        """Map what `save` wrote, and read it once for its digest; a RunError for any other file."""
        try:
            train, test = (read_array(path, part, kinds="i", ndim=2) for part in ("train", "test"))
            shape = read_array(path, "shape", kinds="i", ndim=1)
            text, digest = (read_array(path, name, kinds="u", ndim=1) for name in ("record", "digest"))
            channels, height, width = (int(size) for size in shape)
            found = cls(train, test, (channels, height, width), {})
            if bytes(digest) != found._digest(bytes(text)):
                raise ValueError("its content is not what was written (SHA-256 differs)")
            told: dict[str, Any] = {**json.loads(bytes(text))}
        except (DataError, UsageError, ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{path} is damaged: {str(error).removesuffix('.')}. {AGAIN}") from error
        object.__setattr__(found, "record", told)
        return found


def rank(
    attribution: Tensor,
    *,
    order: OrderName = "absolute",
    per: PerName = "value",
    ties: TiesName = "random",
    seed: int = 0,
    indices: Tensor | Sequence[int] | None = None,
    purpose: str = "ties",
) -> Tensor:
    """Rank the coordinates of attributions (N, C, H, W), rank 0 for the greatest; int16 or int32 (N, D), CPU.

    order: by the absolute value (the paper's), the signed value, or the square; for single values the last
    is the order of the first. per: "value" ranks D = C * H * W numbers (the paper's), "pixel" D = H * W sums
    over the channels. ties: "random" by noise of the stream (seed, purpose, index of the example), which no
    batching changes; "stable" leaves equal coordinates in the order of their numbers, so that they pile up in
    the upper rows. indices: the examples' numbers in their data set; None counts from 0.
    Raises UsageError for values that are not finite.
    """
    importance = importances(attribution, order=order, per=per)
    examples, coordinates = importance.shape
    dtype = torch.int16 if coordinates <= 2**15 else torch.int32
    found = descending(importance, ties=ties, seed=seed, indices=indices, purpose=purpose)
    places = torch.arange(coordinates, dtype=dtype, device=found.device).repeat(examples, 1)
    return torch.empty_like(places).scatter_(1, found, places).cpu()


def importances(attribution: Tensor, *, order: OrderName = "absolute", per: PerName = "value") -> Tensor:
    """What `rank` sorts by: (N, C, H, W) to (N, D); squares and sums over channels in float64."""
    if attribution.ndim != 4 or not attribution.is_floating_point():
        raise argument_error("attribution", attribution, "floating-point attributions (N, C, H, W)")
    finite = attribution.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0, 0])
        given = (
            f"values that are not finite in {int((~finite).sum())} of {len(finite)} (the first is {first})"
        )
        raise argument_error("attribution", given, "finite values", "NaN has no rank.")
    if order not in ORDERS:
        raise unknown_name_error("order", order, ORDERS)
    if per not in ("value", "pixel"):
        raise argument_error("per", per, "value or pixel")
    values = attribution.detach()
    if order == "squared" or per == "pixel":
        values = values.double()  # squares of small gradients would vanish in float32
    if order != "signed":
        values = values.abs() if order == "absolute" else values.square()
    if per == "pixel":
        values = values.sum(dim=1)
    return values.flatten(1)
