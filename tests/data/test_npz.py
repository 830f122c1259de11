from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from veridical.data import load
from veridical.data.array_files import npz_shapes, read_npz
from veridical.data.arrays import equalise_levels
from veridical.runtime.errors import DataError

Members = dict[str, Any]


@pytest.fixture
def members(members: Callable[..., Members]) -> Members:
    return members(6, 5, 3, train=12, test=8, classes=4)


def written(path: Path, members: Members, *, compression: int = zipfile.ZIP_DEFLATED) -> Path:
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
    tmp_path: Path, members: Members, compression: int
) -> None:
    data = load(written(tmp_path / "own.npz", members, compression=compression))
    assert (data.shape, data.classes) == ((3, 6, 5), ("0", "1", "2", "3"))
    assert data.source == data.name == str(tmp_path / "own.npz")
    assert dict(data.options) == {}
    for split, part in ((data.train, "train"), (data.test, "test")):
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        expected = members[f"x_{part}"].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(split.images.numpy(), expected)
        np.testing.assert_array_equal(split.labels.numpy(), members[f"y_{part}"])


@pytest.mark.parametrize(
    ("number", "absent"), [(lambda y: y + 1, r"1 of them .*\(0\)"), (lambda y: 9 * y, "24 of")]
)
def test_labels_that_leave_classes_empty_are_named(
    tmp_path: Path, members: Members, number: Callable[[Any], Any], absent: str
) -> None:
    members |= {part: number(members[part]) for part in ("y_train", "y_test")}
    with pytest.warns(UserWarning, match=absent):
        assert load(written(tmp_path / "own.npz", members)).num_classes == members["y_train"].max() + 1
    names = np.array([str(label) for label in range(int(members["y_train"].max()) + 1)])
    load(written(tmp_path / "own.npz", members | {"classes": names}))


@pytest.mark.parametrize("trailing", [(), (1,)])
def test_grey_images_have_one_channel(tmp_path: Path, members: Members, trailing: tuple[int, ...]) -> None:
    for part in ("x_train", "x_test"):
        members[part] = members[part][..., 0].reshape(-1, 6, 5, *trailing)
    data = load(written(tmp_path / "grey.npz", members))
    assert data.shape == (1, 6, 5)
    np.testing.assert_array_equal(data.train.images[:, 0].numpy(), members["x_train"].reshape(12, 6, 5))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", ">i4", "int64", "uint64"])
def test_labels_of_any_integer_type_and_a_column_of_labels(
    tmp_path: Path, members: Members, dtype: str
) -> None:
    members["y_train"] = members["y_train"].astype(dtype)
    members["y_test"] = members["y_test"].astype(dtype)[:, None]
    data = load(written(tmp_path / "own.npz", members))
    assert data.train.labels.tolist() == [0, 1, 2, 3] * 3
    assert data.test.labels.tolist() == [0, 1, 2, 3] * 2


def test_the_checksum_follows_content_shape_and_options(tmp_path: Path, members: Members) -> None:
    # Large enough for levels to be spread.
    members |= {part: members[part].repeat(5, 1).repeat(5, 2) for part in ("x_train", "x_test")}
    path = written(tmp_path / "own.npz", members)
    first, equalised = load(path), load(path, equalise=True)
    assert len(first.checksum) == 64
    # Not the way in which the arrays are stored.
    np.savez_compressed(tmp_path / "a.npz", **members)
    np.savez(tmp_path / "b.npz", **members)
    written(tmp_path / "f.npz", members | {"x_train": np.asfortranarray(members["x_train"])})
    same: list[Any] = [tmp_path / "a.npz", str(tmp_path / "b.npz"), tmp_path / "f.npz", path]
    assert {load(one).checksum for one in same} == {first.checksum}
    relabelled = load(written(path, members | {"y_test": members["y_test"][::-1].copy()}))
    turned = {part: members[part].swapaxes(1, 2) for part in ("x_train", "x_test")}
    names = {"classes": np.array(["ant", "bee", "cat", "dog", "\u00e9lan"])}
    reshaped = load(written(path, members | turned | names))
    assert reshaped.classes == tuple(names["classes"])
    assert len({one.checksum for one in (first, equalised, relabelled, reshaped)}) == 4
    assert (dict(first.options), dict(equalised.options)) == ({}, {"equalise": True})
    for split, before in ((equalised.train, first.train), (equalised.test, first.test)):
        np.testing.assert_array_equal(split.images.numpy(), equalise_levels(before.images.numpy()))
        assert torch.equal(split.labels, before.labels)


def test_every_member_is_decoded_once(
    tmp_path: Path, members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bytes handed out in total, as decoding is what costs: starts for the headers, then contents once.
    path = written(tmp_path / "own.npz", {name: np.repeat(array, 400, 0) for name, array in members.items()})
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


def test_shapes_are_read_without_the_content(tmp_path: Path, members: Members) -> None:
    # More than zipfile reads ahead.
    members["x_test"] = np.repeat(members["x_test"], 400, 0)
    path = written(tmp_path / "own.npz", members, compression=zipfile.ZIP_STORED)
    content = path.read_bytes()
    end = content.index(members["x_test"].tobytes()) + members["x_test"].size
    path.write_bytes(content[: end - 20] + bytes(20) + content[end:])
    # Damage at the end of the content is none of the header's business; reading all of it finds it.
    assert npz_shapes(path) == ((12, 6, 5, 3), (3200, 6, 5, 3))
    with pytest.raises(DataError, match=r"own\.npz: .*damaged or truncated.*CRC-32 for file 'x_test"):
        read_npz(path)


WRONG: dict[str, tuple[Callable[[Members], Any], str]] = {
    "float images": (
        lambda m: {"x_train": m["x_train"] / 255},
        "x_train: expected uint8 images.*float64.*255",
    ),
    "NaN": (
        lambda m: {"x_test": np.full(m["x_test"].shape, np.nan, "f4")},
        "x_test: expected uint8.*float32",
    ),
    "signed images": (lambda m: {"x_train": m["x_train"].astype("i4")}, "x_train: expected uint8.*int32"),
    "channels first": (
        lambda m: {"x_train": m["x_train"].transpose(0, 3, 1, 2)},
        r"x_train: .*\(12, 3, 6, 5\).*Channels come last",
    ),
    "two channels": (lambda m: {"x_train": m["x_train"][..., :2]}, r"\(12, 6, 5, 2\)"),
    "one image": (lambda m: {"x_train": m["x_train"][0, 0]}, r"\(5, 3\)"),
    "flat images": (lambda m: {"x_train": m["x_train"].reshape(12, -1)}, r"\(12, 90\)"),
    "no images": (lambda m: {"x_test": m["x_test"][:0], "y_test": m["y_test"][:0]}, "at least one image"),
    "other sizes": (
        lambda m: {"x_test": m["x_test"][:, :4]},
        r"one size and colour.*\(6, 5, 3\).*\(4, 5, 3\)",
    ),
    "fewer labels": (lambda m: {"y_train": m["y_train"][:-1]}, "12 train images and 11 train labels"),
    "more labels": (lambda _: {"y_test": np.zeros(9, "u1")}, "8 test images and 9 test labels"),
    "float labels": (lambda m: {"y_train": m["y_train"].astype("f4")}, "y_train: expected integer.*float32"),
    "one-hot labels": (lambda m: {"y_train": np.eye(4, dtype="u1")[m["y_train"]]}, r"\(12, 4\).*argmax"),
    "negative label": (lambda m: {"y_train": m["y_train"].astype("i1") - 1}, "label -1 at train image 0"),
    "unknown test label": (
        lambda m: {"y_test": m["y_test"] + 1},
        "labels 0 to 3, but found label 4 at test image 3 and 1 more",
    ),
    "huge label": (lambda m: {"y_train": m["y_train"].astype("u8") * 2**62}, r"label 4611686018427387904 at"),
    "label beyond the names": (
        lambda _: {"classes": np.array(["a", "b", "c"])},
        "labels 0 to 2, but found label 3 at train image 3",
    ),
    "one class": (lambda m: {"y_train": 0 * m["y_train"], "y_test": 0 * m["y_test"]}, "at least two classes"),
    "names as objects": (
        lambda _: {"classes": np.array(["a", "b", "c", "d"], dtype=object)},
        "Python objects",
    ),
    "names as numbers": (lambda _: {"classes": np.arange(4)}, "classes: expected a short list"),
    "images 0 or 1": (lambda m: {"x_train": m["x_train"] // 128}, "no value above 1.*multiplied by 255"),
    "objects": (
        lambda m: {"x_train": m["x_train"].astype(object)},
        "x_train: .*Python objects.*never loaded",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_named(tmp_path: Path, members: Members, case: str) -> None:
    change, message = WRONG[case]
    path = written(tmp_path / "wrong.npz", members | change(members))
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_missing_member_is_named_beside_what_is_there(tmp_path: Path, members: Members) -> None:
    del members["y_test"]
    with pytest.raises(DataError, match=r"no y_test \(the file holds x_train, y_train, x_test\)"):
        load(written(tmp_path / "wrong.npz", members))


def test_no_pickle_is_ever_loaded(tmp_path: Path, members: Members) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    members["y_train"] = np.array([Trap()] * 12, dtype=object)
    with pytest.raises(DataError, match=r"y_train: .*Python objects"):
        load(written(tmp_path / "trap.npz", members))
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
    tmp_path: Path, members: Members, monkeypatch: pytest.MonkeyPatch, shape: str, message: str
) -> None:
    """Another shape is written into the header of x_train; the last one is true, and too much."""
    monkeypatch.setattr("veridical.data.arrays.MAX_BYTES", 1000)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path = written(tmp_path / "lies.npz", {name: members[name] for name in members if name != "x_train"})
    with zipfile.ZipFile(path, "a") as archive:
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
        archive.writestr("x_train.npy", start + members["x_train"].tobytes())
    with pytest.raises(DataError, match=rf"x_train: .*{message}"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file at all", b"\0" * 1000])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.npz: expected a readable \.npz file"):
        load(path)


@pytest.fixture(scope="module", params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    images = np.random.default_rng(0).integers(0, 256, size=(4, 3, 3), dtype=np.uint8)
    labels = np.array([0, 1, 0, 1], dtype=np.uint8)
    members = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    path = written(tmp_path_factory.mktemp("sound") / "sound.npz", members, compression=request.param)
    return path.with_name("damaged.npz"), path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file:UserWarning")
def test_any_damage_is_a_data_error_or_harmless(sound: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = sound
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(
        damaged[: data.draw(st.sampled_from([len(content), len(content) // 2, len(content) - 5]))]
    )
    with contextlib.suppress(DataError):
        loaded = load(path)
        assert loaded.shape == (1, 3, 3)
        assert len(loaded.train) == len(loaded.test) == 4
