"""ResNet-18 for small images, with GroupNorm so that an example's output never depends on its batch."""

from math import gcd, sqrt

import torch
from torch import Tensor, nn

from veridical.models.initialisation import blank_convolution, blank_linear, he_normal, weight_generator
from veridical.models.normalized import PerChannel, Standardise
from veridical.runtime.errors import unknown_name_error

NORMS = ("group", "none", "batch")
STRIDES = (1, 2, 2, 2)
UNITS = 2


def _norm(kind: str, channels: int) -> nn.Module:
    """The normalisation layer; at most 32 groups, of at least 8 channels each (Wu, He, ECCV 2018)."""
    if kind == "group":
        # Groups of one channel would wipe out all information where a late stage is one pixel wide.
        groups = gcd(32, max(1, channels // 8), channels)
        return nn.GroupNorm(groups, channels, device="cpu", dtype=torch.float32)
    if kind == "batch":
        return nn.BatchNorm2d(channels, device="cpu", dtype=torch.float32)
    return nn.Identity()


class BasicBlock(nn.Module):
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
        if norm not in NORMS:
            raise unknown_name_error("norm", norm, NORMS)
        self.standardise = Standardise(mean, std)
        self.stem = blank_convolution(shape[0], width, 3, padding=1, bias=norm == "none")
        self.norm = _norm(norm, width)
        self.relu = nn.ReLU()
        blocks: list[BasicBlock] = []
        channels = width
        for stage, stride in enumerate(STRIDES):
            for unit in range(UNITS):
                after = width * 2**stage
                blocks.append(BasicBlock(channels, after, stride=stride if unit == 0 else 1, norm=norm))
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
        blocks = [module for module in self.modules() if isinstance(module, BasicBlock)]
        for block in blocks:
            block.conv1.weight.mul_(1 / sqrt(len(blocks)))
            block.conv2.weight.zero_()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.blocks(self.relu(self.norm(self.stem(self.standardise(inputs)))))
        logits: Tensor = self.classify(features.mean(dim=(2, 3)))
        return logits
