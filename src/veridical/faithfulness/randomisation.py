"""Sanity checks by weights: what becomes of a network's maps when its layers lose what they have learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.maps import dataset_maps
from veridical.attribution.method import Attribution
from veridical.data import Split
from veridical.faithfulness.layers import Stage, overwrite, reset_copy, stages_of
from veridical.metrics.registry import compare_maps
from veridical.runtime.errors import argument_error
from veridical.runtime.guards import private_copy
from veridical.runtime.record import record
from veridical.runtime.seeds import stream

OrderName = Literal["cascading", "independent"]


@record
class Randomised:
    """One state of the network and what its maps have in common with those of the trained one.

    stage: what lost its weights last. randomised: how many stages have fresh weights. maps: (N, C, H, W).
    predicted: the class that this network predicts (N,). similarity: by measure (N,), see `metrics.registry`.
    """

    stage: Stage
    randomised: int
    maps: Tensor
    predicted: Tensor
    similarity: dict[str, Tensor]


def model_randomisation(
    model: nn.Module,
    examples: Split,
    attribution: Attribution,
    *,
    order: OrderName = "cascading",
    fresh: Callable[[int], nn.Module] | None = None,
    target: Tensor | None = None,
    seed: int = 0,
    map_seed: int = 0,
    batch_size: int = 256,
    progress: Callable[[int, int], Any] | None = None,
) -> Iterator[Randomised]:
    """Randomise a network's layers from the logits down and compare its maps with the trained network's.

    Parameters
    ----------
    attribution
        A method, or any callable of its form.
    order
        "cascading" randomises one more stage at each step and ends with a network that has learnt nothing;
        "independent" randomises one stage at a time and leaves the others trained.
    fresh
        From a seed to a new network of the same architecture with its initial weights; None resets the layers
        of a copy by their own `reset_parameters`.
    target
        The classes that are explained (N,), the same at every step; None takes those that the trained network
        predicts. Maps of two classes would differ even if no weight did.
    seed
        Of the fresh weights, which no training of the registry's networks begins with.
    map_seed
        Of a callable's random numbers, the same for every network; see `dataset_maps`.
    progress
        Told how many steps are done, and how many there are.

    Yields a `Randomised` per stage. Raises UsageError for layers that cannot be reset.
    Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 4.
    """
    if order not in get_args(OrderName):
        raise argument_error("order", order, " or ".join(get_args(OrderName)))
    stages = stages_of(model, _first(model, examples))
    explained = predicted(model, examples, batch_size) if target is None else target
    new = reset_copy(model, seed) if fresh is None else fresh(fresh_seed(seed))

    def maps_of(network: nn.Module) -> Tensor:
        return dataset_maps(
            network, examples, attribution, target=explained, batch_size=batch_size, seed=map_seed
        )

    trained, network = maps_of(model), private_copy(model)
    for number, stage in enumerate(stages, start=1):
        overwrite(network, new, [stage])
        maps, classes = maps_of(network), predicted(network, examples, batch_size)
        randomised = number
        if order == "independent":
            overwrite(network, model, [stage])
            randomised = 1
        yield Randomised(stage, randomised, maps, classes, compare_maps(trained, maps, "sanity"))
        if progress is not None:
            progress(number, len(stages))


def fresh_seed(seed: int) -> int:
    """The seed of fresh weights: one that no training was started with, as those are small numbers."""
    return int(stream(seed, "randomised weights").initial_seed()) % 2**31


def predicted(model: nn.Module, examples: Split, batch_size: int = 256) -> Tensor:
    """The class that a network predicts for each example, int64 (N,) on the CPU."""
    like = parameter_like(model)
    found = []
    for first in range(0, len(examples), batch_size):
        numbers = range(first, min(first + batch_size, len(examples)))
        found.append(predict(model, examples.batch(numbers, like.dtype, like.device)[0]).argmax(dim=1).cpu())
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)


def _first(model: nn.Module, examples: Split) -> Tensor:
    like = parameter_like(model)
    return examples.batch(range(min(1, len(examples))), like.dtype, like.device)[0]
