"""
Deletion: does the network use what its map marks?
==================================================

Remove the pixels that a map puts first, and the probability of the class should fall sooner than if those
that it puts last go. A random order is the comparison that a map has to beat (:doc:`/measures/removal`).
"""

import matplotlib.pyplot as plt
import torch

import veridical
from veridical.faithfulness.removal import perturbation_curves
from veridical.faithfulness.unmasking import ConstantFill

digits = veridical.load("mnist-5k")
model = veridical.train(
    data="mnist-5k", model="mlp", objective="natural", epochs=3, out="runs/natural", progress=False
).model
inputs, target = digits.test.batch(range(200))

# %%
# Ranks: 0 for the pixel with the largest absolute value. What is removed becomes the mean grey of the
# training images.

levels = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
mean = float(digits.train.images.float().mean() / 255)


def ranks(maps):
    return maps.flatten(1).abs().argsort(1, descending=True).argsort(1)


noise = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0))
orders = {
    "Integrated Gradients": veridical.IntegratedGradients(nodes=16)(model, inputs, target),
    "random": noise,
}

# %%
# The full line removes what comes first, the dashed one what comes last.

figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for place, (name, maps) in enumerate(orders.items()):
    curves = perturbation_curves(model, inputs, target, ranks(maps), ConstantFill((mean,)), levels=levels)
    for end, style in zip(("first", "last"), ("-", "--"), strict=True):
        means = curves.probability[0 if end == "first" else 1].mean(1)
        axis.plot(levels, means, style, marker="o", color=f"C{place}", label=f"{name}, {end} removed")
axis.set(xlabel="share of pixels removed", ylabel="probability of the class", ylim=(0, 1))
axis.legend(fontsize=8)
plt.show()
