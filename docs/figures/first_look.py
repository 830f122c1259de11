"""Draw the README's picture from a finished demo: python docs/figures/first_look.py runs/demo.

An image, its map, the image after a small change, and its map then, for the natural and the
robust model: of the images that both read right the one whose natural map keeps the median share on top.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from veridical.studies.attack import Attack

folder = Path(sys.argv[1])
models = {"natural training": "natural", "robust training": "ig-sum-norm"}
attacks = {title: Attack.read(f"{folder / name}-attack").arrays for title, name in models.items()}
pictured = len(attacks["natural training"]["image"])
right = np.logical_and.reduce([one["predicted"] == one["label"] for one in attacks.values()])
places = np.flatnonzero(right[:pictured])
kept = attacks["natural training"]["topk_intersection"][places]
place = places[np.argsort(kept)[len(places) // 2]]

figure, axes = plt.subplots(2, 4, figsize=(8, 4.4), layout="constrained")
for row, (title, one) in zip(axes, attacks.items(), strict=True):
    share = f"{one['topk_intersection'][place]:.0%}"
    shown = (
        ("the image", one["image"][place, 0], "gray"),
        ("its map", one["saliency"][place], "inferno"),
        ("the image, changed", one["perturbed"][place, 0], "gray"),
        (f"its map: {share} of the top is left", one["perturbed_saliency"][place], "inferno"),
    )
    for axis, (caption, picture, colours) in zip(row, shown, strict=True):
        axis.imshow(picture, cmap=colours, vmin=0, vmax=1 if colours == "gray" else None)
        axis.set(title=caption, xticks=[], yticks=[])
        axis.title.set_size(9)
    row[0].set_ylabel(title)
figure.savefig(Path(__file__).with_name("first-look.png"), dpi=110, facecolor="white")
