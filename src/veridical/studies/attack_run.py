"""Attack one trained run and keep everything in a folder: result.json, examples.npz, report.html."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from veridical.attacks.parts import PartStore
from veridical.attacks.robustness import RobustnessResult, batch_length, examples_kept
from veridical.data import Dataset
from veridical.runtime.devices import environment
from veridical.runtime.errors import UsageError
from veridical.runtime.files import (
    Arrays,
    claim_folder,
    pack_arrays,
    read_json,
    result_document,
    write_atomic,
    write_json,
)
from veridical.runtime.guards import thread_count
from veridical.runtime.process_group import ALONE, ProcessGroup
from veridical.runtime.study_config import AttackOptions
from veridical.studies.attack_task import AttackTask, assign
from veridical.studies.finished import EXAMPLES, RESULT
from veridical.studies.processes import run_side_by_side

KIND, PARTS = "attack", "parts"


def attack_run(
    options: AttackOptions, progress: Callable[[int, int], Any] | None = None, group: ProcessGroup = ALONE
) -> dict[str, Any]:
    """Measure a run as `options` say, write result.json and examples.npz into its `out`, return the former.

    Finished batches are kept as they come: interrupted at any moment, the same options continue. Several
    processes share the batches; their number changes nothing beyond rounding. Raises UsageError where the
    folder belongs to other options, weights or images. progress: see measure_robustness. group: processes
    that all call this and share the batches, in place of options.workers.
    """
    if group.size > 1:
        return _attack_together(options, progress, group)
    task = assign(options)
    config, workers = task.describe(), _workers(task)
    folder = claim_folder(options.out, KIND, config)
    if workers > 1:
        alone = replace(options, workers=1, threads=options.threads or 1)
        total, tell = task.images * len(task.radii), progress or (lambda _done, _total: None)
        run_side_by_side(
            {f"worker {i}": (_examine_share, (alone, i, workers)) for i in range(workers)},
            lambda: tell(examples_kept(folder / PARTS), total),
            options.threads or 1,
        )
    with nullcontext() if options.threads is None else thread_count(options.threads):
        threads = (options.threads or 1) if workers > 1 else torch.get_num_threads()
        return _finish(task, folder, None if workers > 1 else progress, workers, threads)


def _attack_together(
    options: AttackOptions, progress: Callable[[int, int], Any] | None, group: ProcessGroup
) -> dict[str, Any]:
    """Each process leaves its batches in the folder's parts; process 0 puts them together."""
    if options.workers is not None:
        raise UsageError(f"workers: {group.size} processes are there already. Leave --workers out.")
    own = replace(options, device=str(group.device(options.device)))
    with nullcontext() if options.threads is None else thread_count(options.threads):
        with group.in_turn():
            task = assign(own)
            folder = claim_folder(options.out, KIND, task.describe())
        parts = PartStore(folder / PARTS, task.describe())

        def tell(_done: int, _total: int) -> None:
            if progress is not None and group.first:
                progress(examples_kept(folder / PARTS), task.images * len(task.radii))

        with group.guarded():
            if group.rank < _batches(task):
                task.measure(parts, tell, (group.rank, group.size))
        with group.guarded():
            if group.first:
                _finish(task, folder, None, group.size, torch.get_num_threads())
    return dict(read_json(folder / RESULT))


def _finish(
    task: AttackTask, folder: Path, progress: Callable[[int, int], Any] | None, workers: int, threads: int
) -> dict[str, Any]:
    """Take finished batches, do the missing ones, and write result.json and examples.npz.

    workers, threads: how many processes did the batches, and torch's threads in each.
    """
    config = task.describe()
    result = task.measure(PartStore(folder / PARTS, config), progress)
    surroundings = environment(task.device, torch.float32, threads, task.options.seed)
    surroundings |= {"run": str(task.run.folder), "workers": workers}
    examples = pack_arrays(_stacked(result, task.data))
    write_atomic(folder / EXAMPLES, examples)
    timing = {f"{name}_seconds": round(seconds, 3) for name, seconds in result.seconds.items()}
    document = result_document(result.to_dict(), config, surroundings, timing, {EXAMPLES: examples})
    write_json(folder / RESULT, document)
    return document


def _examine_share(options: AttackOptions, worker: int, workers: int) -> None:
    """In a process of its own: leave this worker's batches in the folder's parts."""
    with thread_count(options.threads or 1):
        task = assign(options)
        task.measure(PartStore(Path(options.out) / PARTS, task.describe()), share=(worker, workers))


def _workers(task: AttackTask) -> int:
    """How many processes: as many as asked for, else one per core with four batches or more for each."""
    batches = _batches(task)
    if task.options.workers is not None:
        return min(task.options.workers, batches)
    if task.device.type != "cpu":
        return 1
    cores = (os.cpu_count() or 1) // (task.options.threads or 1)
    return max(1, min(cores, batches * len(task.radii) // 4, batches))


def _batches(task: AttackTask) -> int:
    return -(-task.images // batch_length(task.split, task.method, task.protocol))


def _stacked(result: RobustnessResult, data: Dataset) -> Arrays:
    """examples.npz: the main radius's arrays by name, those of all radii as "radius-R/NAME", class names."""
    arrays = dict(result.main.arrays)
    arrays["classes"] = np.asarray(data.classes, dtype=np.str_)
    for point in result.curve:
        if point.radius != result.main.radius:
            kept = {"index", "trace", "image", "perturbed", "saliency", "perturbed_saliency"}
            arrays |= {f"radius-{point.radius:.6g}/{n}": v for n, v in point.arrays.items() if n not in kept}
    return arrays
