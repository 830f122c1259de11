"""
For those who have a model: may its maps be shown?
==================================================

A network of PyTorch and nothing else is audited: do its maps keep their places when the image changes a
little, do they depend on what it has learnt, does it use what they mark? Twelve images, few steps: a look at
what comes out, not a verdict. :doc:`/how-to/own-model` has the command for models in files, and
:doc:`/audit` what each answer means.
"""

import torch
from torch import nn

import veridical

digits = veridical.load("mnist-5k")
inputs, target = digits.train.batch(range(2000))

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 7 * 7, 10),
)
optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(3):
    for rows in torch.randperm(len(inputs)).split(50):
        nn.functional.cross_entropy(model(inputs[rows]), target[rows]).backward()
        optimiser.step()
        optimiser.zero_grad()

# %%
# One call. It takes a module, a data set by name or file, and explanations by name.

report = veridical.audit(
    model,
    "mnist-5k",
    ["input-gradient", "integrated-gradients"],
    examples=12,
    attacked=4,
    steps=10,
    radius=0.1,
    workers=1,
    progress=False,
    out="runs/audit",
)
report

# %%
# Single answers, with what they rest on; what was raised says how far to trust them.

for question in ("stability", "depends-on-model", "deletion"):
    for attribution in ("input-gradient", "integrated-gradients"):
        answer = report.answer(question, attribution)
        print(f"{question:17} {attribution:21} {answer['verdict']}")
print("trust it less:", report.raised)

# %%
# The page that it wrote has all figures; each can be had by its name.

report.figure(next(iter(report.figures())))
