"""A page of pictures of all kinds of BlockMNIST, with the masks outlined.

python -m veridical.studies.block_pictures --out docs/figures/block-mnist.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from veridical.data.block_mnist import BlockOptions, block_mnist, counterfactual

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
"""The options of each row of the page, by its title."""

MOVED = "counterfactuals of the first row: the same images, the signal moved"
COLUMNS = 6


def draw_pictures(source: str, root: str | None = None) -> Figure:
    """A row of training images for each of KINDS, then the counterfactuals of the first."""
    shown = {
        title: replace(kind, source=source, train_examples=COLUMNS, test_examples=1)
        for title, kind in KINDS.items()
    }
    rows = {title: block_mnist(options, root) for title, options in shown.items()}
    rows[MOVED] = counterfactual(next(iter(shown.values())), root)
    figure = Figure(figsize=(1.4 * COLUMNS, 2.6 * len(rows)), layout="constrained")
    strips = np.ravel(figure.subfigures(len(rows), 1, squeeze=False))
    for strip, (title, data) in zip(strips, rows.items(), strict=True):
        strip.suptitle(title, x=0.01, ha="left", fontsize=10)
        for place, axes in enumerate(strip.subplots(1, COLUMNS)):
            image, mask = data.train.images[place, 0].numpy(), data.train_mask[place].numpy()
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
            axes.contour(np.kron(mask, np.ones((2, 2))), [0.5], colors="#19d3e6", extent=_extent(mask))
            axes.set_title(data.classes[int(data.train.labels[place])], fontsize=9, y=-0.2)
            axes.set_axis_off()
    return figure


def _extent(mask: np.ndarray[Any, Any]) -> tuple[float, float, float, float]:
    height, width = mask.shape
    return (-0.5, width - 0.5, -0.5, height - 0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the page."""
    parser = argparse.ArgumentParser(description="All kinds of BlockMNIST on one page.")
    parser.add_argument("--source", default="mnist-5k", help="data set of the signal blocks")
    parser.add_argument("--data-root", help="folder of the data")
    parser.add_argument("--out", type=Path, required=True, help="picture (.png or .svg)")
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw_pictures(options.source, options.data_root)
    figure.savefig(options.out, dpi=144, facecolor="white", bbox_inches="tight", pad_inches=0.2)


if __name__ == "__main__":
    main()
