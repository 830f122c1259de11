"""Data sets of 8x8 images of which it is known where the information lies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.data import Dataset, Split, load
from veridical.data.dataset import write_source
from veridical.faithfulness.ranking import Ranking, rank_coordinates
from veridical.faithfulness.retraining import ranking_place, resolve_architecture, resolve_training

SIGNAL = (slice(2, 4), slice(5, 7))
"""Rows and columns of the four pixels that hold the class, where only they do."""

Draw = Callable[[Tensor, torch.Generator], Tensor]
"""(labels (n,), generator) -> images (n, 1, 8, 8), 0 to 255."""


def noise(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Images without any information."""
    return torch.randint(0, 256, (len(labels), 1, 8, 8), generator=generator)


def marked(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Noise, but four pixels that agree with the class in exactly nine of ten images of each class."""
    images = noise(labels, generator)
    rank_in_class = torch.where(labels == 1, (labels == 1).cumsum(0), (labels == 0).cumsum(0))
    shown = torch.where(rank_in_class % 10 == 0, 1 - labels, labels)
    images[:, 0, SIGNAL[0], SIGNAL[1]] = torch.where(shown[:, None, None] == 1, 200, 55)
    return images


def repeated(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Every pixel tells the class equally well: its value plus noise of its own."""
    return (labels[:, None, None, None] * 90 + noise(labels, generator) * 165 // 255).clamp(0, 255)


def toy(draw: Draw, train: int = 600, test: int = 400) -> Dataset:
    """Two classes, equally frequent, in no order that could be learnt."""
    parts = []
    for seed, count in ((1, train), (2, test)):
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.arange(count) % 2)[torch.randperm(count, generator=generator)]
        parts.append(Split(draw(labels, generator).to(torch.uint8), labels))
    return Dataset("toy", parts[0], parts[1], ("dark", "bright"), "0" * 64, "made here")


@pytest.fixture(scope="session")
def marked_data() -> Dataset:
    """The class lies in four pixels; the best accuracy is 0.9 with them and 0.5 without."""
    return toy(marked)


@pytest.fixture(scope="session")
def repeated_data() -> Dataset:
    """All pixels are equally informative."""
    return toy(repeated)


@pytest.fixture(scope="session")
def noise_data() -> Dataset:
    """The images say nothing."""
    return toy(noise)


@pytest.fixture
def network() -> nn.Module:
    """A small float64 network with a gradient that differs from image to image."""
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 2)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
    return model


@pytest.fixture
def telling(marked_data: Dataset) -> Ranking:
    """The four pixels that tell the class in the upper half of the order, at random otherwise."""
    generator = torch.Generator().manual_seed(3)
    ranks = []
    for split in (marked_data.train, marked_data.test):
        attribution = torch.rand(split.images.shape, generator=generator)
        attribution[:, :, SIGNAL[0], SIGNAL[1]] += 0.5
        ranks.append(rank_coordinates(attribution).numpy())
    return Ranking(ranks[0], ranks[1], marked_data.shape)


@pytest.fixture
def where(marked_data: Dataset, telling: Ranking, tmp_path: Path) -> dict[str, str]:
    """A job's paths: the data, an order for each image and, the last, one order for all."""
    result = {**write_source(marked_data, tmp_path / "data.npz"), "device": "cpu"}
    for number, rows in enumerate((slice(None), slice(1))):
        ranking = Ranking(telling.train[rows], telling.test[rows], telling.shape)
        ranking.save(tmp_path / f"{number}.npz")
        result[ranking_place(ranking.checksum)] = str(tmp_path / f"{number}.npz")
    return result


@pytest.fixture
def values(telling: Ranking, where: dict[str, str]) -> dict[str, Any]:
    """The values of a job that keeps half of each image, black elsewhere."""
    data = load(where["data"])
    record = resolve_architecture("mlp", {"width": 16}, data, None, trust_code=False)
    short = {"epochs": 1.0, "batch_size": 30, "learning_rate": 0.01, "averaging": 0.0}
    return {
        "data": {"checksum": data.checksum},
        "ranking": {"checksum": telling.checksum},
        "kept": {"end": "top", "count": 32},
        "shown": "images",
        "fill": {"kind": "constant", "values": [0.0]},
        "model": record,
        "training": resolve_training(data, record, None, "natural", short),
        "recipe_source": "",
        "seed": 7,
    }
