"""
What is kept of a map, by the size of the change
================================================

The attack of :doc:`maps` on 12 images at four radii. Intervals are over these images, of one short training
each.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from torch import nn

import veridical
from veridical.attacks.protocols import PROTOCOLS
from veridical.metrics import mean_interval

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
# Images that a network gets wrong are left out: their explanation is not the question. Steps grow with the
# radius, so that each attack can cross its ball.

inputs, target = digits.test.batch(range(12))
radii = (0.03, 0.06, 0.1, 0.15)
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, model in models.items():
    right = model(inputs).argmax(1) == target
    kept = []
    for radius in radii:
        result = veridical.attack(
            model,
            inputs[right],
            target[right],
            attribution=veridical.IntegratedGradients(nodes=10),
            attack=veridical.TopK(100),
            ball=veridical.Linf(radius),
            protocol=replace(PROTOCOLS["paper-fast"], steps=10, step_size=radius / 5, shortlist=1),
        )
        kept.append(mean_interval(result.topk_intersection))
    line = axis.plot(
        radii, [one["value"] for one in kept], marker="o", label=f"{name}, {int(right.sum())} images"
    )
    axis.fill_between(
        radii,
        [one["low"] for one in kept],
        [one["high"] for one in kept],
        alpha=0.2,
        color=line[0].get_color(),
    )
axis.set(xlabel="radius of the change (linf)", ylabel="top pixels kept (IN)", ylim=(0, 1))
axis.legend()
plt.show()
