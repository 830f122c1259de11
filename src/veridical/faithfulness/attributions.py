"""The attributions that can be judged, by name: Veridical's, Captum's, a caller's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attribution.captum_adapter import CaptumAttribution
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.method import Attribution, AttributionMethod
from veridical.attribution.methods import GradientTimesInput, InputGradient, RandomAttribution, SmoothGrad
from veridical.faithfulness.foreign import imported, source_digest
from veridical.runtime.errors import UsageError, fail_argument
from veridical.runtime.guards import evaluating, preserved_rng
from veridical.runtime.seeds import stream

NAMES = (
    "input-gradient",
    "input-gradient-loss",
    "gradient-x-input",
    "integrated-gradients",
    "smoothgrad",
    "random",
)
CAPTUM = "captum:"
NODES = 32
"""Of Integrated Gradients by name: a fixed number, so that every image of a data set costs the same."""


def attribution_by_name(name: str, *, seed: int = 0, trust_code: bool = False) -> Attribution:
    """The method of a name of `NAMES`, "captum:CLASS" of captum.attr, or "module:callable".

    "input-gradient" is the paper's, of the logit; "input-gradient-loss" of the cross-entropy. seed: of the
    noise of smoothgrad, random and Captum's. A callable has the form of `Attribution` and needs trust_code.
    """
    known: dict[str, AttributionMethod] = {
        "input-gradient": InputGradient(),
        "input-gradient-loss": InputGradient("loss"),
        "gradient-x-input": GradientTimesInput(),
        "integrated-gradients": IntegratedGradients(nodes=NODES),
        "smoothgrad": SmoothGrad(seed=seed),
        "random": RandomAttribution(seed=seed),
    }
    if name in known:
        return known[name]
    if name.startswith(CAPTUM):
        return CaptumAttribution(_captum_class(name), seed=seed)
    if ":" in name:
        method: Attribution = imported("attribution", name, trust_code=trust_code)
        return method
    expected = f"one of {', '.join(NAMES)}, captum:CLASS, module:callable, or an .npz file of maps"
    raise fail_argument("attribution", name, expected)


def describe_attribution(attribution: Attribution) -> dict[str, Any]:
    """The method as plain values; of a caller's own its name and the digest of its source."""
    if isinstance(attribution, AttributionMethod):
        return attribution.describe()
    kind = attribution if hasattr(attribution, "__qualname__") else type(attribution)
    name = f"{getattr(kind, '__module__', '?')}.{getattr(kind, '__qualname__', repr(kind))}"
    return {"method": name, "source": source_digest(attribution)}


def attribute(
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
        with preserved_rng(), evaluating(model), torch.enable_grad():
            torch.manual_seed(stream(seed, "attribution", indices[0] if indices else 0).initial_seed())
            maps = attribution(model, inputs, target)
    if not isinstance(maps, Tensor) or maps.shape != inputs.shape:
        found = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else f"a {type(maps).__name__}"
        raise UsageError(
            f"the attribution gave {found} for inputs of shape {tuple(inputs.shape)}; expected a map of the "
            "inputs' shape. Maps of layers and of pixels have to be brought to it first."
        )
    return maps.detach()


def _captum_class(name: str) -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise UsageError(f"attribution: {name} needs Captum. Install veridical[captum].") from error
    wanted = name.removeprefix(CAPTUM)
    found = getattr(captum.attr, wanted, None)
    # captum.attr also holds functions and base classes: only what attributes is a method.
    if not isinstance(found, type) or not hasattr(found, "attribute"):
        raise fail_argument("attribution", name, "a class of captum.attr, for example captum:Saliency")
    return found
