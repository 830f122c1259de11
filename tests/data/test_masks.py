"""Data sets with masks: their checks, their file, and foregrounds by threshold or by the signs' boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from veridical.data import Dataset, load
from veridical.data.array_files import DEBIAN_FASHION
from veridical.data.dataset import MaskedDataset, PartName
from veridical.data.masked import (
    THRESHOLD,
    _box_masks,
    _garment_masks,
    _sign_boxes,
    load_masked,
    save_masked,
    with_foreground,
)
from veridical.runtime.errors import DataError, UsageError


@pytest.fixture(params=[(), (3,)])
def plain(request: pytest.FixtureRequest, tmp_path: Path, members: Callable[..., Any]) -> Dataset:
    """Grey and coloured images of 6 x 5 pixels."""
    names, path = np.array(["one", "two", "three", "four"]), tmp_path / "plain.npz"
    np.savez(path, **members(6, 5, *request.param, train=12, test=8, classes=4), classes=names)
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


def rewrite(path: Path, changed: dict[str, Any]) -> None:
    """Write an .npz file anew with other members; None leaves one out."""
    with np.load(path) as file:
        members = dict(file) | changed
    np.savez(path, **{name: array for name, array in members.items() if array is not None})


def test_parts_by_name(masked: MaskedDataset, plain: Dataset) -> None:
    assert (masked.split("train"), masked.split("test")) == (plain.train, plain.test)
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
    parts: tuple[PartName, PartName] = ("train", "test")
    for part in parts:
        assert back.split(part).images.equal(masked.split(part).images)
        assert back.split(part).labels.equal(masked.split(part).labels)
        assert back.mask(part).equal(masked.mask(part))
        assert all(back.place(name, part).equal(masked.place(name, part)) for name in masked.places)
    assert set(back.places) == {"block", "the_donor"}
    # The file is a data set for every command, and the same data give the same bytes.
    plain = load(path)
    assert (plain.checksum, plain.classes, plain.shape) == (masked.checksum, masked.classes, masked.shape)
    save_masked(tmp_path / "again.npz", masked)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_masks_and_places_that_do_not_fit_are_refused(masked: MaskedDataset) -> None:
    with pytest.raises(UsageError, match=r"train_mask: expected a bool tensor of shape \(12, 6, 5\)"):
        replace(masked, train_mask=masked.train_mask.float())
    with pytest.raises(UsageError, match=r"test_mask: expected a bool tensor of shape \(8, 6, 5\)"):
        replace(masked, test_mask=masked.train_mask)
    with pytest.raises(UsageError, match=r"places\['block'\]: expected an int64 tensor of shape \(8,\)"):
        replace(masked, places={"block": (torch.arange(12), torch.arange(7))})
    with pytest.raises(UsageError, match=r"path: expected a name that ends in \.npz"):
        save_masked("masked.zip", masked)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mask_train": None}, "no mask_train"),
        ({"mask_train": None, "mask_test": None}, "no mask_train and no mask_test"),
        ({"mask_test": np.ones((8, 6, 4), dtype=bool)}, "do not fit the images"),
        ({"mask_test": np.ones((8, 6, 5))}, "masks of dtype bool, but found mask_test"),
        ({"mask_test": np.ones((8, 6, 5), dtype=np.uint8)}, "masks of dtype bool"),
        ({"place_block_test": None}, "do not fit the images"),
        ({"place_block_test": np.arange(3)}, "do not fit the images"),
        ({"made": np.array(["{"])}, "do not fit the images"),
        ({"made": np.array(["{}"])}, None),
        ({"made": np.array(["[1]"])}, "do not fit the images"),
        ({"mask_extra": np.array([{}], dtype=object)}, "pickles are never loaded"),
    ],
)
def test_damaged_files_are_named(
    masked: MaskedDataset, tmp_path: Path, changed: dict[str, Any], words: str | None
) -> None:
    path = tmp_path / "masked.npz"
    save_masked(path, masked)
    rewrite(path, changed)
    if words is None:
        assert load_masked(path).options == {}
        return
    with pytest.raises(DataError, match=words) as raised:
        load_masked(path)
    assert str(path) in str(raised.value)


def picture(*rows: str) -> torch.Tensor:
    """One image: # is just bright enough, - is not quite, and . is black."""
    levels = {"#": THRESHOLD + 1, "-": THRESHOLD, ".": 0}
    return torch.tensor([[[[levels[letter] for letter in row] for row in rows]]], dtype=torch.uint8)


def drawn(mask: torch.Tensor) -> list[str]:
    return ["".join("#" if inside else "." for inside in row) for row in mask.tolist()]


RING = picture("......", ".####.", ".#..#.", ".#-.#.", ".####.", "......")
OPEN = picture("......", ".####.", ".#..#.", ".#..#.", ".#.##.", "......")
# Its dark pixel touches the ground by a corner alone, which is no way out.
CORNER = picture("......", "..##..", ".#.#..", "..##..", "......", "......")


def test_enclosed_dark_pixels_belong_to_the_garment() -> None:
    assert drawn(_garment_masks(RING)[0]) == ["......", ".####.", ".####.", ".####.", ".####.", "......"]
    assert drawn(_garment_masks(OPEN)[0]) == ["......", ".####.", ".#..#.", ".#..#.", ".#.##.", "......"]
    assert drawn(_garment_masks(CORNER)[0]) == ["......", "..##..", ".###..", "..##..", "......", "......"]


def test_images_do_not_touch_each_other() -> None:
    together = _garment_masks(torch.cat([RING, OPEN, CORNER, OPEN, RING]))
    for index, image in enumerate((RING, OPEN, CORNER, OPEN, RING)):
        assert together[index : index + 1].equal(_garment_masks(image))
    assert _garment_masks(RING[:0]).shape == (0, 6, 6)


def test_the_threshold_is_an_option() -> None:
    assert _garment_masks(RING, THRESHOLD + 1).sum() == 0
    assert _garment_masks(picture("-.."), THRESHOLD - 1).tolist() == [[[True, False, False]]]
    with pytest.raises(UsageError, match="threshold: expected a grey level from 0 to 254"):
        _garment_masks(RING, 255)
    with pytest.raises(UsageError, match=r"images: expected a uint8 tensor of shape \(N, 1, H, W\)"):
        _garment_masks(RING.float())


def test_boxes_against_every_pixel_s_centre() -> None:
    generator = np.random.default_rng(0)
    width, height = generator.integers(1, 90, size=(2, 60))
    left, top = generator.integers(0, width), generator.integers(0, height)
    right, bottom = generator.integers(left, width), generator.integers(top, height)
    boxes = np.stack([width, height, left, top, right, bottom], axis=1).astype(np.uint16)
    masks = _box_masks(boxes, 8, 5)
    for (full_width, full_height, x1, y1, x2, y2), mask in zip(boxes.tolist(), masks, strict=True):
        for row in range(8):
            for column in range(5):
                x, y = (column + 0.5) * full_width / 5, (row + 0.5) * full_height / 8
                assert bool(mask[row, column]) == (x1 <= x < x2 + 1 and y1 <= y < y2 + 1)
    assert _box_masks(np.array([[50, 40, 0, 0, 49, 39]]), 32, 32).all()
    assert not _box_masks(np.array([[50, 40, 0, 0, 0, 0]]), 4, 4).any()


@pytest.mark.parametrize("row", [[10, 10, 2, 2, 10, 5], [10, 10, 2, 2, 5, 10], [10, 10, 6, 2, 5, 5]])
def test_a_box_outside_its_image_is_named(row: list[int]) -> None:
    boxes = np.array([[10, 10, 2, 2, 5, 5], row])
    with pytest.raises(DataError, match=r"gtsrb: .*at image 1"):
        _box_masks(boxes, 4, 4, "gtsrb")


@pytest.fixture
def signs(tmp_path: Path, members: Callable[..., Any]) -> Path:
    boxes = np.array([[60, 60, 10, 20, 49, 39]] * 4, dtype=np.uint16)
    signs = members(6, 6, 3, train=4, test=2, classes=4)
    np.savez(tmp_path / "gtsrb.npz", **signs, box_train=boxes, box_test=boxes[:2])
    return tmp_path


def test_signs_are_found_in_their_file(signs: Path) -> None:
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[2:4, 1:5] = True
    for data in (load("gtsrb", signs), load("gtsrb", signs, equalise=True)):
        masked = with_foreground(data)
        assert masked.train_mask.equal(expected.expand(4, 6, 6))
        assert masked.test_mask.equal(expected.expand(2, 6, 6))
        assert masked.describe() == data.describe()
    assert _sign_boxes(load(signs / "gtsrb.npz")).test_mask[0].equal(expected)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"box_test": None}, "expected a member box_test, but found no box_test"),
        ({"box_train": np.zeros((3, 6), dtype=np.int64)}, r"integers of shape \(4, 6\)"),
        ({"box_train": np.zeros((4, 6))}, r"integers of shape \(4, 6\)"),
    ],
)
def test_boxes_that_are_missing_or_do_not_fit(signs: Path, changed: dict[str, Any], words: str) -> None:
    rewrite(signs / "gtsrb.npz", changed)
    data = load("gtsrb", signs)
    with pytest.raises(DataError, match=words):
        with_foreground(data)
    with pytest.raises(DataError, match=r"expected GTSRB as an \.npz file, but found no boxes"):
        with_foreground(replace(data, source=str(signs)))


def renamed(signs: Path, name: str) -> Dataset:
    data = load(signs / "gtsrb.npz")
    grey = replace(data.train, images=data.train.images[:, :1].contiguous())
    return replace(data, name=name, train=grey, test=grey)


def test_the_data_set_s_name_decides(signs: Path) -> None:
    masked = with_foreground(renamed(signs, "fashion-mnist"), 100)
    assert masked.train_mask.equal(_garment_masks(masked.train.images, 100))
    assert masked.test_mask.equal(masked.train_mask)
    assert with_foreground(masked) is masked
    with pytest.raises(DataError, match="mnist-5k: no foreground is known"):
        with_foreground(renamed(signs, "mnist-5k"))


@pytest.mark.slow
def test_garments_cover_about_half_of_real_images(tmp_path: Path) -> None:
    if not DEBIAN_FASHION.is_dir():
        pytest.skip(f"no {DEBIAN_FASHION}: Debian's package dataset-fashion-mnist is not installed")
    data = with_foreground(load("fashion-mnist", tmp_path))
    share = data.test_mask.float().mean(dim=(1, 2))
    assert 0.4 < float(share.mean()) < 0.55
    # Sandals are the smallest garments, coats and pullovers among the largest.
    by_class = [float(share[data.test.labels == label].mean()) for label in range(10)]
    assert by_class[5] == min(by_class)
    assert by_class[5] < 0.35 < 0.55 < by_class[4]
    # Filling keeps all that is bright.
    assert ((data.test.images[:, 0] <= THRESHOLD) | data.test_mask).all()
