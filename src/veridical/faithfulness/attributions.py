"""The attributions that can be judged, by name: Veridical's, Captum's, a caller's own."""

from __future__ import annotations

from typing import Any

from veridical.attribution.captum_adapter import CaptumAttribution
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.method import Attribution, AttributionMethod
from veridical.attribution.methods import GradientTimesInput, InputGradient, RandomAttribution, SmoothGrad
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error
from veridical.runtime.trusted_import import import_trusted, source_digest

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
        form = ("model", "inputs", "target")
        method: Attribution = import_trusted("attribution", name, trust_code=trust_code, positional=form)
        return method
    raise unknown_name_error("attribution", name, NAMES, more=", captum:CLASS or module:callable")


def describe_attribution(attribution: Attribution) -> dict[str, Any]:
    """The method as plain values; of a caller's own its name and the digest of its source."""
    if isinstance(attribution, AttributionMethod):
        return attribution.describe()
    kind = attribution if hasattr(attribution, "__qualname__") else type(attribution)
    name = f"{getattr(kind, '__module__', '?')}.{getattr(kind, '__qualname__', repr(kind))}"
    return {"method": name, "source": source_digest(attribution)}


def _captum_class(name: str) -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise UsageError(f"attribution: {name} needs Captum. Install veridical[captum].") from error
    wanted = name.removeprefix(CAPTUM)
    found = getattr(captum.attr, wanted, None)
    # captum.attr also holds functions and base classes: only what attributes is a method.
    if not isinstance(found, type) or not hasattr(found, "attribute"):
        raise argument_error("attribution", name, "a class of captum.attr, for example captum:Saliency")
    return found
