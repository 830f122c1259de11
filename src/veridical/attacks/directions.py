"""Where an attribution attack pushes the map: off its top pixels, off its centre, into a region; by name.

torch is imported when a map is scored: the command line reads the names without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from veridical.runtime.checking import Checked, Count, Steps
from veridical.runtime.errors import UsageError
from veridical.runtime.registry import Registry, source_digest

if TYPE_CHECKING:
    from torch import Tensor

# Saliency maps (N, H, W) that sum to H * W -> the number to be raised, (N,).
MapScore = Callable[["Tensor"], "Tensor"]


# A goal of an attribution attack: from clean saliency maps (N, H, W) to a differentiable score of others.
Direction = Callable[["Tensor"], MapScore]


@dataclass(frozen=True)
class TopK(Checked):
    """Lower the saliency on the k most salient pixels of the clean map (Ghorbani et al. 2019).

    compared: pixels that the top-k intersection compares; None is k. (On MNIST Chen et al. attack 200 and
    compare 100.)
    """

    k: Count = 100
    compared: Count | None = None

    def __call__(self, clean: Tensor) -> MapScore:
        """Minus the saliency on the clean maps' top k pixels."""
        mask = top_mask(clean, self.k)
        return lambda maps: -(maps * mask).flatten(1).sum(1)


@dataclass(frozen=True)
class MassCentre:
    """Move the centre of mass of the saliency away from where it was (Ghorbani et al. 2019)."""

    def __call__(self, clean: Tensor) -> MapScore:
        """Squared distance of the centre of mass from the clean one."""
        origin = _centre(clean).detach()
        # The plain distance has no gradient where it is zero, which is where the attack starts.
        return lambda maps: ((_centre(maps) - origin + 1e-3) ** 2).sum(1)


@dataclass(frozen=True)
class TargetRegion(Checked):
    """Raise the saliency inside a box: rows top to bottom, columns left to right, ends excluded."""

    top: Steps
    bottom: Steps
    left: Steps
    right: Steps

    def __call__(self, clean: Tensor) -> MapScore:
        """The saliency inside the region."""
        height, width = clean.shape[1:]
        if not (0 <= self.top < self.bottom <= height and 0 <= self.left < self.right <= width):
            raise UsageError(
                f"the target region {self} does not lie in maps of {height} x {width}; expected "
                "0 <= top < bottom <= height and 0 <= left < right <= width"
            )
        region = clean.new_zeros(clean.shape)
        region[:, self.top : self.bottom, self.left : self.right] = 1
        return lambda maps: (maps * region).flatten(1).sum(1)


@dataclass(frozen=True)
class Decorrelate:
    """Lower the correlation of the log saliency with the ranks of the clean map, a smooth tau."""

    def __call__(self, clean: Tensor) -> MapScore:
        """Minus the correlation with the clean ranks."""
        from torch.nn.functional import normalize

        # Ranks of the clean map, centred and of length 1: a correlation is then one product.
        ranks = clean.flatten(1).argsort(dim=1, stable=True).argsort(dim=1).to(clean.dtype)
        ranks = normalize(ranks - ranks.mean(1, keepdim=True), dim=1)

        def score(maps: Tensor) -> Tensor:
            # 1e-3 of the mean saliency: exact zeros have no logarithm.
            log = (maps.flatten(1) + 1e-3).log()
            centred = log - log.mean(1, keepdim=True)
            return -(normalize(centred, dim=1) * ranks).sum(1)

        return score


@dataclass(frozen=True)
class RandomSign:
    """No goal: every pixel moves at full step in a random direction, Ghorbani et al.'s baseline."""

    def __call__(self, clean: Tensor) -> MapScore:
        """Raise a UsageError: nothing is climbed."""
        del clean
        raise UsageError("RandomSign climbs no score; it is handled by the attack itself")


@dataclass(frozen=True)
class DirectionEntry:
    """One direction: where it pushes the map (summary), what makes it, and what that takes of the settings.

    takes: of k, compared (pixels pushed down, and compared) and region (top, bottom, left, right of a box).
    """

    name: str
    summary: str
    factory: Callable[..., Direction]
    takes: tuple[str, ...] = ()

    def create(self, **available: Any) -> Direction:
        """The direction, from what it takes of the settings that are there."""
        return self.factory(**{name: available[name] for name in self.takes})


# By name, or "module:callable": a function of the form of `Direction`.
DIRECTIONS = Registry(
    "attack",
    "veridical.directions",
    DirectionEntry,
    (
        DirectionEntry("topk", "away from the most salient pixels", TopK, ("k", "compared")),
        DirectionEntry("mass-centre", "away from the centre of mass", MassCentre),
        DirectionEntry("target", "into a region", lambda region: TargetRegion(*region), ("region",)),
        DirectionEntry("random", "random signs, as a comparison", RandomSign),
    ),
    wrap=lambda name, function: DirectionEntry(name, "code of the caller's", lambda: function),
    positional=("clean",),
)


def describe_direction(direction: Direction) -> dict[str, Any]:
    """Its settings as plain values; of a caller's own the digest of its source."""
    if not is_dataclass(direction) or isinstance(direction, type):
        return {"source": source_digest(direction)}
    return asdict(direction)


def top_mask(maps: Tensor, k: int) -> Tensor:
    """1 on the k greatest values of each map, (N, H, W); of equal ones the last are taken."""
    from veridical.metrics.spatial import topk_mask

    # An empty batch has no map that could bound k.
    pixels = maps[0].numel() if len(maps) else k
    if not 1 <= k <= pixels:
        raise UsageError(f"k={k}; expected 1 to {pixels}, the number of pixels of a map")
    return topk_mask(maps, k).to(maps.dtype)


def _centre(maps: Tensor) -> Tensor:
    """Row and column of the centre of mass of each map, (N, 2)."""
    import torch

    rows, columns = (torch.arange(size, dtype=maps.dtype, device=maps.device) for size in maps.shape[1:])
    moments = torch.stack([(maps.sum(2) * rows).sum(1), (maps.sum(1) * columns).sum(1)], 1)
    return moments / maps.flatten(1).sum(1, keepdim=True)
