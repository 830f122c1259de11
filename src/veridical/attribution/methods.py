"""Attribution methods without a path: input gradient, gradient x input, SmoothGrad, and random maps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from veridical.attribution.method import AttributionMethod, AttributionRequest, Output, OutputFunction
from veridical.attribution.path import input_gradient, rows_of
from veridical.runtime.checking import Count, Factor, Seed, Width
from veridical.runtime.seeds import per_example_normal


@dataclass(frozen=True)
class InputGradient(AttributionMethod):
    """The gradient of the output in the inputs (Simonyan, Vedaldi, Zisserman, ICLR workshop 2014), signed.

    output: "logit", "loss" or "log-probability" of the target, or a function (logits, target) -> (N,).
    """

    output: Output | OutputFunction = "logit"

    def _maps(self, request: AttributionRequest) -> Tensor:
        return request.by_parts(self._gradient, None)

    def _gradient(self, part: AttributionRequest) -> Tensor:
        return input_gradient(part.scalar(self.output), part.inputs, create_graph=part.create_graph)


@dataclass(frozen=True)
class GradientTimesInput(AttributionMethod):
    """Inputs times d output / d inputs (Shrikumar et al., 2016), signed.

    Integrated Gradients from black with one right node is the same; on a network that ignores the scale of
    its inputs so is every Riemann sum that leaves out black, up to a factor. output: as in InputGradient.
    """

    output: Output | OutputFunction = "logit"

    def _maps(self, request: AttributionRequest) -> Tensor:
        return request.inputs * InputGradient(self.output)._maps(request)


@dataclass(frozen=True)
class SmoothGrad(AttributionMethod):
    """Mean input gradient over normal noise around the inputs (Smilkov et al., 2017, section 2), signed.

    samples: gradients averaged. noise: standard deviation in input units; the noisy inputs are not clipped.
    seed: sample k of example i adds noise of the stream (seed, "smoothgrad sample k", i), so neither the
    batch size nor `rows` changes a result beyond rounding. rows: bound on examples x samples of one forward
    pass, without create_graph; None is 512, and fewer of large images or where memory is short. output: as in
    InputGradient.
    """

    samples: Width = 32
    noise: Factor = 0.15
    seed: Seed = 0
    output: Output | OutputFunction = "logit"
    rows: Count | None = None

    def _maps(self, request: AttributionRequest) -> Tensor:
        return request.by_parts(self._mean, self.rows)

    def _mean(self, request: AttributionRequest) -> Tensor:
        # Sample by sample for all examples, as the scalar repeats its targets.
        scalar = request.scalar(self.output)
        at_once = max(1, rows_of(request.inputs, self.rows) // request.inputs.shape[0])
        total = torch.zeros_like(request.inputs)
        for first in range(0, self.samples, at_once):
            samples = range(first, min(first + at_once, self.samples))
            noise = torch.stack([_draw(request, self.seed, f"smoothgrad sample {k}") for k in samples])
            noisy = noise.mul_(self.noise) + request.inputs
            gradients = input_gradient(scalar, noisy.flatten(0, 1), create_graph=request.create_graph)
            # One after another, so that memory does not grow with the number of samples.
            total = total + gradients.reshape(noisy.shape).sum(dim=0)
        return total / self.samples


@dataclass(frozen=True)
class RandomAttribution(AttributionMethod):
    """Standard normal noise that looks at neither model nor image: what any method should beat.

    Example i gets the stream (seed, "random attribution", i). With create_graph the map is a constant,
    without a graph.
    """

    seed: Seed = 0

    def _maps(self, request: AttributionRequest) -> Tensor:
        return _draw(request, self.seed, "random attribution")


def _draw(request: AttributionRequest, seed: int, purpose: str) -> Tensor:
    """Standard normal noise of the inputs' shape from one stream for each example."""
    inputs = request.inputs
    return per_example_normal(
        inputs.shape[1:], seed, purpose, request.indices, dtype=inputs.dtype, device=inputs.device
    )
