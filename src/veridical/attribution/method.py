"""What attribution methods share: one call that validates, guards and packages; subclasses make the map."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from hashlib import sha256
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from veridical.attribution.classifier import (
    check_finite_map,
    check_indices,
    check_inputs,
    class_logits,
    examining,
    logits_of,
    out_of_inference,
)
from veridical.attribution.gradients import check_second_order
from veridical.attribution.path import ROWS_PER_CHUNK, Scalar, rows_of
from veridical.attribution.scalars import OUTPUTS, Output, TargetScalar
from veridical.runtime.checking import Checked, taken
from veridical.runtime.errors import argument_error, unknown_name_error
from veridical.runtime.record import record

if TYPE_CHECKING:
    from veridical.attribution.bound import BoundMethod

OutputFunction = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, K), target (N,)) -> the number explained, (N,)."""

Target = Tensor | int | None
"""Class of each example, (N,) integers; one class for all; or None for the predicted ones."""


class Attribution(Protocol):
    """Any callable of this form can be used wherever Veridical asks for an attribution."""

    def __call__(
        self, model: nn.Module, inputs: Tensor, target: Tensor | None = None, *, create_graph: bool = False
    ) -> Tensor:
        """A map of the inputs' shape."""


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
        target = self.target if examples is None else self.target[examples]
        if callable(output):
            return _FunctionScalar(self.model, target, output)
        return TargetScalar(self.model, target, output)

    def by_parts(self, make: Callable[["AttributionRequest"], Tensor], rows: int | None) -> Tensor:
        """The maps that `make` gives for at most `rows` examples at a time, or for all with create_graph.

        rows: as for `rows_of`. All graphs are alive in the end, so parts would save nothing there.
        """
        at_once = rows_of(self.inputs, rows)
        if self.create_graph or len(self.inputs) <= at_once:
            return make(self)
        parts = [slice(first, first + at_once) for first in range(0, len(self.inputs), at_once)]
        return torch.cat(
            [
                make(AttributionRequest(self.model, self.inputs[n], self.target[n], self.indices[n], False))
                for n in parts
            ]
        )


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
            hint = (
                f"The model is given when the method is called: {cls.__name__}(...)(model, inputs, target)."
            )
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
        with question(model, inputs, target, create_graph=create_graph, indices=indices) as asked:
            maps = self._maps(asked)
            check_finite_map(maps)
            if not create_graph:
                return maps.detach()
            check_second_order(maps)
            return maps

    @abstractmethod
    def _maps(self, asked: AttributionRequest) -> Tensor:
        """The map, for arguments that were checked, inside the guards and with gradients enabled."""

    def bind(self, model: nn.Module) -> "BoundMethod":
        """The method with its model, which answers Captum's `.attribute(inputs, baselines, target)`."""
        from veridical.attribution.bound import BoundMethod

        return BoundMethod(self, model)

    def describe(self) -> dict[str, Any]:
        """The method and its options as plain values for a record; tensors by shape and SHA-256."""
        options = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        if "rows" in options:
            # The default is recorded as its number: how many fit beside it changes no result but by rounding.
            options["rows"] = options["rows"] or ROWS_PER_CHUNK
        return {"method": type(self).__name__, **options}


@contextmanager
def question(
    model: nn.Module,
    inputs: Tensor,
    target: Target,
    *,
    create_graph: bool,
    indices: Tensor | Sequence[int] | None = None,
) -> Iterator[AttributionRequest]:
    """Check the arguments, guard the model while the block lasts, and hand out the resolved question."""
    check_inputs(inputs)
    create_graph = taken("create_graph", create_graph, bool)
    with examining(model, weights=create_graph):
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


@record
class _FunctionScalar:
    """A user's function of logits and target; repeats the target for points that come node by node."""

    model: nn.Module
    target: Tensor
    function: OutputFunction
    many_nodes: bool = True

    def __call__(self, inputs: Tensor) -> Tensor:
        logits = logits_of(self.model, inputs)
        return self.function(logits, self.target.repeat(inputs.shape[0] // self.target.shape[0]))


def _resolve_target(model: nn.Module, inputs: Tensor, target: Target) -> Tensor:
    examples = inputs.shape[0]
    if target is None:
        return class_logits(model, inputs).argmax(dim=1)
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
        content = value.detach().cpu().contiguous()
        digest = sha256(content.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        return {"shape": list(value.shape), "dtype": str(value.dtype), "sha256": digest}
    if isinstance(value, nn.Module):
        return type(value).__name__
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else repr(value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
