"""What an attribution attack climbs: a score of the smooth twin's map, with its gradient in the inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from veridical.attacks.directions import Decorrelate, Direction
from veridical.attacks.protocols import Restart
from veridical.attacks.surrogate import SoftplusTwin, smooth_twin
from veridical.attribution.classifier import check_map, logits_of
from veridical.attribution.second_order import QuickSecondOrder
from veridical.metrics.views import normalised_to_area, saliency
from veridical.runtime.errors import UsageError
from veridical.runtime.lengths import power_of_two


class MapAscent:
    """The score of a direction, of the twin's saliency map, as a function of the inputs.

    The clean map that fixes the target pixels is the real network's; the map climbed is the twin's,
    normalised to sum H * W with the gradient through the normaliser (the RAR authors' evaluation).

    Where the whole map lies on the target pixels, as that of a digit with fewer than k lit pixels does, the
    score is constant and its gradient nothing but rounding. In the authors' code that noise sets such images
    in motion; here `nudge`, signs of the inputs' shape, takes its place, so that results do not hang on it.
    """

    def __init__(
        self,
        model: nn.Module,
        attribute: Callable[..., Tensor],
        target: Tensor,
        label: Tensor,
        direction: Direction,
        clean: Tensor,
        climb: Restart,
        steps: int,
        nudge: Tensor,
    ) -> None:
        self.model, self.attribute, self.target, self.label = model, attribute, target, label
        self.goal = (Decorrelate() if climb.goal == "decorrelate" else direction).goal(
            normalised_to_area(clean)
        )
        self.climb, self.steps, self.nudge = climb, steps, nudge
        self.step = 0

    def value_and_gradient(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The score (N,) and its gradient (N, C, H, W) at the next step's sharpness of the twin."""
        with torch.enable_grad():
            point = inputs.detach().requires_grad_(True)
            with smooth_twin(self._beta()):
                attribution = self.attribute(self.model, point, self.target, create_graph=True)
            value = self.goal(normalised_to_area(saliency(attribution)))
            check_map(attribution, point, graph=True)
            (gradient,) = torch.autograd.grad(value.sum(), point)
        self.step += 1
        noise = 8 * torch.finfo(value.dtype).eps * value.detach().abs()
        stalled = gradient.abs().flatten(1).amax(1) <= noise
        gradient = torch.where(stalled.reshape(-1, *[1] * (inputs.ndim - 1)), self.nudge, gradient)
        if self.climb.label_weight:
            gradient = gradient + self._pull_back(inputs, gradient)
        return value.detach(), gradient

    def _beta(self) -> float | None:
        begin, end = self.climb.beta, self.climb.beta_end
        if begin is None or end is None or self.steps < 2:
            return begin
        return float(begin * (end / begin) ** (min(self.step, self.steps - 1) / (self.steps - 1)))

    def _pull_back(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the margin where the label is lost or nearly so, as long as the score's own."""
        with torch.enable_grad():
            point = inputs.detach().requires_grad_(True)
            logits = logits_of(self.model, point)
            own = logits.gather(1, self.label[:, None])[:, 0]
            others = logits.scatter(1, self.label[:, None], -torch.inf).amax(1)
            (margin_gradient,) = torch.autograd.grad((own - others).sum(), point)
        # In the logits' own scale, for the squares behind a spread of 1e-25 would be 0.
        unit = power_of_two(logits)[:, 0]
        spread = (logits.detach() / unit[:, None]).std(1).clamp_min(1e-12)
        # Share 0 at a margin of a tenth of the logits' spread, 1 where the label is about to change.
        margin = (own - others).detach() / unit
        share = (1 - margin / (0.1 * spread)).clamp(0, 2) * self.climb.label_weight
        # As long as the score's gradient, whose scale comes last: the quotient of two scales may overflow.
        flat, away = gradient.flatten(1), margin_gradient.flatten(1)
        scale = power_of_two(flat)
        away = away / power_of_two(away)
        ratio = torch.linalg.vector_norm(flat / scale, dim=1)
        ratio = ratio / torch.linalg.vector_norm(away, dim=1).clamp_min(1e-12)
        pull: Tensor = away * (share * ratio)[:, None] * scale
        return pull.reshape(inputs.shape)


class FixedDirection:
    """A score whose gradient is the same everywhere: the random-sign baseline."""

    def __init__(self, direction: Tensor) -> None:
        self.direction = direction

    def value_and_gradient(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros (N,) and the direction (N, ...)."""
        return inputs.new_zeros(inputs.shape[0]), self.direction


def check_twin(model: nn.Module, inputs: Tensor, target: Tensor, beta: float | None) -> int:
    """How many calls the twin rewrites in one forward pass; none in a piecewise-linear model is an error."""
    if inputs.shape[0] == 0:
        return 0
    one, label = inputs[:1], target[:1]
    rewrites = 0
    with torch.enable_grad():
        point = one.detach().requires_grad_(True)
        if beta is None:
            with QuickSecondOrder():
                logit = logits_of(model, point)[0, label[0]]
        else:
            with QuickSecondOrder(), SoftplusTwin(beta) as twin:
                logit = logits_of(model, point)[0, label[0]]
            rewrites = twin.rewrites
        if rewrites:
            return rewrites
        (gradient,) = torch.autograd.grad(logit, point, create_graph=True)
        curved = False
        if gradient.requires_grad:
            # Any vector off the few that a curved network may map to zero, as a black image's own pixels are.
            probe = torch.randn(one.shape, generator=torch.Generator().manual_seed(0)).to(gradient)
            (second,) = torch.autograd.grad((gradient * probe).sum(), point, allow_unused=True)
            curved = second is not None and bool(second.abs().sum() > 0)
    if not curved:
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
    return 0
