"""Audits of one's own model, data and attribution, by the very text of docs/how-to, on small data."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

from veridical.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_parts")

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def run_audit(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a page's audit in a folder; ten minutes are a second here."""
    blocks = re.findall(r"```python\n(.*?)```", (HOW_TO / page).read_text(encoding="utf-8"), re.DOTALL)
    (text,) = (block for block in blocks if 'budget="10m"' in block)
    monkeypatch.chdir(folder)
    exec(compile(text.replace('budget="10m"', 'budget="1s"'), page, "exec"), {})


def write_squares(path: Path, side: int = 16) -> dict[str, np.ndarray]:
    """Two classes by the side on which a bright square lies, which the masks mark."""
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, count in (("train", 80), ("test", 12)):
        labels = np.arange(count) % 2
        images = generator.integers(0, 60, (count, side, side)).astype(np.uint8)
        masks = np.zeros((count, side, side), dtype=bool)
        for place, label in enumerate(labels):
            row, column = (
                generator.integers(0, side - 4),
                generator.integers(0, side // 2 - 4) + label * side // 2,
            )
            masks[place, row : row + 4, column : column + 4] = True
        images[masks] = 255
        arrays |= {f"x_{part}": images, f"y_{part}": labels, f"mask_{part}": masks}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return arrays


def test_a_new_attribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    write_squares(tmp_path / "squares.npz")
    train(
        data=tmp_path / "squares.npz",
        out=tmp_path / "runs" / "natural",
        model="mlp",
        objective="natural",
        epochs=20,
        batch_size=20,
        validation=0,
        progress=False,
    )
    run_audit("own-attribution.md", tmp_path, monkeypatch)
    assert "mine" in capsys.readouterr().out
    assert (tmp_path / "deletion.svg").exists()


def test_a_fine_tuned_resnet_on_class_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = write_squares(tmp_path / "squares.npz", 32)
    for part in ("train", "test"):
        for place, label in enumerate(arrays[f"y_{part}"][:4]):
            folder = tmp_path / "photos" / part / ("left", "right")[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.repeat(arrays[f"x_{part}"][place][..., None], 3, 2)).save(
                folder / f"{place}.png"
            )
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=2).state_dict(), tmp_path / "resnet18.pt")
    run_audit("own-model.md", tmp_path, monkeypatch)
    assert "captum:LayerGradCam" in capsys.readouterr().out
    assert (tmp_path / "audits" / "photos" / "report.html").exists()


def test_two_classes_of_one_logit_with_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = write_squares(tmp_path / "scans.npz")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16 * 16, 1))
    inputs = torch.from_numpy(arrays["x_train"]).float()[:, None] / 255
    labels = torch.from_numpy(arrays["y_train"]).float()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(model(inputs)[:, 0], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.save(model.state_dict(), tmp_path / "scans.pt")
    run_audit("own-data.md", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    # The linear part reads the square, and a map of noise lies anywhere.
    assert re.search(r"gradient-x-input .*'verdict': 'holds'", printed)
    assert re.search(r"random .*'verdict': 'fails'", printed)
