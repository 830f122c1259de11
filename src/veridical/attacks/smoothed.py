"""A map's top k under noise: its votes, and the attack that looks for where in an l2 ball they change.

Votes are what `metrics.certificates` bounds. The attack is ours: it climbs on common draws of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.attacks.ascent import Score, ascend
from veridical.attacks.attribution import numbered
from veridical.attacks.ball import L2, draw
from veridical.attacks.directions import TopK
from veridical.attacks.protocols import Restart
from veridical.attacks.surrogate import MapAscent, check_twin
from veridical.attribution.classifier import examining, predict
from veridical.attribution.method import Attribution, batch_maps
from veridical.metrics.certificates import NoiseName, uniform_length
from veridical.metrics.maps import saliency
from veridical.metrics.spatial import topk_mask
from veridical.runtime.checking import record
from veridical.runtime.lengths import widened
from veridical.runtime.seeds import per_example_normal, stream

# As the further climbs of the protocol "strong"; the prediction may change, as a certificate does not ask it.
_CLIMB = Restart("origin", 5.0, 50.0, momentum=0.75, decay="linear")


@record
class NoisyTop:
    """The top k of an explanation under noise, for one class that is explained throughout.

    attribution: a method or any callable of its form; it gets the number of the image each time, so that a
    random method has the same draws at every point: certificates are of one function. k: pixels of the top.
    sigma: deviation of the noise in each value, in input units; noisy images are not clipped. batch: noisy
    images at a time. kind: normal noise, or noise that is uniform in an l2 ball.
    """

    model: nn.Module
    attribution: Attribution
    k: int
    sigma: float
    seed: int = 0
    batch: int = 100
    kind: NoiseName = "normal"

    def noise(self, image: Tensor, index: int, draws: Sequence[int], purpose: str) -> Tensor:
        """Noise (draws, C, H, W), which depends on seed, purpose, the image's number and that of the draw."""
        of, size = f"{purpose} of image {index}", image.numel()
        if self.kind == "normal":
            normal = per_example_normal(image.shape, self.seed, of, draws, image.dtype, image.device)
            return normal.mul_(self.sigma)
        # All but two values of a point that is uniform on a sphere are uniform in a ball.
        sphere = per_example_normal((size + 2,), self.seed, of, draws, torch.float64, image.device)
        ball: Tensor = sphere[:, :size] / sphere.norm(dim=1, keepdim=True)
        ball = ball * uniform_length(self.sigma, size)
        return ball.to(image.dtype).view(-1, *image.shape)

    def votes(
        self, image: Tensor, target: Tensor, index: int, draws: int, purpose: str
    ) -> tuple[NDArray[np.int64], int]:
        """In how many draws each pixel of an image (C, H, W) is in the top k, (H * W,), and has the class.

        target: int64 (), the class explained. A pixel whose saliency is 0 is in no top.
        """
        votes, agreed = torch.zeros(image[0].numel(), dtype=torch.int64), 0
        for first in range(0, draws, self.batch):
            part = range(first, min(first + self.batch, draws))
            noisy = image + self.noise(image, index, part, purpose)
            votes += self.top(noisy, target, index).flatten(1).sum(0).cpu()
            agreed += int((predict(self.model, noisy).argmax(1) == target).sum())
        return votes.numpy(), agreed

    def top(self, inputs: Tensor, target: Tensor, index: int) -> Tensor:
        """Which pixels of versions (n, C, H, W) of one image are in the top k: bool (n, H, W)."""
        explained = target.expand(len(inputs))
        maps = batch_maps(self.attribution, self.model, inputs, explained, [index] * len(inputs), self.seed)
        sizes = widened(saliency(maps))
        return topk_mask(sizes, self.k) & (sizes > 0)


def attack_top(
    noisy: NoisyTop,
    image: Tensor,
    target: Tensor,
    index: int,
    top: NDArray[np.bool_],
    radii: Sequence[float],
    *,
    how: Literal["climb", "random"],
    steps: int,
    samples: int,
) -> list[Tensor]:
    """For each l2 radius, in rising order, the image (C, H, W) in [0, 1] that takes most votes from `top`.

    top: bool (H * W,), whose votes are to fall. how: by gradients on the softplus twin, or random directions
    of full length. samples: draws of noise, the same at every step. What a smaller radius found is kept where
    a larger one finds nothing better. Raises UsageError for maps that cannot be climbed.
    """
    origin, number = image[None], [index]
    noise = noisy.noise(image, index, range(samples), "attack")
    wanted = torch.from_numpy(top).reshape(image.shape[1:]).to(image.device)
    best, least = origin, float("inf")

    def judge(point: Tensor) -> None:
        nonlocal best, least
        votes = sum(
            int((noisy.top(point + part, target, index) & wanted).sum()) for part in noise.split(noisy.batch)
        )
        if votes < least:
            best, least = point, votes

    explain = numbered(noisy.attribution, number * samples)

    def attribute(model: nn.Module, point: Tensor, one: Tensor, *, create_graph: bool) -> Tensor:
        maps = explain(model, point + noise, one.expand(samples), create_graph=create_graph)
        sizes = saliency(maps)
        edge = sizes.detach().flatten(1).topk(noisy.k, dim=1).values[:, -1, None, None]
        # How far a pixel is above the least of the top, from 0 to 1: a vote that can be differentiated.
        votes = (sizes / (sizes + torch.where(edge > 0, edge, 1))).mean(0)
        return votes.expand_as(point) / len(image)

    generators = [stream(noisy.seed, "attack", index)]
    found = []
    with examining(noisy.model):
        if how == "climb":
            check_twin(noisy.model, origin, target[None], _CLIMB.beta)
        judge(origin)
        for radius in radii:
            score: Score
            if how == "climb":
                nudge = draw(origin, generators, "normal").sign()
                aim = TopK(noisy.k)(wanted[None].to(image.dtype))
                score = MapAscent(
                    noisy.model, attribute, target[None], target[None], aim, _CLIMB, steps, nudge
                )
            else:
                score = _wander(generators)
            # Together, with a shrinking step, 2.5 radii; at random each step leads to the far side.
            step_size = 5 * radius / steps if how == "climb" else 2 * radius
            ascend(
                score,
                origin,
                L2(radius),
                steps=steps,
                step_size=step_size,
                generator=generators,
                momentum=_CLIMB.momentum if how == "climb" else 0.0,
                decay=_CLIMB.decay if how == "climb" else "constant",
                observe=judge,
            )
            found.append(best[0])
    return found


def _wander(generators: Sequence[torch.Generator]) -> Score:
    """A score whose gradient is another random direction each time."""
    return lambda inputs: (inputs.new_zeros(len(inputs)), draw(inputs, generators, "normal"))
