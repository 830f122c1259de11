"""Two residual networks: the RAR paper's without batch norm, and ResNet-18 for small images."""

from __future__ import annotations

from math import gcd, sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, pad

from veridical.models.layers import (
    PerChannel,
    Standardise,
    blank_convolution,
    blank_linear,
    he_normal,
    standardise_per_image,
    unit_variance_uniform,
    weight_generator,
)
from veridical.runtime.errors import unknown_name_error

_LEAK = 0.1
_FILTERS = (16, 16, 32, 64)
_STRIDES = (1, 2, 2)
_NORMS = ("group", "none", "batch")


class ResidualUnit(nn.Module):
    """Leaky ReLU, 3x3 convolution, leaky ReLU, 3x3 convolution, added to a shortcut without weights.

    Where the unit changes the size, the shortcut is an average pool and zero channels on both sides. With
    activate_first the shortcut too starts after the first activation. Strides are 1, or 2 on even sizes.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, activate_first: bool) -> None:
        super().__init__()
        self.stride = stride
        self.activate_first = activate_first
        # Zero channels on both sides stand for a shortcut's projection, which would have weights.
        self.margin = (channels_out - channels_in) // 2
        self.conv1 = blank_convolution(
            channels_in, channels_out, 3, stride=stride, padding=1 if stride == 1 else 0, bias=False
        )
        self.conv2 = blank_convolution(channels_out, channels_out, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        active = leaky_relu(inputs, _LEAK)
        shortcut = active if self.activate_first else inputs
        if self.stride == 2:
            # "Same" padding of a stride of 2 on an even size is one row at the end and none before it.
            active = pad(active, (0, 1, 0, 1))
            shortcut = avg_pool2d(shortcut, 2)
        if self.margin:
            shortcut = pad(shortcut, (0, 0, 0, 0, self.margin, self.margin))
        residual: Tensor = self.conv2(leaky_relu(self.conv1(active), _LEAK))
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
        self.stem = blank_convolution(shape[0], _FILTERS[0], 3, padding=1, bias=False)
        blocks: list[ResidualUnit] = []
        for stage, stride in enumerate(_STRIDES):
            before, after = _FILTERS[stage], _FILTERS[stage + 1]
            blocks.append(ResidualUnit(before, after, stride=stride, activate_first=stage == 0))
            blocks += [ResidualUnit(after, after, stride=1, activate_first=False) for _ in range(units - 1)]
        self.units = nn.Sequential(*blocks)
        self.classify = blank_linear(_FILTERS[-1], num_classes)
        generator = weight_generator(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                he_normal(module, generator, fan="out")
        unit_variance_uniform(self.classify, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.units(self.stem(standardise_per_image(inputs)))
        logits: Tensor = self.classify(leaky_relu(features, _LEAK).mean(dim=(2, 3)))
        return logits


def _norm(kind: str, channels: int) -> nn.Module:
    """The normalisation layer; at most 32 groups, of at least 8 channels each (Wu, He, ECCV 2018)."""
    if kind == "group":
        # Groups of one channel would wipe out all information where a late stage is one pixel wide.
        groups = gcd(32, max(1, channels // 8), channels)
        return nn.GroupNorm(groups, channels, device="cpu", dtype=torch.float32)
    if kind == "batch":
        return nn.BatchNorm2d(channels, device="cpu", dtype=torch.float32)
    return nn.Identity()


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: identity, or a 1x1 convolution where the size changes."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = blank_convolution(channels_in, channels_out, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = _norm(norm, channels_out)
        self.conv2 = blank_convolution(channels_out, channels_out, 3, padding=1, bias=bias)
        self.norm2 = _norm(norm, channels_out)
        # Modules, not functions: methods such as guided backpropagation hook them.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                blank_convolution(channels_in, channels_out, 1, stride=stride, bias=bias),
                _norm(norm, channels_out),
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, channels_in, H, W) to (N, channels_out, H / stride, W / stride), sizes rounded up."""
        features = self.relu1(self.norm1(self.conv1(inputs)))
        active: Tensor = self.relu2(self.norm2(self.conv2(features)) + self.shortcut(inputs))
        return active


class ResNet18(nn.Module):
    """CIFAR-style ResNet-18 (3x3 stem, no max-pool): inputs (N, C, H, W) of any size to logits (N, K).

    width: channels of the stem and the first stage, doubled in each of the three others (usually 64).
    norm: "group", "batch" (attributions are then taken in eval mode), or "none": convolution biases instead,
    and weights after Fixup (Zhang, Dauphin, Ma, ICLR 2019), so that depth does not blow up the outputs.
    He, Zhang, Ren, Sun, CVPR 2016. mean and std normalise the [0, 1] inputs inside.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        num_classes: int,
        seed: int,
        width: int = 64,
        norm: str = "group",
        mean: PerChannel = 0.5,
        std: PerChannel = 0.5,
    ) -> None:
        super().__init__()
        if norm not in _NORMS:
            raise unknown_name_error("norm", norm, _NORMS)
        self.standardise = Standardise(mean, std)
        self.stem = blank_convolution(shape[0], width, 3, padding=1, bias=norm == "none")
        self.norm = _norm(norm, width)
        self.relu = nn.ReLU()
        blocks: list[_BasicBlock] = []
        channels = width
        for stage, stride in enumerate((1, 2, 2, 2)):
            for unit in range(2):
                after = width * 2**stage
                blocks.append(_BasicBlock(channels, after, stride=stride if unit == 0 else 1, norm=norm))
                channels = after
        self.blocks = nn.Sequential(*blocks)
        self.classify = blank_linear(channels, num_classes)
        self._initialise(seed, fixup=norm == "none")

    @torch.no_grad()
    def _initialise(self, seed: int, *, fixup: bool) -> None:
        """He normal; with fixup each residual branch starts at zero and its first convolution is scaled."""
        generator = weight_generator(seed)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                he_normal(module, generator)
        if not fixup:
            return
        blocks = [module for module in self.modules() if isinstance(module, _BasicBlock)]
        # Fixup with two convolutions a branch: the first is divided by sqrt(blocks), the last starts at zero.
        for block in blocks:
            block.conv1.weight.mul_(1 / sqrt(len(blocks)))
            block.conv2.weight.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.blocks(self.relu(self.norm(self.stem(self.standardise(inputs)))))
        logits: Tensor = self.classify(features.mean(dim=(2, 3)))
        return logits
