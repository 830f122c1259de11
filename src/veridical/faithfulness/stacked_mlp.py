"""Many multilayer perceptrons as one: shared batches, batched products, gradients by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from veridical.data import Split
from veridical.faithfulness.fills import ConstantFill
from veridical.faithfulness.unmasking import MaskSplit, UnmaskedSplit, mask
from veridical.models.layers import Standardise
from veridical.models.networks import MLP
from veridical.runtime.errors import argument_error


class Batches:
    """The same part of the data set as each of R retrainings sees it, standardised.

    splits: one for each, over the same images, with a constant fill. Where one is asked for several
    retrainings' examples, images and ranks that they share are read once, and no image is held twice.
    """

    def __init__(self, splits: Sequence[Split], standardise: Standardise, device: torch.device) -> None:
        self.device = device
        self.splits: list[UnmaskedSplit] = []
        for split in splits:
            if not isinstance(split, UnmaskedSplit) or not isinstance(split.fill, ConstantFill):
                raise argument_error("splits", split, "an UnmaskedSplit with a constant fill")
            self.splits.append(split)
        self.images = Split(splits[0].images, splits[0].labels)
        self.standardise = standardise
        one = torch.ones(1, self.images.images.shape[1], 1, 1, device=device)
        # To standardise before filling in gives the same floats as after, once instead of R times.
        self.seen = standardise(one)
        self.fills = [standardise(one * self._fill(split)) for split in self.splits]
        self._room = torch.empty(0, device=device)

    def batch(self, numbers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs (R, n, D) and target (R, n) of each retraining's examples; inputs hold until the next call.

        numbers: R index tensors (n,). Those that are one object are looked up once.
        """
        shape = self.images.images.shape[1:]
        wanted = (len(self.splits), len(numbers[0]), *shape)
        if self._room.shape != wanted:
            self._room = torch.empty(wanted, device=self.device)
        cut: dict[int, tuple[Tensor, Tensor]] = {}
        ranks: dict[tuple[int, int], Tensor] = {}
        for row, (split, chosen) in enumerate(zip(self.splits, numbers, strict=True)):
            if id(chosen) not in cut:
                inputs, target = self.images.batch(chosen, device=self.device)
                cut[id(chosen)] = self.standardise(inputs), target
            key = id(split.ranks), id(chosen)
            if key not in ranks:
                ranks[key] = self._ranks(split, chosen)
            stays = mask(ranks[key], split.kept, shape)
            seen = self.seen if isinstance(split, MaskSplit) else cut[id(chosen)][0]
            torch.where(stays, seen, self.fills[row], out=self._room[row])
        return self._room.flatten(2), torch.stack([cut[id(chosen)][1] for chosen in numbers])

    def _ranks(self, split: UnmaskedSplit, chosen: Tensor) -> Tensor:
        numbers = chosen.numpy() if len(split.ranks) > 1 else np.zeros(1, dtype=np.int64)
        return torch.from_numpy(split.ranks[numbers]).to(self.device)

    def _fill(self, split: UnmaskedSplit) -> Tensor | float:
        """The constants (1, C, 1, 1); a mask is 0 where nothing is shown."""
        fill = split.fill
        assert isinstance(fill, ConstantFill)
        if isinstance(split, MaskSplit):
            return 0.0
        return torch.tensor(fill.values, device=self.device).reshape(1, -1, 1, 1)


def is_stackable(values: Mapping[str, Any]) -> bool:
    """Whether a retraining, by the values of its job, can be one of many in a stack.

    It is an `mlp` with the natural objective, unchanged images and a constant fill: imputation takes longer
    than the training, and every retraining needs its own.
    """
    training, fill = values["training"], values["fill"]
    return (
        values["model"]["name"] == "mlp"
        and training["objective"] == "natural"
        and training.get("augment", "none") == "none"
        and not training.get("bf16")
        and (fill is None or fill["kind"] == "constant")
    )


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
        # The derivative of the cross-entropy in the logits: softmax minus one-hot.
        error = logs.exp_()
        error.scatter_add_(2, chosen, error.new_full((), -1.0).expand(chosen.shape))
        if mean:
            error.div_(inputs.shape[1])
        # Back through the layers: a ReLU lets pass where its output is positive.
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
