"""Time and memory of one training step: Veridical's default settings against the authors', same objective.

    python benchmarks/training_step.py --batch 50 --threads 2

Each setting runs in a process of its own (peak memory is a process's), in turns, so that a drift of the
machine's speed meets all of them. Printed: median seconds and milliseconds an example over the rounds, the
ratio to the authors' settings of the same objective, and the peak resident memory beyond the start's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch

from veridical.models.registry import build
from veridical.runtime.options import TrainOptions
from veridical.training.objectives import Objective, RobustAttribution, build_objective
from veridical.training.recipes import resolve

SIZES = {"shape": [1, 28, 28], "num_classes": 10, "options": {}}
IMAGES = {"name": "fashion-mnist", "train": 60_000, "checksum": "", **SIZES}
RECIPES = {"ours": "fast", "authors": "paper"}


def settings(objective: str, who: str, rows: int) -> Objective:
    """The objective as its recipe sets it for Fashion-MNIST, the L1 term switched on."""
    options = TrainOptions(out="unused", objective=objective, recipe=RECIPES[who])  # type: ignore[arg-type]
    chosen = resolve(options, data=IMAGES, model={"name": "", **SIZES}, train_size=60_000)
    found = build_objective(chosen.objective, chosen.robust, progress=1.0)
    return replace(found, rows=rows) if isinstance(found, RobustAttribution) else found


def measure(objective: str, who: str, batch: int, threads: int, rows: int) -> dict[str, float]:
    """Seconds of one step after a warm-up step, and peak memory above the process's before them, in MiB."""
    torch.set_num_threads(threads)
    model = build("cnn", shape=(1, 28, 28), num_classes=10, seed=0).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(batch, 1, 28, 28, generator=generator)
    target = torch.randint(10, (batch,), generator=generator)
    optimiser = torch.optim.Adam(model.parameters())
    step = settings(objective, who, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []
    # The first step warms up. A short step is repeated, since one is lost in the machine's noise.
    while len(times) < 2 or (sum(times[1:]) < 2.0 and len(times) < 40):
        begin = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        step(model, inputs, target, generator).loss.mean().backward()
        optimiser.step()
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "mib": (peak - before) / 1024}


def main() -> None:
    """Parse, measure in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1000, help="bound on examples times nodes alive at once")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.batch, options.threads, options.rows)))
        return
    cases = [("natural", "ours")]
    cases += [
        (name, who) for name in ("adversarial", "ig-norm", "ig-sum-norm") for who in ("ours", "authors")
    ]
    # The authors did not train these.
    cases += [(name, "ours") for name in ("trades", "far", "far-adversarial", "r2et")]
    results: dict[tuple[str, str], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case in cases:
            command = [sys.executable, __file__, "--one", *case]
            command += [f"--{key}={getattr(options, key)}" for key in ("batch", "threads", "rows")]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[case].append(json.loads(answer.splitlines()[-1]))
    print(f"batch {options.batch}, {options.threads} threads, medians of {options.rounds}")
    print("| objective | settings | s / step | ms / example | authors' / ours | peak memory, MiB |")
    print("|---|---|---|---|---|---|")
    for objective, who in cases:
        seconds = statistics.median(r["seconds"] for r in results[objective, who])
        memory = statistics.median(r["mib"] for r in results[objective, who])
        ratio = ""
        if who == "authors":
            pairs = zip(results[objective, who], results[objective, "ours"], strict=True)
            ratio = f"{statistics.median(a['seconds'] / b['seconds'] for a, b in pairs):.1f}"
        print(
            f"| {objective} | {who} | {seconds:.3f} | {1000 * seconds / options.batch:.2f} "
            f"| {ratio} | {memory:.0f} |"
        )


if __name__ == "__main__":
    main()
