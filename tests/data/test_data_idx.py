from __future__ import annotations

import contextlib
import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veridical.data import array_files, load
from veridical.data.array_files import IDX_STEMS, idx_shapes, read_idx
from veridical.runtime.errors import DataError


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_set(folder: Path, arrays: list[np.ndarray], *, suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in zip(IDX_STEMS, arrays, strict=True):
        content = idx(array)
        (folder / (stem + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    return folder


@pytest.fixture
def arrays(draw: Callable[..., Any]) -> list[np.ndarray]:
    return [*draw(20, 28, 28), *draw(10, 28, 28, seed=1)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")])
def test_torchvision_s_layout_is_read(
    root: Path, arrays: list[np.ndarray], name: str, folder: str, suffix: str
) -> None:
    write_set(root / folder, arrays, suffix=suffix)
    data = load(name, root)
    assert data.shape == (1, 28, 28)
    assert data.source == str(root / folder)
    assert data.num_classes == 10
    np.testing.assert_array_equal(data.train.images[:, 0].numpy(), arrays[0])
    np.testing.assert_array_equal(data.train.labels.numpy(), arrays[1])
    np.testing.assert_array_equal(data.test.images[:, 0].numpy(), arrays[2])
    np.testing.assert_array_equal(data.test.labels.numpy(), arrays[3])


def test_debian_s_files_come_after_the_root_s(root: Path, arrays: list[np.ndarray]) -> None:
    write_set(array_files.DEBIAN_FASHION, arrays, suffix=".gz")
    assert load("fashion-mnist", root).source == str(array_files.DEBIAN_FASHION)
    write_set(root / "FashionMNIST" / "raw", [array[:10] for array in arrays])
    data = load("fashion-mnist", root)
    assert data.source == str(root / "FashionMNIST" / "raw")
    assert len(data.train) == 10


def test_plain_and_compressed_files_may_be_mixed(root: Path, arrays: list[np.ndarray]) -> None:
    folder = write_set(root / "MNIST" / "raw", arrays, suffix=".gz")
    (folder / f"{IDX_STEMS[0]}.gz").unlink()
    (folder / IDX_STEMS[0]).write_bytes(idx(arrays[0]))
    assert len(load("mnist", root).train) == 20


def test_a_missing_file_is_named(root: Path, arrays: list[np.ndarray]) -> None:
    folder = write_set(root / "MNIST" / "raw", arrays)
    (folder / IDX_STEMS[1]).unlink()
    with pytest.raises(DataError, match=r"MNIST/raw: incomplete, without train-labels-idx1-ubyte\[\.gz\]"):
        load("mnist", root)


def test_shapes_come_from_the_headers_alone(tmp_path: Path, arrays: list[np.ndarray]) -> None:
    folder = write_set(tmp_path, arrays)
    for stem in IDX_STEMS:
        (folder / stem).write_bytes((folder / stem).read_bytes()[:16])
    assert idx_shapes(folder) == ((20, 28, 28), (10, 28, 28))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"magic \(nothing\)"),
        (b"\0\0\x08", "magic 000008"),
        (idx(np.zeros(3, "u1")), "expected an IDX file of bytes with 3 dimension.*magic 00000801"),
        (b"\0\0\x0d\x03" + bytes(12), "magic 00000d03"),
        (b"\0\0\x08\x03" + bytes(7), "the end of the file within its header"),
        (b"\0\0\x08\x03" + bytes(12), "at least one image"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(7), r"7 bytes of content.*truncated"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2, 2, 2) + bytes(9), "more bytes of content"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**12, 2**12), "at most 8 GiB"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("cut", [5, 40, -9, -1])
def test_a_truncated_gzip_file_is_named(tmp_path: Path, arrays: list[np.ndarray], cut: int) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(arrays[0]))[:cut])
    with pytest.raises(DataError, match=r"images\.gz: .*damaged or truncated"):
        read_idx(path, 3)


def test_labels_of_another_set_are_found_out(root: Path, arrays: list[np.ndarray]) -> None:
    write_set(root / "MNIST" / "raw", [arrays[0], arrays[1] + 1, arrays[2], arrays[3]])
    with pytest.raises(DataError, match="label 10 at train image 9 and 1 more"):
        load("mnist", root)
    write_set(root / "MNIST" / "raw", [arrays[0], arrays[1], arrays[2], arrays[1]])
    with pytest.raises(DataError, match="10 test images and 20 test labels"):
        load("mnist", root)


def test_images_of_another_size_are_found_out(root: Path, arrays: list[np.ndarray]) -> None:
    write_set(root / "MNIST" / "raw", [arrays[0][:, :27], arrays[1], arrays[2][:, :27], arrays[3]])
    with pytest.raises(DataError, match=r"mnist's.*\(1, 28, 28\), but found images of \(1, 27, 28\)"):
        load("mnist", root)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), compressed=st.booleans())
def test_any_damage_is_a_data_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compressed: bool
) -> None:
    content = idx(np.arange(36, dtype=np.uint8).reshape(4, 3, 3))
    damaged = bytearray(gzip.compress(content, mtime=0) if compressed else content)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / ("damaged.gz" if compressed else "damaged")
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(DataError):
        assert read_idx(path, 3).size == 36
