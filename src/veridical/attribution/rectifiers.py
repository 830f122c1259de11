"""Whether a model's rectifiers are modules, as methods that change their backward pass by hooks need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from veridical.runtime.errors import UsageError

GUIDED = ("GuidedBackprop", "Deconvolution", "GuidedGradCam")
HOOKING = (*GUIDED, "DeepLift", "DeepLiftShap")
"""Classes of captum.attr that change how nn.ReLU modules pass gradients back; the first do nothing else."""

_RELU = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


class _Counting(TorchFunctionMode):
    """Counts the calls of ReLU; those of modules come as functions too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.calls += func in _RELU
        return func(*args, **(kwargs or {}))


def check_rectifiers(model: nn.Module, inputs: Tensor, method: str) -> None:
    """Raise a UsageError where hooks on nn.ReLU modules would miss a rectifier of the model.

    The method would return another one's map and not say so: of a network without nn.ReLU guided
    backpropagation is the plain gradient. One forward pass, of the first example alone.
    """
    in_modules = 0

    def count(_module: nn.Module, _inputs: Any) -> None:
        nonlocal in_modules
        in_modules += 1

    hooks = [m.register_forward_pre_hook(count) for m in model.modules() if isinstance(m, nn.ReLU)]
    try:
        with torch.no_grad(), _Counting() as counting:
            model(inputs[:1])
    finally:
        for hook in hooks:
            hook.remove()
    missed = counting.calls - in_modules
    if missed > 0 or (not in_modules and method in GUIDED):
        found = f" and {missed} times as a function" if missed > 0 else ""
        raise UsageError(
            f"Captum's {method} changes the nn.ReLU modules of a model, and this one calls ReLU {in_modules} "
            f"times as a module{found}: the map would be another method's. Use a module for each ReLU."
        )
