"""Generated data sets as folders: a file that every command can load, what is in it, and a page of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from veridical.data.block_mnist import block_mnist
from veridical.data.dataset import MaskedDataset, PartName
from veridical.data.masked import load_masked, save_masked
from veridical.data.shortcut import shortcut
from veridical.report import Illustration, Panel, PictureGallery, PictureRow, Table, study_page
from veridical.runtime.checking import FilePath, Limit, Steps
from veridical.runtime.devices import environment
from veridical.runtime.errors import argument_error
from veridical.runtime.files import claim_folder, read_json, result_document, write_atomic, write_json
from veridical.runtime.options import BlockOptions, DataRoot, Gallery, ShortcutOptions

# The rows of the picture of all kinds of BlockMNIST, by title.
KINDS: Mapping[str, BlockOptions] = {
    "BlockMNIST: a square's outline, position random": BlockOptions(),
    "BlockMNIST-Top: position top": BlockOptions(position="top"),
    "position bottom": BlockOptions(position="bottom"),
    "position 0.8: on top with this probability": BlockOptions(position=0.8),
    "null filled": BlockOptions(null="filled"),
    "null noise": BlockOptions(null="noise"),
    "null scramble": BlockOptions(null="scramble"),
    "null scramble, tile 7": BlockOptions(null="scramble", tile=7),
    "classes two": BlockOptions(classes="two"),
    "layout horizontal": BlockOptions(layout="horizontal"),
    "layout 3, null scramble, tile 7": BlockOptions(layout=3, null="scramble", tile=7),
    "contrast 0.5, null contrast 1": BlockOptions(contrast=0.5, null_contrast=1.0),
    "noise 0.2": BlockOptions(noise=0.2),
}

_MOVED = "counterfactuals of the first row: the same images, the signal moved"
_PARTS: tuple[PartName, PartName] = ("train", "test")
_ROW = 6  # pictures beside each other


@dataclass(frozen=True, kw_only=True)
class BlockFileOptions(BlockOptions, Gallery, DataRoot):
    """A BlockMNIST data set, and where it is written.

    Args:
        out: Folder of data.npz, result.json and report.html; the same command finds it finished.
        moved: Write the counterfactuals instead: the signal changes places with the block this many further.
        gallery: Images of each part shown in the report.
        figure: File (.png or .svg) for images of every kind of BlockMNIST, made from this source.
    """

    out: FilePath
    moved: Steps = 0
    gallery: Annotated[int, Limit(1, 1000)] = 12
    figure: FilePath | None = None


@dataclass(frozen=True, kw_only=True)
class ShortcutFileOptions(ShortcutOptions, Gallery, DataRoot):
    """A data set with a planted shortcut, and where it is written.

    Args:
        out: Folder of data.npz, result.json and report.html; the same command finds it finished.
        gallery: Images of each part shown in the report.
    """

    out: FilePath
    gallery: Annotated[int, Limit(1, 1000)] = 12


def make_block_mnist(options: BlockFileOptions) -> str:
    """Write a BlockMNIST data set: in each image one block carries the label, the others never do.

    examples:
      veridical make-block-mnist --out data/block-mnist
      veridical make-block-mnist --source mnist --classes two --null scramble --out data/blocks
      veridical make-block-mnist --layout 3 --null noise --position 0.5 --noise 0.05 --out data/grid
      veridical train --data data/block-mnist/data.npz --model mlp --objective natural --out runs/blocks

    DIR/data.npz is a data set for every command, with the masks of the signal blocks beside the images;
    DIR/result.json says how it was made, DIR/report.html shows it.
    """
    figure = None if options.figure is None else Path(options.figure)
    if figure is not None and figure.suffix not in (".png", ".svg"):
        raise argument_error("figure", options.figure, "a file that ends in .png or .svg")
    blocks = _part_of(BlockOptions, options)

    make = partial(block_mnist, blocks, options.data_root, moved=options.moved)
    config = {**asdict(blocks), "moved": options.moved}
    text = _write("make-block-mnist", config, make, options, "the signal block")
    if figure is None:
        return text
    figure.parent.mkdir(parents=True, exist_ok=True)
    drawn = _draw_kinds(options.source, options.data_root)
    drawn.savefig(figure, dpi=144, facecolor="white", bbox_inches="tight", pad_inches=0.2)
    return f"{text}\nfigure: {figure}"


def make_shortcut(options: ShortcutFileOptions) -> str:
    """Write a data set with a planted shortcut: a patch that agrees with the class in training.

    examples:
      veridical make-shortcut --out data/shortcut
      veridical make-shortcut --source mnist-5k --rate 0.8 --test agreeing --out data/agreeing
      veridical make-shortcut --source mnist-5k --code presence --test gone --out data/gone

    In the test images the patch agrees as often as in training, is moved independently of the class, or is
    gone. DIR/data.npz is a data set for every command, with the masks of the patches beside the images;
    DIR/result.json says how it was made, DIR/report.html shows it.
    """
    patch = _part_of(ShortcutOptions, options)
    make = partial(shortcut, patch, options.data_root)
    return _write("make-shortcut", asdict(patch), make, options, "the patch")


def _draw_kinds(source: str, root: str | None = None) -> Figure:
    """A row of training images for each of KINDS, then the counterfactuals of the first, masks outlined."""
    kinds = {
        title: replace(kind, source=source, train_examples=_ROW, test_examples=1)
        for title, kind in KINDS.items()
    }
    rows = {title: block_mnist(kind, root) for title, kind in kinds.items()}
    rows[_MOVED] = block_mnist(next(iter(kinds.values())), root, moved=1)
    figure = Figure(figsize=(1.4 * _ROW, 2.6 * len(rows)), layout="constrained")
    strips = np.ravel(figure.subfigures(len(rows), 1, squeeze=False))
    for strip, (title, data) in zip(strips, rows.items(), strict=True):
        strip.suptitle(title, x=0.01, ha="left", fontsize=10)
        for place, axes in enumerate(strip.subplots(1, _ROW)):
            image, mask = data.train.images[place, 0].numpy(), data.train_mask[place].numpy()
            height, width = mask.shape
            extent = (-0.5, width - 0.5, -0.5, height - 0.5)
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
            # Each pixel four times: contours run between the centres, and are to follow the border.
            axes.contour(np.kron(mask, np.ones((2, 2))), [0.5], colors="#19d3e6", extent=extent)
            axes.set_title(data.classes[int(data.train.labels[place])], fontsize=9, y=-0.2)
            axes.set_axis_off()
    return figure


def _part_of(group: type[Any], options: object) -> Any:
    """The group of a command's options that says what is made, without where it goes."""
    return group(**{one.name: getattr(options, one.name) for one in fields(group)})


def _write(
    command: str,
    config: Mapping[str, object],
    make: Callable[[], MaskedDataset],
    options: BlockFileOptions | ShortcutFileOptions,
    marked: str,
) -> str:
    """Make the data set and write it, or keep one that is written; draw the page, and say where it all is."""
    start = time.perf_counter()
    # Made before the folder is claimed: what is refused must not stand in the way of the corrected command.
    data = None if (Path(options.out) / "result.json").exists() else make()
    folder = claim_folder(options.out, command, config)
    if data is None:
        data, document = load_masked(folder / "data.npz"), read_json(folder / "result.json")
    else:
        save_masked(folder / "data.npz", data)
        document = result_document(
            {part: _count(data, part) for part in _PARTS},
            {**config, "data": {**data.describe(), "source": data.source}},
            environment("cpu", "uint8", seed=options.seed),
            {"seconds": round(time.perf_counter() - start, 3)},
        )
        write_json(folder / "result.json", document)
    write_atomic(folder / "report.html", _draw_page(data, document, options.gallery, marked))
    counts = ", ".join(f"{document['results'][part]['images']:,} {part}" for part in _PARTS)
    return f"images: {counts}\ndata: {folder / 'data.npz'}\nreport: {folder / 'report.html'}"


def _count(data: MaskedDataset, part: PartName) -> dict[str, object]:
    """Images of a part, by class and by place, and the share of pixels in the masks."""
    labels = data.split(part).labels
    counts = labels.bincount(minlength=data.num_classes).tolist()
    places = {name: data.place(name, part).unique(return_counts=True) for name in data.places}
    return {
        "images": len(labels),
        "by_class": dict(zip(data.classes, counts, strict=True)),
        "by_place": {
            name: dict(zip(map(str, values.tolist()), times.tolist(), strict=True))
            for name, (values, times) in places.items()
            if name != "example"
        },
        "mask_share": float(data.mask(part).double().mean()),
    }


def _draw_page(data: MaskedDataset, document: Mapping[str, Any], gallery: int, marked: str) -> str:
    """Pictures of the first images of both parts with their masks outlined, and how many there are."""
    panels = []
    for part in _PARTS:
        counts = document["results"][part]
        rows = [(f"class {name}", f"{count:,}") for name, count in counts["by_class"].items()]
        rows += [
            (f"{name} {value}", f"{count:,}")
            for name, by_value in counts["by_place"].items()
            for value, count in by_value.items()
        ]
        table = Table(["", "images"], rows, f"Share of pixels in the mask: {counts['mask_share']:.4f}")
        text = [f"The outline is the mask: {marked}."]
        panels.append(Panel(f"The first {part} images", text, [_show(data, part, gallery)], table))
    height, width = data.shape[1:]
    lead = (
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images of {height} x {width}."
    )
    facts = {name: document[name] for name in ("config", "environment", "timing")}
    return study_page(f"The data set {data.name}", [lead], panels, facts, question="a generated data set")


def _show(data: MaskedDataset, part: PartName, gallery: int) -> Illustration:
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
    pictures = PictureGallery(rows, [""] * width, ["grey"] * width)
    return Illustration(pictures, "", f"the first {part} images, with the masks outlined")
