from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from veridical.data import DATASETS, load
from veridical.data.dataset import describe_source, load_source
from veridical.data.image_files import FLOWER_FILES, Interpolation, Resizing, _read_images
from veridical.data.registry import IMAGENETTE_FOLDERS
from veridical.runtime.errors import DataError, UsageError

Draw = Callable[..., Any]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def class_folder(folder: Path, name: str, images: np.ndarray, suffix: str = ".png") -> None:
    for number, pixels in enumerate(images):
        save(folder / name / f"{number:03d}{suffix}", pixels)


@pytest.fixture
def two_parts(tmp_path: Path, draw: Draw) -> Path:
    """Classes bee and ant; every image's first pixel tells its class (50 or 200), the second its number."""
    folder = tmp_path / "own"
    for part, count in (("train", 6), ("test", 3)):
        for name, level in (("bee", 200), ("ant", 50)):
            images = draw(count, 5, 4, 3, seed=level + count)[0]
            images[:, 0, 0] = level
            images[:, 0, 1] = np.arange(count)[:, None]
            class_folder(folder / part, name, images)
    return folder


@pytest.mark.parametrize("held", ["test", "val"])
def test_train_and_test_folders(two_parts: Path, held: str) -> None:
    (two_parts / "test").rename(two_parts / held)
    # Neither is one of the images.
    (two_parts / "train" / "ant" / "._000.png").write_text("no image")
    (two_parts / "train" / ".cache").mkdir()
    (two_parts / "README").write_text("no folder")
    data = load(two_parts)
    assert (data.classes, data.shape, data.source) == (("ant", "bee"), (3, 5, 4), str(two_parts))
    assert dict(data.options) == {}
    assert data.train.labels.tolist() != sorted(data.train.labels.tolist())
    for split, count, part in ((data.train, 6, "train"), (data.test, 3, held)):
        assert len(split) == 2 * count
        assert (split.images[:, 0, 0, 0] == 50 + 150 * split.labels).all()
        for image, label in zip(split.images, split.labels, strict=True):
            path = two_parts / part / ("ant", "bee")[int(label)] / f"{int(image[0, 0, 1]):03d}.png"
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(path)))


def test_folders_within_a_class_are_read_and_what_is_skipped_is_named(two_parts: Path, draw: Draw) -> None:
    ant = two_parts / "train" / "ant"
    numbers = sorted(load(two_parts).train.images[:, 0, 0, 1].tolist())
    for number, path in enumerate(sorted(ant.iterdir())[:4]):
        (ant / f"in{number % 2}").mkdir(exist_ok=True)
        path.rename(ant / f"in{number % 2}" / path.name)
    (ant / "in0" / "again").symlink_to(ant, target_is_directory=True)
    assert sorted(load(two_parts).train.images[:, 0, 0, 1].tolist()) == numbers
    (ant / "in0" / "notes.csv").write_text("no image")
    (ant / "Thumbs.db").write_text("no image")
    os.mkfifo(ant / "pipe.png")
    save(two_parts / "train" / "loose.png", draw(1, 5, 4, 3)[0][0])
    with pytest.warns(UserWarning, match=r"12 images are read, and 4 files skipped .*\.png.*\.csv.*\.db"):
        assert len(load(two_parts).train) == 12


def test_one_level_is_divided_by_seed(tmp_path: Path, draw: Draw) -> None:
    images = draw(30, 4, 4)[0]
    images[:, 0, 0] = np.arange(30)
    class_folder(tmp_path, "a", images[:10])
    class_folder(tmp_path, "b", images[10:])
    tested = []
    for seed in (0, 0, 1):
        data = load(tmp_path, split_seed=seed)
        assert dict(data.options) == {"split_seed": seed, "test_fraction": 0.2}
        assert data.train.labels.bincount().tolist() == [8, 16]
        assert data.test.labels.bincount().tolist() == [2, 4]
        numbers = [split.images[:, 0, 0, 0].tolist() for split in (data.train, data.test)]
        assert sorted(numbers[0] + numbers[1]) == list(range(30))
        tested.append(numbers[1])
    assert tested[0] == tested[1]
    assert set(tested[0]) != set(tested[2])
    class_folder(tmp_path, "c", images[:1])
    with pytest.raises(DataError, match="c: expected at least 2"):
        load(tmp_path)


@pytest.mark.parametrize(
    "suffix",
    [".png", ".bmp", ".ppm", ".webp", ".jpg", ".JPEG", ".jfif", ".tif", ".TIFF", ".gif", ".tga", ".jp2"],
)
def test_formats(tmp_path: Path, suffix: str) -> None:
    for part in ("train", "test"):
        for name, level in (("a", 77), ("b", 177)):
            class_folder(tmp_path / part, name, np.full((1, 8, 8, 3), level, dtype=np.uint8), suffix)
    train = load(tmp_path).train
    # Lossy formats may be off by a level on flat images.
    assert ((train.images.float().mean(dim=(1, 2, 3)) - 77 - 100 * train.labels).abs() <= 1).all()


def test_grey_stays_grey_unless_another_file_has_colour(tmp_path: Path, draw: Draw) -> None:
    grey, colour = draw(2, 6, 6)[0], draw(1, 6, 6, 3)[0]
    save(tmp_path / "0.png", grey[0])
    save(tmp_path / "1.png", grey[1])
    save(tmp_path / "2.png", colour[0])
    files = [tmp_path / f"{number}.png" for number in range(3)]
    np.testing.assert_array_equal(_read_images(files[:2], None), grey)
    mixed = _read_images(files, None)
    np.testing.assert_array_equal(mixed[0], np.repeat(grey[0][..., None], 3, axis=2))
    np.testing.assert_array_equal(mixed[2], colour[0])


def test_palettes_and_bitmaps_are_decoded_to_levels(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[::2, :, 0] = 255
    picture = Image.fromarray(pixels)
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=2).save(tmp_path / "palette.png")
    picture.getchannel(0).convert("1").save(tmp_path / "bits.png")
    np.testing.assert_array_equal(_read_images([tmp_path / "palette.png"], None)[0], pixels)
    np.testing.assert_array_equal(_read_images([tmp_path / "bits.png"], None)[0], pixels[..., 0])


def test_sizes_that_differ_need_the_size_option(two_parts: Path, tmp_path: Path, draw: Draw) -> None:
    save(two_parts / "test" / "bee" / "other.png", draw(1, 9, 7, 3)[0][0])
    with pytest.raises(DataError, match=r"other\.png: expected images of one size.*\(7, 9\).*size="):
        load(two_parts)
    data = load(two_parts, size=8)
    assert (data.shape, dict(data.options)) == ((3, 8, 8), {"size": 8})
    # Resized by Pillow's bilinear filter, but for what has the size already.
    right, narrow = draw(2, 12, 12, 3)[0]
    save(tmp_path / "0.png", right)
    save(tmp_path / "1.png", narrow[:, :9])
    resized = _read_images([tmp_path / "0.png", tmp_path / "1.png"], Resizing(12))
    np.testing.assert_array_equal(resized[0], right)
    expected = Image.fromarray(narrow[:, :9]).resize((12, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized[1], np.asarray(expected))
    for size in (0, -3, 10**6):
        with pytest.raises(UsageError, match="size: expected an integer from 1"):
            load(two_parts, size=size)


@pytest.mark.parametrize("shape", [(30, 47), (47, 30), (33, 33), (16, 90), (16, 16)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_middle_is_cut_out_as_torchvision_does(
    tmp_path: Path, draw: Draw, shape: tuple[int, int], interpolation: Interpolation
) -> None:
    from torchvision.transforms import InterpolationMode, v2

    picture = draw(1, *shape, 3)[0][0]
    save(tmp_path / "0.png", picture)
    (result,) = _read_images([tmp_path / "0.png"], Resizing(16, 20, interpolation))
    theirs = v2.Compose([v2.Resize(20, InterpolationMode(interpolation)), v2.CenterCrop(16)])
    np.testing.assert_array_equal(result, np.asarray(theirs(Image.fromarray(picture))))


def test_how_images_are_cut_is_recorded_and_restored_by_a_job(two_parts: Path) -> None:
    data = load(two_parts, size=4, crop_from=5, interpolation="bicubic")
    assert dict(data.options) == {"size": 4, "crop_from": 5, "interpolation": "bicubic"}
    where = describe_source(str(two_parts), None, data.options)
    assert load_source(where, data.checksum).checksum == data.checksum
    with pytest.raises(UsageError, match="crop_from"):
        load(two_parts, size=4, crop_from=3)
    with pytest.raises(UsageError, match="crop_from"):
        load(two_parts, crop_from=8)


POSTSCRIPT = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\n"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train/ant/002.png", lambda path: path.write_bytes(path.read_bytes()[:70]), "damaged or truncated"),
        ("test/bee/001.png", lambda path: path.write_text("<html>404</html>"), "expected a PNG, JPEG"),
        ("train/bee/000.png", lambda path: path.write_text(POSTSCRIPT), "expected a PNG, JPEG"),
        ("train/bee/000.png", Image.new("RGBA", (4, 5)).save, "mode RGBA"),
        ("train/bee/000.png", Image.fromarray(np.full((5, 4), 40000, dtype=np.uint16)).save, "mode I"),
        ("train/bee/000.png", partial(Image.new("P", (4, 5)).save, transparency=0), "mode P with transp"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    two_parts: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(two_parts / name)
    with pytest.raises(DataError, match=message) as caught:
        load(two_parts)
    assert str(two_parts / name) in str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(8193, 2), (2, 8193), (100000, 100000), (2**31 - 1, 1)])
def test_enormous_pictures_are_refused_before_they_are_decoded(
    tmp_path: Path, width: int, height: int
) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"huge\.png: expected"):
        _read_images([path], Resizing(8))


def test_folders_that_are_no_class_folders_are_explained(two_parts: Path, tmp_path: Path) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            load(folder)

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty: expected at least two, but found 0 class folder.*<class>")
    (two_parts / "test" / "wasp").mkdir()
    refused(two_parts, r"test: expected only the classes of .*, but found class folder\(s\) wasp")
    (two_parts / "train" / "wasp").mkdir()
    refused(two_parts, r"train/wasp: expected at least one PNG")
    (two_parts / "train").rename(two_parts / "training")
    refused(two_parts, "a folder test or val, but none named train")
    (two_parts / "training").rename(two_parts / "train")
    (two_parts / "test").rename(two_parts / "testing")
    refused(two_parts, "a folder train, but none named test or val")


def gtsrb(root: Path, *, rows: str = "") -> Path:
    """Two training images a class, of growing sizes, and three test images, all filled with their class."""
    base = root / "gtsrb"
    for label in range(43):
        folder = base / "GTSRB" / "Training" / f"{label:05d}"
        for track in range(2):
            save(
                folder / f"00000_{track:05d}.ppm",
                np.full((15 + label, 20 + track, 3), label, dtype=np.uint8),
            )
        (folder / f"GT-{label:05d}.csv").write_text("Filename;ClassId\n")
    table = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n" + rows
    for number, label in enumerate((16, 1, 38)):
        pixels = np.full((30, 40, 3), label, dtype=np.uint8)
        save(base / "GTSRB" / "Final_Test" / "Images" / f"{number:05d}.ppm", pixels)
        table += "" if rows else f"{number:05d}.ppm;40;30;1;1;2;2;{label}\n"
    (base / "GT-final_test.csv").write_text(table)
    return base


@pytest.mark.parametrize("size", [None, 24])
def test_gtsrb_original_files(root: Path, size: int | None) -> None:
    base = gtsrb(root)
    data = load("gtsrb", root, size=size)
    assert (data.shape, dict(data.options)) == ((3, size or 32, size or 32), {"size": size or 32})
    assert (data.source, data.classes) == (str(base), DATASETS.get("gtsrb").classes)
    assert (len(data.train), data.test.labels.tolist()) == (86, [16, 1, 38])
    for split in (data.train, data.test):
        assert (split.images == split.labels[:, None, None, None]).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("00000.ppm;40;30;1;1;2;2;43\n", "label 43 at test image 0"),
        ("00000.ppm;40;30;1;1;2;2;-1\n", "the row"),
        ("00007.ppm;40;30;1;1;2;2;1\n", r"00007\.ppm: expected the image that .*GT-final_test\.csv lists"),
        ("../00000.ppm;40;30;1;1;2;2;1\n", r"Filename \(a plain name\)"),
        ("00000.ppm;40\n", "the row"),
        ("\n", "no rows"),
    ],
)
def test_gtsrb_s_table_is_checked(root: Path, rows: str, message: str) -> None:
    gtsrb(root, rows=rows)
    with pytest.raises(DataError, match=message):
        load("gtsrb", root)


def test_gtsrb_without_a_class_or_the_table(root: Path) -> None:
    base = gtsrb(root)
    (base / "GTSRB" / "Training" / "00042").rename(base / "GTSRB" / "Training" / "00043")
    with pytest.raises(DataError, match="the 43 folders 00000 to 00042"):
        load("gtsrb", root)
    (base / "GT-final_test.csv").unlink()
    with pytest.raises(DataError, match=r"gtsrb: incomplete, without GT-final_test\.csv"):
        load("gtsrb", root)


@pytest.mark.parametrize("folder", ["17flowers", "17flowers/jpg"])
def test_flowers_original_files(root: Path, folder: str) -> None:
    for number, name in enumerate(FLOWER_FILES):
        save(root / folder / name, np.full((5, 6 + number % 3, 3), 14 * (number // 80), dtype=np.uint8))
    data = load("flowers17", root, size=8)
    assert (data.source, data.shape) == (str(root / folder), (3, 8, 8))
    for split, count in ((data.train, 72), (data.test, 8)):
        assert split.labels.bincount().tolist() == [count] * 17
        assert ((split.images.float().mean(dim=(1, 2, 3)) - 14 * split.labels).abs() <= 2).all()
    (root / folder / FLOWER_FILES[9]).unlink()
    with pytest.raises(DataError, match=r"incomplete, without image_0010\.jpg"):
        load("flowers17", root)


def test_imagenette_original_files(root: Path) -> None:
    def write(folder: str) -> None:
        for label, wnid in enumerate(IMAGENETTE_FOLDERS):
            for part in ("train", "val"):
                images = np.full((2, 10, 12 + label, 3), 20 * label, dtype=np.uint8)
                class_folder(root / folder / part, wnid, images, ".JPEG")

    # Of several archives the smallest that need not be enlarged.
    for folder in ("imagenette2", "imagenette2-320", "imagenette2-160"):
        write(folder)
        assert load("imagenette", root).source == str(root / folder)
    data, smallest = load("imagenette", root), root / "imagenette2-160" / "val"
    assert load("imagenette", root, size=160).source == str(root / "imagenette2-160")
    assert load("imagenette", root, size=161).source == str(root / "imagenette2-320")
    assert (data.shape, dict(data.options)) == ((3, 96, 96), {"size": 96})
    assert (data.classes[0], data.num_classes) == ("tench", 10)
    levels = data.train.images.float().mean(dim=(1, 2, 3))
    assert ((levels - 20 * data.train.labels).abs() <= 2).all()
    (smallest / "n01440764").rename(smallest / "n00000001")
    with pytest.raises(DataError, match=r"class folder\(s\) n00000001"):
        load("imagenette", root)
