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

import torch

from veridical.attacks.ball import Linf
from veridical.attribution.quadrature import Quadrature
from veridical.models.registry import build
from veridical.training.objectives import Inner, Natural, Objective, RobustAttribution
from veridical.training.sizes import Size, l1_norm, signed_sum, sum_and_l1

RADIUS = 0.1


def settings(objective: str, who: str, rows: int) -> Objective:
    """The objective with the authors' inner and outer settings for Fashion-MNIST, or with ours."""
    if objective == "natural":
        return Natural()
    sizes: dict[str, Size] = {
        "adversarial": signed_sum(),
        "ig-norm": l1_norm(),
        "ig-sum-norm": sum_and_l1(0.1),
    }
    if who == "authors":
        inner = Inner(20, 0.01, "random", "size", Quadrature("right", 10))
        outer = Quadrature("right", 50)
    else:
        score = "size" if objective == "ig-norm" else "loss"
        inner = Inner(3, RADIUS / 2, "random", score, Quadrature("midpoint", 1))
        outer = Quadrature("midpoint", 1)
    return RobustAttribution(sizes[objective], Linf(RADIUS), quadrature=outer, inner=inner, rows=rows)


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
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        step(model, inputs, target, generator).loss.mean().backward()
        optimiser.step()
        seconds = time.perf_counter() - begin
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
