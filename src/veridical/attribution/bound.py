"""A method together with its model, called the way Captum's attribution classes are."""

from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import Tensor, nn

from veridical.attribution.method import AttributionMethod, Target
from veridical.runtime.errors import UsageError
from veridical.runtime.record import record


@record
class BoundMethod:
    """What `method.bind(model)` returns: call it, or hand it to code written for Captum."""

    method: AttributionMethod
    model: nn.Module

    def __call__(
        self,
        inputs: Tensor,
        target: Target = None,
        *,
        create_graph: bool = False,
        indices: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """The method's map for this model; see AttributionMethod."""
        return self.method(self.model, inputs, target, create_graph=create_graph, indices=indices)

    @overload
    def attribute(
        self,
        inputs: Tensor,
        baselines: float | Tensor | None = None,
        target: Target = None,
        *,
        n_steps: int | None = None,
        return_convergence_delta: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def attribute(
        self,
        inputs: Tensor,
        baselines: float | Tensor | None = None,
        target: Target = None,
        *,
        n_steps: int | None = None,
        return_convergence_delta: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...

    def attribute(
        self,
        inputs: Tensor,
        baselines: float | Tensor | None = None,
        target: Target = None,
        *,
        n_steps: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The map, by Captum's argument names; what is None stays as the method has it.

        baselines and n_steps replace the method's own baseline and nodes. return_convergence_delta adds
        Captum's delta, sum of the map minus change of the output, (N,). Raises UsageError for an argument
        that the method has no use for. target=None is the predicted class (Captum would refuse it).
        """
        method: Any = self.method
        if baselines is not None:
            method = self._ability(method, "with_baseline", "baselines")(baselines)
        if n_steps is not None:
            method = self._ability(method, "with_nodes", "n_steps")(n_steps)
        if not return_convergence_delta:
            maps: Tensor = method(self.model, inputs, target)
            return maps
        result = self._ability(method, "with_diagnostics", "return_convergence_delta")(
            self.model, inputs, target
        )
        return result.attribution, result.residual

    def _ability(self, method: Any, name: str, argument: str) -> Any:
        if not hasattr(method, name):
            raise UsageError(f"{type(method).__name__} has no use for {argument}; leave it out")
        return getattr(method, name)
