"""Folders of Hugging Face's library, written by it, against the same images as files in class folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.data import Dataset, load
from veridical.data.dataset import MaskedDataset, describe_source, load_source
from veridical.runtime.errors import DataError, UsageError

hf = pytest.importorskip("datasets")

FEATURES = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["ant", "bee"])})


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without progress bars, and without a network: any attempt to use one fails."""
    hf.disable_progress_bars()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def draw(count: int, seed: int, shape: tuple[int, ...] = (12, 9, 3)) -> list[Image.Image]:
    draws = np.random.default_rng(seed)
    return [Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)) for _ in range(count)]


def rows(count: int, seed: int, features: Any = FEATURES, **more: Sequence[Any]) -> Any:
    columns: dict[str, Any] = {"image": draw(count, seed), "label": [n % 2 for n in range(count)], **more}
    return hf.Dataset.from_dict(columns, features=features)


def write_files(folder: Path, parts: Mapping[str, Any]) -> None:
    for part, one in parts.items():
        for number, row in enumerate(one):
            path = folder / part / ("ant", "bee")[row["label"]] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            row["image"].save(path)


def contents(data: Dataset, part: Any) -> list[tuple[int, bytes]]:
    split = data.train if part == "train" else data.test
    pairs = zip(split.labels.tolist(), split.images, strict=True)
    return sorted((label, image.numpy().tobytes()) for label, image in pairs)


@pytest.mark.parametrize("held", ["test", "validation"])
@pytest.mark.parametrize(
    "options", [{}, {"size": 8}, {"size": 6, "crop_from": 8, "interpolation": "bicubic"}], ids=str
)
def test_a_saved_dict_is_what_class_folders_of_its_images_are(
    tmp_path: Path, held: str, options: dict[str, Any]
) -> None:
    parts = {"train": rows(7, 0), held: rows(4, 1), "unsupervised": rows(3, 2)}
    hf.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    write_files(tmp_path / "files", {"train": parts["train"], "test": parts[held]})
    data, files = load(tmp_path / "saved", **options), load(tmp_path / "files", **options)
    assert (data.classes, data.shape, dict(data.options)) == (files.classes, files.shape, options)
    for part in ("train", "test"):
        assert contents(data, part) == contents(files, part)
    # Sorted by class in the folder, mixed here.
    assert not isinstance(data, MaskedDataset)
    where = describe_source(str(tmp_path / "saved"), None, data.options)
    assert load_source(where, data.checksum).checksum == data.checksum


def test_of_a_single_split_a_fifth_of_every_class_is_for_testing(tmp_path: Path) -> None:
    rows(20, 0).select([*range(0, 20, 2), *range(1, 20, 2)]).with_format("numpy").save_to_disk(
        tmp_path / "one"
    )
    hf.DatasetDict({"all": rows(20, 0)}).save_to_disk(tmp_path / "dict")
    seen = set()
    for name, seed in (("one", 0), ("dict", 0), ("one", 1)):
        data = load(tmp_path / name, split_seed=seed)
        assert dict(data.options) == {"split_seed": seed, "test_fraction": 0.2}
        assert data.train.labels.bincount().tolist() == [8, 8]
        assert data.test.labels.bincount().tolist() == [2, 2]
        whole = sorted([*contents(data, "train"), *contents(data, "test")])
        seen.add(tuple(contents(data, "test")))
        expected = [
            (n % 2, np.asarray(one).transpose(2, 0, 1).tobytes()) for n, one in enumerate(draw(20, 0))
        ]
        assert whole == sorted(expected)
        assert data.train.labels.tolist() != sorted(data.train.labels.tolist())
    assert len(seen) > 1


@pytest.mark.parametrize("column", ["mask", "segmentation"])
def test_a_column_of_masks_becomes_the_masks(tmp_path: Path, column: str) -> None:
    features = hf.Features({**FEATURES, column: hf.Image()})
    # Each image is its own mask, but for one without.
    drawn = [Image.fromarray((np.asarray(one) > 127).astype(np.uint8) * 255) for one in draw(4, 1, (12, 9))]
    test = rows(4, 1, features, image=drawn, **{column: [*drawn[:3], None]})
    train = rows(6, 0, image=draw(6, 0, (12, 9)))
    hf.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "saved")
    with pytest.warns(UserWarning, match=r"6 of 6 training images and 1 of 4 test images .*test, row 3"):
        data = load(tmp_path / "saved", size=8, interpolation="nearest")
    assert isinstance(data, MaskedDataset)
    has_mask = data.test_mask.any(dim=(1, 2))
    assert int(has_mask.sum()) == 3
    assert data.test_mask[has_mask].equal(data.test.images[has_mask][:, 0] > 127)
    assert not data.train_mask.any()
    # Of the test images none has one: there are no masks.
    empty = rows(4, 1, features, image=drawn, **{column: [None] * 4})
    hf.DatasetDict({"train": train, "test": empty}).save_to_disk(tmp_path / "empty")
    without = load(tmp_path / "empty")
    assert not isinstance(without, MaskedDataset)
    with pytest.raises(UsageError, match=r"masks: expected None for .*column"):
        load(tmp_path / "saved", masks=tmp_path)


def test_columns_are_found_by_their_features(tmp_path: Path) -> None:
    more = hf.Features({**FEATURES, "thumbnail": hf.Image(), "fine": hf.ClassLabel(names=["x", "y", "z"])})
    both = rows(10, 0, more, thumbnail=draw(10, 5, (4, 4, 3)), fine=[2] * 10)
    both.save_to_disk(tmp_path / "both")
    assert (load(tmp_path / "both").shape, load(tmp_path / "both").classes) == ((3, 12, 9), ("ant", "bee"))
    both.rename_columns({"image": "photo"}).save_to_disk(tmp_path / "photos")
    with pytest.raises(UsageError, match=r"feature Image .* got 2\. .*photo \(Image\).*fine \(ClassLabel\)"):
        load(tmp_path / "photos")
    alone = both.select_columns(["thumbnail", "fine"]).cast_column("fine", hf.Value("int64"))
    alone.save_to_disk(tmp_path / "alone")
    with pytest.raises(UsageError, match=r"feature ClassLabel .* got 0\. .*fine \(Value\)"):
        load(tmp_path / "alone")
    both.select_columns(["thumbnail", "label"]).save_to_disk(tmp_path / "small")
    assert load(tmp_path / "small").shape == (3, 4, 4)


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(data: Any, message: str, name: str = "saved") -> None:
        data.save_to_disk(tmp_path / name)
        with pytest.raises(DataError, match=message):
            load(tmp_path / name)

    refused(hf.DatasetDict({"train": rows(4, 0), "extra": rows(4, 1)}), "found the splits train, extra", "a")
    refused(hf.DatasetDict({"train": rows(4, 0), "test": rows(0, 1)}), "b: expected a folder as", "b")
    refused(rows(4, 0, label=[0, 1, None, 0]), "none in row 2", "c")
    refused(hf.DatasetDict({"train": rows(4, 0), "test": rows(2, 1, label=[0, -1])}), "label -1", "d")
    other = hf.Features({**FEATURES, "label": hf.ClassLabel(names=["bee", "ant"])})
    refused(hf.DatasetDict({"train": rows(4, 0), "test": rows(4, 0, other)}), "classes of train in test", "e")
    clear = [Image.new("RGBA", (9, 12))] * 4
    refused(rows(4, 0, image=clear), r"row \d, image: .*mode RGBA", "f")
    refused(rows(4, 0, image=[*draw(3, 0), None]), r"row 3, image: .*PNG, JPEG", "g")
    rows(4, 0).save_to_disk(tmp_path / "h")
    for path in (tmp_path / "h").glob("*.arrow"):
        path.write_bytes(b"no table")
    with pytest.raises(DataError, match=r"h: expected a folder as `Dataset\.save_to_disk`"):
        load(tmp_path / "h")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"datasets is not installed .*veridical\[datasets\]"):
        load(tmp_path / "a")


def test_a_picture_that_is_only_named_is_not_looked_for(tmp_path: Path) -> None:
    draw(1, 0)[0].save(tmp_path / "0.png")
    plain = hf.Features({"bytes": hf.Value("binary"), "path": hf.Value("string")})
    features = hf.Features({**FEATURES, "image": plain})
    cells = [{"bytes": None, "path": str(tmp_path / "0.png")}] * 4
    rows(4, 0, features, image=cells).save_to_disk(tmp_path / "saved")
    info = tmp_path / "saved" / "dataset_info.json"
    told = json.loads(info.read_text())
    told["features"]["image"] = {"_type": "Image"}
    info.write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"row \d, image: expected a picture's bytes, but found the path"):
        load(tmp_path / "saved")


def test_loading_leaves_the_generators_alone(tmp_path: Path) -> None:
    rows(10, 0).save_to_disk(tmp_path / "saved")
    before = torch.get_rng_state()
    load(tmp_path / "saved")
    assert torch.equal(before, torch.get_rng_state())
