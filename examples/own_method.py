"""
For those who have a method: is it better than what there is?
=============================================================

A new explanation is a function of model, images and classes. Here it is a gradient averaged over shifted
images; it is judged beside input gradients and a map of noise, by deletion and by how far an attack moves it.
:doc:`/how-to/own-attribution` has all that such a function may do.
"""

import matplotlib.pyplot as plt
import torch

import veridical
from veridical.metrics.maps import pictures

digits = veridical.load("mnist-5k")
run = veridical.train(
    data="mnist-5k", model="mlp", objective="natural", epochs=3, out="runs/natural", progress=False
)

SHIFTS = [(rows, columns) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]


def shifted(model, inputs, target, *, create_graph=False):
    """The mean gradient over shifts by a pixel; the shape of the inputs."""
    points = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
    moved = torch.cat([points.roll(shift, (2, 3)) for shift in SHIFTS])
    logits = model(moved).gather(1, target.repeat(len(SHIFTS))[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), points, create_graph=create_graph)
    return gradient / len(SHIFTS)


inputs, target = digits.test.batch(range(4))
maps = {
    "shifted": shifted(run.model, inputs, target),
    "input gradient": veridical.InputGradient()(run.model, inputs, target),
}
figure, axes = plt.subplots(len(maps), len(inputs), figsize=(6, 3.2), layout="constrained")
for row, (name, found) in zip(axes, maps.items(), strict=True):
    for axis, picture in zip(row, pictures(found), strict=True):
        axis.imshow(picture, cmap="magma")
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
plt.show()

# %%
# The audit asks the same of each. Few images and one training: enough to see how it is done.

report = veridical.audit(
    "runs/natural",
    attributions={"shifted": shifted, "input-gradient": "input-gradient"},
    examples=24,
    attacked=4,
    steps=10,
    radius=0.05,
    workers=1,
    progress=False,
    out="runs/method",
)
for question in ("stability", "deletion", "depends-on-model"):
    for attribution in ("shifted", "input-gradient"):
        answer = report.answer(question, attribution)
        print(f"{question:17} {attribution:15} {answer['verdict']:10} {answer['value']}")

# %%
# All answers, as the page shows them.

report
