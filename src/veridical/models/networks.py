"""The RAR paper's two networks, a perceptron, ResNet-18 for small images, and standardisation.

Each maps images (N, C, H, W) in [0, 1] to logits (N, K). `mean` and `std` normalise inside. Made by
`veridical.models.build`, which checks the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import erf, exp, gcd, isfinite, pi, sqrt
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, leaky_relu, max_pool2d, pad

from veridical.runtime.errors import argument_error
from veridical.runtime.seeds import stream

# Channels, height, width.
Shape = tuple[int, int, int]
# One number, or one for each channel.
PerChannel = float | Sequence[float] | Tensor

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)
_PAPER_STD, _PAPER_BIAS = 0.1, 0.1
# Deviation, .8796, of a standard normal that is cut at two deviations.
_CUT_DEVIATION = sqrt(1 - 4 * exp(-2) / (sqrt(2 * pi) * erf(sqrt(2))))
# Filters of the stem and of each stage are multiples of the width.
_LEAK, _FILTERS, _STRIDES = 0.1, (1, 1, 2, 4), (1, 2, 2)


class Standardise(nn.Module):
    """(inputs - mean) / std by constants, (N, C, ...) to the same shape and dtype; no parameters, no buffers.

    mean 0 and std 1 pass the inputs through untouched.
    """

    def __init__(self, mean: PerChannel = 0.0, std: PerChannel = 1.0) -> None:
        super().__init__()
        # Python floats: a cast to bfloat16 and back leaves them as they are.
        self.mean, self.std = _numbers("mean", mean), _numbers("std", std)
        if min(self.std) <= 0:
            raise argument_error("std", std, "a positive number, or one positive number per channel")

    def forward(self, inputs: Tensor) -> Tensor:
        """Standardised inputs; a UsageError if their channels are not as many as the constants."""
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return inputs
        return (inputs - _broadcast("mean", self.mean, inputs)) / _broadcast("std", self.std, inputs)

    def extra_repr(self) -> str:
        """The constants, where the module is printed."""
        return f"mean={self.mean}, std={self.std}"


class Normalized(nn.Module):
    """Wrap a network that expects standardised inputs into one that takes images in [0, 1]; logits unchanged.

    model gets (low + (high - low) * inputs - mean) / std, with bounds (low, high). mean and std, a number or
    one per channel, are in the units of `bounds`: the pixel range they were computed for, (0, 1) for
    torchvision's weights, (0, 255) for those trained on bytes. Radii of attacks stay in [0, 1] units.
    Raises UsageError for a std that is not positive, bounds that do not grow, or a wrong channel count.
    """

    def __init__(
        self, model: nn.Module, mean: PerChannel, std: PerChannel, bounds: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise argument_error("model", model, "an nn.Module from inputs to logits (N, K)")
        # Padded, so that a lone number is refused by the comparison and not by unpacking.
        low, high = (*_numbers("bounds", bounds), 0.0, 0.0)[:2]
        if not low < high:
            raise argument_error("bounds", bounds, "(low, high), finite, with low < high")
        # One affine map, not two: (low + span x - mean) / std = (x - (mean - low) / span) / (std / span).
        span = high - low
        self.standardise = Standardise(
            [(number - low) / span for number in _numbers("mean", mean)],
            [number / span for number in _numbers("std", std)],
        )
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """The wrapped model's logits for inputs (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.model(self.standardise(inputs))
        return logits


def _numbers(name: str, value: PerChannel) -> tuple[float, ...]:
    numbers: tuple[float, ...] = ()
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):
        numbers = tuple(torch.as_tensor(value, dtype=torch.float64).flatten().tolist())
    if not numbers or not all(isfinite(number) for number in numbers):
        raise argument_error(name, value, "a finite number, or one finite number per channel")
    return numbers


def _broadcast(name: str, numbers: tuple[float, ...], inputs: Tensor) -> float | Tensor:
    """The constants in a form that combines with (N, C, ...) inputs."""
    if len(numbers) == 1:
        return numbers[0]
    if inputs.ndim < 2 or inputs.shape[1] != len(numbers):
        # Broadcasting would turn one channel into three without a word.
        expected = f"(N, {len(numbers)}, ...), as {name} has {len(numbers)} numbers"
        raise argument_error("inputs", inputs, expected)
    return inputs.new_tensor(numbers).reshape(-1, *[1] * (inputs.ndim - 2))


def _blank_convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, padding: int = 0, bias: bool = True
) -> nn.Conv2d:
    """A convolution with unset weights: nn.Conv2d's own constructor would draw from the global generator."""
    layer = nn.Conv2d(
        channels_in, channels_out, kernel, stride, padding, bias=bias, device="meta", dtype=torch.float32
    )
    return _unset(layer)


def _blank_linear(features_in: int, features_out: int) -> nn.Linear:
    """A linear layer with unset weights, likewise."""
    return _unset(nn.Linear(features_in, features_out, device="meta", dtype=torch.float32))


def _unset(layer: _Layer) -> _Layer:
    # From the device meta to the CPU by hand: `to_empty` would import half a second of torch.
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
    return layer


@torch.no_grad()
def _he_normal(layer: nn.Conv2d | nn.Linear, generator: torch.Generator, *, fan: str = "in") -> None:
    layer.weight.normal_(0.0, _he_deviation(layer, fan=fan), generator=generator)
    if layer.bias is not None:
        layer.bias.zero_()


def _he_deviation(layer: nn.Conv2d | nn.Linear, *, fan: str = "in") -> float:
    """sqrt(2 / fan): "in" counts the numbers that reach a unit, "out" is kernel area x output channels.

    He, Zhang, Ren, Sun, "Delving deep into rectifiers", ICCV 2015, section 2.2.
    """
    units_out, units_in = layer.weight.shape[:2]
    # Of the kernel; 1 for a linear layer, whose weight[0, 0] is one number.
    area = layer.weight[0, 0].numel()
    return sqrt(2.0 / (area * (units_out if fan == "out" else units_in)))


def _standardise_per_image(inputs: Tensor) -> Tensor:
    """(x - mean) / deviation for each image x of (N, C, H, W), over all its n = C H W numbers.

    The deviation is at least 1 / (255 sqrt(n)): TensorFlow's per_image_standardization, which the authors
    feed with 0..255, in [0, 1] units. So f(a x) = f(x) for every a > 0 that keeps the deviation above it.
    """
    centred = inputs - inputs.mean(dim=(1, 2, 3), keepdim=True)
    variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
    floor = variance.new_tensor(1 / (255**2 * inputs.shape[1:].numel()))
    # The floor goes under the root, where a black image has a gradient of zero instead of 0 / 0; and it is a
    # `maximum`, not a clamp, because what smooths piecewise-linear activations must leave this one alone.
    return centred / torch.maximum(variance, floor).sqrt()


def _convolve_and_pool(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """max_pool2d(conv2d(inputs, weight, bias, padding=2), 2) for 5x5 kernels, (N, K, H / 2, W / 2).

    With one or three channels an ordinary convolution leaves vector units idle, worst in the gradient with
    respect to the inputs. Here each 2x2 block of pixels is one position with four times the channels, and
    pooling is a maximum over four output channels. Same numbers up to rounding, same tie rule (the first).
    """
    kernels, channels = weight.shape[:2]
    batch, _, height, width = inputs.shape
    # pixel_unshuffle in plain steps, since it leaves an empty batch as it is.
    blocks = inputs.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    blocks = blocks.reshape(batch, 4 * channels, height // 2, width // 2)
    blocks = blocks.contiguous(memory_format=torch.channels_last)
    # Place (row, column) of a window sees the kernel shifted by as much, on 6x6 pixels, which are 3x3 blocks.
    shifted = torch.stack(
        [pad(weight, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)]
    )
    folded = shifted.reshape(4, kernels, channels, 3, 2, 3, 2).permute(0, 1, 2, 4, 6, 3, 5)
    folded = folded.reshape(4 * kernels, 4 * channels, 3, 3).contiguous(memory_format=torch.channels_last)
    maps = conv2d(blocks, folded, None if bias is None else bias.repeat(4), padding=1)
    # In channels_last the four places of a kernel's window lie side by side: no map is copied.
    places = maps.permute(0, 2, 3, 1).unflatten(3, (4, kernels))
    pooled: Tensor = places.max(dim=3).values
    return pooled.permute(0, 3, 1, 2)


def _activation(name: str | float) -> nn.Module:
    """The activation of that name; a number is the sharpness of a softplus, log(1 + exp(beta x)) / beta."""
    if not isinstance(name, str):
        return nn.Softplus(name)
    known: dict[str, nn.Module] = {"relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU()}
    return known[name]


class PaperCNN(nn.Module):
    """Two 5x5 convolutions of 32 and 64 filters, each max-pooled, and 1024 hidden units; ReLU.

    "Same" padding; height and width must be divisible by 4. The paper feeds raw pixels.
    initialisation: "paper" draws weights from a truncated normal of deviation 0.1, biases are 0.1. "he" draws
    them by He et al. (2015): the paper's deviation is four times too large for the hidden layer, and robust
    training then needs several times the steps. "paper-he" has the paper's convolutions and biases, and dense
    weights of He's deviation: it trains nearly as quickly, and its maps hold better, perhaps since black
    pixels start inside a linear piece of the first layers. A number g from 0 to 1 stands between: deviation
    He^(1 - g) * paper^g in each layer, biases 0.1 g; 1 gives the paper's weights themselves.
    activation: in place of ReLU, behind the pooling; see `_activation`.
    Chen et al., "Robust Attribution Regularization", NeurIPS 2019, and the authors' code.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        num_classes: int,
        seed: int,
        mean: PerChannel,
        std: PerChannel,
        initialisation: str | float,
        activation: str | float = "relu",
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.standardise = Standardise(mean, std)
        self.conv1 = _blank_convolution(channels, 32, 5, padding=2)
        self.conv2 = _blank_convolution(32, 64, 5, padding=2)
        self.hidden = _blank_linear(64 * (height // 4) * (width // 4), 1024)
        self.classify = _blank_linear(1024, num_classes)
        # Modules, not functions: methods such as guided backpropagation hook them.
        self.relu1, self.relu2, self.relu3 = (_activation(activation) for _ in range(3))
        generator = stream(seed, "weights")
        for layer in (self.conv1, self.conv2, self.hidden, self.classify):
            _initialise_paper_layer(layer, initialisation, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        # relu(max(x)) = max(relu(x)), also for its smooth twin, at a quarter of the elementwise work.
        standardised = self.standardise(inputs)
        if self.conv1._forward_hooks or self.conv1._forward_pre_hooks:
            # Somebody wants to see the layer itself, such as an attribution to it.
            pooled = max_pool2d(self.conv1(standardised), 2)
        else:
            pooled = _convolve_and_pool(standardised, self.conv1.weight, self.conv1.bias)
        features = self.relu2(max_pool2d(self.conv2(self.relu1(pooled)), 2))
        # flatten goes by index, not by memory, so channels_last inputs give the same logits.
        logits: Tensor = self.classify(self.relu3(self.hidden(features.flatten(1))))
        return logits


def _initialise_paper_layer(
    layer: nn.Conv2d | nn.Linear, initialisation: str | float, generator: torch.Generator
) -> None:
    if initialisation == "he":
        _he_normal(layer, generator)
        return
    share = 1.0 if isinstance(initialisation, str) else initialisation
    bias = _PAPER_BIAS * share
    if initialisation == "paper-he" and isinstance(layer, nn.Linear):
        share = 0.0
    # He's deviation counts after the cut, the paper's before it.
    std = float((_he_deviation(layer) / _CUT_DEVIATION) ** (1 - share) * _PAPER_STD**share)
    # Cut at two deviations, as TensorFlow's truncated_normal.
    nn.init.trunc_normal_(layer.weight, 0.0, std, -2 * std, 2 * std, generator=generator)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)


class MLP(nn.Module):
    """Flatten, two hidden ReLU layers of `width` units, linear; weights from a He normal, biases zero.

    activation: in place of ReLU; see `_activation`.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        num_classes: int,
        seed: int,
        width: int,
        mean: PerChannel,
        std: PerChannel,
        activation: str | float = "relu",
    ) -> None:
        super().__init__()
        channels, height, columns = shape
        self.standardise = Standardise(mean, std)
        self.hidden1 = _blank_linear(channels * height * columns, width)
        self.hidden2 = _blank_linear(width, width)
        self.classify = _blank_linear(width, num_classes)
        self.relu1, self.relu2 = _activation(activation), _activation(activation)
        generator = stream(seed, "weights")
        for layer in (self.hidden1, self.hidden2, self.classify):
            _he_normal(layer, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.relu1(self.hidden1(self.standardise(inputs).flatten(1)))
        logits: Tensor = self.classify(self.relu2(self.hidden2(features)))
        return logits


class _ResidualUnit(nn.Module):
    """Leaky ReLU, 3x3 convolution, leaky ReLU, 3x3 convolution, added to a shortcut without weights.

    Where the unit changes the size, the shortcut is an average pool and zero channels on both sides. With
    activate_first the shortcut too starts after the first activation. Strides are 1, or 2 on even sizes.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, activate_first: bool) -> None:
        super().__init__()
        self.stride, self.activate_first = stride, activate_first
        # Zero channels on both sides stand for a shortcut's projection, which would have weights.
        self.margin = (channels_out - channels_in) // 2
        padding = 1 if stride == 1 else 0
        self.conv1 = _blank_convolution(
            channels_in, channels_out, 3, stride=stride, padding=padding, bias=False
        )
        self.conv2 = _blank_convolution(channels_out, channels_out, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
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
    """Per-image standardisation, 3x3 stem, three stages of `units` residual units, global average pool.

    Filters `width`, then 1, 2 and 4 times as many by stage with strides 1, 2, 2; leaky ReLU 0.1; no batch
    norm, no convolution bias. units: 2 in the paper for 32x32, 1 for 128x128; width: 16 there. Height and
    width must be divisible by 4.
    Because of the standardisation Integrated Gradients from a black baseline is degenerate on this network.
    Chen et al., NeurIPS 2019, and the authors' code (pre-activation ResNet: He et al., ECCV 2016).
    """

    def __init__(self, *, shape: Shape, num_classes: int, seed: int, units: int, width: int) -> None:
        super().__init__()
        filters = [times * width for times in _FILTERS]
        self.stem = _blank_convolution(shape[0], filters[0], 3, padding=1, bias=False)
        blocks: list[_ResidualUnit] = []
        for stage, stride in enumerate(_STRIDES):
            before, after = filters[stage], filters[stage + 1]
            blocks.append(_ResidualUnit(before, after, stride=stride, activate_first=stage == 0))
            blocks += [_ResidualUnit(after, after, stride=1, activate_first=False) for _ in range(units - 1)]
        self.units = nn.Sequential(*blocks)
        self.classify = _blank_linear(filters[-1], num_classes)
        generator = stream(seed, "weights")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _he_normal(module, generator, fan="out")
        # Uniform of variance 1 / fan in, which keeps the inputs' variance.
        limit = sqrt(3.0 / filters[-1])
        nn.init.uniform_(self.classify.weight, -limit, limit, generator=generator)
        nn.init.zeros_(self.classify.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.units(self.stem(_standardise_per_image(inputs)))
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
        self.conv1 = _blank_convolution(channels_in, channels_out, 3, stride=stride, padding=1, bias=bias)
        self.norm1 = _norm(norm, channels_out)
        self.conv2 = _blank_convolution(channels_out, channels_out, 3, padding=1, bias=bias)
        self.norm2 = _norm(norm, channels_out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            projection = _blank_convolution(channels_in, channels_out, 1, stride=stride, bias=bias)
            self.shortcut = nn.Sequential(projection, _norm(norm, channels_out))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.relu1(self.norm1(self.conv1(inputs)))
        active: Tensor = self.relu2(self.norm2(self.conv2(features)) + self.shortcut(inputs))
        return active


class ResNet18(nn.Module):
    """ResNet-18 for images of any size; weights from a He normal.

    width: channels of the stem and the first stage, doubled in each of the three others (usually 64).
    stem: "3x3" as for CIFAR, or "7x7" with stride 2 and a max-pool, as for ImageNet: a sixteenth of the work.
    norm: "group", "batch" (attributions are then taken in eval mode), or "none": convolution biases instead,
    and weights after Fixup (Zhang, Dauphin, Ma, ICLR 2019), so that depth does not blow up the outputs.
    He, Zhang, Ren, Sun, CVPR 2016.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        num_classes: int,
        seed: int,
        width: int,
        norm: str,
        stem: str,
        mean: PerChannel,
        std: PerChannel,
    ) -> None:
        super().__init__()
        self.standardise = Standardise(mean, std)
        side, stride = (3, 1) if stem == "3x3" else (7, 2)
        self.stem = _blank_convolution(
            shape[0], width, side, stride=stride, padding=side // 2, bias=norm == "none"
        )
        self.pool = nn.Identity() if stem == "3x3" else nn.MaxPool2d(3, stride=2, padding=1)
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
        self.classify = _blank_linear(channels, num_classes)
        generator = stream(seed, "weights")
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                _he_normal(module, generator)
        # Fixup with two convolutions a branch: the first is divided by sqrt(blocks), the last starts at zero.
        for block in blocks if norm == "none" else ():
            block.conv1.weight.data.mul_(1 / sqrt(len(blocks)))
            nn.init.zeros_(block.conv2.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, H, W) in [0, 1]."""
        features = self.blocks(self.pool(self.relu(self.norm(self.stem(self.standardise(inputs))))))
        logits: Tensor = self.classify(features.mean(dim=(2, 3)))
        return logits
