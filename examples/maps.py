"""
Maps before and after an invisible change
=========================================

One digit, its Integrated Gradients for a naturally and an adversarially trained network, and the same after
an attack that changes no pixel by more than a tenth of the grey scale and leaves the answer as it was.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from torch import nn

import veridical
from veridical.attacks.protocols import PROTOCOLS
from veridical.metrics.maps import pictures

digits = veridical.load("mnist-5k")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


settings = {"data": "mnist-5k", "progress": False}
models = {
    "natural": veridical.train(
        model=network(), objective="natural", epochs=3, out="runs/conv-natural", **settings
    ).model,
    "adversarial": veridical.train(
        model=network(),
        objective="adversarial",
        radius=0.1,
        epochs=4,
        out="runs/conv-adversarial",
        **settings,
    ).model,
}

# %%
# The first test image that both networks get right. The attack lowers the share of the map on its 100
# strongest pixels; 20 steps are few, and enough to see what happens.

inputs, target = digits.test.batch(range(50))
right = [model(inputs).argmax(1) == target for model in models.values()]
first = int((right[0] & right[1]).nonzero()[0, 0])
inputs, target = inputs[first : first + 1], target[first : first + 1]

explain = veridical.IntegratedGradients(nodes=16)
quick = replace(PROTOCOLS["paper-fast"], steps=20)
results = {
    name: veridical.attack(
        model,
        inputs,
        target,
        attribution=explain,
        attack=veridical.TopK(100),
        ball=veridical.Linf(0.1),
        protocol=quick,
    )
    for name, model in models.items()
}

# %%
# IN is the share of the 100 strongest pixels that stay, CO the rank correlation of the two maps
# (:doc:`/measures/two-maps`). This is one image; :doc:`radius` has more.

figure, axes = plt.subplots(2, 4, figsize=(8, 4.4), layout="constrained")
for row, (name, result) in zip(axes, results.items(), strict=True):
    columns = {
        f"{name}: image": inputs[0, 0],
        "its map": pictures(result.clean_map)[0],
        "changed image": result.inputs[0, 0],
        f"its map, IN {result.topk_intersection[0]:.0%}, CO {result.kendall_tau[0]:.2f}": pictures(
            result.perturbed_map
        )[0],
    }
    for place, (axis, (title, picture)) in enumerate(zip(row, columns.items(), strict=True)):
        axis.imshow(picture, cmap="gray" if place % 2 == 0 else "magma", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
plt.show()
