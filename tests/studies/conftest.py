"""Two small trained runs and their attacks, made once: what commands and studies work on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from veridical.studies.attack import Attack, AttackOptions
from veridical.training.loop import train


def write_stripes(path: Path) -> Path:
    """An .npz of 8x8 images whose class is the direction of their stripes."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    waves = torch.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 4 < 2]).float()
    arrays = {}
    for name, count in (("train", 240), ("test", 30)):
        labels = torch.arange(count) % 3
        noise = torch.rand(count, 8, 8, generator=generator)
        images = 0.5 * waves[labels] + 0.5 * noise
        arrays[f"x_{name}"] = (images * 255).round().to(torch.uint8).numpy()
        arrays[f"y_{name}"] = labels.numpy()
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def options_for(folder: Path, name: str, **changes: object) -> AttackOptions:
    """A quick attack of `folder`/`name` into `folder`/`name`-attack."""
    values: dict[str, object] = {
        "run": str(folder / name),
        "out": str(folder / f"{name}-attack"),
        "examples": 20,
        "steps": 3,
        "pgd_steps": 3,
        "workers": 1,
        "progress": False,
        **changes,
    }
    return AttackOptions(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stripes.npz, the runs natural and adversarial, and their attacks."""
    folder = tmp_path_factory.mktemp("stripes")
    data = write_stripes(folder / "stripes.npz")
    for objective in ("natural", "adversarial"):
        train(
            out=str(folder / objective),
            data=str(data),
            model="mlp",
            model_options={"width": 16},
            objective=objective,
            epochs=6.0,
            batch_size=24,
            progress=False,
        )
        Attack(options_for(folder, objective)).run()
    return folder
