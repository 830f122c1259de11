"""Networks of the theorems: linear, and one hidden ReLU layer in mean-field scaling, both with one score.

Their cross-entropy is the logistic loss: logits (-s/2, s/2) of a score s give log(1 + exp(-y s)).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from veridical.models.initialisation import weight_generator
from veridical.runtime.errors import argument_error


class TwoClasses(nn.Module):
    """A network of one score: forward gives the logits (-s/2, s/2), `score` the s itself."""

    def score(self, inputs: Tensor) -> Tensor:
        """The number whose sign is the prediction, (N,), from inputs (N, size)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, 2): class 1 stands for y = +1, class 0 for y = -1."""
        half = self.score(inputs) / 2
        return torch.stack([-half, half], dim=1)


class LinearScore(TwoClasses):
    """s = <w, x> with w from a normal of deviation `deviation`; no offset, as in the one-layer theorem."""

    def __init__(
        self, size: int, *, seed: int, deviation: float = 1.0, dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__()
        generator = weight_generator(seed)
        self.weight = nn.Parameter(deviation * torch.randn(size, generator=generator, dtype=dtype))

    def score(self, inputs: Tensor) -> Tensor:
        """<w, x>, (N,)."""
        return inputs.flatten(1) @ self.weight

    @torch.no_grad()
    def squared_length(self) -> float:
        """|w|^2."""
        return float(self.weight.double().square().sum())


class MeanFieldMLP(TwoClasses):
    """s = (1/m) sum_k a_k relu(<w_k, x> + b_k) over m = `width` units.

    Parameters
    ----------
    size, width
        Numbers in an input, and hidden units.
    seed
        Seed of the weights.
    deviation
        Deviation of the normal that all weights are drawn from. It does not depend on the width, so a
        gradient step moves a unit by O(1) only with a learning rate in proportion to the width.
    bias
        Whether units have the offset b_k; without it all are 0 and stay so.

    Source: Shah, Jain, Netrapalli (2021), section 5; Chizat and Bach (2020).
    """

    def __init__(
        self,
        size: int,
        width: int = 10_000,
        *,
        seed: int,
        deviation: float = 1.0,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if width < 1:
            raise argument_error("width", width, "a number of units of at least 1")
        generator = weight_generator(seed)
        drawn = deviation * torch.randn(width, size + 2, generator=generator, dtype=dtype)
        self.outer = nn.Parameter(drawn[:, 0].clone())
        self.inner = nn.Parameter(drawn[:, 2:].clone())
        self.offset = nn.Parameter(drawn[:, 1].clone() * bias, requires_grad=bias)

    @property
    def width(self) -> int:
        """m, the number of hidden units."""
        return len(self.outer)

    def score(self, inputs: Tensor) -> Tensor:
        """The mean over units of a_k relu(<w_k, x> + b_k), (N,)."""
        return torch.addmm(self.offset, inputs.flatten(1), self.inner.T).relu() @ self.outer / self.width

    @torch.no_grad()
    def squared_length(self) -> float:
        """Mean over units of a_k^2 + |w_k|^2 + b_k^2: the score over it is what the max-margin bounds."""
        total = self.outer.double().square() + self.offset.double().square()
        return float((total + self.inner.double().square().sum(1)).mean())
