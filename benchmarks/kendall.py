"""Kendall's tau-b of a batch of maps against a loop of scipy.stats.kendalltau, timed in pairs in one run.

    OMP_NUM_THREADS=1 python benchmarks/kendall.py

Prints, for each size, the median over pairs of both times and of their ratio, with its range, and the largest
difference of the results. Maps have as many zeros as Integrated Gradients of MNIST digits from a black image:
81% in the clean map, 45% in that of a perturbed and clipped image.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy
import torch
from scipy import stats
from torch import Tensor

from veridical.metrics import kendall_tau


def maps(examples: int, values: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two related batches of saliency maps (examples, values) with many zeros."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(examples, values, generator=generator, dtype=dtype).abs()
    b = (a + torch.randn(examples, values, generator=generator, dtype=dtype)).abs()
    ink = torch.rand(examples, values, generator=generator)
    return a * (ink > 0.81), b * (ink > 0.45)


def by_scipy(a: Tensor, b: Tensor) -> Tensor:
    """What anyone would write first."""
    return torch.tensor(
        [stats.kendalltau(*pair).statistic for pair in zip(a.numpy(), b.numpy(), strict=True)]
    )


def seconds(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    function(a, b)
    return time.perf_counter() - start


def compare(examples: int, values: int, dtype: torch.dtype, pairs: int) -> None:
    """Print one line for one size."""
    a, b = maps(examples, values, dtype)
    difference = float((kendall_tau(a, b) - by_scipy(a, b)).abs().max())
    # One after the other within each pair, so that a machine that slows down slows both.
    timed = [(seconds(kendall_tau, a, b), seconds(by_scipy, a, b)) for _ in range(pairs)]
    own, other = (statistics.median(column) for column in zip(*timed, strict=True))
    ratios = sorted(theirs / ours for ours, theirs in timed)
    print(
        f"{examples:>5} x {values:<7} {str(dtype).removeprefix('torch.')}: veridical {own * 1e3:7.1f} ms, "
        f"scipy loop {other * 1e3:7.1f} ms, {statistics.median(ratios):5.1f} x faster "
        f"({ratios[0]:.1f} to {ratios[-1]:.1f}), largest difference {difference:.1e}"
    )


def main() -> None:
    """Read the number of pairs, print versions and one line per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="timed pairs per size (default 9)")
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}, one thread, {pairs} pairs"
    )
    for examples, values, dtype in (
        (1000, 784, torch.float32),
        (1000, 784, torch.float64),
        (1, 150_528, torch.float32),
    ):
        compare(examples, values, dtype, pairs)


if __name__ == "__main__":
    main()
