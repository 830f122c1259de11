"""The smooth twin of a ReLU network, whose maps have a derivative, and what an attack climbs on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from veridical.attacks.directions import MapScore
from veridical.attacks.protocols import Restart
from veridical.attribution.classifier import check_map, logits_of
from veridical.attribution.second_order import QuickSecondOrder
from veridical.metrics.maps import normalised_to_area, saliency
from veridical.runtime.checking import check_positive
from veridical.runtime.errors import UsageError
from veridical.runtime.lengths import power_of_two


class SoftplusTwin(TorchFunctionMode):
    """While active, every relu-like call of any network computes a softplus form; no model is copied.

    relu, clamp(min=0), clip(min=0) and clamp_min(0) become softplus(x); leaky_relu and prelu become
    s x + (1 - s) softplus(x); hardtanh from b to c becomes b + softplus(x - b) - softplus(x - c), and with it
    relu6, hardsigmoid and hardswish; threshold(t, t) becomes t + softplus(x - t). Functions, methods, modules
    and the operators of an exported program are all rewritten, in place or not. `rewrites` counts the calls.

    beta: sharpness of the softplus, log(1 + exp(beta x)) / beta; the twin tends to the network as beta grows.
    1 is what Ghorbani et al. (2019) and Chen et al. (2019) use.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        check_positive("beta", beta)
        self.beta = beta
        self.rewrites = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Everything that torch calls comes by here; most of it goes straight on.
        known = _OPERATORS.get(func, func)
        form = _FORMS.get(known)
        if form is None:
            return func(*args, **kwargs)
        position = _INPLACE_POSITION.get(known)
        flagged = kwargs.get("inplace", False) or (position is not None and any(args[position:]))
        in_place = flagged or known.__name__.endswith("_")
        options = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        inputs = args[0] if args else kwargs["input"]
        # The softplus keeps its argument for the backward pass, so what is overwritten below must be another.
        source = inputs.clone() if in_place else inputs
        smooth = form(self.beta, source, *args[1:position], **options)
        if smooth is None:
            return func(*args, **kwargs)
        self.rewrites += 1
        # Code may go on with the tensor that it changed in place instead of the returned one.
        return inputs.copy_(smooth) if in_place else smooth


@dataclass(eq=False)
class MapAscent:
    """The score of a direction, of the twin's saliency map, as a function of the inputs.

    score: of the real network's clean map, which fixes the target pixels. The map climbed is the twin's,
    normalised to sum H * W with the gradient through the normaliser (the RAR authors' evaluation).

    Where the whole map lies on the target pixels, as that of a digit with fewer than k lit pixels does, the
    score is constant and its gradient nothing but rounding. In the authors' code that noise sets such images
    in motion; here `nudge`, signs of the inputs' shape, takes its place, so that results do not hang on it.
    """

    model: nn.Module
    attribute: Callable[..., Tensor]
    target: Tensor
    label: Tensor
    score: MapScore
    restart: Restart
    steps: int
    nudge: Tensor
    step: int = 0

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The score (N,) and its gradient (N, C, H, W) at the next step's sharpness of the twin."""
        with torch.enable_grad():
            point = inputs.detach().requires_grad_(True)
            beta, end = self.restart.beta, self.restart.beta_end
            if beta is not None and end is not None and self.steps > 1:
                beta = float(beta * (end / beta) ** (min(self.step, self.steps - 1) / (self.steps - 1)))
            # The twin is what the attribution sees of the model while it makes this map.
            with nullcontext() if beta is None else SoftplusTwin(beta):
                attribution = self.attribute(self.model, point, self.target, create_graph=True)
            value = self.score(normalised_to_area(saliency(attribution)))
            check_map(attribution, point, graph=True)
            (gradient,) = torch.autograd.grad(value.sum(), point)
        self.step += 1
        # A gradient within the rounding of the score says nothing about where to go.
        noise = 8 * torch.finfo(value.dtype).eps * value.detach().abs()
        stalled = gradient.abs().flatten(1).amax(1) <= noise
        gradient = torch.where(stalled.reshape(-1, *[1] * (inputs.ndim - 1)), self.nudge, gradient)
        if self.restart.label_weight:
            gradient = gradient + self._pull_back(inputs, gradient)
        return value.detach(), gradient

    def _pull_back(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the margin where the label is lost or nearly so, as long as the score's own."""
        with torch.enable_grad():
            point = inputs.detach().requires_grad_(True)
            logits = logits_of(self.model, point)
            own = logits.gather(1, self.label[:, None])[:, 0]
            # The strongest of the other classes.
            others = logits.scatter(1, self.label[:, None], -torch.inf).amax(1)
            (margin_gradient,) = torch.autograd.grad((own - others).sum(), point)
        # In the logits' own scale, for the squares behind a spread of 1e-25 would be 0.
        unit = power_of_two(logits)[:, 0]
        spread = (logits.detach() / unit[:, None]).std(1).clamp_min(1e-12)
        # Share 0 at a margin of a tenth of the logits' spread, 1 where the label is about to change.
        margin = (own - others).detach() / unit
        share = (1 - margin / (0.1 * spread)).clamp(0, 2) * self.restart.label_weight
        # As long as the score's gradient, whose scale comes last: the quotient of two scales may overflow.
        flat, away = gradient.flatten(1), margin_gradient.flatten(1)
        scale = power_of_two(flat)
        away = away / power_of_two(away)
        ratio = torch.linalg.vector_norm(flat / scale, dim=1)
        ratio = ratio / torch.linalg.vector_norm(away, dim=1).clamp_min(1e-12)
        pull: Tensor = away * (share * ratio)[:, None] * scale
        return pull.reshape(inputs.shape)


def check_twin(model: nn.Module, inputs: Tensor, target: Tensor, beta: float | None) -> int:
    """How many calls the twin rewrites in one forward pass; none in a piecewise-linear model is an error."""
    twin = None if beta is None else SoftplusTwin(beta)
    with torch.enable_grad():
        point = inputs[:1].detach().requires_grad_(True)
        with QuickSecondOrder(), twin or nullcontext():
            logit = logits_of(model, point)[0, target[0]]
        # A softplus curves: nothing more to ask.
        if twin is not None and twin.rewrites:
            return twin.rewrites
        (gradient,) = torch.autograd.grad(logit, point, create_graph=True)
        if gradient.requires_grad:
            # Any vector off the few that a curved network may map to zero, as a black image's own pixels are.
            probe = torch.randn(point.shape, generator=torch.Generator().manual_seed(0)).to(gradient)
            (second,) = torch.autograd.grad((gradient * probe).sum(), point, allow_unused=True)
            if second is not None and bool(second.abs().sum() > 0):
                return 0
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UsageError(
            "the model is a TorchScript one, whose operations cannot be replaced by smooth ones; "
            "give the nn.Module that it was made from"
        )
    raise UsageError(
        "the model is piecewise linear (its second derivative is zero) and the softplus twin found no "
        "relu, prelu, hardtanh, clamp(min=0) or like call to smooth, so its maps cannot be climbed; "
        "use an activation that the twin knows, or one that is smooth"
    )


def _relu(beta: float, inputs: Tensor) -> Tensor:
    return F.softplus(inputs, beta=beta)


def _leaky(beta: float, inputs: Tensor, negative_slope: float = 0.01) -> Tensor:
    return negative_slope * inputs + (1 - negative_slope) * F.softplus(inputs, beta=beta)


def _prelu(beta: float, inputs: Tensor, weight: Tensor) -> Tensor:
    # One slope for all, or one for each channel.
    slope = weight.reshape(-1, *[1] * (inputs.ndim - 2)) if inputs.ndim > 1 else weight
    return slope * inputs + (1 - slope) * F.softplus(inputs, beta=beta)


def _hardtanh(beta: float, inputs: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    # Softplus up at the one end minus softplus up at the other.
    rise = F.softplus(inputs - min_val, beta=beta) - F.softplus(inputs - max_val, beta=beta)
    return rise + min_val if min_val else rise


def _threshold(beta: float, inputs: Tensor, threshold: float, value: float) -> Tensor | None:
    # Another value is a jump, which nothing smooth is near to.
    return value + F.softplus(inputs - threshold, beta=beta) if value == threshold else None


def _clamp(beta: float, inputs: Tensor, *ends: Any, **keywords: Any) -> Tensor | None:
    low, high = (*ends, None, None)[:2]
    low, high = keywords.get("min", low), keywords.get("max", high)
    # A clamp from both sides is how networks check their inputs' range, not an activation.
    if low is None or high is not None or (isinstance(low, Tensor) and low.numel() != 1):
        return None
    return F.softplus(inputs, beta=beta) if float(low) == 0 else None


# Where the flag `inplace` stands among positional arguments.
_INPLACE_POSITION = {
    function: [*signature(function).parameters].index("inplace")
    for function in (F.relu, F.relu6, F.leaky_relu, F.hardtanh, F.hardsigmoid, F.hardswish, F.threshold)
}
# Functions whose names end in an underscore write into their argument.
_FORMS: dict[Any, Callable[..., Tensor | None]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_), _relu),
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), _leaky),
    **dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), _prelu),
    **dict.fromkeys((F.hardtanh, F.hardtanh_), _hardtanh),
    **dict.fromkeys((F.threshold, torch.threshold, torch.threshold_), _threshold),
    F.relu6: lambda beta, inputs: _hardtanh(beta, inputs, 0.0, 6.0),
    F.hardsigmoid: lambda beta, inputs: _hardtanh(beta, inputs + 3, 0.0, 6.0) / 6,
    F.hardswish: lambda beta, inputs: inputs * (_hardtanh(beta, inputs + 3, 0.0, 6.0) / 6),
    **{
        getattr(owner, name): _clamp
        for owner in (torch, Tensor)
        for name in ("clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_")
    },
}

# What programs of torch.export call, by the functions that mean the same.
_OPERATORS: dict[Any, Any] = {
    getattr(torch.ops.aten, name).default: function
    for name, function in {
        "relu": torch.relu,
        "relu_": torch.relu_,
        "leaky_relu": F.leaky_relu,
        "leaky_relu_": F.leaky_relu_,
        "prelu": torch.prelu,
        "hardtanh": F.hardtanh,
        "hardtanh_": F.hardtanh_,
        "threshold": torch.threshold,
        "threshold_": torch.threshold_,
        "relu6": F.relu6,
        "hardsigmoid": F.hardsigmoid,
        "hardswish": F.hardswish,
        "clamp": torch.clamp,
        "clamp_": torch.clamp_,
        "clamp_min": torch.clamp_min,
        "clamp_min_": torch.clamp_min_,
    }.items()
}
