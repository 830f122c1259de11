"""What a worker process may use: its threads and its GPU, by environment variables set before it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.process_group import check_count

_CARDS = "CUDA_VISIBLE_DEVICES"
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, within a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no container, or not Linux
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def visible_cards() -> tuple[str, ...]:
    """Name the GPUs that this process may use, as CUDA_VISIBLE_DEVICES or the driver names them."""
    named = os.environ.get(_CARDS)
    if named is None:
        tool = shutil.which("nvidia-smi")
        if tool is None:
            return ()
        query = [tool, "--query-gpu=index", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
        named = ",".join(listed.stdout.split()) if listed.returncode == 0 else ""
    cards = [card.strip() for card in named.split(",")]
    return tuple(card for card in cards if card not in ("", "-1"))


def process_environment(threads: int) -> dict[str, str]:
    """Return the variables of a worker: its threads, for every library that might have its own, and safety.

    Python would put the folder that a process is started in before its own library, and run a json.py there.
    """
    check_count("threads", threads)
    return dict.fromkeys(_THREADS, str(threads)) | {"PYTHONSAFEPATH": "1"}


def worker_environments(
    workers: int | None, threads: int, gpus: Sequence[int] | str | None, per_gpu: int
) -> list[dict[str, str]]:
    """Return the variables of each worker; without `workers`, one worker per core or place on a GPU.

    gpus: None leaves GPUs alone; "all", or numbers among the visible ones, give each worker one card and each
    card up to `per_gpu` workers.
    """
    check_count("per_gpu", per_gpu)
    check_count("workers", workers)
    base = process_environment(threads)
    if gpus is None:
        return [dict(base) for _ in range(workers or max(1, usable_cores() // threads))]
    # Round the cards first, so that fewer workers than places spread over all cards.
    places = _cards(gpus) * per_gpu
    if workers is not None and workers > len(places):
        raise argument_error(
            "workers",
            workers,
            f"at most {len(places)} on these GPUs",
            "Raise per_gpu to let more share a card.",
        )
    return [base | {_CARDS: card} for card in places[:workers]]


def _cards(gpus: Sequence[int] | str) -> tuple[str, ...]:
    visible = visible_cards()
    if not visible:
        raise UsageError("gpus: GPUs were asked for, but none is visible. Leave gpus out to use the CPU.")
    if gpus == "all":
        return visible
    if isinstance(gpus, str) or not gpus or not all(number in range(len(visible)) for number in gpus):
        raise argument_error("gpus", gpus, f'"all" or numbers from 0 to {len(visible) - 1}')
    return tuple(visible[number] for number in gpus)
