"""Many multilayer perceptrons as one: stacked weights, batched products, gradients by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from veridical.models.networks import MLP


class StackedMLP(nn.Module):
    """R networks `MLP` of one shape; row r of the parameter `rows` (R, P) holds all weights of network r.

    The optimisers and the weights' average work by element, so that one call on `rows` moves every network as
    calls of their own would. Gradients are written into `rows.grad` by formula: on a CPU, buffers that stay
    where they are save a third of the time that autograd takes.
    """

    def __init__(self, networks: Sequence[MLP], device: torch.device) -> None:
        super().__init__()
        self.shapes = [parameter.shape for parameter in networks[0].parameters()]
        whole = torch.stack([nn.utils.parameters_to_vector(one.parameters()).detach() for one in networks])
        self.rows = nn.Parameter(whole.to(device))
        self._buffers_of: tuple[torch.Size, list[Tensor]] | None = None

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (R, n, K) of standardised inputs (R, n, D)."""
        weights = self._parts(self.rows)
        features = inputs
        for layer in range(0, len(weights), 2):
            features = torch.baddbmm(weights[layer + 1][:, None], features, weights[layer].mT)
            if layer + 2 < len(weights):
                features.relu_()
        return features

    @torch.no_grad()
    def gradients(self, inputs: Tensor, target: Tensor, *, mean: bool) -> Tensor:
        """Put the derivatives of every network's mean (or summed) cross-entropy into `rows.grad`.

        inputs (R, n, D) standardised, target (R, n). Returns the loss per example (R, n).
        """
        if self.rows.grad is None:
            self.rows.grad = torch.zeros_like(self.rows)
        weights, slopes = self._parts(self.rows), self._parts(self.rows.grad)
        first, second, logits, error2, error1 = self._room(inputs.shape)
        torch.bmm(inputs, weights[0].mT, out=first).add_(weights[1][:, None]).relu_()
        torch.bmm(first, weights[2].mT, out=second).add_(weights[3][:, None]).relu_()
        torch.bmm(second, weights[4].mT, out=logits).add_(weights[5][:, None])
        chosen = target[..., None]
        logs = logits.log_softmax(-1)
        loss = -logs.gather(2, chosen).squeeze(2)
        error = logs.exp_()
        error.scatter_add_(2, chosen, error.new_full((), -1.0).expand(chosen.shape))
        if mean:
            error.div_(inputs.shape[1])
        _sums(error, second, slopes[4], slopes[5])
        torch.bmm(error, weights[4], out=error2).mul_(second > 0)
        _sums(error2, first, slopes[2], slopes[3])
        torch.bmm(error2, weights[2], out=error1).mul_(first > 0)
        _sums(error1, inputs, slopes[0], slopes[1])
        return loss

    def _parts(self, rows: Tensor) -> list[Tensor]:
        """Views of weights (R, out, in) and biases (R, out), layer by layer."""
        pieces = rows.detach().split([shape.numel() for shape in self.shapes], dim=1)
        return [piece.unflatten(1, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def _room(self, shape: torch.Size) -> list[Tensor]:
        """Tensors for what lies between the layers, the same ones in every step."""
        if self._buffers_of is None or self._buffers_of[0] != shape:
            widths = [self.shapes[layer][0] for layer in (0, 2, 4, 2, 0)]
            self._buffers_of = shape, [self.rows.new_empty(*shape[:2], width) for width in widths]
        return self._buffers_of[1]


def _sums(error: Tensor, features: Tensor, weight: Tensor, bias: Tensor) -> None:
    """The derivatives in a layer's weights (R, out, in) and biases from its error and its inputs."""
    torch.bmm(error.mT, features, out=weight)
    torch.sum(error, 1, out=bias)
