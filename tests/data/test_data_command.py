"""`veridical data`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from veridical.cli.data import ListOptions, list_data
from veridical.cli.main import main
from veridical.data import DATASETS
from veridical.runtime.errors import UsageError


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def filled(root: Path) -> Path:
    images, labels = np.full((4, 6, 6, 3), 9, dtype=np.uint8), np.array([0, 1, 2, 3])
    np.savez(root / "gtsrb.npz", x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    (root / "mnist.npz").write_bytes(b"damaged")
    (root / "train_32x32.mat").touch()
    return root


@pytest.mark.usefixtures("wide")
def test_the_table_tells_names_sizes_and_places(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--data-root", str(filled)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {
        line.split()[0]: line.split() for line in lines if line.split()[:1] and line.split()[0] in DATASETS
    }
    assert list(rows) == list(DATASETS)
    assert rows["gtsrb"] == ["gtsrb", "4", "2", "3x6x6", "gtsrb.npz"]
    assert rows["cifar10"][1:] == ["not", "found:", "train", "--download"]
    assert rows["flowers17"][1:] == ["not", "found:", "flowers17.npz", "goes", "here"]
    assert "(damaged, see below)" in " ".join(rows["mnist"])
    assert "incomplete, without test_32x32.mat" in " ".join(rows["svhn"])
    assert str(filled) in lines[0]
    assert any("mnist.npz: expected a readable .npz file" in line for line in lines)


@pytest.mark.usefixtures("wide")
def test_the_result_is_written_and_the_folder_is_claimed(filled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ListOptions(data_root=str(filled), out=str(out))
    assert list_data(options) == 0
    document = json.loads((out / "result.json").read_text())
    assert document["schema"] == 1
    assert document["config"] == {"data_root": str(filled)}
    assert document["results"]["gtsrb"]["found"] is True
    assert document["results"]["gtsrb"]["shape"] == [3, 6, 6]
    assert document["results"]["imagenette"]["found"] is False
    assert document["environment"]["python"]
    assert document["timing"]["seconds"] >= 0
    assert list_data(options) == 0
    with pytest.raises(UsageError, match="data_root"):
        list_data(ListOptions(data_root=str(tmp_path), out=str(out)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").touch()
    with pytest.raises(UsageError):
        list_data(ListOptions(out=str(tmp_path / "other")))


def test_names_are_whole_in_80_columns(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert list_data(ListOptions(data_root=str(root))) == 0
    out = capsys.readouterr().out
    assert all(any(line.split()[:1] == [name] for line in out.splitlines()) for name in DATASETS)
    assert max(map(len, out.splitlines())) <= 80
