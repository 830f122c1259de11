"""The smooth twin of a ReLU network: softplus in place of its kinks, so that maps have a derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from veridical.runtime.errors import check_positive


class SoftplusTwin(TorchFunctionMode):
    """While active, every relu-like call of any network computes a softplus form; no model is copied.

    relu, clamp(min=0), clip(min=0) and clamp_min(0) become softplus(x); leaky_relu and prelu become
    s x + (1 - s) softplus(x); hardtanh from b to c becomes b + softplus(x - b) - softplus(x - c), and with it
    relu6, hardsigmoid and hardswish; threshold(t, t) becomes t + softplus(x - t). Functions, methods and
    modules are all rewritten, in place or not. `rewrites` counts the calls.

    Parameters
    ----------
    beta
        Sharpness of the softplus, log(1 + exp(beta x)) / beta; the twin tends to the network as beta grows.
        1 is what Ghorbani et al. (2019) and Chen et al. (2019) use.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        check_positive("beta", beta)
        self.beta = beta
        self.rewrites = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        form = _FORMS.get(func)
        if form is None:
            return func(*args, **kwargs)
        in_place = _in_place(func, args, kwargs)
        options = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        inputs = args[0] if args else kwargs["input"]
        # The softplus keeps its argument for the backward pass, so what is overwritten below must be another.
        source = inputs.clone() if in_place else inputs
        smooth = form(self.beta, source, *args[1 : _INPLACE_POSITION.get(func)], **options)
        if smooth is None:
            return func(*args, **kwargs)
        self.rewrites += 1
        # Code may go on with the tensor that it changed in place instead of the returned one.
        return inputs.copy_(smooth) if in_place else smooth


@contextmanager
def smooth_twin(beta: float | None) -> Iterator[SoftplusTwin | None]:
    """Run the block on the softplus twin; None leaves the network as it is."""
    if beta is None:
        yield None
        return
    with SoftplusTwin(beta) as twin:
        yield twin


def _relu(beta: float, inputs: Tensor) -> Tensor:
    return F.softplus(inputs, beta=beta)


def _leaky(beta: float, inputs: Tensor, negative_slope: float = 0.01) -> Tensor:
    return negative_slope * inputs + (1 - negative_slope) * F.softplus(inputs, beta=beta)


def _prelu(beta: float, inputs: Tensor, weight: Tensor) -> Tensor:
    # One slope for all, or one for each channel.
    slope = weight.reshape(-1, *[1] * (inputs.ndim - 2)) if inputs.ndim > 1 else weight
    return slope * inputs + (1 - slope) * F.softplus(inputs, beta=beta)


def _hardtanh(beta: float, inputs: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    rise = F.softplus(inputs - min_val, beta=beta) - F.softplus(inputs - max_val, beta=beta)
    return rise + min_val if min_val else rise


def _relu6(beta: float, inputs: Tensor) -> Tensor:
    return _hardtanh(beta, inputs, 0.0, 6.0)


def _hardsigmoid(beta: float, inputs: Tensor) -> Tensor:
    return _relu6(beta, inputs + 3) / 6


def _hardswish(beta: float, inputs: Tensor) -> Tensor:
    return inputs * _hardsigmoid(beta, inputs)


def _threshold(beta: float, inputs: Tensor, threshold: float, value: float) -> Tensor | None:
    # Another value is a jump, which nothing smooth is near to.
    return value + F.softplus(inputs - threshold, beta=beta) if value == threshold else None


def _clamp(beta: float, inputs: Tensor, *ends: Any, **named: Any) -> Tensor | None:
    low, high = (*ends, None, None)[:2]
    low, high = named.get("min", low), named.get("max", high)
    # A clamp from both sides is how networks check their inputs' range, not an activation.
    if low is None or high is not None or (isinstance(low, Tensor) and low.numel() != 1):
        return None
    return F.softplus(inputs, beta=beta) if float(low) == 0 else None


_INPLACE_POSITION = {
    F.relu: 1,
    F.relu6: 1,
    F.leaky_relu: 2,
    F.hardtanh: 3,
    F.hardsigmoid: 1,
    F.hardswish: 1,
    F.threshold: 3,
}
_OVERWRITING: dict[Any, Callable[..., Tensor | None]] = {
    F.leaky_relu_: _leaky,
    F.hardtanh_: _hardtanh,
    torch.threshold_: _threshold,
    torch.relu_: _relu,
    Tensor.relu_: _relu,
    torch.clamp_: _clamp,
    Tensor.clamp_: _clamp,
    torch.clamp_min_: _clamp,
    Tensor.clamp_min_: _clamp,
    torch.clip_: _clamp,
    Tensor.clip_: _clamp,
}
_FORMS: dict[Any, Callable[..., Tensor | None]] = {
    F.relu: _relu,
    F.relu6: _relu6,
    F.leaky_relu: _leaky,
    F.hardtanh: _hardtanh,
    F.hardsigmoid: _hardsigmoid,
    F.hardswish: _hardswish,
    F.threshold: _threshold,
    torch.threshold: _threshold,
    F.prelu: _prelu,
    torch.prelu: _prelu,
    Tensor.prelu: _prelu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.clamp: _clamp,
    Tensor.clamp: _clamp,
    torch.clamp_min: _clamp,
    Tensor.clamp_min: _clamp,
    torch.clip: _clamp,
    Tensor.clip: _clamp,
    **_OVERWRITING,
}


def _in_place(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if func in _OVERWRITING:
        return True
    position = _INPLACE_POSITION.get(func)
    given = position is not None and len(args) > position and args[position]
    return bool(given or kwargs.get("inplace", False))
