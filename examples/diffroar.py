"""
DiffROAR in small
=================

Train new networks on images of which only the pixels that a map puts first, or last, are left. If the first
carry more of what can be learnt, DiffROAR is positive. Two levels, three retrainings each, 1,000 images:
enough to see the parts, too little to judge anything (:doc:`/diffroar` has what was measured).
"""

import matplotlib.pyplot as plt

import veridical
from veridical.jobs import InProcess

run = veridical.train(
    data="mnist-5k", model="mlp", objective="natural", epochs=3, out="runs/natural", progress=False
)
result = veridical.diffroar(
    run,
    out="runs/diffroar",
    attribution="input-gradient",
    levels=(0.05, 0.2),
    repeats=3,
    train_examples=1000,
    epochs=2,
    baselines=["random"],
    executor=InProcess(),
)

# %%
# A verdict is "satisfied" only where neither the masks alone nor another order explain the difference as
# well; what does is named.

for verdict in result.verdicts:
    print(f"{verdict['level']:.0%}: {verdict['verdict']}", *verdict["as_good"])

# %%
# Beside the map stands a random order. The bars are 95% intervals over three retrainings, so they are wide.

figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
curves = {"input gradient": result.curve} | result.baselines
for place, (name, curve) in enumerate(curves.items()):
    points = [point["difference"] for point in curve]
    middle = [point["value"] for point in points]
    bars = [[point["value"] - point["low"], point["high"] - point["value"]] for point in points]
    at = [position + 0.1 * (place - 1) for position in range(len(curve))]
    axis.errorbar(at, middle, list(zip(*bars, strict=True)), fmt="o", capsize=3, label=name)
axis.axhline(0, color="grey", linewidth=1)
axis.set_xticks(range(len(result.curve)), [f"{point['level']:.0%} kept" for point in result.curve])
axis.set(ylabel="accuracy, first less last (DiffROAR)")
axis.legend(fontsize=8)
plt.show()
