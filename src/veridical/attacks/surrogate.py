"""The smooth twin of a ReLU network: softplus in place of its kinks, so that maps have a derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from veridical.runtime.errors import UsageError


class SoftplusTwin(TorchFunctionMode):
    """While active, every relu-like call of any network computes a softplus form; no model is copied.

    relu, relu_, clamp(min=0) and clamp_min(0) become softplus(x); leaky_relu becomes
    s x + (1 - s) softplus(x); relu6 becomes softplus(x) - softplus(x - 6). `rewrites` counts the calls.

    Parameters
    ----------
    beta
        Sharpness of the softplus, log(1 + exp(beta x)) / beta; the twin tends to the network as beta grows.
        1 is what Ghorbani et al. (2019) and Chen et al. (2019) use.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        if not beta > 0:
            raise UsageError(f"softplus beta={beta!r}; expected a positive number")
        self.beta = beta
        self.rewrites = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        form = _FORMS.get(func)
        if form is not None:
            smooth = form(self.beta, *args, **kwargs)
            if smooth is not None:
                self.rewrites += 1
                in_place = func in _IN_PLACE or kwargs.get("inplace", False) or _inplace_argument(func, args)
                # Code may go on with the tensor it changed in place instead of the returned one.
                return args[0].copy_(smooth) if in_place else smooth
        return func(*args, **kwargs)


@contextmanager
def smooth_twin(beta: float | None) -> Iterator[SoftplusTwin | None]:
    """Run the block on the softplus twin; None leaves the network as it is."""
    if beta is None:
        yield None
        return
    with SoftplusTwin(beta) as twin:
        yield twin


def _softplus(beta: float, inputs: Tensor) -> Tensor:
    return F.softplus(inputs.clone() if inputs.is_leaf else inputs, beta=beta)


def _relu(beta: float, inputs: Tensor, inplace: bool = False) -> Tensor:
    return _softplus(beta, inputs)


def _leaky(beta: float, inputs: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return negative_slope * inputs + (1 - negative_slope) * _softplus(beta, inputs)


def _relu6(beta: float, inputs: Tensor, inplace: bool = False) -> Tensor:
    return _softplus(beta, inputs) - _softplus(beta, inputs - 6)


def _clamp(beta: float, inputs: Tensor, min: Any = None, max: Any = None) -> Tensor | None:
    if isinstance(min, int | float) and min == 0 and max is None:
        return _softplus(beta, inputs)
    return None


def _inplace_argument(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    position = 2 if func is F.leaky_relu else 1
    return func in (F.relu, F.relu6, F.leaky_relu) and len(args) > position and args[position] is True


_FORMS: dict[Any, Callable[..., Tensor | None]] = {
    F.relu: _relu,
    F.relu6: _relu6,
    F.leaky_relu: _leaky,
    F.leaky_relu_: _leaky,
    torch.relu: _relu,
    torch.relu_: _relu,
    Tensor.relu: _relu,
    Tensor.relu_: _relu,
    torch.clamp: _clamp,
    torch.clamp_: _clamp,
    Tensor.clamp: _clamp,
    Tensor.clamp_: _clamp,
    torch.clamp_min: _clamp,
    torch.clamp_min_: _clamp,
    Tensor.clamp_min: _clamp,
    Tensor.clamp_min_: _clamp,
}
_IN_PLACE = {
    F.leaky_relu_,
    torch.relu_,
    Tensor.relu_,
    torch.clamp_,
    Tensor.clamp_,
    torch.clamp_min_,
    Tensor.clamp_min_,
}
