"""The attributions by name, with facts that commands and studies choose by; only making one imports torch.

To add one, write its `AttributionMethod` (or any callable of the form of `Attribution`) and an entry here; a
package adds its own by an entry point of the group `veridical.attributions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from veridical.runtime.errors import UsageError, argument_error, unknown_name_error
from veridical.runtime.registry import Registry, load_factory, source_digest

if TYPE_CHECKING:
    from torch import Tensor

    from veridical.attribution.method import Attribution, Examples

_CAPTUM = "captum:"


@dataclass(frozen=True)
class AttributionEntry:
    """One attribution: what it is, what makes it, and facts that others rely on.

    factory: called with `options`, and with `seed` if it is random, it returns an `Attribution`;
    "package.module:attribute" is imported late. explains: what of the target its map is about; None for
    neither. multiplies_by_input: its map is zero where the image is, whatever the model looks at.
    is_differentiable: with create_graph=True its map can be differentiated in inputs and weights, so attacks
    can climb it. None, in both: not known. is_random: it draws noise, by a seed. needs_background: it
    compares an image with others; its factory gets them as `baselines` (M, C, H, W), see `draw_background`.
    """

    name: str
    summary: str
    factory: str | Callable[..., Attribution]
    options: Mapping[str, Any] = field(default_factory=dict)
    explains: Literal["logit", "loss"] | None = "logit"
    multiplies_by_input: bool | None = False
    is_differentiable: bool | None = True
    is_random: bool = False
    needs_background: bool = False

    def create(self, seed: int = 0, background: Examples | Tensor | None = None) -> Attribution:
        """The attribution; seed: of its noise, if it has any.

        background: the images that others are compared with, for those that need some: (M, C, H, W), or a
        split of training images, of which `draw_background` takes some by the seed. Raises UsageError where
        they are missing.
        """
        given: dict[str, Any] = {"seed": seed} if self.is_random else {}
        if self.needs_background:
            given["baselines"] = self._baselines(seed, background)
        attribution: Attribution = load_factory(self.factory)(**self.options, **given)
        return attribution

    def _baselines(self, seed: int, background: Examples | Tensor | None) -> Tensor:
        from torch import Tensor

        from veridical.attribution.method import draw_background

        if background is None:
            hint = "Give background=, a split of training images or a tensor of them (M, C, H, W)."
            raise argument_error("background", None, f"the images that {self.name} compares with", hint)
        return background if isinstance(background, Tensor) else draw_background(background, seed)


_METHODS = "veridical.attribution.methods:"

ATTRIBUTIONS = Registry(
    "attribution",
    "veridical.attributions",
    AttributionEntry,
    (
        AttributionEntry(
            "input-gradient", "the gradient of the logit in the inputs", _METHODS + "InputGradient"
        ),
        AttributionEntry(
            "input-gradient-loss",
            "the gradient of the cross-entropy loss in the inputs",
            _METHODS + "InputGradient",
            {"output": "loss"},
            explains="loss",
        ),
        AttributionEntry(
            "gradient-x-input",
            "the inputs times the gradient of the logit",
            _METHODS + "GradientTimesInput",
            multiplies_by_input=True,
        ),
        AttributionEntry(
            "integrated-gradients",
            "the inputs times the mean gradient on the path from black, of 32 nodes",
            _METHODS + "IntegratedGradients",
            # A fixed number, so that every image of a data set costs the same.
            {"nodes": 32},
            multiplies_by_input=True,
        ),
        AttributionEntry(
            "smoothgrad",
            "the mean gradient of the logit under normal noise, of 32 samples",
            _METHODS + "SmoothGrad",
            is_random=True,
        ),
        AttributionEntry(
            "expected-gradients",
            "the mean gradient on the way from 64 training images, times the way, of 64 samples",
            _METHODS + "ExpectedGradients",
            is_random=True,
            needs_background=True,
        ),
        AttributionEntry(
            "random",
            "normal noise that looks at neither model nor image, which any method should beat",
            _METHODS + "RandomAttribution",
            explains=None,
            is_differentiable=False,
            is_random=True,
        ),
    ),
    wrap=lambda name, function: AttributionEntry(
        name, "code of the caller's", lambda: function, multiplies_by_input=None, is_differentiable=None
    ),
    positional=("model", "inputs", "target"),
    more=", captum:CLASS",
)


def find_attribution(name: str, *, trust_code: bool = False) -> AttributionEntry:
    """The entry of a name, of "captum:CLASS" of captum.attr, or of "module:callable" (needs trust_code).

    Raises UsageError for a name that nobody has, and for code that is not trusted or not of the form.
    """
    if not name.startswith(_CAPTUM):
        return ATTRIBUTIONS.get(name, trust_code=trust_code)
    from veridical.attribution.captum_adapter import captum_by_name

    try:
        captum_class = captum_by_name(name.removeprefix(_CAPTUM))
    except ImportError as error:
        raise UsageError(f"attribution: {name} needs Captum. Install veridical[captum].") from error
    # captum.attr also holds functions and base classes: only what attributes is a method.
    if not isinstance(captum_class, type) or not hasattr(captum_class, "attribute"):
        raise argument_error("attribution", name, "a class of captum.attr, for example captum:Saliency")
    return AttributionEntry(
        name,
        "Captum's method of that name",
        "veridical.attribution.captum_adapter:CaptumAttribution",
        {"captum_class": captum_class},
        multiplies_by_input=None,
        is_differentiable=False,
        is_random=True,
    )


def create_attribution(
    name: str, *, seed: int = 0, trust_code: bool = False, background: Examples | Tensor | None = None
) -> Attribution:
    """The attribution of a name that `find_attribution` knows; seed and background as `create` takes them.

    Who knows the data gives its training images as the background, whatever the name.
    """
    return find_attribution(name, trust_code=trust_code).create(seed, background)


def check_on_black(name: str) -> None:
    """Raise a UsageError for a name whose maps are zero, or may be, on black pixels, or explain nothing."""
    # Facts that are not known do not count as given.
    entries = ATTRIBUTIONS.entries()
    known = [e.name for e in entries if e.explains is not None and e.multiplies_by_input is False]
    if name not in known:
        hint = "Others multiply by the image, or may: they are zero on a black ground."
        raise unknown_name_error("attribution", name, known, hint, more=" on these images")


def describe_attribution(attribution: Attribution) -> dict[str, Any]:
    """The method as plain values; of a caller's own its name and the digest of its source."""
    describe: Callable[[], dict[str, Any]] | None = getattr(attribution, "describe", None)
    if describe is not None:
        return describe()
    kind = attribution if hasattr(attribution, "__qualname__") else type(attribution)
    name = f"{getattr(kind, '__module__', '?')}.{getattr(kind, '__qualname__', repr(kind))}"
    return {"method": name, "source": source_digest(attribution)}
