"""Mask images beside class folders: found by name, resized and cut as their images, part of the identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.data import load
from veridical.data.dataset import (
    MaskedDataset,
    _loaded,
    describe_source,
    load_source,
    take_first,
    without_masks,
)
from veridical.data.image_files import Interpolation
from veridical.runtime.errors import DataError, RunError, UsageError


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def spots(number: int, height: int, width: int) -> np.ndarray:
    """Black but for a bright rectangle, another one for each number; uint8 (height, width)."""
    draws = np.random.default_rng(number)
    pixels = np.zeros((height, width), dtype=np.uint8)
    top, left = draws.integers(0, height // 2), draws.integers(0, width // 2)
    pixels[top : top + height // 3, left : left + width // 3] = 255
    return pixels


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of several shapes that are their own masks, in `photos`, and these in `masks`."""
    number = 0
    for part, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            for place in range(count):
                pixels = spots(number, 20 + 7 * place, 24 + number)
                save(tmp_path / "photos" / part / name / f"{place}.png", pixels)
                save(tmp_path / "masks" / part / name / f"{place}.bmp", pixels)
                number += 1
    return tmp_path / "photos"


def masked(folder: Path, **options: object) -> MaskedDataset:
    data = load(folder, masks=folder.with_name("masks"), **options)  # type: ignore[arg-type]
    assert isinstance(data, MaskedDataset)
    return data


@pytest.mark.parametrize("crop_from", [None, 16, 21])
def test_masks_are_cut_as_their_images_are(photos: Path, crop_from: int | None) -> None:
    # Pictures that are their own masks, both by the nearest pixel.
    data = masked(photos, size=16, crop_from=crop_from, interpolation="nearest")
    for part in ("train", "test"):
        assert data.mask(part).equal(data.split(part).images[:, 0] > 127)
        assert data.mask(part).any(dim=(1, 2)).all()
        assert not data.mask(part).all(dim=(1, 2)).any()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_masks_are_those_of_torchvision_s_transforms(
    tmp_path: Path, photos: Path, interpolation: Interpolation
) -> None:
    from torchvision.transforms import InterpolationMode, v2

    theirs = v2.Compose([v2.Resize(20, InterpolationMode.NEAREST), v2.CenterCrop(16)])
    data = masked(photos, size=16, crop_from=20, interpolation=interpolation)
    expected = sorted(
        (np.asarray(theirs(Image.open(path))) > 127).tobytes()
        for path in (tmp_path / "masks" / "test").rglob("*.bmp")
    )
    assert sorted(mask.numpy().tobytes() for mask in data.test_mask) == expected


def test_evidence_is_what_is_bright_in_any_channel(tmp_path: Path) -> None:
    pixels = np.zeros((6, 6, 3), dtype=np.uint8)
    # Blue is dark to the eye.
    pixels[0, 0], pixels[1, 1], pixels[2, 2], pixels[3, 3] = (0, 0, 128), (0, 255, 0), (127, 127, 127), 255
    expected = np.diag([True, True, False, True, False, False])
    for name in ("a", "b"):
        for place in range(4):
            save(tmp_path / "photos" / name / f"{place}.jpg", np.full((6, 6, 3), 99, dtype=np.uint8))
            save(tmp_path / "masks" / name / f"{place}.png", pixels)
    Image.fromarray(expected).save(tmp_path / "masks" / "a" / "0.png")  # a bitmap
    palette = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "masks" / "a" / "1.png")
    data = masked(tmp_path / "photos")
    assert (len(data.train), len(data.test)) == (6, 2)
    for mask in torch.cat([data.train_mask, data.test_mask]):
        np.testing.assert_array_equal(mask.numpy(), expected)


def test_images_without_a_mask_are_counted_and_named_and_have_an_empty_one(photos: Path) -> None:
    masks = photos.with_name("masks")
    for name in ("train/cat/0.bmp", "train/cat/1.bmp", "test/dog/1.bmp"):
        (masks / name).unlink()
    message = r"masks: 2 of 6 training images and 1 of 4 test images have no mask, such as .*test/dog/1\.png"
    with pytest.warns(UserWarning, match=message):
        data = masked(photos, size=16)
    assert int(data.train_mask.any(dim=(1, 2)).sum()) == 4
    assert int(data.test_mask.any(dim=(1, 2)).sum()) == 3


def damage_size(masks: Path) -> None:
    save(masks / "test" / "cat" / "0.bmp", np.full((9, 9), 255, dtype=np.uint8))


def damage_levels(masks: Path) -> None:
    path = masks / "test" / "cat" / "0.bmp"
    save(path, (np.asarray(Image.open(path)) > 0).astype(np.uint8))


def damage_file(masks: Path) -> None:
    (masks / "test" / "cat" / "0.bmp").write_bytes(b"BM no picture")


def damage_mode(masks: Path) -> None:
    pixels = np.asarray(Image.open(masks / "test" / "cat" / "0.bmp"))
    (masks / "test" / "cat" / "0.bmp").unlink()
    save(masks / "test" / "cat" / "0.png", np.stack([pixels] * 4, axis=2))


def double(masks: Path) -> None:
    save(masks / "test" / "cat" / "0.tif", np.asarray(Image.open(masks / "test" / "cat" / "0.bmp")))


def rename(masks: Path) -> None:
    (masks / "test").rename(masks / "tests")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_size, r"test/cat/0\.bmp: expected those of its image .*test/cat/0\.png, .* height \(9, 9\)"),
        (damage_levels, r"0\.bmp: .*without a level above 1\. Multiply masks of 0 and 1 by 255"),
        (damage_file, r"0\.bmp: expected a PNG, JPEG"),
        (damage_mode, r"0\.png: .*mode RGBA"),
        (double, r"test/cat: expected one mask for the image test/cat/0\.png, but found 0\.bmp and 0\.tif"),
        (rename, r"masks: expected masks of the test images, but found none for any of the 4 test images"),
    ],
)
def test_masks_that_cannot_be_used_are_named(
    photos: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(photos.with_name("masks"))
    with pytest.raises(DataError, match=message):
        masked(photos, size=16)


def test_a_mask_of_the_image_s_own_suffix_wins_and_no_two_images_share_one(photos: Path) -> None:
    before, place = masked(photos, size=16), photos.with_name("masks") / "test" / "cat"
    save(place / "0.png", 255 - np.asarray(Image.open(place / "0.bmp")))
    changed = (masked(photos, size=16).test_mask != before.test_mask).any(dim=(1, 2))
    assert int(changed.sum()) == 1
    (place / "0.png").unlink()
    save(photos / "test" / "cat" / "0.jpg", spots(1, 20, 24))
    with pytest.raises(DataError, match=r"0\.bmp: expected one image .*cat/0\.jpg and test/cat/0\.png"):
        masked(photos, size=16)


def test_masks_lie_outside_the_images_and_are_for_class_folders(photos: Path, tmp_path: Path) -> None:
    wrong: list[tuple[Path, Path, str]] = [
        (photos, photos, "a folder outside that of the images"),
        (photos, photos / "train" / "cat", "a folder outside"),
        (photos / "train", photos / "train" / "cat", "a folder outside"),
        (photos, tmp_path / "none", "There is no such folder"),
    ]
    for folder, masks, message in wrong:
        with pytest.raises(UsageError, match=f"masks: .*{message}"):
            load(folder, size=8, masks=masks)
    with pytest.raises(UsageError, match=r"masks: expected None for mnist.*mask_train"):
        load("mnist", masks=tmp_path)
    # Beside train and test nothing is read.
    photos.with_name("masks").rename(photos / "masks")
    assert isinstance(load(photos, size=8, masks=photos / "masks"), MaskedDataset)


def test_masks_are_part_of_what_a_data_set_is(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, data = load(photos, size=16), masked(photos, size=16)
    assert data.options["masks"] == str(photos.with_name("masks"))
    assert data.checksum != plain.checksum
    bare = without_masks(data)
    assert not isinstance(bare, MaskedDataset)
    assert bare.describe() == plain.describe()
    few = take_first(data, 3, 2)
    assert (type(few), len(few.train), len(few.test)) == (type(plain), 3, 2)
    # A job finds them from wherever it runs.
    monkeypatch.chdir(photos.parent)
    relative = load("photos", size=16, masks="masks")
    where = describe_source("photos", None, relative.options)
    monkeypatch.chdir(photos)
    there = load_source(where, data.checksum)
    assert isinstance(there, MaskedDataset)
    assert there.test_mask.equal(data.test_mask)
    path = photos.with_name("masks") / "test" / "dog" / "0.bmp"
    save(path, 255 - np.asarray(Image.open(path)))
    assert masked(photos, size=16).checksum != data.checksum
    _loaded.cache_clear()  # as a job that starts later
    with pytest.raises(RunError, match="not those that were planned with"):
        load_source(describe_source(str(photos), None, data.options), data.checksum)
