"""What attribution methods share: one call that validates, guards and packages; maps of whole data sets.

Subclasses of `AttributionMethod` make the map.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from hashlib import sha256
from numbers import Integral
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import (
    check_attribution,
    check_climbable,
    check_finite_map,
    check_indices,
    check_inputs,
    check_map,
    check_target,
    class_logits,
    examining,
    logits_of,
    out_of_inference,
    parameter_like,
    predict,
)
from veridical.attribution.path import ROWS_PER_CHUNK, Scalar, rows_of
from veridical.attribution.second_order import check_second_order
from veridical.runtime.checking import Checked, check_count, check_value, record
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error
from veridical.runtime.seeds import seed_global, stream

# Examples that are classified at a time.
CLASSIFIED = 500

# Training images that others are compared with, where a method needs some.
BACKGROUND = 64

Output = Literal["logit", "loss", "log-probability"]
OUTPUTS: tuple[Output, ...] = ("logit", "loss", "log-probability")

# (logits (N, K), target (N,)) -> the number explained, (N,).
OutputFunction = Callable[[Tensor, Tensor], Tensor]

# Class of each example, (N,) integers; one class for all; or None for the predicted ones.
Target = Tensor | int | None


class Attribution(Protocol):
    """Any callable of this form can be used wherever Veridical asks for an attribution."""

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor | None = None, *, create_graph: bool = False
    ) -> Tensor:
        """A map of the inputs' shape."""


@record
class TargetScalar:
    """One number per input: the logit, the cross-entropy loss or the log-probability of its target.

    model: inputs (N, ...) to logits (N, K). target: class of each example, (N,) int64. output: "logit",
    "loss" (natural logarithm), "log-probability" (minus the loss), or a function of logits and target.
    finite: refuse logits that are NaN or infinite (training does not: its loop can name the images).
    climbed: refuse probabilities in place of logits.

    Called with (M * N, ...) inputs, node by node in blocks of N, it repeats the targets, so that many
    points of a path can be evaluated in one batch.
    """

    model: nn.Module
    target: Tensor
    output: Output | OutputFunction = "logit"
    finite: bool = True
    climbed: bool = False

    def __post_init__(self) -> None:
        check_output(self.output)

    @cached_property
    def _greatest_target(self) -> int:
        # Once, since on a GPU each look at a value waits for it.
        return int(self.target.max()) if len(self.target) else 0

    def __call__(self, inputs: Tensor) -> Tensor:
        """The scalar of inputs (M * N, ...), (M * N,)."""
        logits = logits_of(self.model, inputs, finite=self.finite)
        if self.climbed:
            check_climbable(logits)
        return self.of_logits(logits)

    def of_logits(self, logits: Tensor) -> Tensor:
        """The scalar from logits (M * N, K); returns (M * N,)."""
        examples = self.target.shape[0]
        if examples == 0 or logits.shape[0] % examples:
            raise UsageError(
                f"the model returned {logits.shape[0]} rows for {examples} targets; "
                "expected one row per input"
            )
        # Node by node in blocks of all examples, as `points_on_path` puts them.
        target = self.target
        if logits.shape[0] > examples:
            target = target.repeat(logits.shape[0] // examples)
        if callable(self.output):
            return self.output(logits, target)
        check_target(self._greatest_target, logits)
        if logits.shape[1] == 1 and self.output != "logit":
            raise UsageError(
                f"output={self.output!r} of a model with one logit (N, 1) is the same everywhere; "
                "models of one logit are not supported yet"
            )
        if self.output == "logit":
            return logits.gather(1, target[:, None])[:, 0]
        # bf16 logits would round the loss to two digits; float64 must stay float64.
        wide = logits if logits.dtype == torch.float64 else logits.float()
        log_probability = torch.log_softmax(wide, dim=1).gather(1, target[:, None])[:, 0]
        return -log_probability if self.output == "loss" else log_probability


@record
class AttributionRequest:
    """What is to be explained, with everything checked and resolved: subclasses' `_maps` gets one."""

    model: nn.Module
    inputs: Tensor
    target: Tensor
    indices: Sequence[int]
    create_graph: bool

    def scalar(self, output: Output | OutputFunction, examples: Tensor | None = None) -> Scalar:
        """The number explained, as a function of the inputs, of all examples or of those numbered."""
        return TargetScalar(self.model, self.target if examples is None else self.target[examples], output)

    def by_parts(self, make: Callable[["AttributionRequest"], Tensor], rows: int | None) -> Tensor:
        """The maps that `make` gives for at most `rows` examples at a time, or for all with create_graph.

        rows: as for `rows_of`. All graphs are alive in the end, so parts would save nothing there.
        """
        at_once = rows_of(self.inputs, rows)
        if self.create_graph or len(self.inputs) <= at_once:
            return make(self)
        parts = [slice(first, first + at_once) for first in range(0, len(self.inputs), at_once)]
        few = [
            replace(self, inputs=self.inputs[n], target=self.target[n], indices=self.indices[n])
            for n in parts
        ]
        return torch.cat([make(request) for request in few])


@dataclass(frozen=True)
class AttributionMethod(Checked, ABC):
    """A frozen dataclass of options; calling it with a model and inputs gives the map.

    The model is evaluated in eval mode (dropout off, batch norm with its running statistics) whatever mode
    it is in; its modes, its parameters' requires_grad and the global random state are as before afterwards,
    also after an exception. Works under torch.no_grad() and torch.inference_mode().
    """

    def __new__(cls, *options: object, **_named: object) -> Self:
        """Refuse a model in place of the options, whose own checks would complain of something else."""
        if any(isinstance(given, nn.Module) for given in options):
            hint = f"The model is given to the method: {cls.__name__}(...)(model, inputs, target)."
            raise argument_error(cls.__name__, options[0], "options, no model", hint)
        return super().__new__(cls)

    def __call__(
        self,
        model: nn.Module,
        inputs: Tensor,
        target: Target = None,
        *,
        create_graph: bool = False,
        indices: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """The map of `target`'s output, of the inputs' shape (N, ...) and dtype.

        target: see Target. create_graph: the map can be differentiated in the model's weights, and in the
        inputs if those require it; otherwise it is cut from every graph. indices: the examples' numbers in
        their data set, which random methods draw their noise by; None counts from 0, which makes an
        example's noise depend on its place in the call. Raises UsageError for arguments that do not fit.
        """
        if len(check_inputs(inputs)) == 0:
            return torch.zeros_like(inputs)
        with prepare_request(model, inputs, target, create_graph=create_graph, indices=indices) as request:
            maps = self._maps(request)
            check_finite_map(maps)
            if not create_graph:
                return maps.detach()
            check_second_order(maps)
            return maps

    @abstractmethod
    def _maps(self, request: AttributionRequest) -> Tensor:
        """The map, for arguments that were checked, inside the guards and with gradients enabled."""

    def bind(self, model: nn.Module) -> "_BoundMethod":
        """The method with its model, which answers Captum's `.attribute(inputs, baselines, target)`."""
        return _BoundMethod(self, model)

    def describe(self) -> dict[str, Any]:
        """The method and its options as plain values for a record; tensors by shape and SHA-256."""
        options = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        if "rows" in options:
            # The default is recorded as its number: how many fit beside it changes no result but by rounding.
            options["rows"] = options["rows"] or ROWS_PER_CHUNK
        return {"method": type(self).__name__, **options}


@record
class _BoundMethod:
    """What `method.bind(model)` returns: call it, or hand it to code written for Captum."""

    method: AttributionMethod
    model: nn.Module

    def __call__(self, inputs: Tensor, target: Target = None, **options: Any) -> Tensor:
        """The method's map for this model; options: create_graph and indices of AttributionMethod."""
        return self.method(self.model, inputs, target, **options)

    def attribute(
        self,
        inputs: Tensor,
        baselines: float | Tensor | None = None,
        target: Target = None,
        *,
        n_steps: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """The map (a Tensor), by Captum's argument names; what is None stays as the method has it.

        baselines and n_steps replace the method's own baseline and nodes. return_convergence_delta makes it
        (map, Captum's delta): sum of the map minus change of the output, (N,). Raises UsageError for an
        argument that the method has no use for. target=None is the predicted class (Captum would refuse it).
        """
        method: Any = self.method

        def require(ability: str, argument: str) -> Any:
            if not hasattr(method, ability):
                raise UsageError(f"{type(method).__name__} has no use for {argument}; leave it out")
            return getattr(method, ability)

        if baselines is not None:
            method = require("with_baseline", "baselines")(baselines)
        if n_steps is not None:
            method = require("with_nodes", "n_steps")(n_steps)
        if not return_convergence_delta:
            return method(self.model, inputs, target)
        result = require("with_diagnostics", "return_convergence_delta")(self.model, inputs, target)
        return result.attribution, result.residual


@contextmanager
def prepare_request(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    *,
    create_graph: bool,
    indices: Tensor | Sequence[int] | None = None,
) -> Iterator[AttributionRequest]:
    """Check the arguments, guard the model while the block lasts, and hand out the resolved request."""
    check_inputs(inputs)
    create_graph = check_value("create_graph", create_graph, bool)
    with examining(model, weights=create_graph):
        # Tensors of inference mode can enter no graph.
        inputs = out_of_inference(inputs)
        yield AttributionRequest(
            model,
            inputs if create_graph else inputs.detach(),
            _resolve_target(model, inputs, target),
            check_indices(indices, inputs.shape[0]),
            create_graph,
        )


def check_output(output: Output | OutputFunction) -> None:
    """Raise a UsageError unless `output` is one of the names or a function."""
    if not callable(output) and output not in OUTPUTS:
        raise unknown_name_error("output", output, OUTPUTS, more=", or a function (logits, target) -> (N,)")


def _resolve_target(model: nn.Module, inputs: Tensor, target: Target) -> Tensor:
    examples = inputs.shape[0]
    if target is None:
        return class_logits(model, inputs).argmax(dim=1)
    # Larger integers are no int64, and torch's message would name neither.
    if isinstance(target, Integral) and not isinstance(target, bool) and abs(target) < 2**63:
        target = torch.full((examples,), int(target))
    if not isinstance(target, Tensor) or target.shape != (examples,) or target.dtype.is_floating_point:
        raise argument_error(
            "target", target, f"({examples},) integers, one class per example, an int, or None"
        )
    if examples and int(target.min()) < 0:
        raise argument_error("target", target.tolist(), "classes of at least 0")
    return out_of_inference(target.to(inputs.device, torch.int64))


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        # As bytes, since NumPy has no bfloat16.
        content = value.detach().cpu().contiguous()
        digest = sha256(content.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": digest}
    if isinstance(value, nn.Module):
        return type(value).__name__
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


class Examples(Protocol):
    """A data set's split, `veridical.data.Split` above all: inputs (n, ...) and target (n,) of examples."""

    def __len__(self) -> int: ...

    def batch(
        self, indices: Sequence[int], dtype: torch.dtype, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (n, ...) and target (n,) of these examples."""


def dataset_maps(
    model: nn.Module,
    examples: Examples,
    attribution: Attribution,
    *,
    indices: Sequence[int] | None = None,
    target: Literal["predicted", "label"] | Tensor = "predicted",
    batch_size: int = 256,
    seed: int = 0,
) -> Tensor:
    """Maps (n, ...) of examples of a data set, on the CPU, in the dtype in which the model computes.

    attribution: a method or any callable of its form; methods draw the noise of example i by its number i.
    indices: numbers of the examples that are explained, all by default.
    target: explain the class that is predicted, the label, or the class of each of them given here, int64
        (n,).
    batch_size: examples of a batch.
    seed: of the global generators, for a callable of the caller's own; see `batch_maps`.

    Raises UsageError for maps that have not the shape of the inputs, as those of a hidden layer.
    """
    check_count("batch_size", batch_size)
    check_attribution(attribution, create_graph=False)
    numbers = range(len(examples)) if indices is None else indices
    if isinstance(target, Tensor):
        if target.shape != (len(numbers),):
            raise argument_error("target", target, f"a class for each of {len(numbers)} examples")
    elif target not in ("predicted", "label"):
        raise argument_error("target", target, '"predicted", "label" or classes (n,)')
    like = parameter_like(model)
    # An empty batch tells the shape of the maps without any image being made.
    shape = examples.batch(range(0), like.dtype)[0].shape[1:]
    maps = torch.zeros(len(numbers), *shape, dtype=like.dtype)
    for first in range(0, len(numbers), batch_size):
        part = slice(first, first + batch_size)
        inputs, labels = examples.batch(numbers[part], like.dtype, like.device)
        explained = labels if isinstance(target, str) and target == "label" else None
        if isinstance(target, Tensor):
            explained = target[part].to(inputs.device)
        maps[part] = batch_maps(attribution, model, inputs, explained, numbers[part], seed).cpu()
    return maps


def draw_background(examples: Examples, seed: int) -> Tensor:
    """Images that others are compared with: BACKGROUND of a split, or all, by the seed; float32 (M, ...)."""
    # Not the first ones: many data sets come sorted by class.
    order = torch.randperm(len(examples), generator=stream(seed, "background images"))
    return examples.batch(order[:BACKGROUND].tolist(), torch.float32)[0]


def predict_classes(model: nn.Module, examples: Examples, batch_size: int = CLASSIFIED) -> Tensor:
    """The class that a network predicts for each example of a data set, int64 (N,) on the CPU."""
    like, numbers = parameter_like(model), range(len(examples))
    result = [torch.zeros(0, dtype=torch.int64)]
    for first in range(0, len(examples), batch_size):
        inputs, _ = examples.batch(numbers[first : first + batch_size], like.dtype, like.device)
        result.append(predict(model, inputs).argmax(dim=1).cpu())
    return torch.cat(result)


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
