"""The ResNet without batch norm of the RAR paper's GTSRB (32x32) and Flower (128x128) experiments."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, pad

from veridical.models.initialisation import (
    blank_convolution,
    blank_linear,
    he_normal,
    unit_variance_uniform,
    weight_generator,
)

LEAK = 0.1
FILTERS = (16, 16, 32, 64)
STRIDES = (1, 2, 2)


def standardise_per_image(inputs: Tensor) -> Tensor:
    """(x - mean) / deviation for each image x of (N, C, H, W), over all its n = C H W numbers.

    The deviation is at least 1 / (255 sqrt(n)): TensorFlow's per_image_standardization, which the authors
    feed with 0..255, in [0, 1] units. So f(a x) = f(x) for every a > 0 that keeps the deviation above it.
    """
    centred = inputs - inputs.mean(dim=(1, 2, 3), keepdim=True)
    variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
    floor = variance.new_tensor(1 / (255**2 * prod(inputs.shape[1:])))
    # The floor goes under the root, where a black image has a gradient of zero instead of 0 / 0; and it is a
    # `maximum`, not a clamp, because what smooths piecewise-linear activations must leave this one alone.
    return centred / torch.maximum(variance, floor).sqrt()


class ResidualUnit(nn.Module):
    """Leaky ReLU, 3x3 convolution, leaky ReLU, 3x3 convolution, added to a shortcut without weights.

    Where the unit changes the size, the shortcut is an average pool and zero channels on both sides. With
    activate_first the shortcut too starts after the first activation. Strides are 1, or 2 on even sizes.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, activate_first: bool) -> None:
        super().__init__()
        self.stride = stride
        self.activate_first = activate_first
        self.margin = (channels_out - channels_in) // 2
        self.conv1 = blank_convolution(
            channels_in, channels_out, 3, stride=stride, padding=1 if stride == 1 else 0, bias=False
        )
        self.conv2 = blank_convolution(channels_out, channels_out, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        active = leaky_relu(inputs, LEAK)
        shortcut = active if self.activate_first else inputs
        if self.stride == 2:
            # "Same" padding of a stride of 2 on an even size is one row at the end and none before it.
            active = pad(active, (0, 1, 0, 1))
            shortcut = avg_pool2d(shortcut, 2)
        if self.margin:
            shortcut = pad(shortcut, (0, 0, 0, 0, self.margin, self.margin))
        residual: Tensor = self.conv2(leaky_relu(self.conv1(active), LEAK))
        return shortcut + residual


class RARResNet(nn.Module):
    """Per-image standardisation, 3x3 stem, three stages of `units` units, global average pool: logits (N, K).

    Filters 16, then 16, 32, 64 by stage with strides 1, 2, 2; leaky ReLU 0.1; no batch norm, no convolution
    bias. units: 2 in the paper for 32x32, 1 for 128x128. Height and width must be divisible by 4.
    Because of the standardisation Integrated Gradients from a black baseline is degenerate on this network.
    Chen et al., NeurIPS 2019, and the authors' code (pre-activation ResNet: He et al., ECCV 2016).
    """

    def __init__(self, *, shape: tuple[int, int, int], num_classes: int, seed: int, units: int = 2) -> None:
        super().__init__()
        self.stem = blank_convolution(shape[0], FILTERS[0], 3, padding=1, bias=False)
        blocks: list[ResidualUnit] = []
        for stage, stride in enumerate(STRIDES):
            before, after = FILTERS[stage], FILTERS[stage + 1]
            blocks.append(ResidualUnit(before, after, stride=stride, activate_first=stage == 0))
            blocks += [ResidualUnit(after, after, stride=1, activate_first=False) for _ in range(units - 1)]
        self.units = nn.Sequential(*blocks)
        self.classify = blank_linear(FILTERS[-1], num_classes)
        generator = weight_generator(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_normal(module, generator, fan="out")
        unit_variance_uniform(self.classify, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.units(self.stem(standardise_per_image(inputs)))
        logits: Tensor = self.classify(leaky_relu(features, LEAK).mean(dim=(2, 3)))
        return logits
