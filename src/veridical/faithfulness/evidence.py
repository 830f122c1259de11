"""What one fixed model says of a map's ranking, all measures of `removal` at once, with their baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.attacks.ball import Ball
from veridical.attribution.classifier import parameter_like
from veridical.data import Dataset
from veridical.faithfulness.ranking import rank_coordinates
from veridical.faithfulness.removal import (
    ORDERS,
    BlurFill,
    adversarial_change,
    mask_leak,
    patch_sums,
    perturbation_curves,
    sampled_removal,
    single_deletion,
)
from veridical.faithfulness.unmasking import FILLS, Fill
from veridical.metrics.intervals import SHARE, mean_interval
from veridical.metrics.maps import saliency
from veridical.runtime.files import Arrays
from veridical.runtime.options import CoordinateOrder
from veridical.runtime.seeds import per_example_uniform

# Shares of the pixels that are removed, or inserted.
LEVELS: Final = (0.1, 0.25, 0.5, 0.75)
# Fills of the three curves, by name of `FILLS` or "blur", and whether pixels are removed or alone are kept.
CURVES: Final[Mapping[str, tuple[str, Literal["remove", "keep"]]]] = {
    "deletion": ("mean", "remove"),
    "insertion": ("blur", "keep"),
    "road": ("linear", "remove"),
}
# Measures of a ranking, each of both orders: the curves, and changes in place of masks.
ORDERED: Final = (*CURVES, "adversarial")
# Share of the pixels that adversarial changes may reach.
_CHANGED: Final = 0.1


def measure_evidence(
    model: nn.Module,
    data: Dataset,
    numbers: Sequence[int],
    maps: Tensor,
    target: Tensor,
    ball: Ball,
    *,
    levels: Sequence[float] = LEVELS,
    grid: int = 4,
    batch: int = 8,
    seed: int = 0,
    own_mean: bool = True,
) -> Arrays:
    """What a model says of test images when what their maps mark is removed, inserted or changed.

    numbers: of the test images, whose maps (N, C, H, W) explain the classes target (N,). ball: of the
    adversarial changes. own_mean: whether the second ranking is that of the mean map of the other images,
    else a random one (of a random map the mean is one random order, whose luck no interval covers).

    Returns float64 arrays: "CURVE/RANKING" (2, L, N) for each of CURVES and the rankings "own" and "average",
    by order (most, then least relevant first), level and image; "adversarial/RANKING" (2, 1, N); "leak/CURVE"
    (L, N); "single" (N,); "zero" (N,), the share of the map that is exactly zero.
    """
    like = parameter_like(model)
    inputs, _ = data.test.batch(numbers, like.dtype, like.device)
    chosen = target.to(like.device)
    rankings = _rankings(maps, numbers, seed, own_mean=own_mean)
    fills: dict[str, Fill] = {
        name: BlurFill() if kind == "blur" else FILLS.get(kind).create(data.train, seed)
        for name, (kind, _) in CURVES.items()
    }
    arrays: Arrays = {}
    for name, (_, mode) in CURVES.items():
        how: dict[str, Any] = {"levels": levels, "mode": mode, "indices": numbers}
        for ranking, ranks in rankings.items():
            said = perturbation_curves(model, inputs, chosen, ranks, fills[name], **how)
            kept = (said.predicted == target.cpu()).double() if name == "road" else said.probability
            arrays[f"{name}/{ranking}"] = kept.numpy()
        leak = mask_leak(model, inputs, chosen, rankings["own"], fills[name], seed=seed, **how)
        arrays[f"leak/{name}"] = leak.numpy()
    parts = [slice(first, first + batch) for first in range(0, len(inputs), batch)]
    for ranking, ranks in rankings.items():
        said_in = [
            adversarial_change(model, inputs[part], chosen[part], ranks[part], ball, level=_CHANGED)
            for part in parts
        ]
        arrays[f"adversarial/{ranking}"] = torch.cat([one.probability for one in said_in], dim=2).numpy()
    single = single_deletion(model, inputs, chosen, maps, fills["deletion"], grid=grid, indices=numbers)
    zero = (maps == 0).double().flatten(1).mean(1)
    return {**arrays, "single": single.numpy(), "zero": zero.numpy()}


def measure_in_domain(
    model: nn.Module,
    data: Dataset,
    numbers: Sequence[int],
    maps: Tensor,
    target: Tensor,
    *,
    levels: Sequence[float] = LEVELS,
    grid: int = 4,
    seed: int = 0,
    own_mean: bool = True,
) -> Arrays:
    """What a model that was fine-tuned on missing patches says when marked patches are missing.

    As `measure_evidence`, by the patches of `sampled_removal`: "in-domain-removal/RANKING" (2, L, N), how
    often the prediction is kept, and "leak/in-domain-removal" (L, N).
    """
    like = parameter_like(model)
    inputs, _ = data.test.batch(numbers, like.dtype, like.device)
    chosen, fill = target.to(like.device), FILLS.get("mean").create(data.train, seed)
    how: dict[str, Any] = {"levels": levels, "grid": grid, "indices": numbers, "seed": seed}
    sizes = patch_sums(maps.abs(), grid)
    mean = (sizes.sum(0, keepdim=True) - sizes) / max(1, len(sizes) - 1)
    random = per_example_uniform((grid * grid,), seed, "random patches", numbers).double()
    scores = {"own": sizes, "average": mean if own_mean else random}
    arrays: Arrays = {
        f"in-domain-removal/{name}": sampled_removal(model, inputs, chosen, one, fill, **how).numpy()
        for name, one in scores.items()
    }
    leak = mask_leak(model, inputs, chosen, sizes, fill, sampled=True, **how)
    return {**arrays, "leak/in-domain-removal": leak.numpy()}


def _rankings(maps: Tensor, numbers: Sequence[int], seed: int, *, own_mean: bool) -> dict[str, Tensor]:
    """Ranks (N, H * W) by the map's own saliency, and by the mean of the other images' maps or at random."""
    how = CoordinateOrder(per="pixel", seed=seed)
    sizes = saliency(maps.double())[:, None]
    # Of the other images: an image's own map must not be part of what it is compared with.
    average = (sizes.sum(dim=0, keepdim=True) - sizes) / max(1, len(sizes) - 1)
    if not own_mean:
        average = torch.zeros_like(average)  # all ties, which are in random order
    return {
        "own": rank_coordinates(maps, how, indices=numbers),
        "average": rank_coordinates(average, how, indices=numbers, purpose="mean map"),
    }


def gap(arrays: Arrays, measure: str, ranking: str = "own") -> NDArray[np.float64]:
    """How much more the model keeps in the order that should harm less, mean over levels, (N,)."""
    most, least = arrays[f"{measure}/{ranking}"].mean(axis=1)
    found: NDArray[np.float64] = most - least if measure == "insertion" else least - most
    return found


def summarise_evidence(arrays: Arrays) -> dict[str, Any]:
    """Curves, gaps and leaks of one attribution with their intervals, of what was measured."""
    plain: dict[str, Any] = {
        "single_deletion": mean_interval(torch.from_numpy(arrays["single"]), undefined="exclude"),
        # A pair of images of other classes has a number at every level, an image without one at none.
        "mask_leak": {
            name.removeprefix("leak/"): mean_interval(
                torch.from_numpy(values.mean(axis=0)), undefined="exclude"
            )
            for name, values in arrays.items()
            if name.startswith("leak/")
        },
        "zero": mean_interval(torch.from_numpy(arrays["zero"]), bounds=SHARE),
    }
    for measure in (*ORDERED, "in-domain-removal"):
        for ranking in ("own", "average"):
            if (values := arrays.get(f"{measure}/{ranking}")) is None:
                continue
            plain.setdefault(measure, {})[ranking] = {
                order: [mean_interval(torch.from_numpy(level), bounds=SHARE) for level in values[place]]
                for place, order in enumerate(ORDERS)
            } | {"gap": mean_interval(torch.from_numpy(gap(arrays, measure, ranking)), bounds=(-1.0, 1.0))}
    return plain
