"""Training images changed at random, batch by batch, and batches in which every class is as frequent."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from veridical.runtime.errors import argument_error
from veridical.runtime.options import AugmentName

# Greatest rotation, in degrees, to either side.
ANGLE = 15.0

# Of "shift-rotate": greatest shift as a share of height and width, and greatest change of the brightness.
SHIFT_SHARE, BRIGHTNESS = 0.1, 0.2

# Of "warp": greatest shift in pixels, greatest shift of a corner as a share of the height, and the share of
# images that stay as they are (that of the originals among the authors' images).
WARP_SHIFT, WARP_DEPTH, WARP_UNCHANGED = 2.5, 0.24, 0.08

_DRAWS = 13
_ORIGIN = slice(None)


@dataclass(frozen=True)
class Augmentation:
    """A change of images, drawn anew for each: rotated by up to 15 degrees, shifted, edge values drawn out.

    "shift-rotate" shifts by up to a tenth of height and width and multiplies the brightness by 0.8 to 1.2.
    "shift-rotate-flip" also mirrors left to right, with chance 1/2, where the class has mirror images
    (`mirror`: their label by label, None for none); the label follows. "warp" shifts by up to 2.5 pixels and
    adds perspective: each corner moves by up to d, with d itself uniform up to 0.24 of the height; 8% of the
    images stay as they are. So Chen et al. (2019) filled up the classes of GTSRB and Flower (their code,
    generate_data.py), but once, before the training.
    """

    kind: AugmentName
    mirror: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("shift-rotate", "shift-rotate-flip", "warp"):
            raise argument_error("augment", self.kind, "shift-rotate, shift-rotate-flip or warp")

    def __call__(
        self,
        inputs: Tensor,
        target: Tensor,
        generator: torch.Generator,
        *,
        rows: slice = _ORIGIN,
        count: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Changed inputs (n, C, H, W) in [0, 1] and target (n,); what is given stays as it is.

        generator: on the CPU. rows, count: where the inputs are only these rows of a batch of `count`, they
        get what they would get in the whole batch.
        """
        whole = len(inputs) if count is None else count
        # float64: the same numbers whatever dtype the images have.
        draws = torch.rand(whole, _DRAWS, generator=generator, dtype=torch.float64)[rows]
        if self.kind == "warp":
            moved = _resampled(inputs, _warped(draws, inputs))
            stays = (draws[:, 12] < WARP_UNCHANGED).to(inputs.device)
            return torch.where(stays[:, None, None, None], inputs, moved), target
        flips = torch.zeros(len(inputs), dtype=torch.bool)
        if self.kind == "shift-rotate-flip":
            mirror = torch.tensor([-1 if label is None else label for label in self.mirror])
            mirrored = mirror[target.cpu()]
            flips = (draws[:, 4] < 0.5) & (mirrored >= 0)
            target = torch.where(flips, mirrored, target.cpu()).to(target.device)
        factor = (1 + BRIGHTNESS * _either(draws[:, 3])).to(inputs)
        moved = _resampled(inputs, _moved(draws, inputs, flips))
        return (moved * factor[:, None, None, None]).clamp(0, 1), target


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Positions, as many as labels (N,), in random order; the classes' numbers differ by one at most.

    Classes that do not occur are left out. Of a class with more images than its share a random part is taken;
    one with fewer is gone through again and again, in a new order each time.
    """
    present, counts = labels.unique(return_counts=True)
    # What does not divide evenly goes to classes drawn at random, one more each.
    each, left = divmod(len(labels), len(present))
    quota = torch.full_like(counts, each)
    quota[torch.randperm(len(present), generator=generator)[:left]] += 1
    chosen = []
    for label, size, wanted in zip(present, counts.tolist(), quota.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        # Whole rounds through the class, so that nobody comes again before everybody else.
        rounds = [torch.randperm(size, generator=generator) for _ in range(-(-wanted // size))]
        chosen.append(members[torch.cat(rounds)[:wanted]] if rounds else members[:0])
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]


def _either(draws: Tensor) -> Tensor:
    """From [0, 1) to [-1, 1)."""
    return 2 * draws - 1


def _moved(draws: Tensor, inputs: Tensor, flips: Tensor) -> Tensor:
    """Maps (n, 3, 3) from a place in the result to that of the image which is seen there.

    Both in pixels from the centre. The image is mirrored, turned, shifted.
    """
    height, width = inputs.shape[2:]
    shift = SHIFT_SHARE * _either(draws[:, 1:3]) * torch.tensor([width, height])
    sides = torch.where(flips, -1.0, 1.0).to(draws)
    # From a place in the result back to the image, so the shift comes first and with its sign turned.
    mirror = torch.diag_embed(torch.stack([sides, torch.ones_like(sides), torch.ones_like(sides)], 1))
    return mirror @ _turn(draws[:, 0]) @ _shift(-shift)


def _warped(draws: Tensor, inputs: Tensor) -> Tensor:
    """As `_moved`: the image is turned, shifted, and its corners are moved."""
    height, width = inputs.shape[2:]
    depth = WARP_DEPTH * height * draws[:, 3]
    corners = _either(draws[:, 4:12]).reshape(-1, 4, 2) * depth[:, None, None]
    to_unit = torch.tensor([[1 / width, 0, 0.5], [0, 1 / height, 0.5], [0, 0, 1]], dtype=draws.dtype)
    quad = _square_to(corners / torch.tensor([width, height]))
    # The quad maps the square to the moved corners; results are looked up the other way, hence the inverses.
    back: Tensor = torch.linalg.inv(to_unit) @ torch.linalg.inv(quad) @ to_unit
    return _turn(draws[:, 0]) @ _shift(-WARP_SHIFT * _either(draws[:, 1:3])) @ back


def _turn(draws: Tensor) -> Tensor:
    angle = _either(draws) * (ANGLE * pi / 180)
    turn = torch.eye(3, dtype=draws.dtype).repeat(len(draws), 1, 1)
    turn[:, 0, 0], turn[:, 0, 1] = angle.cos(), -angle.sin()
    turn[:, 1, 0], turn[:, 1, 1] = angle.sin(), angle.cos()
    return turn


def _shift(offsets: Tensor) -> Tensor:
    shift = torch.eye(3, dtype=offsets.dtype).repeat(len(offsets), 1, 1)
    shift[:, :2, 2] = offsets
    return shift


def _square_to(corners: Tensor) -> Tensor:
    """The projective maps (n, 3, 3) of the unit square that move its corners by these offsets (n, 4, 2).

    Corners run (0, 0), (1, 0), (1, 1), (0, 1). Heckbert, "Fundamentals of texture mapping and image warping",
    1989, section 2.2.3.
    """
    square = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=corners.dtype)
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (square + corners).permute(1, 2, 0)
    across_x, across_y, up_x, up_y = x1 - x2, y1 - y2, x3 - x2, y3 - y2
    sum_x, sum_y = x0 - x1 + x2 - x3, y0 - y1 + y2 - y3
    area = across_x * up_y - up_x * across_y
    # g and h are the perspective terms; without them (sums of 0) the map is affine.
    g, h = (sum_x * up_y - up_x * sum_y) / area, (across_x * sum_y - sum_x * across_y) / area
    first = torch.stack([x1 - x0 + g * x1, x3 - x0 + h * x3, x0], 1)
    second = torch.stack([y1 - y0 + g * y1, y3 - y0 + h * y3, y0], 1)
    return torch.stack([first, second, torch.stack([g, h, torch.ones_like(g)], 1)], 1)


def _resampled(inputs: Tensor, maps: Tensor) -> Tensor:
    """Each image seen through its map (n, 3, 3), bilinear; beyond the edge its values go on."""
    height, width = inputs.shape[2:]
    down = torch.arange(height, dtype=maps.dtype) - (height - 1) / 2
    right = torch.arange(width, dtype=maps.dtype) - (width - 1) / 2
    rows, columns = torch.meshgrid(down, right, indexing="ij")
    places = torch.stack([columns, rows, torch.ones_like(rows)], -1).reshape(-1, 3)
    seen = places @ maps.transpose(1, 2)
    grid = seen[..., :2] / seen[..., 2:] / torch.tensor([width / 2, height / 2])
    # grid_sample's units: -1 and 1 are the outer edges of the border pixels.
    grid = grid.reshape(-1, height, width, 2).to(inputs)
    return grid_sample(inputs, grid, mode="bilinear", padding_mode="border", align_corners=False)
