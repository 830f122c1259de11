"""A generated data set as a folder: the file that every command can load, what is in it, and a page of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veridical.data.block_mnist import block_mnist, counterfactual
from veridical.data.masked import MaskedDataset, PartName, load_masked, save_masked
from veridical.data.shortcut import shortcut
from veridical.report import Illustration, Panel, PictureGallery, PictureRow, Table, study_page
from veridical.runtime.devices import environment
from veridical.runtime.errors import argument_error
from veridical.runtime.files import claim_folder, read_json, result_document, write_atomic, write_json
from veridical.runtime.options import BlockOptions, ShortcutOptions
from veridical.runtime.study_config import BlockFileOptions, ShortcutFileOptions

DATA, RESULT, REPORT = "data.npz", "result.json", "report.html"
_PARTS: tuple[PartName, PartName] = ("train", "test")
_ROW = 6


@dataclass(frozen=True)
class GeneratedData:
    """What is left in the folder: the data file, the page, and the plain results."""

    file: Path
    page: Path
    results: Mapping[str, Any]

    def lines(self) -> list[str]:
        """What a terminal shows: how many images there are, and the two paths."""
        counts = [f"{self.results[part]['images']:,} {part}" for part in _PARTS]
        return [f"images: {', '.join(counts)}", f"data: {self.file}", f"report: {self.page}"]


def write_block_mnist(options: BlockFileOptions) -> GeneratedData:
    """Make a BlockMNIST data set, or its counterfactuals, and write it; one that is written is kept."""
    chosen = _as_options(BlockOptions, options)

    if options.moved < 0:
        raise argument_error("moved", options.moved, "0, or by how many blocks the signal moves")

    def make() -> MaskedDataset:
        if options.moved:
            return counterfactual(chosen, options.data_root, step=options.moved)
        return block_mnist(chosen, options.data_root)

    claim = {**asdict(chosen), "moved": options.moved}
    return _written("make-block-mnist", claim, make, options.out, options.gallery, "the signal block")


def write_shortcut(options: ShortcutFileOptions) -> GeneratedData:
    """Plant a shortcut in a data set and write it; one that is written is kept."""
    chosen = _as_options(ShortcutOptions, options)
    return _written(
        "make-shortcut",
        asdict(chosen),
        lambda: shortcut(chosen, options.data_root),
        options.out,
        options.gallery,
        "the patch",
    )


def _as_options(kind: type[Any], options: object) -> Any:
    """The part of a command's options that says what is made, without where it goes."""
    return kind(**{name: getattr(options, name) for name in kind.__dataclass_fields__})


def _written(
    kind: str,
    config: Mapping[str, object],
    make: Callable[[], MaskedDataset],
    out: str,
    gallery: int,
    marked: str,
) -> GeneratedData:
    start = time.perf_counter()
    # Made before the folder is taken: what is refused must not stand in the way of the corrected command.
    made = None if (Path(out) / RESULT).exists() else make()
    folder = claim_folder(out, kind, config)
    file, page = folder / DATA, folder / REPORT
    if made is None:
        data = load_masked(file)
        document = read_json(folder / RESULT)
    else:
        data = made
        save_masked(file, data)
        timing = {"seconds": round(time.perf_counter() - start, 3)}
        described = {**data.describe(), "source": data.source}
        surroundings = environment("cpu", "uint8", seed=int(str(data.options["seed"])))
        document = result_document(_results(data), {**config, "data": described}, surroundings, timing)
        write_json(folder / RESULT, document)
    write_atomic(page, _page(data, document, gallery, marked))
    return GeneratedData(file, page, document["results"])


def _results(data: MaskedDataset) -> dict[str, object]:
    """For both parts: images by class and by place, and the share of pixels in the masks."""
    return {
        part: {
            "images": len(data.split(part)),
            "by_class": dict(
                zip(data.classes, _counts(data.split(part).labels.numpy(), data.num_classes), strict=True)
            ),
            "by_place": {
                name: _by_value(data.place(name, part).numpy()) for name in data.places if name != "example"
            },
            "mask_share": float(data.mask(part).double().mean()),
        }
        for part in _PARTS
    }


def _counts(values: np.ndarray[Any, Any], size: int) -> list[int]:
    return [int(count) for count in np.bincount(values, minlength=size)]


def _by_value(values: np.ndarray[Any, Any]) -> dict[str, int]:
    found, counts = np.unique(values, return_counts=True)
    return {str(value): int(count) for value, count in zip(found, counts, strict=True)}


def _page(data: MaskedDataset, document: Mapping[str, Any], gallery: int, marked: str) -> str:
    """Pictures of the first images of both parts with their masks outlined, and how many there are."""
    panels = [
        Panel(
            f"The first {part} images",
            [f"The outline is the mask: {marked}."],
            [_pictures(data, part, gallery)],
            _table(document["results"][part]),
        )
        for part in _PARTS
    ]
    height, width = data.shape[1:]
    lead = (
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images of {height} x {width}."
    )
    facts = {
        "config": document["config"],
        "environment": document["environment"],
        "timing": document["timing"],
    }
    return study_page(f"The data set {data.name}", [lead], panels, facts, question="a generated data set")


def _pictures(data: MaskedDataset, part: PartName, gallery: int) -> Illustration:
    split, mask = data.split(part), data.mask(part).numpy()
    rows = []
    # Rows of one length: the last ones that do not fill a row are left out, but for a row that is the only.
    width = min(_ROW, gallery, len(split))
    for first in range(0, min(gallery, len(split)) - width + 1, width):
        numbers = range(first, first + width)
        rows.append(
            PictureRow(
                f"images {first} to {first + width - 1}",
                [split.images[number].permute(1, 2, 0).numpy() / 255.0 for number in numbers],
                [data.classes[int(split.labels[number])] for number in numbers],
                [mask[number] for number in numbers],
            )
        )
    figure = PictureGallery(rows, [""] * width, ["grey"] * width)
    return Illustration(figure, "", f"the first {part} images, with the masks outlined")


def _table(results: Mapping[str, Any]) -> Table:
    rows = [(f"class {name}", f"{count:,}") for name, count in results["by_class"].items()]
    rows += [
        (f"{name} {value}", f"{count:,}")
        for name, counts in results["by_place"].items()
        for value, count in counts.items()
    ]
    return Table(["", "images"], rows, f"Share of pixels in the mask: {results['mask_share']:.4f}")
