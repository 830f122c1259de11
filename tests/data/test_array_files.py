"""CIFAR-10's batches, SVHN's MATLAB files, MNIST's IDX files, and anybody's .npz files."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veridical.data import DATASETS, array_files, load
from veridical.data.array_files import (
    CIFAR_BINARY,
    CIFAR_PICKLED,
    IDX_STEMS,
    _read_idx,
    _read_pickled_batch,
    npz_shapes,
    read_npz,
)
from veridical.data.arrays import equalise_levels
from veridical.runtime.errors import DataError

Draw = Callable[..., Any]
Members = dict[str, Any]
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


@pytest.fixture
def own(members: Callable[..., Members]) -> Members:
    return members(6, 5, 3, train=12, test=8, classes=4)


def written(path: Any, members: Members, *, compression: int = zipfile.ZIP_DEFLATED) -> Any:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in members.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=True)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return path


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_colour_images_arrive_unchanged_channels_first(
    tmp_path: Path, own: Members, compression: int
) -> None:
    data = load(written(tmp_path / "own.npz", own, compression=compression))
    assert (data.shape, data.classes) == ((3, 6, 5), ("0", "1", "2", "3"))
    assert data.source == data.name == str(tmp_path / "own.npz")
    assert dict(data.options) == {}
    for split, part in ((data.train, "train"), (data.test, "test")):
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        expected = own[f"x_{part}"].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(split.images.numpy(), expected)
        np.testing.assert_array_equal(split.labels.numpy(), own[f"y_{part}"])


@pytest.mark.parametrize(
    ("number", "absent"), [(lambda y: y + 1, r"1 of them .*\(0\)"), (lambda y: 9 * y, "24 of")]
)
def test_labels_that_leave_classes_empty_are_named(
    tmp_path: Path, own: Members, number: Callable[[Any], Any], absent: str
) -> None:
    own |= {part: number(own[part]) for part in ("y_train", "y_test")}
    with pytest.warns(UserWarning, match=absent):
        assert load(written(tmp_path / "own.npz", own)).num_classes == own["y_train"].max() + 1
    names = np.array([str(label) for label in range(int(own["y_train"].max()) + 1)])
    load(written(tmp_path / "own.npz", own | {"classes": names}))


@pytest.mark.parametrize("trailing", [(), (1,)])
def test_grey_images_have_one_channel(tmp_path: Path, own: Members, trailing: tuple[int, ...]) -> None:
    for part in ("x_train", "x_test"):
        own[part] = own[part][..., 0].reshape(-1, 6, 5, *trailing)
    data = load(written(tmp_path / "grey.npz", own))
    assert data.shape == (1, 6, 5)
    np.testing.assert_array_equal(data.train.images[:, 0].numpy(), own["x_train"].reshape(12, 6, 5))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", ">i4", "int64", "uint64"])
def test_labels_of_any_integer_type_and_a_column_of_labels(tmp_path: Path, own: Members, dtype: str) -> None:
    own["y_train"] = own["y_train"].astype(dtype)
    own["y_test"] = own["y_test"].astype(dtype)[:, None]
    data = load(written(tmp_path / "own.npz", own))
    assert data.train.labels.tolist() == [0, 1, 2, 3] * 3
    assert data.test.labels.tolist() == [0, 1, 2, 3] * 2


def test_the_checksum_follows_content_shape_and_options(tmp_path: Path, own: Members) -> None:
    # Large enough for levels to be spread.
    own |= {part: own[part].repeat(5, 1).repeat(5, 2) for part in ("x_train", "x_test")}
    path = written(tmp_path / "own.npz", own)
    first, equalised = load(path), load(path, equalise=True)
    assert len(first.checksum) == 64
    # Not the way in which the arrays are stored.
    np.savez_compressed(tmp_path / "a.npz", **own)
    np.savez(tmp_path / "b.npz", **own)
    written(tmp_path / "f.npz", own | {"x_train": np.asfortranarray(own["x_train"])})
    same: list[Any] = [tmp_path / "a.npz", str(tmp_path / "b.npz"), tmp_path / "f.npz", path]
    assert {load(one).checksum for one in same} == {first.checksum}
    relabelled = load(written(path, own | {"y_test": own["y_test"][::-1].copy()}))
    turned = {part: own[part].swapaxes(1, 2) for part in ("x_train", "x_test")}
    names = {"classes": np.array(["ant", "bee", "cat", "dog", "\u00e9lan"])}
    reshaped = load(written(path, own | turned | names))
    assert reshaped.classes == tuple(names["classes"])
    assert len({one.checksum for one in (first, equalised, relabelled, reshaped)}) == 4
    assert (dict(first.options), dict(equalised.options)) == ({}, {"equalise": True})
    for split, before in ((equalised.train, first.train), (equalised.test, first.test)):
        np.testing.assert_array_equal(split.images.numpy(), equalise_levels(before.images.numpy()))
        assert torch.equal(split.labels, before.labels)


def test_every_member_is_decoded_once(tmp_path: Path, own: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    # Bytes handed out in total, as decoding is what costs: starts for the headers, then contents once.
    path = written(tmp_path / "own.npz", {name: np.repeat(array, 400, 0) for name, array in own.items()})
    total, read = 0, zipfile.ZipExtFile.read

    def counting(self: zipfile.ZipExtFile, n: int | None = -1) -> bytes:
        nonlocal total
        piece = read(self, n)
        total += len(piece)
        return piece

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counting)
    load(path)
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    assert size <= total <= size + 4 * 2**14


def test_shapes_are_read_without_the_content(tmp_path: Path, own: Members) -> None:
    # More than zipfile reads ahead.
    own["x_test"] = np.repeat(own["x_test"], 400, 0)
    path = written(tmp_path / "own.npz", own, compression=zipfile.ZIP_STORED)
    content = path.read_bytes()
    end = content.index(own["x_test"].tobytes()) + own["x_test"].size
    path.write_bytes(content[: end - 20] + bytes(20) + content[end:])
    # Damage at the end of the content is none of the header's business; reading all of it finds it.
    assert npz_shapes(path) == ((12, 6, 5, 3), (3200, 6, 5, 3))
    with pytest.raises(DataError, match=r"own\.npz: .*damaged or truncated.*CRC-32 for file 'x_test"):
        read_npz(path)


# A member, what is made of it, and what is said of that.
WRONG: list[tuple[str, Callable[[Any], Any], str]] = [
    ("x_train", lambda x: x / 255, "x_train: expected uint8 images.*float64.*255"),
    ("x_test", lambda x: np.full(x.shape, np.nan, "f4"), "x_test: expected uint8.*float32"),
    ("x_train", lambda x: x.astype("i4"), "x_train: expected uint8.*int32"),
    ("x_train", lambda x: x.transpose(0, 3, 1, 2), r"x_train: .*\(12, 3, 6, 5\).*Channels come last"),
    ("x_train", lambda x: x[..., :2], r"\(12, 6, 5, 2\)"),
    ("x_train", lambda x: x[0, 0], r"\(5, 3\)"),
    ("x_train", lambda x: x.reshape(12, -1), r"\(12, 90\)"),
    ("x_train", lambda x: x // 128, "no value above 1.*multiplied by 255"),
    ("x_train", lambda x: x.astype(object), "x_train: .*Python objects.*never loaded"),
    ("x_test", lambda x: x[:0], "at least one image"),
    ("x_test", lambda x: x[:, :4], r"one size and colour.*\(6, 5, 3\).*\(4, 5, 3\)"),
    ("y_train", lambda y: y[:-1], "12 train images and 11 train labels"),
    ("y_test", lambda _: np.zeros(9, "u1"), "8 test images and 9 test labels"),
    ("y_train", lambda y: y.astype("f4"), "y_train: expected integer.*float32"),
    ("y_train", lambda y: np.eye(4, dtype="u1")[y], r"\(12, 4\).*argmax"),
    ("y_train", lambda y: y.astype("i1") - 1, "label -1 at train image 0"),
    ("y_test", lambda y: y + 1, "labels 0 to 3, but found label 4 at test image 3 and 1 more"),
    ("y_train", lambda y: y.astype("u8") * 2**62, r"label 4611686018427387904 at"),
    ("y_train", lambda y: 0 * y, "at least two classes"),
    ("classes", lambda _: np.array(["a", "b", "c"]), "labels 0 to 2, but found label 3 at train image 3"),
    ("classes", lambda _: np.array(["a", "b", "c", "d"], dtype=object), "Python objects"),
    ("classes", lambda _: np.arange(4), "classes: expected a short list"),
]


@pytest.mark.parametrize(("member", "change", "message"), WRONG)
def test_wrong_content_is_named(
    tmp_path: Path, own: Members, member: str, change: Callable[[Any], Any], message: str
) -> None:
    path = written(tmp_path / "wrong.npz", own | {member: change(own.get(member))})
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_missing_member_is_named_beside_what_is_there(tmp_path: Path, own: Members) -> None:
    del own["y_test"]
    with pytest.raises(DataError, match=r"no y_test \(the file holds x_train, y_train, x_test\)"):
        load(written(tmp_path / "wrong.npz", own))


def test_no_pickle_is_ever_loaded(tmp_path: Path, own: Members) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    own["y_train"] = np.array([Trap()] * 12, dtype=object)
    with pytest.raises(DataError, match=r"y_train: .*Python objects"):
        load(written(tmp_path / "trap.npz", own))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("(1000000000000, 28, 28, 3)", "found 1080 bytes of content"),
        ("(13, 6, 5, 3)", "not 1170 for shape"),
        ("(11, 6, 5, 3)", "not 990 for shape"),
        ("(-12, 6, 5, 3)", "found 1080 bytes of content"),
        ("(-12, -6, 5, 3)", r"shape \(-12, -6, 5, 3\)"),
        ("'many'", "unreadable header"),
        ("(12, 6, 5, 3", "unreadable header"),
        ("(12, 6, 5, 3)", "expected at most"),
    ],
)
def test_headers_are_checked_before_anything_is_made(
    tmp_path: Path, own: Members, monkeypatch: pytest.MonkeyPatch, shape: str, message: str
) -> None:
    """Another shape is written into the header of x_train; the last one is true, and too much."""
    monkeypatch.setattr("veridical.data.arrays.MAX_BYTES", 1000)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path = written(tmp_path / "lies.npz", {name: own[name] for name in own if name != "x_train"})
    with zipfile.ZipFile(path, "a") as archive:
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        archive.writestr("x_train.npy", start + own["x_train"].tobytes())
    with pytest.raises(DataError, match=rf"x_train: .*{message}"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all", b"\0" * 1000])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.npz: expected a readable \.npz file"):
        load(path)


GREY = np.arange(36, dtype=np.uint8).reshape(4, 3, 3)
PAIR = np.array([0, 1, 0, 1], dtype=np.uint8)


def npz(compression: int) -> bytes:
    buffer = io.BytesIO()
    written(
        buffer, {"x_train": GREY, "y_train": PAIR, "x_test": GREY, "y_test": PAIR}, compression=compression
    )
    return buffer.getvalue()


def is_whole(path: Path) -> bool:
    data = load(path)
    return data.shape == (1, 3, 3) and len(data.train) == len(data.test) == 4


def is_a_batch(path: Path) -> bool:
    pixels, labels = _read_pickled_batch(path)
    return pixels.shape == (COUNT, 3072) and labels.max() < 10


# A sound file, how many bytes of its frame are damaged (pixels in the middle are not), what must be read.
SOUND: dict[str, tuple[bytes, int, Callable[[Path], bool]]] = {
    "pickle": (batch(np.zeros((COUNT, 32, 32, 3), np.uint8), np.arange(COUNT) % 10), 500, is_a_batch),
    "idx": (idx(GREY), 100, lambda path: _read_idx(path, 3).size == 36),
    "idx.gz": (gzip.compress(idx(GREY), mtime=0), 100, lambda path: _read_idx(path, 3).size == 36),
    "stored.npz": (npz(zipfile.ZIP_STORED), 5000, is_whole),
    "deflated.npz": (npz(zipfile.ZIP_DEFLATED), 5000, is_whole),
    "lzma.npz": (npz(zipfile.ZIP_LZMA), 5000, is_whole),
}


@pytest.mark.parametrize("name", SOUND)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file:UserWarning")
def test_any_damage_is_a_data_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content, frame, is_sound = SOUND[name]
    damaged, length = bytearray(content), len(content)
    places = st.integers(0, min(frame, length - 1)) | st.integers(max(0, length - frame), length - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(places)] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
    path.write_bytes(damaged[: data.draw(st.sampled_from([length, length // 2, length - 5]))])
    with contextlib.suppress(DataError):
        assert is_sound(path)
