"""A small network trained to tell stripes apart, and its images: real gradients in a fraction of a second."""

import pytest
import torch
from torch import Tensor, nn

from veridical.data import Split

Trained = tuple[nn.Module, Tensor, Tensor]


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy float64 images (count, 1, 8, 8) in [0, 1]; the class is the direction of the stripes."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 3
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    waves = torch.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 4 < 2]).double()
    noise = torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return (0.5 * waves[target][:, None] + 0.5 * noise).clamp(0.02, 0.98), target


def relu_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    ).double()


@pytest.fixture(scope="session")
def trained_state() -> dict[str, Tensor]:
    model = relu_network()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.2)
    inputs, target = stripes(240, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(inputs), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def trained(trained_state: dict[str, Tensor]) -> Trained:
    """A float64 ReLU network and 9 fresh images that it classifies correctly, with their classes."""
    model = relu_network()
    model.load_state_dict(trained_state)
    inputs, target = stripes(60, 2)
    right = (model(inputs).argmax(1) == target).nonzero()[:9, 0]
    assert len(right) == 9
    return model.eval(), inputs[right], target[right]


@pytest.fixture
def model(trained_state: dict[str, Tensor]) -> nn.Module:
    """The trained network of `trained`."""
    trained = relu_network()
    trained.load_state_dict(trained_state)
    return trained


@pytest.fixture
def split() -> Split:
    """Bytes of 20 striped images, some of which are hard to tell."""
    waves, labels = stripes(20, 2)
    clear = torch.rand(20, 1, 1, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.6
    noise = torch.rand(waves.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Split(((clear * waves + (1 - clear) * noise) * 255).round().to(torch.uint8), labels)


@pytest.fixture
def smooth() -> nn.Module:
    """A float64 network without kinks, for finite differences: (N, 1, 8, 8) to 3 logits."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Softplus(beta=2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    ).double()
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.5)
    return model.eval()
