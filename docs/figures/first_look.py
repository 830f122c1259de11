"""Draw the README's picture from a finished demo: python docs/figures/first_look.py runs/demo.

An image, its map, the map after a change that is hard to see, and the changed image, for the natural and the
robust model: of the images that both read right the one whose natural map keeps the median share of its top pixels.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from veridical.studies.attack import Attack

folder = Path(sys.argv[1])
attacks = {
    title: Attack.read(f"{folder / name}-attack")
    for title, name in {"natural training": "natural", "robust training": "ig-sum-norm"}.items()
}
pictured = len(next(iter(attacks.values())).arrays["image"])
right = np.logical_and.reduce([one.arrays["predicted"] == one.arrays["label"] for one in attacks.values()])
kept = {title: one.arrays["topk_intersection"] for title, one in attacks.items()}
places = np.flatnonzero(right[:pictured])
place = places[np.argsort(kept["natural training"][places])[len(places) // 2]]

figure, axes = plt.subplots(2, 4, figsize=(8, 4.4), layout="constrained")
for row, (title, one) in zip(axes, attacks.items(), strict=True):
    shown = (
        ("the image", one.arrays["image"][place, 0], "gray"),
        ("its map", one.arrays["saliency"][place], "inferno"),
        ("the image, changed", one.arrays["perturbed"][place, 0], "gray"),
        (
            f"its map: {kept[title][place]:.0%} of the top kept",
            one.arrays["perturbed_saliency"][place],
            "inferno",
        ),
    )
    for axis, (caption, picture, colours) in zip(row, shown, strict=True):
        axis.imshow(picture, cmap=colours, vmin=0, vmax=1 if colours == "gray" else None)
        axis.set(title=caption, xticks=[], yticks=[])
        axis.title.set_size(9)
    row[0].set_ylabel(title)
figure.savefig(Path(__file__).with_name("first-look.png"), dpi=110, facecolor="white")
print(
    f"image {one.arrays['index'][place]}: {', '.join(f'{t} keeps {k[place]:.0%}' for t, k in kept.items())}"
)
