"""Retrainings a minute: one process, two processes, two Dask workers, and stacked in one program, in one run.

    OMP_NUM_THREADS=1 python benchmarks/throughput.py --jobs 8 --rounds 3

The jobs are those of `veridical diffroar` for the two-hidden-layer network, recipe "fast", on images of
Fashion-MNIST's form (random; what they show does not change the time). All ways take the same jobs in turns,
each with a fresh store and with workers that have imported and loaded everything. Printed: jobs a minute,
medians of the rounds, the ratio to one process within a round, and the bytes that went to a worker per job.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import dask
import distributed
import numpy as np
import torch

from veridical import train
from veridical.faithfulness.diffroar import JOBS, Measuring
from veridical.faithfulness.diffroar_plan import Design, Measurement, plan_diffroar
from veridical.faithfulness.stacked import train_stacks
from veridical.jobs import InProcess, ProcessPool, Store, check_outcomes, run_jobs
from veridical.jobs.cluster import SETTINGS, Dask, cluster_environment

ONE = "1 process"


def images(path: Path, train_images: int) -> None:
    """Random images in the form of Fashion-MNIST, as a file that workers load."""
    draw = np.random.default_rng(0)
    shapes = (train_images, 28, 28), (1000, 28, 28)
    x_train, x_test = (draw.integers(256, size=shape, dtype=np.uint8) for shape in shapes)
    y_train, y_test = np.arange(train_images) % 10, np.arange(1000) % 10
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def measurement_of(folder: Path, jobs: int, train_images: int, epochs: float, seed: int) -> Measurement:
    """So many retrainings, at one level, both ends."""
    if not (folder / "images.npz").exists():
        images(folder / "images.npz", train_images)
    run = train(
        model="mlp",
        objective="natural",
        data=str(folder / "images.npz"),
        steps=5,
        progress=False,
        out=str(folder / "run"),
    )
    design = Design(levels=[0.1], repeats=jobs // 2, baselines=[], control=False, seed=seed)
    return plan_diffroar(run, None, attribution="random", design=design, overrides={"epochs": epochs})


def seconds(measurement: Measurement, folder: Path, executor: Executor, stacked: bool) -> tuple[float, int]:
    """How long all retrainings take with this executor, and the bytes sent per job."""
    store = Store(folder / JOBS)
    rankings = Measuring(measurement, folder, store, InProcess()).make_rankings()
    jobs = Measuring(measurement, folder, store, executor).plan_jobs(rankings)
    begun = time.perf_counter()
    if stacked:
        train_stacks(jobs.values(), store, executor, device="cpu")
    outcomes = run_jobs(jobs.values(), store, executor)
    spent = time.perf_counter() - begun
    check_outcomes(outcomes, jobs.values())
    return spent, max(outcome.sent_bytes for outcome in outcomes.values())


def local_dask(workers: int) -> Dask:
    """Workers of a Dask cluster on this machine, which end with this process."""
    os.environ.update(cluster_environment())
    with dask.config.set(SETTINGS):
        cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, memory_limit=0, host="127.0.0.1", dashboard_address=None
        )
    return Dask(cluster.get_client())


def main() -> None:
    """Time all ways in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8, help="retrainings of a round, even (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default 3)")
    parser.add_argument("--train-images", type=int, default=60_000, help="training images (default 60000)")
    parser.add_argument("--epochs", type=float, default=1.0, help="epochs of a retraining (default 1)")
    given = parser.parse_args()
    if given.jobs < 2 or given.jobs % 2:
        parser.error("--jobs must be even: a level has two ends")
    torch.set_num_threads(1)
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        ways: Mapping[str, tuple[Callable[[], Executor], bool]] = {
            ONE: (lambda: ProcessPool(1), False),
            "2 processes": (lambda: ProcessPool(2), False),
            "Dask, 2 workers": (lambda: local_dask(2), False),
            "stacked, 1 process": (lambda: ProcessPool(1), True),
            "stacked, 2 processes": (lambda: ProcessPool(2), True),
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        sent: dict[str, int] = {}
        executors = {way: stack.enter_context(make()) for way, (make, _) in ways.items()}
        for number in range(given.rounds + 1):
            measurement = measurement_of(folder, given.jobs, given.train_images, given.epochs, number)
            for way, (_, stacked) in ways.items():
                place = folder / f"{number}-{way}"
                place.mkdir()
                spent, sent[way] = seconds(measurement, place, executors[way], stacked)
                # The first round imports and loads.
                if number:
                    found[way].append(60 * given.jobs / spent)
    print(f"{given.jobs} jobs a round, {given.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()}")
    print("| way | jobs / minute | to one process | bytes sent per job |\n|---|---|---|---|")
    for way, speeds in found.items():
        ratios = [one / base for one, base in zip(speeds, found[ONE], strict=True)]
        print(
            f"| {way} | {statistics.median(speeds):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {sent[way]:,} |"
        )


if __name__ == "__main__":
    main()
