"""The convolutional network of the RAR paper's MNIST and Fashion-MNIST experiments, and a perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from veridical.models.layers import (
    CUT_DEVIATION,
    PerChannel,
    Standardise,
    blank_convolution,
    blank_linear,
    convolve_and_pool,
    he_deviation,
    he_normal,
    truncated_normal,
    weight_generator,
)
from veridical.models.registry import INITIALISATION
from veridical.runtime.errors import argument_error

_PAPER_STD, _PAPER_BIAS = 0.1, 0.1


class PaperCNN(nn.Module):
    """Two 5x5 convolutions, each max-pooled, and 1024 hidden units: (N, C, H, W) to logits (N, K).

    32 and 64 filters, ReLU, "same" padding; weights from a truncated normal of deviation 0.1, biases 0.1. The
    paper feeds raw pixels in [0, 1], hence mean 0 and std 1. Height and width must be divisible by 4.
    initialisation="he" draws them by He et al. (2015) instead: the paper's deviation is four times too
    large for the hidden layer, and robust training then needs several times the steps. "paper-he" has the
    paper's convolutions and biases, and dense weights of He's deviation: it trains nearly as quickly, and its
    maps hold better, perhaps since black pixels start inside a linear piece of the first layers, and not on
    its edge as with He's zero biases. A number g from 0 to 1 stands between: weights from a truncated normal
    whose deviation is He's to the power 1 - g times the paper's to the power g, in each layer, and biases
    0.1 g; 1 gives the paper's weights themselves.
    Chen et al., "Robust Attribution Regularization", NeurIPS 2019, and the authors' code.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
        mean: PerChannel = 0.0,
        std: PerChannel = 1.0,
        initialisation: str | float = "paper",
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.standardise = Standardise(mean, std)
        self.conv1 = blank_convolution(channels, 32, 5, padding=2)
        self.conv2 = blank_convolution(32, 64, 5, padding=2)
        self.hidden = blank_linear(64 * (height // 4) * (width // 4), 1024)
        self.classify = blank_linear(1024, num_classes)
        # Modules, not functions: methods such as guided backpropagation hook them.
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self._draw(initialisation, weight_generator(seed))

    def _draw(self, initialisation: str | float, generator: torch.Generator) -> None:
        if not INITIALISATION.accepts(initialisation, channels=1):
            raise argument_error("initialisation", initialisation, INITIALISATION.describe())
        for layer in (self.conv1, self.conv2, self.hidden, self.classify):
            if initialisation == "he":
                he_normal(layer, generator)
            elif initialisation == "paper-he":
                share = 1.0 if isinstance(layer, nn.Conv2d) else 0.0
                truncated_normal(layer, generator, std=_deviation(layer, share), bias=_PAPER_BIAS)
            else:
                share = 1.0 if isinstance(initialisation, str) else initialisation
                truncated_normal(layer, generator, std=_deviation(layer, share), bias=_PAPER_BIAS * share)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        # relu(max(x)) = max(relu(x)), also for its smooth twin, at a quarter of the elementwise work.
        standardised = self.standardise(inputs)
        if self.conv1._forward_hooks or self.conv1._forward_pre_hooks:
            # Somebody wants to see the layer itself, such as an attribution to it.
            pooled = max_pool2d(self.conv1(standardised), 2)
        else:
            pooled = convolve_and_pool(standardised, self.conv1.weight, self.conv1.bias)
        features = self.relu1(pooled)
        features = self.relu2(max_pool2d(self.conv2(features), 2))
        # flatten goes by index, not by memory, so channels_last inputs give the same logits.
        logits: Tensor = self.classify(self.relu3(self.hidden(features.flatten(1))))
        return logits


def _deviation(layer: nn.Conv2d | nn.Linear, share: float) -> float:
    """Deviation before the cut: the paper's to the power `share` times He's, which counts after it."""
    return float((he_deviation(layer) / CUT_DEVIATION) ** (1 - share) * _PAPER_STD**share)


class MLP(nn.Module):
    """Flatten, two hidden ReLU layers of `width` units, linear: inputs (N, C, H, W) to logits (N, K).

    Weights from a He normal, biases zero. mean and std normalise the [0, 1] inputs inside.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
        width: int = 256,
        mean: PerChannel = 0.5,
        std: PerChannel = 0.5,
    ) -> None:
        super().__init__()
        channels, height, columns = shape
        self.standardise = Standardise(mean, std)
        self.hidden1 = blank_linear(channels * height * columns, width)
        self.hidden2 = blank_linear(width, width)
        self.classify = blank_linear(width, num_classes)
        # Modules, not functions: methods such as guided backpropagation hook them.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        generator = weight_generator(seed)
        for layer in (self.hidden1, self.hidden2, self.classify):
            he_normal(layer, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.relu1(self.hidden1(self.standardise(inputs).flatten(1)))
        logits: Tensor = self.classify(self.relu2(self.hidden2(features)))
        return logits
