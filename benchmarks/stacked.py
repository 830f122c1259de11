"""Retrainings of the two-hidden-layer network in one program against one by one, timed in pairs in one run.

    OMP_NUM_THREADS=1 python benchmarks/stacked.py --members 8

Images of Fashion-MNIST's form (random; what they show does not change the time), recipe "fast", levels 5, 10,
20 and 50%, both ends and several seeds. One by one is `veridical.train` as a job calls it. Printed: examples
a CPU second of both, the ratios of the pairs, and where a step's milliseconds go, a member's share each. CPU
time of one thread is what a core gives, also on a machine that does other work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from veridical.data import Dataset, Split
from veridical.faithfulness.ranking import rank_randomly
from veridical.faithfulness.retraining import resolve_architecture, resolve_training, train_fresh
from veridical.faithfulness.stacked import Stack
from veridical.faithfulness.unmasking import ENDS, ConstantFill, resolve_kept, unmask_dataset

LEVELS = (0.05, 0.1, 0.2, 0.5)


def images(train: int) -> Dataset:
    """Random images in the form of Fashion-MNIST."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        Split(
            torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8),
            torch.randint(10, (count,), generator=generator),
        )
        for count in (train, 100)
    ]
    return Dataset("fashion-mnist", parts[0], parts[1], tuple("0123456789"), "0" * 64, "made here")


def members(data: Dataset, count: int, steps: int, batch: int) -> tuple[list[dict[str, Any]], list[Dataset]]:
    """Values and views of so many retrainings, in the order of a measurement's stacks: by seed."""
    ranking, fill = rank_randomly(data), ConstantFill((0.29,))
    record = resolve_architecture("mlp", {}, data, None, trust_code=False)
    training = resolve_training(data, record, None, "natural", {"steps": steps, "batch_size": batch})
    places = [(level, end) for level in LEVELS for end in ENDS]
    values, views = [], []
    for number in range(count):
        seed, place = divmod(number, len(places))
        level, end = places[place]
        shared = {"data": {"checksum": data.checksum}, "model": record, "training": training}
        values.append({**shared, "seed": seed})
        views.append(unmask_dataset(data, ranking, resolve_kept(level, 784, end), fill))
    return values, views


def step_alone(values: dict[str, Any], view: Dataset, steps: int) -> float:
    """CPU seconds of one step of a retraining by itself: of a whole one, less one of a single step."""
    spent = []
    for count in (1, steps):
        chosen = {**values, "training": {**values["training"], "steps": count}}
        with TemporaryDirectory() as folder:
            begun = time.process_time()
            train_fresh(chosen, view, Path(folder) / "run", {"device": "cpu"})
            spent.append(time.process_time() - begun)
    return (spent[1] - spent[0]) / (steps - 1)


def milliseconds(part: Callable[[], object], count: int) -> float:
    """Median time of a part of the step, a member's share."""
    times = []
    for _ in range(15):
        begun = time.process_time()
        part()
        times.append(time.process_time() - begun)
    return 1e3 * statistics.median(times) / count


def parts(stack: Stack, batch: int) -> dict[str, float]:
    """Where a step's time goes."""
    count, model = len(stack.seeds), stack.model
    chosen = [torch.arange(batch)] * count
    inputs, target = stack.batches.batch(chosen)
    average = stack.learner.average
    weight = torch.rand(count, 784, 256)
    hidden, middle = torch.rand(count, batch, 256), torch.rand(count, 256, 256)
    out, slope = torch.empty(count, batch, 256), torch.empty(count, 256, 784)
    found = {
        "cutting batches": milliseconds(lambda: stack.batches.batch(chosen), count),
        "forward and backward": milliseconds(lambda: model.gradients(inputs, target, mean=True), count),
        # The five large products that no program can leave out.
        "of that products": milliseconds(lambda: torch.bmm(inputs, weight, out=out), count)
        + milliseconds(lambda: torch.bmm(hidden.mT, inputs, out=slope), count)
        + 3 * milliseconds(lambda: torch.bmm(hidden, middle, out=out), count),
        "optimiser": milliseconds(stack.learner.optimiser.step, count),
    }
    if average is not None:
        found["average"] = milliseconds(lambda: average.update(model), count)
    return found


def main() -> None:
    """Time both in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, default=8, help="retrainings of the stack (default 8)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each (default 60)")
    parser.add_argument("--batch", type=int, default=100, help="examples of a step (default 100)")
    parser.add_argument("--pairs", type=int, default=5, help="timed pairs (default 5)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = images(given.steps * given.batch)
    values, views = members(data, given.members, given.steps, given.batch)
    stack = Stack(values, views, torch.device("cpu"))
    speeds: list[tuple[float, float]] = []
    for pair in range(given.pairs + 1):
        # Members differ in what they keep, which does not change the time: each pair takes another.
        which = pair % given.members
        alone = given.batch / step_alone(values[which], views[which], given.steps)
        stack = Stack(values, views, torch.device("cpu"))
        stack.advance()
        begun = time.process_time()
        for _ in range(given.steps - 1):
            stack.advance()
        spent = time.process_time() - begun
        if pair:  # the first one warms up
            speeds.append((alone, given.members * (given.steps - 1) * given.batch / spent))
    ratios = sorted(together / alone for alone, together in speeds)
    alone, together = (statistics.median(column) for column in zip(*speeds, strict=True))
    print(f"torch {torch.__version__}, one thread, batch {given.batch}, {given.pairs} pairs")
    print(f"one by one: {alone:,.0f} examples a CPU second")
    print(f"{given.members} stacked: {together:,.0f} examples a CPU second")
    print(f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    for name, spent in parts(stack, given.batch).items():
        print(f"  {name}: {spent:.3f} ms")


if __name__ == "__main__":
    main()
