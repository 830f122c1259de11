"""What about a model misleads explanations and attacks, found by calling it on a few images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from veridical.attribution.classifier import examining, logits_of, parameter_like, predict
from veridical.attribution.second_order import QuickSecondOrder, check_second_order
from veridical.runtime.checking import record
from veridical.runtime.errors import UsageError

# Numbers of one network for one image, computed alone and in a batch, differ by rounding up to this share of
# the logits' spread.
_ROUNDING = 1e-3
Severity = Literal["note", "warning", "problem"]


@record
class Remark:
    """Something about a model that a reader of its explanations has to know.

    name: for programs. severity: a note explains what was done; a warning may change what numbers mean; with
    a problem they mean nothing. text: what it is, and what to do.
    """

    name: str
    severity: Severity
    text: str

    def to_dict(self) -> dict[str, str]:
        """Plain values for a result."""
        return {"name": self.name, "severity": self.severity, "text": self.text}


def inspect_model(
    model: nn.Module,
    inputs: Tensor,
    *,
    num_classes: int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> list[Remark]:
    """Call a classifier on a few images (N, C, H, W), N at least 2, and say what misleads; [] is all well.

    num_classes: of the data. bounds: between which inputs lie. Modes, generators, gradients, inputs and
    weights stay as they were. Raises UsageError for what cannot be examined at all: another output than
    logits (N, K), logits that are not finite.
    """
    inputs = inputs.detach()
    remarks = [*inspect_form(model), *_inputs(model, inputs, bounds)]
    logits = predict(model, inputs)
    remarks += [*_outputs(logits, num_classes)]
    spread = float(logits.double().std(1).mean()) or 1.0
    # What says the same of all images says the same of darker ones.
    is_constant = any(one.name == "constant" for one in remarks)
    for look in (_randomness, _batches, *(() if is_constant else (_scales,))):
        remarks += look(model, inputs, logits, spread)
    return [*remarks, *_gradients(model, inputs, logits.argmax(1))]


def count_flops(model: nn.Module, inputs: Tensor) -> float:
    """Floating-point operations of products and convolutions in one forward pass of inputs (N, C, H, W).

    Counted, not timed, so that machines agree; what is neither a product nor a convolution counts nothing.
    """
    with examining(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits_of(model, inputs.detach())
    return float(counter.get_total_flops())


def inspect_form(model: nn.Module) -> Iterator[Remark]:
    """What the model is, without calling it."""
    if any(module.training for module in model.modules()):
        yield Remark("train-mode", "note", "The model was in train mode. It is examined in eval mode.")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        yield Remark(
            "scripted",
            "warning",
            "The model is scripted: its ReLUs cannot be smoothed, so attacks on explanations see second "
            "derivatives of 0 and seem weak. Give the model as it was before torch.jit.",
        )
    if any(hasattr(module, "_orig_mod") for module in model.modules()):
        yield Remark("compiled", "note", "The model is compiled. It runs uncompiled here.")


def _inputs(model: nn.Module, inputs: Tensor, bounds: tuple[float, float] | None) -> Iterator[Remark]:
    """What becomes of the inputs, and whether they are such."""
    least, greatest = (float(end) for end in inputs.aminmax())
    if bounds is not None and not bounds[0] <= least <= greatest <= bounds[1]:
        yield Remark(
            "bounds",
            "problem",
            f"Inputs run from {least:.4g} to {greatest:.4g}, outside {bounds[0]:g} to {bounds[1]:g}. Give "
            "images in [0, 1] and let the model standardise them (veridical.Normalized).",
        )
    given = inputs.clone()
    with examining(model), torch.no_grad():
        model(given)
    if not torch.equal(given, inputs):
        text = "The model writes into its input. It gets a copy, so that images stay as they are."
        yield Remark("in-place-input", "note", text)


def _outputs(logits: Tensor, num_classes: int | None) -> Iterator[Remark]:
    """Whether these are logits, and as many as there are classes."""
    classes, values = logits.shape[1], logits.double()
    if num_classes is not None and classes != num_classes:
        yield Remark(
            "class-count",
            "problem",
            f"The model tells {classes} classes apart and the data have {num_classes}. Their numbers need "
            "not mean the same. Give the data that the model was made for.",
        )
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-2).all()):
        yield Remark(
            "softmax",
            "problem",
            "The model ends in a softmax. Where it is sure the gradient vanishes, so that attacks seem to "
            "fail and maps to hold still. Leave the softmax out, or return its logarithm.",
        )
    if len(logits) > 1 and bool((logits == logits[:1]).all()):
        text = "The model says the same of all images looked at: there is nothing to explain."
        yield Remark("constant", "problem", text)


def _randomness(model: nn.Module, inputs: Tensor, logits: Tensor, spread: float) -> Iterator[Remark]:
    """Whether a second call gives the same: dropout that eval mode does not switch off, noise layers."""
    with examining(model), torch.no_grad():
        again = [logits_of(model, inputs) for _ in range(2)]
    change = max(float((one - logits.to(one)).abs().max()) for one in again)
    change = max(change, float((again[0] - again[1]).abs().max()))
    if change > _ROUNDING * spread:
        yield Remark(
            "random",
            "problem",
            f"The model gives other logits when it is called again, by up to {change:.3g}: dropout or noise "
            "is active in eval mode. Explanations of one call say nothing of the next. Switch it off.",
        )


def _batches(model: nn.Module, inputs: Tensor, logits: Tensor, spread: float) -> Iterator[Remark]:
    """Whether the logits of an image depend on the others of its batch."""
    with examining(model), torch.no_grad():
        alone = torch.cat([logits_of(model, one[None]) for one in inputs[:2]])
    change = float((alone - logits[:2].to(alone)).abs().max())
    if change > _ROUNDING * spread:
        yield Remark(
            "batch",
            "problem",
            f"The logits of an image change by up to {change:.3g} with the other images of its batch: batch "
            "statistics are used in eval mode. Give its normalisation layers running statistics.",
        )


def _scales(model: nn.Module, inputs: Tensor, logits: Tensor, spread: float) -> Iterator[Remark]:
    """Whether f(x / 2) = f(x), as of a network that standardises each image."""
    half = predict(model, inputs / 2)
    if float((half - logits.to(half)).abs().max()) <= _ROUNDING * spread:
        yield Remark(
            "scale-invariant",
            "warning",
            "The model does not see how bright an image is: f(x / 2) = f(x). Integrated Gradients from black "
            "is degenerate for it, a multiple of gradient x input. Take another baseline or attribution.",
        )


def _gradients(model: nn.Module, inputs: Tensor, target: Tensor) -> Iterator[Remark]:
    """Whether the predicted logits can be differentiated, once and twice."""
    like = parameter_like(model)
    points = inputs.to(like.device, like.dtype).clone().requires_grad_(True)
    with examining(model), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with QuickSecondOrder():
                chosen = logits_of(model, points).gather(1, target[:, None].to(points.device))
                (gradient,) = torch.autograd.grad(chosen.sum(), points, create_graph=True, allow_unused=True)
                twice = _second(gradient, points)
        except (RuntimeError, UsageError) as error:
            yield Remark(
                "gradient",
                "problem",
                f"The logits cannot be differentiated with respect to the image ({error}), so there are no "
                "gradient explanations. Look for detach(), argmax, or a model that another library runs.",
            )
            return
    if any("math kernel" in str(one.message) for one in caught):
        text = "Attention is computed by PyTorch's math kernel: fused attention has no second derivative."
        yield Remark("fused-attention", "note", text)
    yield from _lengths(gradient)
    if twice is not None:
        yield Remark("second-derivative", "warning", twice)


def _second(gradient: Tensor | None, points: Tensor) -> str | None:
    """What is wrong with the second derivative, in words; None if there is nothing to say."""
    if gradient is None or not gradient.requires_grad:
        return None  # a linear model, or one that the first derivative has been said of
    try:
        torch.autograd.grad(
            (gradient * gradient.detach()).sum(), points, allow_unused=True, retain_graph=True
        )
        check_second_order(gradient)  # torch is silent where another path through the model has a derivative
    except (RuntimeError, UsageError) as error:
        return (
            f"The model has no second derivative ({str(error).splitlines()[0]}). Attacks on explanations and "
            "training of explanations are refused or weak."
        )
    return None


def _lengths(gradient: Tensor | None) -> Iterator[Remark]:
    """Gradients that are zero, not finite, or masked."""
    if gradient is None:
        text = "The logits do not depend on the image in a way that can be differentiated."
        yield Remark("gradient", "problem", text)
        return
    flat = gradient.detach().flatten(1).double()
    bad = int((~flat.isfinite()).any(1).sum())
    if bad:
        text = f"The gradient is NaN or infinite for {bad} of {len(flat)} images looked at."
        yield Remark("gradient-not-finite", "problem", text)
    zero = int((flat == 0).all(1).sum())
    if zero:
        yield Remark(
            "zero-gradient",
            "problem",
            f"The gradient is exactly 0 for {zero} of {len(flat)} images looked at: masked, or saturated. "
            "Gradient explanations are empty there, and gradient attacks find nothing where others may.",
        )
