"""Maps of a batch or of a whole data set, by any attribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import (
    check_attribution,
    check_map,
    examining,
    out_of_inference,
    parameter_like,
)
from veridical.attribution.method import Attribution, AttributionMethod
from veridical.runtime.checking import check_count
from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import seed_global, stream


class _Examples(Protocol):
    """What a data set's split answers, `veridical.data.Split` above all."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batch(
        self, indices: range, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (n, ...) and target (n,) of these examples."""
        ...


def dataset_maps(
    model: nn.Module,
    examples: _Examples,
    attribution: Attribution,
    *,
    target: Literal["predicted", "label"] | Tensor = "predicted",
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> Tensor:
    """Maps (N, ...) of all examples, on the CPU, in the dtype in which the model computes.

    Parameters
    ----------
    attribution
        A method or any callable of its form; methods draw the noise of example i by its number i.
    target
        Explain the class that is predicted, the label, or the class of each example given here, int64 (N,).
    batch_size
        Examples of a batch.
    seed
        Of the global generators, for a callable of the caller's own; see `batch_maps`.
    progress
        Called with how many examples are done, and how many there are.

    Raises UsageError for maps that have not the shape of the inputs, as those of a hidden layer.
    """
    check_count("batch_size", batch_size)
    check_attribution(attribution, create_graph=False)
    if isinstance(target, Tensor):
        if target.shape != (len(examples),):
            raise argument_error("target", target, f"a class for each of {len(examples)} examples")
    elif target not in ("predicted", "label"):
        raise argument_error("target", target, '"predicted", "label" or classes (N,)')
    like = parameter_like(model)
    batches = [
        range(first, min(first + batch_size, len(examples))) for first in range(0, len(examples), batch_size)
    ]
    # An empty batch tells the shape of the maps without any image being made.
    shape = examples.batch(range(0), like.dtype)[0].shape[1:]
    maps = torch.zeros(len(examples), *shape, dtype=like.dtype)
    for numbers in batches:
        inputs, labels = examples.batch(numbers, like.dtype, like.device)
        explained: Tensor | None = None
        if isinstance(target, Tensor):
            explained = target[numbers.start : numbers.stop].to(inputs.device)
        elif target == "label":
            explained = labels
        result = batch_maps(attribution, model, inputs, explained, numbers, seed)
        maps[numbers.start : numbers.stop] = result.cpu()
        if progress is not None:
            progress(numbers.stop, len(examples))
    return maps


def batch_maps(
    attribution: Attribution,
    model: nn.Module,
    inputs: Tensor,
    target: Tensor | None,
    indices: Sequence[int],
    seed: int,
) -> Tensor:
    """The map of a batch, detached and of the inputs' shape; a UsageError for a map of another one.

    A caller's own method runs in eval mode, with the weights frozen and the global generators set from the
    seed and the batch's first number.
    """
    if isinstance(attribution, AttributionMethod):
        maps = attribution(model, inputs, target, indices=indices)
    else:
        with examining(model):
            seed_global(stream(seed, "attribution", indices[0] if indices else 0).initial_seed())
            # A copy: what the caller wrote may change its input, or call a model that does.
            maps = attribution(model, inputs.clone(), target if target is None else out_of_inference(target))
    return check_map(maps, inputs).detach()
