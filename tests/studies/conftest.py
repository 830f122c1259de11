"""Small trained runs, attacks and finished studies, each made once: what commands and studies work on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.data.masked import save_masked
from veridical.data.shortcut import shortcut
from veridical.runtime.options import ShortcutOptions
from veridical.studies import alignment
from veridical.studies.alignment import Alignment, AlignmentOptions
from veridical.studies.attack import Attack, AttackOptions
from veridical.studies.leakage import Leakage, LeakageOptions
from veridical.studies.sanity import Sanity, SanityOptions
from veridical.studies.shortcut import Shortcut, ShortcutStudyOptions
from veridical.training.loop import train

RUNS = (("natural", 0), ("natural", 1), ("adversarial", 0))
QUIET: dict[str, Any] = {"workers": 1, "progress": False}


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


@pytest.fixture
def quick_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit's parts draw no pages, which take most of its time and are tested as their studies'."""
    for study in (Attack, Sanity):
        monkeypatch.setattr(study, "write_page", classmethod(lambda _cls, result: result.folder))


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


def write_images(path: Path, train: int, test: int, paint: Callable[[int], Any]) -> Path:
    """An .npz of 8x8 images of three classes in turn; paint: from a label to an image."""
    arrays: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"y_{part}"] = np.arange(count) % 3
        arrays[f"x_{part}"] = np.stack([paint(label) for label in arrays[f"y_{part}"]]).astype(np.uint8)
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """noise.npz, images that say nothing about their classes."""
    draws, path = np.random.default_rng(0), tmp_path_factory.mktemp("noise") / "noise.npz"
    return write_images(path, 300, 60, lambda _label: draws.integers(0, 120, (8, 8)))


@pytest.fixture(scope="session")
def trained(noise: Path) -> Path:
    """The folder of patches.npz, of which only a masked patch tells the class, and three runs on it."""
    folder = noise.parent
    planted = shortcut(ShortcutOptions(source=str(noise), rate=1.0, size=2, test="agreeing"))
    save_masked(folder / "patches.npz", planted)
    for objective, seed in RUNS:
        train(
            out=str(folder / f"{objective}-{seed}"),
            data=str(folder / "patches.npz"),
            model="mlp",
            model_options={"width": 16},
            objective=objective,
            seed=seed,
            epochs=4.0,
            batch_size=20,
            averaging=0.0,
            progress=False,
        )
    return folder


@pytest.fixture(scope="session")
def aligned(trained: Path) -> AlignmentOptions:
    """A finished alignment of the three runs, in three jobs for each run and attribution."""
    runs = [str(trained / f"{objective}-{seed}") for objective, seed in RUNS]
    options = AlignmentOptions(
        run=runs, out=str(trained / "aligned"), examples=24, batch=7, gallery=3, **QUIET
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "STRETCH", 10)
        Alignment(options).run()
    return options


@pytest.fixture(scope="session")
def shortcuts(noise: Path) -> ShortcutStudyOptions:
    """A finished shortcut study."""
    options = ShortcutStudyOptions(
        out=str(noise.parent / "shortcuts"),
        data=str(noise),
        model="mlp",
        model_options={"width": 16},
        objective=["natural"],
        rate=[1.0],
        size=2,
        seeds=2,
        epochs=5.0,
        batch_size=20,
        averaging=0.0,
        explained=24,
        gallery=3,
        **QUIET,
    )
    Shortcut(options).run()
    return options


@pytest.fixture(scope="session")
def leaked(tmp_path_factory: pytest.TempPathFactory) -> LeakageOptions:
    """A finished leakage study, with a store of its own; a bar's column on black is the class."""
    draws, folder = np.random.default_rng(0), tmp_path_factory.mktemp("bars")

    def draw_bar(label: int) -> Any:
        image = np.zeros((8, 8))
        image[1:7, 1 + 2 * label : 3 + 2 * label] = draws.integers(150, 256, (6, 2))
        return image

    options = LeakageOptions(
        out=str(folder / "leaked"),
        store=str(folder / "store"),
        source=str(write_images(folder / "bars.npz", 160, 30, draw_bar)),
        model_options={"width": 12},
        objective=["natural", "adversarial"],
        seeds=2,
        epochs=1.0,
        batch_size=40,
        explained=20,
        attacked=10,
        **QUIET,
    )
    Leakage(options).run()
    return options


@pytest.fixture(scope="session")
def checked(place: Path) -> SanityOptions:
    """A finished sanity check of the natural run."""
    options = SanityOptions(
        run=str(place / "natural"),
        out=str(place / "checked"),
        attribution=["input-gradient", "random"],
        train_examples=30,
        epochs=200.0,
        repeats=2,
        examples=30,
        gallery=2,
        **QUIET,
    )
    Sanity(options).run()
    return options
