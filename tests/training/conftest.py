"""Tiny networks and data of the training tests."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from veridical.data import Dataset, Split
from veridical.training.loop import train
from veridical.training.run import Run


def parameters_from(seed: int, model: nn.Module, scale: float) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * scale)
    return model


def write_photos(folder: Path, height: int, width: int, *, each: int) -> None:
    """Class folders for training and testing, three classes of `each` pictures, ever wider."""
    draws = np.random.default_rng(1)
    for part in ("train", "test"):
        for label in range(3):
            place = folder / part / f"class-{label}"
            place.mkdir(parents=True)
            for number in range(each):
                pixels = draws.integers(0, 256, (height, width + number, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


@pytest.fixture
def smooth() -> nn.Module:
    """A float64 network without kinks: (N, 1, 6, 6) to 3 logits."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.Tanh(),
        nn.Linear(8, 3),
    )
    return parameters_from(1, model.double(), 0.4)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Five float64 inputs (5, 1, 6, 6) in [0, 1] and their targets."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(5, 1, 6, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.tensor([0, 1, 2, 1, 0])


@pytest.fixture
def stripes() -> Dataset:
    """Images of 8x8 whose class is the direction of their stripes: learnt in seconds, not by chance."""
    generator = torch.Generator().manual_seed(3)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 3
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        waves = torch.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 4 < 2]).float()
        noise = torch.rand(count, 1, 8, 8, generator=generator)
        images = 0.6 * waves[labels][:, None] + 0.4 * noise
        return Split((images * 255).round().to(torch.uint8), labels)

    return Dataset("stripes", split(240), split(60), ("rows", "columns", "diagonals"), "f" * 64, "made here")


@pytest.fixture
def trained(tmp_path: Path, stripes: Dataset) -> Callable[..., Run]:
    """A small network trained on the stripes, called with the name of its folder and options of `train`."""

    def call(name: str, **given: Any) -> Run:
        quick = {"model": "mlp", "model_options": {"width": 16}, "objective": "natural", "progress": False}
        length: dict[str, Any] = {"validation": 40, "batch_size": 20} | (
            {} if "steps" in given else {"epochs": 3.0}
        )
        own: dict[str, Any] = {} if isinstance(given.get("model", "mlp"), str) else {"model_options": {}}
        return train(**{"data": stripes, "out": tmp_path / name, **quick, **length, **own, **given})

    return call


@pytest.fixture(scope="session")
def run_python() -> Callable[..., tuple[int, str, str]]:
    """Run an interpreter that starts others, in a folder; what is returned is exit code, output and errors.

    After 500 s all of its processes are killed. Its output goes to files: pipes stay open as long as any of
    its processes lives, and reading them would wait for that.
    """
    source = str(Path(__file__).parents[2] / "src")

    def call(folder: Path, *arguments: str) -> tuple[int, str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        environment = inherited | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
        outputs = folder / "output.txt", folder / "errors.txt"
        with outputs[0].open("w") as output, outputs[1].open("w") as errors:
            command = [sys.executable, *arguments]
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=errors, start_new_session=True
            )
            try:
                code = process.wait(500)
            except subprocess.TimeoutExpired:
                pytest.fail(f"no end after 500 s; its errors so far:\n{outputs[1].read_text()}")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return code, outputs[0].read_text(), outputs[1].read_text()

    return call
