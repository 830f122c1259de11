"""From attributions to ranks of an image's coordinates; random orders and a linear model's beside them."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from veridical.attribution.classifier import parameter_like
from veridical.attribution.method import Attribution, batch_maps
from veridical.attribution.registry import describe_attribution
from veridical.data import Dataset, Split
from veridical.data.array_files import read_members
from veridical.data.arrays import corrupt_file_error
from veridical.data.dataset import load_source, take_first
from veridical.metrics.rank import descending
from veridical.runtime.checking import check_count, check_value, record
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import REPEAT_HINT, atomic, read_array_header
from veridical.runtime.options import CoordinateOrder, PerName, TargetName
from veridical.training.loop import train
from veridical.training.run import Run

Part = Literal["train", "test"]
PARTS: tuple[Part, Part] = ("train", "test")
Ranks = npt.NDArray[np.int16] | npt.NDArray[np.int32]


PAPER = CoordinateOrder()


@record
class Ranking:
    """The ranks of every coordinate of the instances of a data set; rank 0 is the most important.

    train, test: int16 (int32 where that is too short) of shape (N, D), N the first so many instances, or
    (1, D) for one order of all instances. D is C * H * W, coordinates in the order of a flattened (C, H, W)
    image, or H * W if whole pixels are ranked. shape: (C, H, W) of the images. record: plain values that say
    how it was made.
    """

    train: Ranks
    test: Ranks
    shape: tuple[int, int, int]
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        sizes = (channels * height * width, height * width)
        for name, ranks in (("train", self.train), ("test", self.test)):
            if ranks.ndim != 2 or ranks.shape[1] not in sizes or ranks.dtype not in (np.int16, np.int32):
                expected = f"int16 or int32 ranks (N, {sizes[0]}) or (N, {sizes[1]})"
                raise argument_error(f"ranks {name}", ranks, expected)
        if self.train.shape[1] != self.test.shape[1]:
            raise argument_error("ranks test", self.test, f"(N, {self.coordinates}), as the training ranks")

    @property
    def coordinates(self) -> int:
        """D: how many coordinates are ranked."""
        count: int = self.train.shape[1]
        return count

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the ranks; how they came about is not part of it."""
        digest = hashlib.sha256(f"{self.shape}".encode())
        for ranks in (self.train, self.test):
            digest.update(f"{ranks.dtype.str}{ranks.shape}".encode())
            digest.update(np.ascontiguousarray(ranks).data)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Plain values: the checksum, the number of coordinates, and how the ranking was made."""
        return {"checksum": self.checksum, "coordinates": self.coordinates, **self.record}

    def save(self, path: Path) -> None:
        """Write an .npz file, atomically: members train, test, shape, record (JSON), digest (of all)."""
        text = json.dumps(dict(self.record), allow_nan=False).encode()
        digest = hashlib.sha256(self.checksum.encode() + text).digest()
        arrays: dict[str, Any] = {"train": self.train, "test": self.test, "shape": np.asarray(self.shape)}
        arrays |= {"record": np.frombuffer(text, np.uint8), "digest": np.frombuffer(digest, np.uint8)}
        with atomic(path) as file:
            # Straight to the disk: hundreds of megabytes need not be in memory twice.
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Ranking:
        """Map what `save` wrote, and read it once for its digest; a RunError for any other file."""
        try:
            names = (*PARTS, "shape", "record", "digest")
            train, test, shape, text, digest = (_map_member(path, name) for name in names)
            channels, height, width = map(int, shape)
            result = cls(train, test, (channels, height, width), {})
            if bytes(digest) != hashlib.sha256(result.checksum.encode() + bytes(text)).digest():
                raise ValueError("its content is not what was written (SHA-256 differs)")
            reported: dict[str, Any] = {**json.loads(bytes(text))}
        except Exception as error:  # what is no ranking fails in nearly any way
            raise RunError(f"{path} is damaged: {str(error).removesuffix('.')}. {REPEAT_HINT}") from error
        object.__setattr__(result, "record", reported)
        return result


def _map_member(path: Path, name: str) -> Any:
    """One array of an .npz file that `Ranking.save` wrote, mapped read-only: processes share its pages."""
    if not path.is_file():  # a pipe would wait for ever
        raise ValueError("there is no file")
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        shape, dtype = read_array_header(archive, name)
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member):
            # It is not compressed: behind zip's header the file holds numpy's, and then the array as it is.
            end = file.tell() + member.file_size
    return np.memmap(path, dtype, "r", end - math.prod(shape) * dtype.itemsize, shape)


def rank_coordinates(
    attribution: Tensor,
    how: CoordinateOrder = PAPER,
    *,
    indices: Tensor | Sequence[int] | None = None,
    purpose: str = "ties",
) -> Tensor:
    """Rank the coordinates of attributions (N, C, H, W), rank 0 for the greatest; int16 or int32 (N, D), CPU.

    indices: the examples' numbers in their data set, by which, with seed and purpose, random ties are drawn;
    None counts from 0. Raises UsageError for values that are not finite.
    """
    importance = _importances(attribution, how)
    examples, coordinates = importance.shape
    dtype = torch.int16 if coordinates <= 2**15 else torch.int32
    # The inverse of the order: the coordinate in place p gets rank p.
    result = descending(importance, ties=how.ties, seed=how.seed, indices=indices, purpose=purpose)
    places = torch.arange(coordinates, dtype=dtype, device=result.device).repeat(examples, 1)
    return torch.empty_like(places).scatter_(1, result, places).cpu()


def _importances(attribution: Tensor, how: CoordinateOrder) -> Tensor:
    """What is sorted: (N, C, H, W) to (N, D); squares and sums over channels in float64."""
    if attribution.ndim != 4 or not attribution.is_floating_point():
        raise argument_error("attribution", attribution, "floating-point attributions (N, C, H, W)")
    undefined = (~attribution.isfinite().flatten(1).all(1)).nonzero()
    if len(undefined):
        given = f"{len(undefined)} of {len(attribution)} (the first is {int(undefined[0, 0])})"
        raise argument_error(
            "attribution", f"values that are not finite in {given}", "finite values", "NaN has no rank."
        )
    values = attribution.detach()
    if how.order == "squared" or how.per == "pixel":
        values = values.double()  # squares of small gradients would vanish in float32
    if how.order != "signed":
        values = values.abs() if how.order == "absolute" else values.square()
    return (values.sum(dim=1) if how.per == "pixel" else values).flatten(1)


# (images done, images in total).
ProgressCallback = Callable[[int, int], object]


def rank_dataset(
    model: nn.Module,
    data: Dataset,
    attribution: Attribution,
    how: CoordinateOrder = PAPER,
    *,
    target: TargetName = "predicted",
    batch: int = 200,
    record: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank the coordinates of every training and test image by an attribution of the model's output.

    target: explain the predicted class, or the label; the latter's masks know the label, in testing too.
    batch: images at a time, which changes nothing beyond rounding. The record holds the attribution, these
    choices, what `record` adds, and the share of importances that are exactly zero, whose order is the ties'.
    """
    check_value("target", target, TargetName)
    like = parameter_like(model)

    def maps(part: Part, numbers: range) -> Tensor:
        inputs, labels = _split(data, part).batch(numbers, like.dtype, like.device)
        explained = labels if target == "label" else None
        return batch_maps(attribution, model, inputs, explained, numbers, how.seed)

    facts = {"attribution": describe_attribution(attribution), "target": target, **(record or {})}
    return _rank_parts(maps, data, facts, how, batch=batch, progress=progress)


def describe_maps(path: Path) -> dict[str, Any]:
    """Maps in a file as plain values: they are what their bytes are."""
    return {"method": "maps", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def rank_maps(
    path: Path,
    data: Dataset,
    how: CoordinateOrder = PAPER,
    *,
    batch: int = 1000,
    train: int | None = None,
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank by attributions in an .npz file: attribution_train and attribution_test, floating (N, C, H, W).

    (N, H, W) will do for images of one channel, or per pixel. train: rank only so many training images; the
    file has all. Raises DataError for a file that does not fit the data set.
    """
    prefix = "attribution_"
    arrays = {name.removeprefix(prefix): array for name, array in read_members(path, (prefix,)).items()}
    channels, *plane = data.shape
    for part in PARTS:
        if part not in arrays:
            found = ", ".join(prefix + other for other in arrays) or "none"
            raise corrupt_file_error(path, f"{found} of that name", f"an array {prefix}{part}")
        array, count = arrays[part], len(_split(data, part))
        # Without channels there must be one of them.
        flat = array.ndim == 3 and (how.per == "pixel" or channels == 1)
        wanted = (count, *plane) if flat else (count, channels, *plane)
        if array.dtype.kind != "f" or array.shape != wanted:
            expected = f"floating {wanted}, for the {part} images of {data.name}"
            found = f"{array.dtype} {array.shape}"
            raise corrupt_file_error(f"{path}, {prefix}{part}", found, expected)

    def maps(part: Part, numbers: range) -> Tensor:
        whole = torch.from_numpy(arrays[part][numbers.start : numbers.stop])
        return whole[:, None] if whole.ndim == 3 else whole

    used = data if train is None else take_first(data, train)
    return _rank_parts(maps, used, {"attribution": describe_maps(path)}, how, batch=batch, progress=progress)


def _rank_parts(
    maps: Callable[[Part, range], Tensor],
    data: Dataset,
    record: Mapping[str, Any],
    how: CoordinateOrder,
    *,
    batch: int,
    purpose: str = "ties",
    progress: ProgressCallback | None = None,
) -> Ranking:
    """Rank attributions (n, C, H, W) stretch by stretch; record how, and the share of exact zeros.

    maps: gives those of the images of a part with these numbers.
    """
    check_count("batch", batch)
    total, done, zeros, values = len(data.train) + len(data.test), 0, 0, 0
    tell = progress or (lambda _done, _total: None)
    tell(0, total)
    ranked: dict[Part, Any] = {}
    for part in PARTS:
        rows: list[Ranks] = []
        count = len(_split(data, part))
        for first in range(0, count, batch):
            numbers = range(first, min(first + batch, count))
            result = maps(part, numbers)
            importance = _importances(result, how)
            zeros, values = zeros + int((importance == 0).sum()), values + importance.numel()
            rows.append(
                rank_coordinates(result, how, indices=numbers, purpose=f"{purpose} of {part}").numpy()
            )
            done += len(numbers)
            tell(done, total)
        ranked[part] = np.concatenate(rows, dtype=rows[0].dtype)
    facts = {**record, **_describe_order(how), "data": data.checksum, "zero_share": zeros / values}
    return Ranking(ranked["train"], ranked["test"], data.shape, facts)


def _describe_order(how: CoordinateOrder) -> dict[str, Any]:
    """The choices of an order alone, as plain values."""
    return {name: getattr(how, name) for name in CoordinateOrder.__dataclass_fields__}


def _split(data: Dataset, part: Part) -> Split:
    return data.train if part == "train" else data.test


# The job that trains the linear model.
LINEAR = "veridical.faithfulness.ranking:measure_linear_importances"


def rank_randomly(data: Dataset, *, per: PerName = "value", seed: int = 0) -> Ranking:
    """An order of its own, at random, for every instance: what a ranking without any information gets."""
    plane = (1 if per == "pixel" else data.shape[0], *data.shape[1:])

    def nothing(part: Part, numbers: range) -> Tensor:  # noqa: ARG001
        return torch.zeros(len(numbers), *plane)

    # Everything is tied, so the order is that of the ties, which have a stream of their own for this purpose.
    how, record = CoordinateOrder(per=per, seed=seed), {"attribution": {"method": "random order"}}
    return _rank_parts(nothing, data, record, how, batch=1000, purpose="random order")


def measure_linear_importances(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train a linear model on the data and return the sum over classes of its absolute weights.

    values: {"data": {"checksum"}, "options": `linear_options`}. where: see `describe_source`. The result
    holds importances, C * H * W numbers, and the accuracy on the test images.
    """
    data = load_source(where, values["data"]["checksum"])
    run = train_linear(data, folder / "run", values["options"], where.get("device", "auto"))
    # How much a coordinate can move any logit, whichever its sign.
    weight = next(run.model.parameters()).detach().double().abs().sum(dim=0)
    accuracy = run.result["results"]["natural_accuracy"]["value"]
    return {"importances": weight.tolist(), "accuracy": accuracy}


def linear_options(data: Dataset, seed: int = 0) -> dict[str, Any]:
    """How the linear model trains, as fields of TrainOptions: Adam, one cycle."""
    return {
        "objective": "natural",
        "recipe": "fast",
        "optimiser": "adam",
        "schedule": "one-cycle",
        "epochs": 5.0,
        "batch_size": min(100, len(data.train)),
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "averaging": 0.0,
        "warm_up": 0.15,
        "validation": 0,
        "seed": seed,
    }


def train_linear(data: Dataset, out: Path, options: Mapping[str, Any], device: str) -> Run:
    """Train, or continue, in the folder `out` one linear layer on the flattened image, from zero."""
    # Nothing is drawn; and a coordinate that is black in every image keeps the weight zero.
    linear = nn.utils.skip_init(nn.Linear, int(np.prod(data.shape)), data.num_classes)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    model = nn.Sequential(nn.Flatten(), linear)
    return train(model=model, data=data, out=str(out), device=device, progress=False, **options)


def rank_by_linear_model(
    data: Dataset, result: Mapping[str, Any], *, per: PerName = "value", seed: int = 0
) -> Ranking:
    """One order for all instances from what `measure_linear_importances` returned; ties at random by seed."""
    how = CoordinateOrder(per=per, seed=seed)
    weight = torch.tensor(result["importances"], dtype=torch.float64).reshape(1, *data.shape)
    order = rank_coordinates(weight, how, purpose="input-agnostic order").numpy()
    record = {
        "attribution": {"method": "weights of a linear model", "accuracy": result["accuracy"]},
        **_describe_order(how),
        "data": data.checksum,
        "zero_share": float(np.mean(weight.numpy() == 0)),
    }
    return Ranking(order, order, data.shape, record)
