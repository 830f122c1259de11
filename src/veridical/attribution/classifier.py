"""The one place where a model that is examined is guarded, called and checked; the one check of a map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from veridical.runtime.checking import check_count
from veridical.runtime.devices import rows_at_once
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.guards import default_modes, eval_mode, evaluating, preserved_rng
from veridical.runtime.registry import check_signature


@contextmanager
def examining(model: nn.Module, *, weights: bool = False) -> Iterator[nn.Module]:
    """While the block lasts the model can be explained and attacked; afterwards everything is as it was.

    It is in eval mode and, unless `weights`, frozen; runs uncompiled and without autocast; gradients are on,
    inference mode off; what it draws from the global generators is put back. Raises UsageError for what is
    not a module, or was built in inference mode.
    """
    parameter_like(model)
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise UsageError(
            "the model's parameters were made under torch.inference_mode(), so nothing can be "
            "differentiated; build and load the model outside of it"
        )
    with preserved_rng(), default_modes(), (eval_mode if weights else evaluating)(model):
        yield model


def logits_of(model: nn.Module, inputs: Tensor, *, finite: bool = True) -> Tensor:
    """The model's checked logits (N, K) of inputs (N, ...), which stay as they are whatever it does to them.

    finite: refuse NaN and infinities. (In training the loop does it, which can name the images.)
    """
    try:
        # A copy: a model may normalise its input in place, also one that is a leaf of a graph.
        logits = model(inputs.clone())
    except RuntimeError as error:
        if (own := parameter_like(model).dtype) == inputs.dtype:
            raise
        raise UsageError(
            f"the model's parameters are {own} and the inputs {inputs.dtype}, which it does not take "
            f"({error}). Convert one to the other."
        ) from error
    rows = inputs.shape[0]
    if not isinstance(logits, Tensor):
        inside = " of " + ", ".join(map(str, logits)) if isinstance(logits, dict) else ""
        raise UsageError(
            f"the model returned a {type(logits).__name__}{inside}; expected a tensor of logits ({rows}, K). "
            "Wrap it in a module that returns the logits alone."
        )
    if logits.ndim != 2 or logits.shape[0] != rows or not logits.is_floating_point() or not logits.shape[1]:
        squeezed = rows == 1 and logits.ndim == 1
        hint = " A lone image must keep its row: look for squeeze() in the model." if squeezed else ""
        raise UsageError(
            f"the model returned shape {tuple(logits.shape)} and dtype {logits.dtype} for {rows} inputs; "
            f"expected floating-point logits ({rows}, K), one row per input.{hint}"
        )
    if finite and not all_finite(logits):
        # Inputs that are no numbers are the caller's fault, and not the model's.
        whose = "logits" if bool(inputs.isfinite().all()) else "logits, and the inputs it was given,"
        bad = int((~logits.isfinite()).any(1).sum())
        raise UsageError(
            f"the model's {whose} are NaN or infinite for {bad} of {rows} inputs; look at its weights, and "
            "for a derivative that is infinite there (sqrt, log or a norm at 0)"
        )
    return logits


def check_target(target: Tensor | int, logits: Tensor) -> None:
    """Raise a UsageError for classes (N,), or the greatest of them, that the logits (N, K) do not have."""
    classes = logits.shape[1]
    greatest = target if isinstance(target, int) else int(target.max()) if len(target) else 0
    if greatest >= classes:
        expected = f"a class from 0 to {classes - 1}, as the model has {classes} logits"
        raise argument_error("target", greatest, expected)


def check_climbable(logits: Tensor) -> None:
    """Raise a UsageError for probabilities: a saturated softmax cannot be climbed, so all looks robust."""
    # Of a batch of logits not all rows would look like this.
    values = logits.detach()
    # bf16 sums of many classes err by a few parts in a hundred.
    allowed = 1e-4 if torch.finfo(values.dtype).eps < 1e-6 else 3e-2
    if len(values) and bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < allowed).all()):
        raise UsageError(
            "the model returns probabilities (rows of at least 0 that sum to 1), whose gradient vanishes "
            "where it is sure, so that attacks seem to fail. Leave out its softmax, or return the logarithm."
        )


def check_inputs(inputs: object) -> Tensor:
    """Give back floating-point inputs (N, ...), or raise a UsageError."""
    if not isinstance(inputs, Tensor):
        hint = "torch.as_tensor makes one of an array or a list."
        raise argument_error("inputs", inputs, "a tensor (N, ...)", hint)
    if inputs.ndim < 2 or not inputs.is_floating_point():
        raise argument_error("inputs", inputs, "floating-point inputs (N, ...)", "Divide bytes by 255 first.")
    return inputs


def check_indices(indices: Any, examples: int) -> Sequence[int]:
    """The examples' numbers in their data set, from 0 where none are given, or a UsageError."""
    if indices is None:
        return range(examples)
    with suppress(TypeError, ValueError, RuntimeError):
        numbers = torch.as_tensor(indices)
        whole = not (numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex())
        if numbers.shape == (examples,) and (whole or not examples):
            return [int(number) for number in numbers.tolist()]
    raise argument_error("indices", indices, f"{examples} integers, the examples' numbers in their data set")


def check_map(maps: object, inputs: Tensor, *, graph: bool = False, finite: bool = True) -> Tensor:
    """Give back an attribution's map; a UsageError for another shape, NaN, infinity, or a missing graph."""
    if not isinstance(maps, Tensor) or maps.shape != inputs.shape or not maps.is_floating_point():
        given = (
            f"shape {tuple(maps.shape)}, {maps.dtype}"
            if isinstance(maps, Tensor)
            else f"a {type(maps).__name__}"
        )
        raise UsageError(
            f"the attribution gave {given} for inputs of shape {tuple(inputs.shape)}; expected a "
            "floating-point map of that shape. Maps of layers and of pixels have to be brought to it first."
        )
    if finite:
        check_finite_map(maps)
    if graph and not maps.requires_grad:
        raise UsageError(
            "the attribution's map has no graph to the inputs with create_graph=True, so it cannot be "
            "climbed; make it by torch.autograd.grad(..., create_graph=True), without detach()"
        )
    return maps


def check_attribution(attribution: object, *, create_graph: bool) -> None:
    """Raise a UsageError unless it can be called as one, and with `create_graph` if its maps are climbed."""
    if isinstance(attribution, type) or not callable(attribution):
        raise argument_error(
            "attribution", attribution, "a method such as IntegratedGradients(), or a function to maps"
        )
    if create_graph:
        name = getattr(attribution, "__qualname__", type(attribution).__name__)
        check_signature("attribution", name, attribution, ("model", "inputs", "target"), ["create_graph"])


def check_finite_map(maps: Tensor) -> None:
    """Raise a UsageError where a map holds NaN or infinities, which would read as a perfectly stable one."""
    if not all_finite(maps):
        bad = int((~maps.detach().isfinite()).flatten(1).any(1).sum())
        raise UsageError(
            f"the attribution is NaN or infinite for {bad} of {maps.shape[0]} inputs; look for a derivative "
            "of the model that is infinite there (sqrt, log or a norm at 0)"
        )


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. Their sum tells it, if it is finite, in a tenth of the time."""
    # One NaN or infinity makes the sum one; an overflow of finite values is told by the second look.
    return isfinite(float(values.detach().sum())) or bool(values.isfinite().all())


def predict(model: nn.Module, inputs: Tensor, *, rows: int | None = None) -> Tensor:
    """Logits in eval mode without a graph, (N, K), in batches of `rows`; the model's mode is restored.

    rows=None is 1000, and fewer of large images or where memory is short. Raises UsageError for inputs or
    outputs that are not what a classifier takes and gives.
    """
    inputs = check_inputs(inputs)
    # Few models take an empty batch, so one blank example says how many classes there are.
    given = inputs if len(inputs) else inputs.new_zeros(1, *inputs.shape[1:])
    with examining(model):
        return class_logits(model, given, rows=rows)[: len(inputs)]


def class_logits(model: nn.Module, inputs: Tensor, *, rows: int | None = None) -> Tensor:
    """What `predict` gives, for a model that is guarded already and at least one input."""
    # 13 times the image were measured on a ResNet-18 at 224x224.
    rows = rows_at_once(inputs, 1000, 16) if rows is None else rows
    check_count("rows", rows)
    with torch.no_grad():
        parts = [logits_of(model, inputs[first : first + rows]) for first in range(0, len(inputs), rows)]
    logits = torch.cat(parts)
    if logits.shape[1] == 1:
        raise UsageError(
            "the model has one logit (N, 1), whose sign tells two classes apart. Give --one-logit, or wrap "
            "it in a module that returns two: torch.cat([-logit, logit], 1) / 2."
        )
    return logits


def out_of_inference(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if it was made in inference mode: only the copy can enter a graph."""
    return tensor.clone() if tensor.is_inference() else tensor


def parameter_like(model: nn.Module) -> Tensor:
    """A tensor of the dtype and device in which the model computes: its first floating-point parameter.

    Raises UsageError for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise argument_error("model", model, "an nn.Module from inputs to logits (N, K)")
    return next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
