"""MNIST's IDX files, CIFAR-10's batches and SVHN's MATLAB files."""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from veridical.data import DATASETS, array_files, load
from veridical.data.array_files import (
    CIFAR_BINARY,
    CIFAR_PICKLED,
    IDX_STEMS,
    _read_idx,
    _read_pickled_batch,
)
from veridical.runtime.errors import DataError

Draw = Callable[..., Any]
Batches = list[tuple[np.ndarray, np.ndarray]]
COUNT = 20


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veridical.data.array_files._BATCH", COUNT)


def text(value: bytes) -> bytes:
    """A string as Python 2 pickles it."""
    return b"U" + bytes([len(value)]) + value


def array(rows: int, columns: int, content: bytes, *, code: bytes = b"u1", fortran: bool = False) -> bytes:
    """A numpy array as Python 2's numpy pickles it (protocol 2)."""
    kind = b"cnumpy\ndtype\n" + text(code) + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
    kind += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    flag = b"\x88" if fortran else b"\x89"
    return made + b"(K\x01" + shape + kind + flag + b"T" + struct.pack("<i", len(content)) + content + b"tb"


def batch(images: np.ndarray, labels: np.ndarray, *, data: bytes | None = None, listed: bytes = b"") -> bytes:
    """A batch as the original archive has it: a dictionary of batch_label, labels, data and filenames."""
    planes = records(images)
    numbers = listed or b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    entries = text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + numbers
    entries += text(b"data") + (data or array(len(planes), 3072, planes.tobytes()))
    return b"\x80\x02}(" + entries + b"u."


@pytest.fixture
def batches(draw: Draw) -> Batches:
    return [draw(COUNT, 32, 32, 3, seed=seed) for seed in range(6)]


def records(images: np.ndarray) -> np.ndarray:
    """Images (N, 32, 32, 3) as CIFAR-10 lays them out, (N, 3072)."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_pickled(root: Path, batches: Batches) -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, (images, labels) in zip(CIFAR_PICKLED, batches, strict=True):
        content = batch(images, labels)
        (folder / name).write_bytes(content)
        # The tests write what Python itself would unpickle.
        np.testing.assert_array_equal(pickle.loads(content, encoding="bytes")[b"data"], records(images))
    return folder


def write_binary(root: Path, batches: Batches) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (images, labels) in zip(CIFAR_BINARY, batches, strict=True):
        (folder / name).write_bytes(np.column_stack([labels, records(images)]).tobytes())
    return folder


@pytest.mark.parametrize("write", [write_pickled, write_binary])
def test_cifar_s_batches_in_both_forms(
    root: Path, batches: Batches, write: Callable[[Path, Batches], Path]
) -> None:
    folder = write(root, batches)
    if write is write_pickled:  # an array in Fortran's order is the same
        (images, labels), *_ = batches
        planes = records(images)
        fortran = array(len(planes), 3072, planes.tobytes(order="F"), fortran=True)
        (folder / CIFAR_PICKLED[0]).write_bytes(batch(images, labels, data=fortran))
    data = load("cifar10", root)
    assert (data.source, data.classes) == (str(folder), DATASETS.get("cifar10").classes)
    for split, parts in ((data.train, batches[:5]), (data.test, batches[5:])):
        images = np.concatenate([part for part, _ in parts]).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(split.images.numpy(), images)
        assert split.labels.tolist() == np.concatenate([part for _, part in parts]).tolist()


def test_a_pickle_that_would_run_code_runs_none(root: Path, batches: Batches) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (root / "sprung",)

    folder = write_pickled(root, batches)
    for trap in (
        pickle.dumps({b"data": Trap(), b"labels": []}),
        b"\x80\x02cos\nsystem\n" + text(f"touch {root / 'sprung'}".encode()[:200]) + b"\x85R.",
        b"\x80\x02cnumpy\nload\n" + text(b"x") + b"\x85R.",
        b"\x80\x02cbuiltins\neval\n" + text(b"1") + b"\x85R.",
    ):
        (folder / CIFAR_PICKLED[0]).write_bytes(trap)
        with pytest.raises(DataError, match=r"data_batch_1: .*which is never loaded"):
            load("cifar10", root)
    assert not (root / "sprung").exists()


def test_what_is_no_batch_is_named(tmp_path: Path, batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = batches[0]
    whole = COUNT * 3072
    cases = {
        b"": "damaged or truncated file",
        b"\x80\x02}.": "a pickle of something else",
        pickle.dumps([1, 2, 3]): "a pickle of something else",
        batch(images, labels)[:-5000]: "damaged or truncated file",
        # A memo of 2**31 entries, which Python would make, and a key of 100,000 tuples, which it would hash.
        b"\x80\x02}r" + (2**31).to_bytes(4, "little") + b".": "a memo of 2147483648 entries",
        b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.": "more than 1000 tuples",
        batch(images, labels, data=text(b"none")): "a pickle of something else",
        batch(images, labels, data=array(COUNT, 3072, bytes(whole - 1))): "another kind, shape or length",
        batch(images, labels, data=array(COUNT, 3071, bytes(COUNT * 3071))): "another kind, shape or length",
        batch(images, labels, data=array(COUNT, 3072, bytes(whole), code=b"i1")): "another kind",
        batch(images, labels, data=array(2**30, 3072, bytes(whole))): "another kind, shape or length",
        batch(images, labels[:-1]): "found 19 labels",
        batch(images, labels + 1): "20 labels, some out of range",
        batch(images, labels, listed=b"](" + text(b"one") * COUNT + b"e"): "some out of range",
    }
    path = tmp_path / "data_batch_1"
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            _read_pickled_batch(path)
        assert str(path) in str(caught.value)
    monkeypatch.setattr("veridical.data.array_files._MAX_BATCH_BYTES", 1000)
    path.write_bytes(batch(images, labels))
    with pytest.raises(DataError, match="expected at most 1000"):
        _read_pickled_batch(path)
    path.unlink()
    os.mkfifo(path)  # which nobody writes into
    with pytest.raises(DataError, match="no regular file"):
        _read_pickled_batch(path)


def test_a_binary_batch_of_another_length_or_label(root: Path, batches: Batches) -> None:
    folder = write_binary(root, batches)
    whole = (folder / CIFAR_BINARY[2]).read_bytes()
    (folder / CIFAR_BINARY[2]).write_bytes(whole[:-1])
    with pytest.raises(
        DataError, match=r"data_batch_3\.bin: expected 20 records of 3073 bytes, but found 61459"
    ):
        load("cifar10", root)
    (folder / CIFAR_BINARY[2]).write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(DataError, match="label 10 at train image 40"):
        load("cifar10", root)
    (folder / CIFAR_BINARY[5]).unlink()
    os.mkfifo(folder / CIFAR_BINARY[5])
    with pytest.raises(DataError, match=r"cifar-10-batches-bin: incomplete, without test_batch\.bin"):
        load("cifar10", root)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damaged_pickle_is_a_data_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(batch(np.zeros((COUNT, 32, 32, 3), dtype=np.uint8), np.arange(COUNT) % 10))
    # The pixels, most of the file, are plain bytes: damage goes to the frame around them.
    frame = [*range(len(content) - COUNT * 3072 - 20), *range(len(content) - 10, len(content))]
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.sampled_from(frame))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged_batch"
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        pixels, labels = _read_pickled_batch(path)
        assert pixels.shape == (COUNT, 3072)
        assert labels.max() < 10


def write_svhn(root: Path, draw: Draw, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """SVHN's two files, labels 1 .. 10 as in the original; `changes` replace training variables."""
    images, labels = draw(COUNT, 32, 32, 3)
    train = {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None] + 1} | changes
    scipy.io.savemat(
        root / "train_32x32.mat", {k: v for k, v in train.items() if v is not None}, do_compression=True
    )
    scipy.io.savemat(
        root / "test_32x32.mat", {"X": images[:10].transpose(1, 2, 3, 0), "y": labels[:10, None] + 1}
    )
    return images, labels


def test_svhn_s_files_with_10_for_the_digit_0(root: Path, draw: Draw) -> None:
    images, labels = write_svhn(root, draw)
    data = load("svhn", root)
    assert data.source == str(root / "{train,test}_32x32.mat")
    np.testing.assert_array_equal(data.train.images.numpy(), images.transpose(0, 3, 1, 2))
    assert data.train.labels.tolist() == ((labels + 1) % 10).tolist()
    assert data.classes[int(data.train.labels[9])] == "0"
    assert len(data.test) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "X: expected uint8 X .* but found nothing"),
        ({"y": None}, "y: expected uint8 X .* but found nothing"),
        ({"X": np.zeros((32, 32, 3, COUNT))}, "X: .*double"),
        ({"X": np.zeros((32, 32, 3), dtype=np.uint8)}, r"X: .*\(32, 32, 3\)"),
        ({"X": np.full((32, 32, 3, COUNT - 1), 9, dtype=np.uint8)}, "19 train images and 20 train labels"),
        ({"X": np.full((32, 16, 3, COUNT), 9, dtype=np.uint8)}, r"found training images of \(32, 16, 3\)"),
        ({"y": np.zeros((COUNT, 1), dtype=np.uint8)}, "label outside 1 to 10"),
        ({"y": np.full((COUNT, 1), 11, dtype=np.uint8)}, "label outside 1 to 10"),
        ({"y": np.full((COUNT, 1), 1.5)}, "label outside 1 to 10"),
        ({"y": np.full((COUNT, 1), np.nan)}, "label outside 1 to 10"),
    ],
)
def test_svhn_s_content_is_checked(root: Path, draw: Draw, changes: dict[str, Any], message: str) -> None:
    write_svhn(root, draw, **changes)
    with pytest.raises(DataError, match=message):
        load("svhn", root)


@pytest.mark.parametrize("keep", [0, 60, 200, 5000])
def test_a_truncated_svhn_file_is_named(root: Path, draw: Draw, keep: int) -> None:
    write_svhn(root, draw)
    path = root / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"train_32x32\.mat"):
        load("svhn", root)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def arrays(members: Callable[..., dict[str, np.ndarray]]) -> list[np.ndarray]:
    return list(members(28, 28).values())


def write_set(folder: Path, arrays: list[np.ndarray], *, suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in zip(IDX_STEMS, arrays, strict=True):
        content = idx(array)
        (folder / (stem + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")])
def test_torchvision_s_layout_is_read(
    root: Path, arrays: list[np.ndarray], name: str, folder: str, suffix: str
) -> None:
    write_set(root / folder, arrays, suffix=suffix)
    data = load(name, root)
    assert (data.source, data.num_classes) == (str(root / folder), 10)
    for number, split in enumerate((data.train, data.test)):
        np.testing.assert_array_equal(split.images[:, 0].numpy(), arrays[2 * number])
        np.testing.assert_array_equal(split.labels.numpy(), arrays[2 * number + 1])
    # Plain and compressed files may be mixed; none may be missing.
    (root / folder / f"{IDX_STEMS[0]}{suffix}").unlink()
    with pytest.raises(DataError, match=r"raw: incomplete, without train-images-idx3-ubyte\[\.gz\]"):
        load(name, root)
    (root / folder / IDX_STEMS[0]).write_bytes(idx(arrays[0]))
    assert load(name, root).checksum == data.checksum


def test_debian_s_files_come_after_the_root_s(root: Path, arrays: list[np.ndarray]) -> None:
    write_set(array_files.DEBIAN_FASHION, arrays, suffix=".gz")
    assert load("fashion-mnist", root).source == str(array_files.DEBIAN_FASHION)
    write_set(root / "FashionMNIST" / "raw", [array[:10] for array in arrays])
    data = load("fashion-mnist", root)
    assert data.source == str(root / "FashionMNIST" / "raw")
    assert len(data.train) == 10


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
def test_a_wrong_idx_file_is_named(tmp_path: Path, content: bytes, message: str, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=message) as caught:
        _read_idx(path, 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: [a[0], a[1] + 1, a[2], a[3]], "label 10 at train image 9 and 1 more"),
        (lambda a: [a[0], a[1], a[2], a[1]], "10 test images and 20 test labels"),
        (
            lambda a: [a[0][:, :27], a[1], a[2][:, :27], a[3]],
            r"mnist's.*\(1, 28, 28\), but found images of \(1, 27, 28\)",
        ),
    ],
)
def test_files_of_another_set_are_refused(
    root: Path, arrays: list[np.ndarray], change: Callable[..., Any], message: str
) -> None:
    write_set(root / "MNIST" / "raw", change(arrays))
    with pytest.raises(DataError, match=message):
        load("mnist", root)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), compressed=st.booleans())
def test_any_damaged_idx_file_is_a_data_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compressed: bool
) -> None:
    content = idx(np.arange(36, dtype=np.uint8).reshape(4, 3, 3))
    damaged = bytearray(gzip.compress(content, mtime=0) if compressed else content)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / ("damaged.gz" if compressed else "damaged")
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(DataError):
        assert _read_idx(path, 3).size == 36
