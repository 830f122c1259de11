"""`veridical train`: a classifier into a run folder."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from veridical.runtime.options import TrainOptions
from veridical.training.penalties import OBJECTIVES


def train(options: TrainOptions) -> int:
    """Train a classifier, plainly or so that its explanations hold still, and keep it in a run folder.

    examples:
      veridical train --data fashion-mnist --model cnn --objective ig-sum-norm --out runs/igsum
      veridical train --data mnist-5k --objective natural --out runs/natural

    An interrupted run is continued by the same command. Several processes share every batch under torchrun:
    `torchrun --standalone --nproc-per-node 2 -m veridical train ...`.
    """
    # Looked at before training, which leaves the same file.
    finished = (Path(options.out) / "result.json").exists()

    from veridical.cli.terminal import say
    from veridical.training import loop
    from veridical.training.distributed import join_processes

    with join_processes(options.device) as group:
        trained = loop.train(options, group=group)
    if not group.first:  # of several processes one alone speaks
        return 0
    results, timing = trained.result["results"], trained.result["timing"]
    state = "was finished already; nothing was done" if finished else "finished"
    say(f"{trained.folder}: {state}")
    say(f"  natural accuracy      {_shown(results['natural_accuracy'])} (test images)")
    if results["adversarial_accuracy"] is not None:
        attack = results["adversarial_attack"]
        say(
            f"  adversarial accuracy  {_shown(results['adversarial_accuracy'])} "
            f"(PGD, {attack['norm']} radius {attack['radius']:.4g}, {attack['steps']} steps)"
        )
    seconds, speed = timing["training_seconds"], timing["examples_per_second"]
    say(f"  training              {seconds:.0f} s, {speed:.0f} examples/s")
    return 0


def _shown(interval: dict[str, Any]) -> str:
    if interval["value"] is None:
        return "undefined"
    low, high = 100 * interval["low"], 100 * interval["high"]
    return f"{100 * interval['value']:.2f}%, 95% interval {low:.2f} to {high:.2f}, n = {interval['n']}"


# The head of --help lists what the registry has.
train.__doc__ = "\n".join(
    [
        f"{inspect.getdoc(train)}",
        "",
        "objectives:",
        *(f"  {one.name:<16}{one.summary}" for one in OBJECTIVES.entries()),
    ]
)
