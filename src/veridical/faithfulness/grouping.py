"""Which retrainings train together, and how each of them comes by its own result."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from veridical.faithfulness.retraining import ACCURACY
from veridical.faithfulness.stacked import STACKED
from veridical.faithfulness.stacked_batches import stackable
from veridical.jobs import Job, Outcome, Progress, Store, run_jobs, workers_of
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import argument_error
from veridical.runtime.files import write_sealed
from veridical.runtime.options import StackedName

MEMBERS = {"cpu": 8, "cuda": 128}
"""Retrainings of one stack, at most. On a CPU more of them only leave its caches."""

MEMORY = 2**30
"""Bytes of one stack, at most, about: weights, gradients, moments and average, and a batch."""


def check_stacked(stacked: StackedName) -> None:
    """Refuse anything but the two choices."""
    if stacked not in ("auto", "never"):
        raise argument_error("stacked", stacked, "auto or never")


def train_stacks(
    jobs: Iterable[Job],
    store: Store,
    executor: Executor,
    *,
    device: str,
    tell: Callable[[Progress], object] | None = None,
) -> dict[str, Outcome]:
    """Train what can be stacked, and leave each member's result where its own job looks for it.

    A stack is a job with a result of its own. What it found goes into the members' folders, as if each had
    been interrupted right before its end, so that afterwards the jobs themselves are run, by `run_jobs`, as
    ever: a member in a stack and the same one by itself have one name in the store, and whichever was there
    first is reused. Members of a stack that failed, or that were given up, are left to their own jobs.
    Returns the outcomes of the stacks.
    """
    found = stacks(jobs, store, workers=workers_of(executor), device=device)
    if not found:
        return {}
    outcomes = run_jobs([stack for stack, _ in found], store, executor, progress=tell)
    for stack, members in found:
        outcome = outcomes[stack.id]
        if outcome.result is None:
            warnings.warn(
                f"{stack.label} failed and they are trained one by one: {outcome.error}",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        for member, result in zip(members, outcome.result["members"], strict=True):
            if result is not None and not _finished(store, member):
                folder = store.folder(member)
                folder.mkdir(parents=True, exist_ok=True)
                write_sealed(folder / ACCURACY, result)
    return outcomes


def stacks(jobs: Iterable[Job], store: Store, *, workers: int, device: str) -> list[tuple[Job, list[Job]]]:
    """The stacks that are to be trained, each with its members.

    The same jobs are divided in the same way however much of them is done, so that an interrupted stack is
    found again; members with a result are then left out, and what is not stackable, or alone, too.
    """
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        if stackable(job.values):
            common = [job.values[name] for name in ("data", "model", "training", "recipe_source")]
            alike.setdefault(json.dumps(common, sort_keys=True), []).append(job)
    found = []
    for members in alike.values():
        # Those of one seed share their batches, and of one ranking the ranks.
        ordered = sorted(members, key=lambda job: (job.values["seed"], job.values["ranking"]["checksum"]))
        size = stack_size(members[0].values, len(members), workers, device)
        for first in range(0, len(ordered), size):
            chunk = ordered[first : first + size]
            whole = _stack(chunk)
            # What was trained is handed out, even if a kill came in the middle of that.
            left = [job for job in chunk if not _finished(store, job)]
            if left and store.record(whole) is not None:
                found.append((whole, chunk))
            elif len(left) > 1:
                found.append((_stack(left), left))
    return found


def stack_size(values: Mapping[str, Any], count: int, workers: int, device: str) -> int:
    """Members of a stack: as many as are good for the device, fit into `MEMORY`, and leave no worker idle."""
    most = min(MEMBERS.get(resolve_device(device).type, MEMBERS["cpu"]), MEMORY // member_bytes(values))
    return max(1, min(most, -(-count // workers)))


def member_bytes(values: Mapping[str, Any]) -> int:
    """Bytes that one member takes, about: five arrays of its weights, and its batch with what is between."""
    channels, height, columns = values["model"]["shape"]
    inputs, classes = int(channels * height * columns), int(values["model"]["num_classes"])
    width = int(values["model"]["options"].get("width", 256))
    weights = (inputs + width + classes + 2) * width + classes
    rows = max(int(values["training"]["batch_size"]), 500)  # of the test, at least
    return 4 * (5 * weights + rows * (inputs + 4 * width + 3 * classes))


def _stack(members: Sequence[Job]) -> Job:
    where: dict[str, str] = {}
    for member in members:
        where |= {name: path for name, path in member.where.items() if name != "ranking"}
        where["ranking:" + member.values["ranking"]["checksum"]] = member.where["ranking"]
    label = f"{len(members)} retrainings together, from {members[0].label}"
    values = {"members": [member.values for member in members]}
    return Job(STACKED, values, where, label, sum(member.cost for member in members))


def _finished(store: Store, job: Job) -> bool:
    """Whether the job has a result, or needs only to pick it up."""
    return store.record(job) is not None or (store.folder(job) / ACCURACY).exists()
