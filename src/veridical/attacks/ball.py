"""Threat models: which perturbed inputs count as near the original."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veridical.attribution.classifier import check_indices, check_inputs
from veridical.runtime.checking import Checked, Length, Pixel
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error
from veridical.runtime.lengths import NARROW, length, power_of_two, widened


@dataclass(frozen=True)
class NoiseRows:
    """The generator of a batch of `count` examples, for one process that has only its `rows` of the batch."""

    generator: torch.Generator
    rows: slice
    count: int


# One generator for a batch (training), or one per example (evaluation: results do not depend on batches).
Noise = torch.Generator | NoiseRows | Sequence[torch.Generator]


@dataclass(frozen=True)
class Ball(Checked, ABC):
    """All inputs within `radius` (input units) of an origin and inside the valid pixel range.

    radius: at least 0, in the units of the inputs. bounds: least and greatest valid value, or None for no
    bounds (theorems are stated without them).
    """

    radius: Length
    bounds: tuple[Pixel, Pixel] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bounds is not None and not (len(self.bounds) == 2 and self.bounds[0] < self.bounds[1]):
            raise UsageError(f"bounds={self.bounds!r}; expected (low, high) with low < high, or None")

    def project(self, inputs: Tensor, origin: Tensor) -> Tensor:
        """The admissible point next to `inputs` (exactly for Linf); (N, ...) like `origin`."""
        # In float32 at least: in bfloat16 the sum of origin and radius lies outside.
        start = widened(origin)
        return _rounded(self._clip(self._project(widened(inputs) - start, start)), origin)

    def random_start(self, origin: Tensor, generator: Noise) -> Tensor:
        """A point drawn uniformly from the ball, then clipped to the bounds; (N, ...)."""
        return _rounded(self._clip(widened(origin) + self._uniform(origin, generator)), origin)

    @abstractmethod
    def step(self, gradient: Tensor) -> Tensor:
        """Steepest-ascent direction of unit length in the ball's norm, per example; 0 for gradient 0."""

    @abstractmethod
    def distance(self, inputs: Tensor, origin: Tensor) -> Tensor:
        """Distance of each example from its origin in the ball's norm, (N,)."""

    @abstractmethod
    def _project(self, offset: Tensor, origin: Tensor) -> Tensor: ...

    @abstractmethod
    def _uniform(self, origin: Tensor, generator: Noise) -> Tensor:
        """A change drawn uniformly from the ball, 16-bit numbers widened."""

    def _clip(self, inputs: Tensor) -> Tensor:
        return inputs if self.bounds is None else inputs.clamp(*self.bounds)


@dataclass(frozen=True)
class Linf(Ball):
    """No value changes by more than `radius`."""

    def step(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient."""
        return gradient.sign()

    def distance(self, inputs: Tensor, origin: Tensor) -> Tensor:
        """Greatest absolute change of a value, (N,)."""
        return (widened(inputs) - widened(origin)).abs().flatten(1).amax(1)

    def _project(self, offset: Tensor, origin: Tensor) -> Tensor:
        return origin + offset.clamp(-self.radius, self.radius)

    def _uniform(self, origin: Tensor, generator: Noise) -> Tensor:
        return (widened(draw(origin, generator, "uniform")) * 2 - 1) * self.radius


@dataclass(frozen=True)
class L2(Ball):
    """The Euclidean length of the change, over all values of an example, is at most `radius`."""

    def step(self, gradient: Tensor) -> Tensor:
        """The gradient over its Euclidean length."""
        flat = widened(gradient).flatten(1)
        # Squares of gradients of 1e-25 would be 0.
        scaled = flat / power_of_two(flat)
        one = scaled / _safe(torch.linalg.vector_norm(scaled, dim=1, keepdim=True))
        return one.reshape(gradient.shape).to(gradient.dtype)

    def distance(self, inputs: Tensor, origin: Tensor) -> Tensor:
        """Euclidean length of the change, (N,)."""
        return length((widened(inputs) - widened(origin)).flatten(1))

    def _project(self, offset: Tensor, origin: Tensor) -> Tensor:
        far = length(offset.flatten(1)).reshape(-1, *[1] * (offset.ndim - 1))
        return origin + offset * torch.where(far > self.radius, self.radius / _safe(far), 1.0)

    def _uniform(self, origin: Tensor, generator: Noise) -> Tensor:
        # A normal draw points in any direction with equal probability.
        direction = self.step(widened(draw(origin, generator, "normal")))
        one = origin.flatten(1)[:, :1]
        share = _safe(widened(draw(one, generator, "uniform")))
        # Uniform in volume: the radius of a uniform point has density proportional to r^(d - 1).
        scale = share ** (1.0 / max(1, origin.flatten(1).shape[1]))
        return direction * (self.radius * scale).reshape(-1, *[1] * (origin.ndim - 1))


def check_examples(
    inputs: Tensor, target: Tensor, ball: Ball, indices: Sequence[int] | Tensor | None
) -> list[int]:
    """Raise a UsageError for what cannot be attacked in the ball; the examples' numbers in their data set."""
    if not isinstance(ball, Ball):
        raise argument_error("ball", ball, "a ball, such as Linf(0.1) or L2(1.0)")
    check_inputs(inputs)
    if not isinstance(target, Tensor) or target.shape != inputs.shape[:1] or target.dtype != torch.int64:
        raise argument_error("target", target, f"({inputs.shape[0]},) int64, a class per example")
    if len(target) and int(target.min()) < 0:
        raise argument_error("target", target.tolist(), "classes of at least 0")
    if not bool(torch.isfinite(inputs).all()):
        raise UsageError("inputs hold NaN or infinite values; expected finite pixels")
    if ball.bounds is not None and inputs.numel():
        # As numbers of the inputs' dtype, which may not have the bounds themselves.
        low, high = torch.tensor(ball.bounds, dtype=torch.float64).to(inputs.dtype).tolist()
        least, greatest = (float(end) for end in inputs.detach().aminmax())
        if least < low or greatest > high:
            raise UsageError(
                f"inputs run from {least:.6g} to {greatest:.6g}, outside the ball's bounds {ball.bounds}; "
                "scale them, or give the ball the bounds of your inputs (None for none)"
            )
    return list(check_indices(indices, len(inputs)))


BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2}


def ball(norm: str, radius: float, bounds: tuple[float, float] | None = (0.0, 1.0)) -> Ball:
    """The ball of a norm by name: "linf" or "l2"."""
    if norm not in BALLS:
        raise unknown_name_error("norm", norm, BALLS)
    return BALLS[norm](radius, bounds)


def draw(like: Tensor, generator: Noise, kind: str) -> Tensor:
    """Uniform [0, 1) or standard normal noise of the shape of `like`; per example where generators are."""
    sample = torch.rand if kind == "uniform" else torch.randn
    if isinstance(generator, torch.Generator):
        noise = sample(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    elif isinstance(generator, NoiseRows):
        source, shape = generator.generator, (generator.count, *like.shape[1:])
        # The whole batch is drawn, so that processes together draw what one would.
        noise = sample(shape, generator=source, dtype=like.dtype, device=source.device)[generator.rows]
        if len(noise) != len(like):
            raise UsageError(f"noise for {len(noise)} examples was asked for {len(like)}")
    else:
        if (count := len(generator)) != len(like):
            raise UsageError(f"{count} generators were given for {len(like)} examples; need one each")
        if not generator:
            return torch.zeros_like(like)
        rows = [sample(like.shape[1:], generator=g, dtype=like.dtype, device=g.device) for g in generator]
        noise = torch.stack(rows)
    return noise.to(like.device)


def _rounded(inputs: Tensor, origin: Tensor) -> Tensor:
    """The inputs in the origin's dtype; of 16-bit numbers the nearest that is no farther from the origin."""
    if origin.dtype not in NARROW:
        return inputs
    # Rounding may step over the edge: one number back towards the origin is inside.
    near = inputs.to(origin.dtype)
    start = origin.float()
    outside = (near.float() - start).abs() > (inputs - start).abs()
    return torch.where(outside, torch.nextafter(near, origin), near)


def _safe(length: Tensor) -> Tensor:
    # A zero gradient must give a zero step, not NaN.
    return length.clamp_min(torch.finfo(length.dtype).tiny)
