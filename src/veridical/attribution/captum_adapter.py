"""Captum's attribution classes in Veridical's form of call, inside the same guards."""

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from veridical.attribution.classifier import check_target, logits_of
from veridical.attribution.method import AttributionMethod, AttributionRequest, Output, check_output
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error
from veridical.runtime.seeds import seed_global

_GUIDED = ("GuidedBackprop", "Deconvolution", "GuidedGradCam")
# Classes of captum.attr that change how nn.ReLU modules pass gradients back; the first do nothing else.
_HOOKING = (*_GUIDED, "DeepLift", "DeepLiftShap")

# nn.ReLU calls F.relu, so calls of modules are among these.
_RELU = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@dataclass(frozen=True, init=False)
class CaptumAttribution(AttributionMethod):
    """A class of captum.attr and its options, as CaptumAttribution(captum.attr.DeepLift, eps=1e-6).

    captum_class: a class made from the model, or a function from the model to an object with `.attribute`,
    for nested ones: lambda model: NoiseTunnel(Saliency(model)). Options that the class's constructor knows
    go there, the others to `.attribute`. output: "logit", "loss" or "log-probability" of the target. seed:
    of torch's and numpy's global generators while Captum runs; unlike Veridical's own noise, Captum's
    depends on the batch. Captum's maps keep no graph, so create_graph is refused. Layer methods give maps of
    the layer's shape. Classes that hook nn.ReLU modules refuse a model that calls ReLU as a function.
    """

    captum_class: Callable[..., Any]
    options: Mapping[str, Any]
    output: Output
    seed: int

    def __init__(
        self, captum_class: Callable[..., Any], *, output: Output = "logit", seed: int = 0, **options: Any
    ) -> None:
        check_output(output)
        if callable(output):
            raise argument_error("output", output, "a name: Captum picks the target itself")
        _split(captum_class, options)
        # A frozen dataclass's own constructor could not take options by name.
        vars(self).update(captum_class=captum_class, options=options, output=output, seed=seed)

    def with_baseline(self, baseline: float | Tensor) -> "CaptumAttribution":
        """The same method with Captum's `baselines` set."""
        return self._with(baselines=baseline)

    def with_nodes(self, nodes: int) -> "CaptumAttribution":
        """The same method with Captum's `n_steps` set."""
        return self._with(n_steps=nodes)

    def _with(self, **changed: Any) -> "CaptumAttribution":
        options = {**self.options, **changed}
        return CaptumAttribution(self.captum_class, output=self.output, seed=self.seed, **options)

    def _maps(self, request: AttributionRequest) -> Tensor:
        if request.create_graph:
            raise UsageError(
                f"create_graph=True: a map of Captum's {_name(self.captum_class)} cannot be differentiated; "
                "use Veridical's InputGradient, GradientTimesInput, SmoothGrad or IntegratedGradients"
            )
        construction, call = _split(self.captum_class, self.options)
        # One example tells how many classes there are; Captum would fail inside.
        with torch.no_grad():
            check_target(request.target, logits_of(request.model, request.inputs[:1]))
        # A class of Captum's can be given a model of our own making; a function of the caller's may look for
        # layers in its model, which is not checked then.
        own = inspect.isclass(self.captum_class) or self.output != "logit"
        model = _Outputs(request.model, self.output) if own else request.model
        # The global generators are the caller's: AttributionMethod restores them.
        seed_global(self.seed)
        np.random.seed(self.seed % 2**32)  # noqa: NPY002 -- Captum's perturbation methods draw from it
        if _name(self.captum_class) in _HOOKING:
            _check_rectifiers(model, request.inputs, _name(self.captum_class))
        explainer = self.captum_class(model, **construction)
        # A copy, because Captum sets requires_grad on what it gets.
        inputs = request.inputs.detach().clone().requires_grad_()
        with warnings.catch_warnings():
            # The hooks are gone when the guards are left; a warning for each batch says nothing more.
            warnings.filterwarnings("ignore", "Setting .*hooks", UserWarning)
            maps = explainer.attribute(inputs, target=request.target, **call)
        if not isinstance(maps, Tensor):
            raise UsageError(
                f"Captum's {_name(self.captum_class)} returned a {type(maps).__name__}, expected one tensor; "
                "leave out options that add results, such as return_convergence_delta"
            )
        return maps


class Occlusion:
    """Captum's Occlusion with a window of an eighth of each side, over all channels, moved by half of it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
        """How much the output falls when a window is black, (N, C, H, W)."""
        import captum.attr

        window = [max(1, side // 8) for side in inputs.shape[2:]]
        maps: Tensor = captum.attr.Occlusion(self.model).attribute(
            inputs,
            sliding_window_shapes=(inputs.shape[1], *window),
            strides=(inputs.shape[1], *(max(1, side // 2) for side in window)),
            target=target,
        )
        return maps


class LayerGradCam:
    """Captum's Grad-CAM (Selvaraju et al., 2017) at the last layer with a plane of values, in pixels.

    The layer's map is interpolated bilinearly to the image's size, and every channel gets an equal share.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
        """The map, none of it negative, (N, C, H, W)."""
        import captum.attr

        layer = last_plane(self.model, inputs[:1])
        planes = captum.attr.LayerGradCam(self.model, layer).attribute(
            inputs, target=target, relu_attributions=True
        )
        sized: Tensor = captum.attr.LayerAttribution.interpolate(planes, inputs.shape[2:], "bilinear")
        return sized.expand_as(inputs) / inputs.shape[1]


def last_plane(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The outermost module, called once, that makes the last output (1, C, h, w) of more than one place.

    Raises UsageError for a model without one.
    """
    calls: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            calls.append((module, output))

    hooks = [module.register_forward_hook(note) for module in model.modules() if module is not model]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(id(module) for module, _ in calls)
    # Outer modules are through after inner ones, with the same output.
    once = [module for module, output in calls if output is calls[-1][1] and times[id(module)] == 1]
    if not once:
        expected = "a model with a layer of outputs (N, C, h, w), as convolutional networks have"
        raise argument_error("model", type(model).__name__, expected, "Grad-CAM needs one.")
    return once[-1]


# Classes that need more than a model, with what a name alone gives them.
_BY_NAME: dict[str, Callable[..., Any]] = {one.__name__: one for one in (Occlusion, LayerGradCam)}


def captum_by_name(name: str) -> Callable[..., Any] | None:
    """The class that "captum:NAME" means, with choices made where Captum's asks for more; None if none."""
    import captum.attr  # first: it may not be installed

    return _BY_NAME.get(name) or getattr(captum.attr, name, None)


class _Outputs(nn.Module):
    """The model's logits, losses or log-probabilities of all classes, for Captum to pick the target from."""

    def __init__(self, model: nn.Module, output: Output) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, ...) to (N, K)."""
        logits = logits_of(self.model, inputs)
        if self.output == "logit":
            return logits
        return torch.log_softmax(logits, dim=1) * (-1 if self.output == "loss" else 1)


class _Counting(TorchFunctionMode):
    """Counts the calls of ReLU; those of modules come as functions too."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func in _RELU
        return func(*args, **(kwargs or {}))


def _check_rectifiers(model: nn.Module, inputs: Tensor, method: str) -> None:
    """Raise a UsageError where hooks on nn.ReLU modules would miss a rectifier of the model.

    The method would return another one's map and not say so: of a network without nn.ReLU guided
    backpropagation is the plain gradient. One forward pass, of the first example alone.
    """
    in_modules = 0

    def count(module: nn.Module, _inputs: Any) -> None:
        nonlocal in_modules
        in_modules += isinstance(module, nn.ReLU)

    with torch.no_grad(), _Counting() as counting:
        hook = register_module_forward_pre_hook(count)
        try:
            model(inputs[:1])
        finally:
            hook.remove()
    # What hooks on modules would not see.
    missed = counting.calls - in_modules
    if missed > 0 or (not in_modules and method in _GUIDED):
        functions = f" and {missed} times as a function" if missed > 0 else ""
        raise UsageError(
            f"Captum's {method} changes the nn.ReLU modules of a model, and this one calls ReLU {in_modules} "
            f"times as a module{functions}: the map would be another method's. Use a module for each ReLU."
        )


def _split(
    captum_class: Callable[..., Any], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the constructor and of `.attribute`; those of a plain function all go to `.attribute`."""
    if not inspect.isclass(captum_class):
        if not callable(captum_class):
            expected = "a class of captum.attr, or a function that makes one"
            raise argument_error("captum_class", captum_class, expected)
        return {}, dict(options)
    explain: Callable[..., Any] | None = getattr(captum_class, "attribute", None)
    if explain is None:
        raise argument_error("captum_class", captum_class, "a class with a method `attribute`")
    # The first two are self and the model, or self and the inputs.
    # Both signatures tell which option goes where, and which one goes nowhere.
    makes = list(inspect.signature(captum_class.__init__).parameters)[2:]
    takes = [name for name in inspect.signature(explain).parameters if name not in ("self", "inputs")]
    possible = [name for name in [*makes, *takes] if name != "target"]
    if unknown := next((name for name in options if name not in possible), None):
        raise unknown_name_error(f"option of Captum's {_name(captum_class)}", unknown, possible)
    construction = {name: value for name, value in options.items() if name in makes}
    return construction, {name: value for name, value in options.items() if name not in makes}


def _name(captum_class: Callable[..., Any]) -> str:
    return getattr(captum_class, "__name__", repr(captum_class))
