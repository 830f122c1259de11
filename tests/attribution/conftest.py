"""A smooth network, three images and their classes, for whatever explains them."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

TARGET = torch.tensor([2, 0, 1])


class SmoothNet(nn.Module):
    """Twice differentiable; train mode would show in batch norm and dropout. (N, 1, 4, 4) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.drop, self.last = nn.Dropout(), nn.Linear(12, 3)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(self.drop(softplus(self.norm(self.first(inputs)))).flatten(1))
        return logits


# What others are compared with, for methods that need some.
BACKGROUND = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
