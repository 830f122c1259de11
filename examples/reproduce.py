"""
For those who want to reproduce a paper: a theorem, by one command
==================================================================

Chen et al. (NeurIPS 2019) prove that for one layer training by IG-NORM is adversarial training. The
reproduction trains both from the same weights and measures how far apart they are, also where a condition of
the theorem is broken. On a command line this is ``veridical reproduce one-layer``; tables and figures of
trained networks take hours (:doc:`/reproduce`).
"""

from veridical.studies.reproduce import Reproduce, ReproduceOptions

options = ReproduceOptions(
    name="one-layer", seeds=1, examples=200, out="runs/one-layer", workers=1, progress=False
)
result = Reproduce(options).run()
result

# %%
# What the intervals allow to be said, and the numbers as rows.

for line in Reproduce.findings(result):
    print(line)

# %%
# The figures of its page, by name.

name, figure = next(iter(result.figures().items()))
print(name)
figure
