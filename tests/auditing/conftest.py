"""Bytes of striped images and a network trained to tell them apart."""

import pytest
import torch
from torch import Tensor, nn

from veridical.data import Split


def striped(count: int, seed: int) -> Split:
    """Images (count, 1, 8, 8) whose class is the direction of their stripes; some are hard to tell."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    waves = torch.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 4 < 2]).float()
    noise = torch.rand(count, 1, 8, 8, generator=generator)
    clear = torch.rand(count, 1, 1, 1, generator=generator) * 0.6
    images = clear * waves[labels][:, None] + (1 - clear) * noise
    return Split((images * 255).round().to(torch.uint8), labels)


@pytest.fixture(scope="session")
def trained_state() -> dict[str, Tensor]:
    model = network()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    inputs, target = striped(300, 1).batch(range(300))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(inputs), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )


@pytest.fixture
def model(trained_state: dict[str, Tensor]) -> nn.Module:
    trained = network()
    trained.load_state_dict(trained_state)
    return trained.double()


@pytest.fixture
def split() -> Split:
    return striped(20, 2)
