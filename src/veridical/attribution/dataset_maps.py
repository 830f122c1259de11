"""The maps of all examples of a data set, batch by batch, shared among processes where there are several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from veridical.attribution.method import Attribution, AttributionMethod
from veridical.attribution.methods import check_count
from veridical.runtime.errors import UsageError, fail_argument
from veridical.runtime.process_group import ALONE, ProcessGroup


class Examples(Protocol):
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
    examples: Examples,
    attribution: Attribution,
    *,
    target: Literal["predicted", "label"] = "predicted",
    batch_size: int = 256,
    group: ProcessGroup = ALONE,
    progress: Callable[[int, int], Any] | None = None,
) -> Tensor:
    """Maps (N, ...) of all examples, on the CPU, in the dtype in which the model computes.

    Parameters
    ----------
    attribution
        A method or any callable of its form; methods draw the noise of example i by its number i.
    target
        Explain the class that is predicted, or the label.
    batch_size
        Examples of a batch.
    group
        Processes that all call this: each makes the maps of every n-th batch, and all get all maps. Batches
        are the same for any number of processes, and so are the numbers.
    progress
        Told how many examples this process has done, and how many it does.

    Raises UsageError for maps that have not the shape of the inputs, as those of a hidden layer.
    """
    check_count("batch_size", batch_size)
    if target not in ("predicted", "label"):
        raise fail_argument("target", target, '"predicted" or "label"')
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    batches = [
        range(first, min(first + batch_size, len(examples))) for first in range(0, len(examples), batch_size)
    ]
    shape = examples.batch(range(0), like.dtype)[0].shape[1:]
    maps = torch.zeros(len(examples), *shape, dtype=like.dtype)
    own = batches[group.rank :: group.size]
    done, total = 0, sum(map(len, own))
    with group.guarded():
        for numbers in own:
            inputs, labels = examples.batch(numbers, like.dtype, like.device)
            explained = labels if target == "label" else None
            maps[numbers.start : numbers.stop] = _maps(model, inputs, explained, attribution, numbers)
            done += len(numbers)
            if progress is not None:
                progress(done, total)
    for place, numbers in enumerate(batches):
        group.copy_from(place % group.size, maps[numbers.start : numbers.stop])
    return maps


def _maps(
    model: nn.Module, inputs: Tensor, target: Tensor | None, attribution: Attribution, numbers: Sequence[int]
) -> Tensor:
    """The maps of one batch; random methods are told the examples' numbers."""
    if isinstance(attribution, AttributionMethod):
        attribution = partial(attribution, indices=numbers)
    found = attribution(model, inputs, target)
    if found.shape != inputs.shape:
        raise UsageError(
            f"the attribution gave maps of shape {tuple(found.shape)} for inputs of {tuple(inputs.shape)}; "
            "expected the inputs' shape"
        )
    return found.detach().cpu()
