"""A data set in memory: uint8 images, cut into batches by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

import torch
from torch import Tensor

from veridical.data.splits import held_out
from veridical.runtime.errors import argument_error
from veridical.runtime.record import record


@record
class Split:
    """One part of a data set: images uint8 (N, C, H, W) and labels int64 (N,), both on the CPU."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise argument_error("images", self.images, "a uint8 tensor of shape (N, C, H, W)")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise argument_error("labels", self.labels, f"an int64 tensor of shape ({len(self.images)},)")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self,
        indices: Tensor | Sequence[int] | range | slice,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cut out examples: inputs `dtype` (n, C, H, W) in [0, 1] and target int64 (n,), new tensors.

        Bytes travel to `device` (None: they stay) and become numbers there. A `dtype` shorter than float32 is
        rounded once, from float32. Raises UsageError for an index outside 0 .. len - 1 or a dtype that is not
        floating.
        """
        if not dtype.is_floating_point:
            raise argument_error("dtype", dtype, "a floating-point dtype")
        return self._cut(self._indices(indices), dtype, device)

    def _cut(
        self, chosen: Tensor, dtype: torch.dtype, device: torch.device | str | None
    ) -> tuple[Tensor, Tensor]:
        """What `batch` gives, of indices and dtype that it has checked; a subclass has its own."""
        exact = torch.promote_types(dtype, torch.float32)
        # index_select: of bytes it takes a tenth of the time of images[chosen].
        inputs = self.images.index_select(0, chosen).to(device).to(exact).div_(255).to(dtype)
        return inputs, self.labels.index_select(0, chosen).to(device)

    def subset(self, indices: Tensor | Sequence[int] | range | slice) -> Split:
        """The examples with these indices, copied, in the given order."""
        chosen = self._indices(indices)
        return Split(self.images[chosen], self.labels[chosen])

    def _indices(self, indices: Tensor | Sequence[int] | range | slice) -> Tensor:
        if isinstance(indices, slice):
            return torch.arange(len(self))[indices]
        if isinstance(indices, Tensor):
            chosen = indices.detach().cpu()
            if chosen.dtype == torch.bool or chosen.dtype.is_floating_point or chosen.ndim != 1:
                raise argument_error("indices", indices, "integers of shape (n,)")
            chosen = chosen.long()
        else:
            chosen = torch.tensor(list(indices), dtype=torch.int64)
        least, most = (int(end) for end in chosen.aminmax()) if len(chosen) else (0, -1)
        if least < 0 or most >= len(self):
            given = f"indices from {least} to {most}"
            raise argument_error("indices", given, f"indices from 0 to {len(self) - 1}")
        return chosen


@record
class Dataset:
    """A data set as loaded.

    classes: a name per label; equal ones are told apart by their numbers, "crane (class 134)". checksum:
    SHA-256 of images and labels as they are here, after all options. source: where it was found. options:
    what shaped the arrays, e.g. {"equalise": True, "size": 32}.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    checksum: str
    source: str
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", distinct(self.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes, of which the data may lack some."""
        return len(self.classes)

    def describe(self) -> dict[str, object]:
        """Plain values for a result's `config`: everything that says which numbers were used."""
        return {
            "name": self.name,
            "train": len(self.train),
            "test": len(self.test),
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "checksum": self.checksum,
            "options": dict(self.options),
        }


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Class names without equal ones: those get their numbers, so that results by class have them all.

    What UTF-8 cannot say (a folder's name of other bytes) is escaped: no result could be written with it.
    """
    told = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    numbered = [f"{name} (class {number})" for number, name in enumerate(told)]
    found = [own if told.count(name) > 1 else name for name, own in zip(told, numbered, strict=True)]
    return tuple(found if len(set(found)) == len(found) else numbered)


def split_validation(split: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Divide a split at random into (training, validation), `size` for validation, in their old order.

    The division depends on (len(split), size, seed) alone. Raises UsageError when nothing would remain.
    """
    kept, held = held_out(len(split), size, seed, "validation")
    return split.subset(kept), split.subset(held)
