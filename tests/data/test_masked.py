"""Data sets with masks: their checks, and the file that every command can load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.data import Dataset, load
from veridical.data.masked import MaskedDataset, load_masked, save_masked
from veridical.runtime.errors import DataError, UsageError


@pytest.fixture(params=[1, 3])
def plain(request: pytest.FixtureRequest, tmp_path: Path, draw: Callable[..., Any]) -> Dataset:
    """Grey and coloured images of 6 x 5 pixels."""
    colours = () if request.param == 1 else (3,)
    x_train, y_train = draw(12, 6, 5, *colours, classes=4)
    x_test, y_test = draw(8, 6, 5, *colours, classes=4, seed=1)
    names = np.array(["one", "two", "three", "four"])
    path = tmp_path / "plain.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, classes=names)
    return load(path)


@pytest.fixture
def masked(plain: Dataset) -> MaskedDataset:
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.rand(count, 6, 5, generator=generator) < 0.3 for count in (12, 8))
    places = {
        "block": (torch.arange(12), torch.arange(8)),
        "the_donor": (-torch.arange(12), torch.zeros(8).long()),
    }
    named = replace(plain, name="blocks", options={"null": "square", "noise": 0.5, "layout": [2, 2]})
    return MaskedDataset.of(named, train, test, places)


def test_parts_by_name(masked: MaskedDataset, plain: Dataset) -> None:
    assert masked.split("train") is plain.train
    assert masked.split("test") is plain.test
    assert masked.mask("train").equal(masked.train_mask)
    assert masked.mask("test").equal(masked.test_mask)
    assert masked.place("block", "train").tolist() == list(range(12))
    assert masked.place("the_donor", "test").tolist() == [0] * 8
    with pytest.raises(UsageError, match="name: expected one of block, the_donor, but got 'digit'"):
        masked.place("digit", "train")


def test_a_file_gives_everything_back(masked: MaskedDataset, tmp_path: Path) -> None:
    path = tmp_path / "masked.npz"
    save_masked(path, masked)
    back = load_masked(path)
    assert back.describe() == masked.describe()
    assert (back.source, back.classes) == (str(path), masked.classes)
    for part in ("train", "test"):
        assert getattr(back, part).images.equal(getattr(masked, part).images)
        assert getattr(back, part).labels.equal(getattr(masked, part).labels)
        assert getattr(back, f"{part}_mask").equal(getattr(masked, f"{part}_mask"))
    assert set(back.places) == {"block", "the_donor"}
    for name, (train, test) in back.places.items():
        assert train.equal(masked.place(name, "train"))
        assert test.equal(masked.place(name, "test"))


def test_a_file_is_a_data_set_for_every_command(masked: MaskedDataset, tmp_path: Path) -> None:
    save_masked(tmp_path / "masked.npz", masked)
    plain = load(tmp_path / "masked.npz")
    assert plain.checksum == masked.checksum
    assert plain.classes == masked.classes
    assert plain.shape == masked.shape


def test_the_same_data_give_the_same_bytes(masked: MaskedDataset, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        save_masked(tmp_path / name, masked)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_masks_and_places_that_do_not_fit_are_refused(masked: MaskedDataset) -> None:
    with pytest.raises(UsageError, match=r"train_mask: expected a bool tensor of shape \(12, 6, 5\)"):
        replace(masked, train_mask=masked.train_mask.float())
    with pytest.raises(UsageError, match=r"test_mask: expected a bool tensor of shape \(8, 6, 5\)"):
        replace(masked, test_mask=masked.train_mask)
    with pytest.raises(UsageError, match=r"places\['block'\]: expected an int64 tensor of shape \(8,\)"):
        replace(masked, places={"block": (torch.arange(12), torch.arange(7))})
    with pytest.raises(UsageError, match=r"path: expected a name that ends in \.npz"):
        save_masked("masked.zip", masked)


def members(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mask_train": None}, "no mask_train"),
        ({"mask_test": np.ones((8, 6, 4), dtype=bool)}, "do not fit the images"),
        ({"mask_test": np.ones((8, 6, 5))}, "masks of dtype bool, but found mask_test"),
        ({"mask_test": np.ones((8, 6, 5), dtype=np.uint8)}, "masks of dtype bool"),
        ({"place_block_test": None}, "do not fit the images"),
        ({"place_block_test": np.arange(3)}, "do not fit the images"),
        ({"made": np.array(["{"])}, "do not fit the images"),
        ({"made": np.array(["{}"])}, None),
        ({"made": np.array(["[1]"])}, "do not fit the images"),
        ({"mask_extra": np.array([{}], dtype=object)}, "Pickles are never loaded"),
    ],
)
def test_damaged_files_are_named(
    masked: MaskedDataset, tmp_path: Path, changed: dict[str, Any], words: str | None
) -> None:
    path = tmp_path / "masked.npz"
    save_masked(path, masked)
    content = {name: array for name, array in (members(path) | changed).items() if array is not None}
    np.savez(path, **content)
    if words is None:
        assert load_masked(path).options == {}
        return
    with pytest.raises(DataError, match=words) as raised:
        load_masked(path)
    assert str(path) in str(raised.value)


def test_a_file_without_masks_is_refused(plain: Dataset) -> None:
    with pytest.raises(DataError, match="no mask_train and no mask_test"):
        load_masked(plain.source)
