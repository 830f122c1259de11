"""Does a model use what a map marks? Answers of one fixed model, without retraining for every level.

Pixels are removed most relevant first and least relevant first, and what the model says is watched:
insertion, deletion and ROAD. Patches are removed one at a time, and the drops are compared with the map
(single deletion), also by a model that one fine-tuning has made used to missing patches. And pixels are
changed adversarially, so that nothing is masked at all. What the shape of a mask tells by itself is measured
beside (`mask_leak`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from veridical.attacks.ascent import ascend
from veridical.attacks.ball import Ball
from veridical.attribution.classifier import class_logits, examining
from veridical.attribution.method import TargetScalar
from veridical.data import Dataset, Split
from veridical.faithfulness.unmasking import End, Fill, unmask
from veridical.metrics.rank import spearman
from veridical.runtime.checking import record
from veridical.runtime.errors import argument_error
from veridical.runtime.options import ModeName
from veridical.runtime.seeds import per_example_uniform

Order = Literal["most", "least"]
# What is removed (or inserted) first, and the end of a ranking that it is.
ORDERS: dict[Order, End] = {"most": "top", "least": "bottom"}


@dataclass(frozen=True)
class BlurFill:
    """The image itself, blurred by a Gaussian until no detail is left: its deviation is a tenth of a side.

    What pixels are put into in `insertion`. It knows what is hidden, which no fill of `FILLS` may.
    """

    def __call__(self, inputs: Tensor, kept: Tensor, numbers: Tensor, part: str) -> Tensor:  # noqa: ARG002
        """Fill in what is not kept."""
        side = min(inputs.shape[2:])
        sigma = max(1.0, side / 10)
        # Three deviations to each side, as far as the image reaches.
        width = 2 * min(round(3 * sigma), (side - 1) // 2) + 1
        blurred = gaussian_blur(inputs, [width, width], [sigma, sigma]) if width > 1 else inputs
        return torch.where(kept, inputs, blurred)

    def describe(self) -> dict[str, Any]:
        """What it is, as plain values."""
        return {"kind": "blur"}


class Responses(NamedTuple):
    """What a model says of changed images: target's probability float64, and class int64, (2, L, N).

    By order ("most" relevant first, then "least"), level and example.
    """

    probability: Tensor
    predicted: Tensor


def perturbation_curves(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    ranks: Tensor,
    fill: Fill,
    *,
    levels: Sequence[float],
    mode: ModeName = "remove",
    indices: Sequence[int] | None = None,
) -> Responses:
    """What a model says while the share of pixels at one end of a ranking is removed, or alone is kept.

    inputs (N, C, H, W), target int64 (N,), ranks integers (N, D), 0 for the most relevant. mode "remove" is
    deletion: a faithful map has low probabilities for the order "most" and high ones for "least". mode "keep"
    is insertion, the other way round. With `LinearFill` it is ROAD (Rong et al., ICML 2022), of which the
    predictions are what is reported; deletion and insertion are by Petsiuk et al., BMVC 2018.
    """
    rows = []
    for end in ORDERS.values():
        for level in levels:
            changed = unmask(inputs, ranks, level, end, mode=mode, fill=fill, indices=indices)
            rows.append(_respond(model, changed, target))
    probability, predicted = (torch.stack(part).unflatten(0, (2, len(levels))) for part in zip(*rows))
    return Responses(probability, predicted)


def _respond(model: nn.Module, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target's probability float64 (N,), and the predicted class (N,), on the CPU."""
    with examining(model):
        logits = class_logits(model, inputs).double().cpu()
    chosen = logits.softmax(dim=1).gather(1, target.cpu()[:, None])[:, 0]
    return chosen, logits.argmax(dim=1)


def mask_leak(
    model: nn.Module,
    inputs: Tensor,
    seen: Tensor,
    ranks: Tensor,
    fill: Fill,
    *,
    levels: Sequence[float],
    mode: ModeName = "keep",
    indices: Sequence[int],
    seed: int = 0,
    sampled: bool = False,
    grid: int = 4,
) -> Tensor:
    """How much the place of what is kept tells a model of the image that it was computed for; float64 (L, N).

    The mask of each image (its most relevant share, kept or removed) is laid on another image, the next one
    of another predicted class: 1 where the model then says the class of the mask's owner, 0 where not, minus
    the same with a random mask of that size. 0: the mask says nothing. NaN where all images are of one
    class. seen: predicted classes int64 (N,). The control is ours; that masks tell classes is a known fault
    of such measures (Rong et al., ICML 2022, section 3). sampled: ranks are the scores of patches that
    `sampled_removal` takes, and its patches the masks.
    """
    partner = _partners(seen)
    borrowed = inputs[partner.clamp(min=0)]
    noise = per_example_uniform((ranks.shape[1],), seed, "random mask", indices)
    if sampled:
        how: dict[str, Any] = {"levels": levels, "grid": grid, "indices": indices, "seed": seed}
        own, other = (sampled_removal(model, borrowed, seen, one, fill, **how)[0] for one in (ranks, noise))
        return (own - other).masked_fill(partner.cpu() < 0, torch.nan)
    random_ranks = noise.argsort(dim=1).argsort(dim=1).to(ranks.dtype)

    def masked(order: Tensor, level: float) -> Tensor:
        return unmask(borrowed, order, level, mode=mode, fill=fill, indices=indices)

    result = []
    for level in levels:
        own, other = (
            _respond(model, masked(order, level), seen)[1] == seen.cpu() for order in (ranks, random_ranks)
        )
        result.append((own.double() - other.double()).masked_fill(partner.cpu() < 0, torch.nan))
    return torch.stack(result)


def _partners(seen: Tensor) -> Tensor:
    """For each image the next one, in a circle, that another class was predicted for; -1 if there is none."""
    count = len(seen)
    partner = torch.full((count,), -1, dtype=torch.int64, device=seen.device)
    for step in range(1, count):
        other = (torch.arange(count, device=seen.device) + step) % count
        free = (partner < 0) & (seen[other] != seen)
        partner[free] = other[free]
    return partner


def single_deletion(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    maps: Tensor,
    fill: Fill,
    *,
    grid: int = 4,
    indices: Sequence[int],
) -> Tensor:
    """Spearman's correlation of a map's sums over patches with the drops of the logit; float64 (N,).

    The image is divided into grid x grid patches, each of which is removed alone; of a linear model and
    gradient x input with a black fill it is 1. maps (N, C, H, W), signed. Higher is better. NaN where all
    drops, or all sums, are equal. Source: Hesse, Schaub-Meyer, Roth, "Benchmarking the Attribution Quality of
    Vision Models" (IDSDS), arXiv 2407.11910; they train on images with patches removed first, as
    `with_missing_patches` prepares.
    """
    patches = patch_numbers(inputs.shape[2:], grid)
    with examining(model):
        whole = _target_logits(model, inputs, target)
        drops = []
        for number in range(grid * grid):
            kept = (patches != number).expand(len(inputs), 1, *patches.shape).to(inputs.device)
            changed = fill(inputs, kept, torch.as_tensor(indices), "test")
            drops.append(whole - _target_logits(model, changed, target))
    return spearman(patch_sums(maps, grid), torch.stack(drops).T)


def patch_sums(maps: Tensor, grid: int) -> Tensor:
    """The sum of each map (N, C, H, W) over each patch, float64 (N, grid * grid) on the CPU."""
    patches = patch_numbers(maps.shape[2:], grid)
    sums = [(maps.double().cpu() * (patches == number)).flatten(1).sum(1) for number in range(grid * grid)]
    return torch.stack(sums, dim=1)


# Draws of the patches that are missing, of which the mean is taken.
_DRAWS = 8


def sampled_removal(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    scores: Tensor,
    fill: Fill,
    *,
    levels: Sequence[float],
    grid: int = 4,
    most: float = 0.5,
    indices: Sequence[int],
    seed: int = 0,
) -> Tensor:
    """How often a prediction is kept when patches drawn from one end of a ranking are missing, (2, L, N).

    scores float (N, grid * grid): the greatest come first. From the share `level` at an end so many patches
    are drawn as are half of it, and never more than the share `most` of the image, which is what a model
    fine-tuned by `with_missing_patches` has seen. Float64, the mean of 8 draws by (seed, image): low for
    "most" and high for "least" of a faithful map. After F-Fidelity (Zheng et al., arXiv 2410.02970), which
    draws from what is marked for the same reason; patches, half and both ends alike are ours.
    """
    places = scores.cpu().argsort(dim=1, descending=True, stable=True)
    patches, count = patch_numbers(inputs.shape[2:], grid).flatten(), grid * grid
    kept = torch.zeros(len(ORDERS), len(levels), len(inputs), dtype=torch.float64)
    for row, end in enumerate(ORDERS.values()):
        for column, level in enumerate(levels):
            size = max(1, round(level * count))
            chosen = places[:, :size] if end == "top" else places[:, count - size :]
            drawn = max(1, min(round(size / 2), round(most * count)))
            for draw in range(_DRAWS):
                noise = per_example_uniform((size,), seed, f"missing draw {draw}", indices)
                gone = chosen.gather(1, noise.argsort(dim=1)[:, :drawn])
                stays = torch.ones(len(inputs), count, dtype=torch.bool).scatter(1, gone, False)
                shown = stays[:, patches].reshape(len(inputs), 1, *inputs.shape[2:]).to(inputs.device)
                changed = fill(inputs, shown, torch.as_tensor(indices), "test")
                kept[row, column] += (_respond(model, changed, target)[1] == target.cpu()).double()
    return kept / _DRAWS


def _target_logits(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return class_logits(model, inputs).double().gather(1, target[:, None])[:, 0].cpu()


def patch_numbers(shape: Sequence[int], grid: int) -> Tensor:
    """The number of each pixel's patch, int64 (H, W), from 0 row by row; sides differ by at most a pixel."""
    height, width = shape
    if not 2 <= grid <= min(height, width):
        raise argument_error("grid", grid, f"a number of patches from 2 to {min(height, width)} a side")
    rows, columns = (torch.arange(side) * grid // side for side in (height, width))
    return rows[:, None] * grid + columns


def adversarial_change(
    model: nn.Module,
    inputs: Tensor,
    target: Tensor,
    ranks: Tensor,
    ball: Ball,
    *,
    level: float,
    steps: int = 5,
) -> Responses:
    """What a model says when only the share `level` at one end of a ranking may change against it, (2, 1, N).

    Sign ascent of the loss from the image in the ball, with the gradient elsewhere set to 0, so that no pixel
    is masked and nothing leaves the ball. A faithful map has lower probabilities for "most" than for "least".
    The idea, adversarial values in place of masks, is that of AIM (arXiv 2605.16905), of which only the
    abstract was at hand: ball, ascent and both orders are ours.
    """
    height, width = inputs.shape[2:]
    rows = []
    with examining(model):
        loss = TargetScalar(model, target, "loss", climbed=True)
        for end in ORDERS.values():
            places = _at_end(ranks, level, end).reshape(len(inputs), -1, height, width).to(inputs.device)

            def climb(point: Tensor, places: Tensor = places) -> tuple[Tensor, Tensor]:
                value = loss(point)
                (gradient,) = torch.autograd.grad(value.sum(), point)
                return value.detach(), gradient * places

            size = 2.5 * ball.radius / steps
            moved = ascend(climb, inputs, ball, steps=steps, step_size=size)
            rows.append(_respond(model, moved, target))
    probability, predicted = (torch.stack(part)[:, None] for part in zip(*rows))
    return Responses(probability, predicted)


def _at_end(ranks: Tensor, level: float, end: End) -> Tensor:
    """True for the coordinates in the share `level` at one end of a ranking, bool (N, D)."""
    coordinates = ranks.shape[1]
    count = max(1, round(level * coordinates))
    return ranks < count if end == "top" else ranks >= coordinates - count


@record
class MissingPatchesSplit(Split):
    """Training images of which random patches are missing when they are cut.

    Which ones depends on (seed, the image's number) alone: a training that is continued sees the same.
    numbers int64 (N,): each image's in the data set. most: greatest share of patches that are missing; the
    share is drawn uniformly.
    """

    numbers: Tensor
    fill: Fill
    grid: int
    most: float
    seed: int

    def _cut(
        self, indices: Tensor, dtype: torch.dtype, device: torch.device | str | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (n, C, H, W) with patches filled in, and their target."""
        inputs, target = super()._cut(indices, dtype, device)
        numbers = self.numbers[indices]
        draws = per_example_uniform((self.grid**2 + 1,), self.seed, "missing patches", numbers)
        missing = draws[:, 1:] < self.most * draws[:, :1]
        patches = patch_numbers(inputs.shape[2:], self.grid)
        kept = ~missing[:, patches.flatten()].reshape(len(inputs), 1, *patches.shape)
        return self.fill(inputs, kept.to(inputs.device), numbers, "train"), target

    def subset(self, indices: Tensor | Sequence[int] | range | slice) -> MissingPatchesSplit:
        """The examples with these indices, in the given order, with their own patches missing."""
        chosen = self._indices(indices)
        own = {name: getattr(self, name)[chosen] for name in ("images", "labels", "numbers")}
        return replace(self, **own)


def with_missing_patches(
    data: Dataset, fill: Fill, *, grid: int = 4, most: float = 0.5, seed: int = 0
) -> Dataset:
    """The data set whose training images have random patches missing; test images are as they were."""
    numbers = torch.arange(len(data.train))
    train = MissingPatchesSplit(data.train.images, data.train.labels, numbers, fill, grid, most, seed)
    options = {
        **data.options,
        "missing_patches": {"grid": grid, "most": most, "seed": seed, **fill.describe()},
    }
    return replace(data, train=train, options=options)
