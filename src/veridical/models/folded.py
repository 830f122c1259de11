"""A convolution and the 2x2 max-pooling behind it as one convolution on 2x2 blocks of pixels."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


def convolve_and_pool(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """max_pool2d(conv2d(inputs, weight, bias, padding=2), 2) for 5x5 kernels, (N, K, H / 2, W / 2).

    With one or three channels an ordinary convolution leaves vector units idle, worst in the gradient with
    respect to the inputs, and its output is the largest map of the network. Here each 2x2 block of pixels
    is one position with four times the channels, the four places of a pooling window are four output
    channels, and pooling is a maximum over them. Same numbers up to rounding, same tie rule (the first of
    the window).
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
