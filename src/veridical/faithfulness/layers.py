"""The layers of a network from top to bottom, and copies of it in which some have fresh initial weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import examining, logits_of
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.guards import preserved_rng, private_copy
from veridical.runtime.seeds import seed_global, stream


@dataclass(frozen=True)
class Stage:
    """What is randomised at a time: a layer with a matrix or kernel, and the scales and shifts behind it.

    name: of the layer, as `named_modules` gives it. layers: the names of all modules that belong to it.
    """

    name: str
    layers: tuple[str, ...]


def stages_of(model: nn.Module, inputs: Tensor) -> tuple[Stage, ...]:
    """The stages of a network from the logits down to the inputs, each layer in one of them.

    The order is that in which one forward pass of `inputs` (N, ...) calls the layers, reversed; a layer whose
    weights are used without a call counts as called with the one registered before it. Layers with vectors
    alone, such as normalisation, belong to the layer that comes before them. Raises UsageError for a network
    without parameters.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise argument_error("model", model, "a network of layers", "Give what was scripted or traced.")
    owners = [
        name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))
    ]
    if not owners:
        raise argument_error("model", type(model).__name__, "a network with parameters")
    stages: list[list[str]] = []
    vectors: list[str] = []
    for name in _called(model, inputs, owners):
        if all(parameter.ndim < 2 for parameter in model.get_submodule(name).parameters(recurse=False)):
            # Before any layer with a matrix they belong to the first one.
            (stages[-1] if stages else vectors).append(name)
        else:
            stages.append([name])
    if not stages:
        stages, vectors = [vectors], []
    stages[0] += vectors
    return tuple(Stage(names[0] or "(the network's own)", tuple(names)) for names in reversed(stages))


def reset_copy(model: nn.Module, seed: int) -> nn.Module:
    """A copy whose layers have all been reset by their own `reset_parameters`, from the seed alone.

    Raises UsageError for a layer that cannot be reset: its network needs a function that builds a fresh one.
    """
    fresh = private_copy(model)
    with preserved_rng(), torch.no_grad():
        seed_global(stream(seed, "reset").initial_seed())
        for name, module in fresh.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if not own:
                continue
            reset: Any = getattr(module, "reset_parameters", None) or getattr(
                module, "_reset_parameters", None
            )
            if reset is None:
                raise UsageError(
                    f"the layer {name or type(module).__name__!r} ({type(module).__name__}) has weights and "
                    "no reset_parameters. Give fresh=, a function from a seed to a new network."
                )
            for parameter in own.values():
                parameter.fill_(float("nan") if parameter.is_floating_point() else 0)
            reset()
            if any(bool(parameter.isnan().any()) for parameter in own.values()):
                # As with torch's older weight_norm: what is reset there is made anew from what is not.
                raise UsageError(
                    f"the reset_parameters of the layer {name or type(module).__name__!r} "
                    f"({type(module).__name__}) does not reset {', '.join(own)}. Give fresh=, a function "
                    "from a seed to a new network."
                )
    return fresh


def overwrite(model: nn.Module, fresh: nn.Module, stages: Sequence[Stage]) -> None:
    """Copy the parameters and buffers of `fresh` into the layers of `stages`.

    Raises UsageError where `fresh` is of another architecture.
    """
    with torch.no_grad():
        for name in chain.from_iterable(stage.layers for stage in stages):
            for (key, own), (other, new) in zip(_tensors(model, name), _tensors(fresh, name), strict=True):
                if key != other or own.shape != new.shape:
                    raise argument_error(
                        "fresh", f"{other} {tuple(new.shape)} in {name}", f"{key} {tuple(own.shape)}"
                    )
                own.copy_(new)


def _tensors(model: nn.Module, name: str) -> list[tuple[str, Tensor]]:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise argument_error("fresh", f"a network without {name}", "one of the same architecture") from None
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _called(model: nn.Module, inputs: Tensor, owners: Sequence[str]) -> list[str]:
    """The layers in the order of their first call."""
    calls: dict[str, int] = {}
    with examining(model), torch.no_grad(), _noting(model, owners, calls):
        logits_of(model, inputs)
    keys: dict[str, tuple[int, int]] = {}
    last = 0
    for place, name in enumerate(owners):
        last = calls.get(name, last)
        keys[name] = (last, place)
    return sorted(owners, key=keys.__getitem__)


@contextmanager
def _noting(model: nn.Module, owners: Sequence[str], calls: dict[str, int]) -> Iterator[None]:
    """While the block lasts, `calls` gets the place of each layer's first call."""

    def noted(name: str) -> Any:
        def note(_module: nn.Module, _inputs: Any) -> None:
            calls.setdefault(name, len(calls))

        return note

    # Before the call: what a layer with weights of its own contains comes after it.
    hooks = [model.get_submodule(name).register_forward_pre_hook(noted(name)) for name in owners]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
