"""Many retrainings of a multilayer perceptron as one job, and which retrainings train together."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from veridical.data import Dataset
from veridical.data.augmentation import balanced_order
from veridical.faithfulness.retraining import ACCURACY, load_unmasked
from veridical.faithfulness.stacked_mlp import Batches, StackedMLP, is_stackable
from veridical.jobs import Job, Outcome, Progress, Store, run_jobs, workers_of
from veridical.models.networks import MLP
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import read_json, write_sealed
from veridical.runtime.options import StackedName, TrainOptions
from veridical.runtime.seeds import stream
from veridical.training.checkpoint import Learner, load_newest, save_checkpoint
from veridical.training.optimisation import (
    WeightAverage,
    arithmetic,
    learning_rate,
    make_optimiser,
    set_learning_rate,
)
from veridical.training.recipes import resolve
from veridical.training.run import ROWS, build_recorded
from veridical.training.settings import Settings

STACKED = "veridical.faithfulness.stacked:retrain_stacked"
CHECKPOINTS = "checkpoints"
# Between checkpoints.
CHECKPOINT_SECONDS = 60.0


def retrain_stacked(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: many retrainings in one program; {"members": a result for each as `retrain` returns it, or None}.

    values: {"members": the values of their jobs}, of one data set, architecture and recipe. where: as in
    `retrain`, but "ranking:CHECKSUM" for each ranking. Killed at any moment, it continues from its newest
    checkpoint. A member whose loss or gradient stops being finite has no result; by itself it says why.
    """
    if (folder / ACCURACY).exists():
        kept: dict[str, Any] = read_json(folder / ACCURACY, sealed=True)
        return kept
    members = values["members"]
    views = [load_unmasked(one, {**where, "ranking": _ranking_path(where, one)}) for one in members]
    device = resolve_device(where.get("device", "auto"))
    stack = Stack(members, views, device)
    stack.load(folder / CHECKPOINTS)
    steps, saved = stack.settings.optimise.steps, time.monotonic()
    while stack.step < steps:
        start = time.monotonic()
        stack.advance()
        stack.seconds += time.monotonic() - start
        if time.monotonic() - saved >= CHECKPOINT_SECONDS and stack.step < steps:
            stack.save(folder / CHECKPOINTS)
            saved = time.monotonic()
    result = {"members": stack.results()}
    # First the numbers, then the weights.
    write_sealed(folder / ACCURACY, result)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return result


def _ranking_path(where: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """The path of the ranking of one member."""
    return where[f"ranking:{values['ranking']['checksum']}"]


class Stack:
    """R retrainings side by side, from their initial weights or a checkpoint to their accuracies.

    members: the values of their jobs. views: the data set as each of them sees it.
    """

    def __init__(
        self, members: Sequence[Mapping[str, Any]], views: Sequence[Dataset], device: torch.device
    ) -> None:
        shared = {json.dumps([one["model"], one["training"]], sort_keys=True) for one in members}
        if len(shared) != 1 or len({one["data"]["checksum"] for one in members}) != 1:
            raise RunError(
                "retrainings of one stack have one data set, architecture and recipe; these differ."
            )
        self.device, self.views = device, views
        self.seeds = [int(one["seed"]) for one in members]
        self.settings = _settings(members[0], views[0])
        networks = [build_recorded(members[0]["model"], seed) for seed in self.seeds]
        mlps = [network for network in networks if isinstance(network, MLP)]
        if len(mlps) < len(members):
            raise RunError(
                f"retrainings of {members[0]['model']['name']} cannot be stacked, those of mlp can."
            )
        self.standardise = mlps[0].standardise
        optimise = self.settings.optimise
        self.model = StackedMLP(mlps, device)
        average = WeightAverage(self.model, optimise.averaging) if optimise.averaging else None
        self.learner = Learner(self.model, make_optimiser(self.model, optimise), average)
        self.batches = Batches([view.train for view in views], self.standardise, device)
        self.config = {"members": [dict(one) for one in members]}
        self.step, self.seconds = 0, 0.0
        self.lost: set[int] = set()
        self._orders: tuple[int, dict[int, Tensor]] = (-1, {})

    def advance(self) -> None:
        """Move the weights of all members once, each by the batch that it would have by itself."""
        optimise = self.settings.optimise
        epoch, number = divmod(self.step, self.settings.steps_per_epoch)
        if self._orders[0] != epoch:
            self._orders = epoch, {seed: self._order(seed, epoch) for seed in set(self.seeds)}
        first = number * optimise.batch_size
        cut = {seed: order[first : first + optimise.batch_size] for seed, order in self._orders[1].items()}
        with arithmetic():
            inputs, target = self.batches.batch([cut[seed] for seed in self.seeds])
            loss = self.model.gradients(inputs, target, mean=optimise.reduction == "mean")
            self._drop(loss)
            set_learning_rate(self.learner.optimiser, learning_rate(optimise, self.step))
            self.learner.optimiser.step()
            if self.learner.average is not None:
                self.learner.average.update(self.model)
        self.step += 1

    def correct(self) -> list[int]:
        """How many test images each member, with the weights that its run delivers, classifies right.

        Members whose logits are not finite are lost.
        """
        average = self.learner.average
        model = self.model if average is None else average.module
        tests = Batches([view.test for view in self.views], self.standardise, self.device)
        result = torch.zeros(len(self.seeds), dtype=torch.int64, device=self.device)
        examples = torch.arange(len(self.views[0].test))
        with arithmetic():
            for numbers in examples.split(ROWS):
                inputs, target = tests.batch([numbers] * len(self.seeds))
                logits = model(inputs)
                result += (logits.argmax(2) == target).sum(1)
                self.lost |= set((~logits.isfinite().flatten(1).all(1)).nonzero().flatten().tolist())
        counts: list[int] = result.tolist()
        return counts

    def results(self) -> list[dict[str, Any] | None]:
        """What `retrain` returns, for each member, with its share of the seconds; None for a lost one."""
        count, examples = len(self.seeds), len(self.views[0].test)
        share = self.seconds / count
        seen = self.step * self.settings.optimise.batch_size
        return [
            None
            if row in self.lost
            else {
                "accuracy": right / examples,
                "correct": right,
                "examples": examples,
                "training_seconds": round(share, 3),
                "examples_per_second": round(seen / share, 2) if share else 0.0,
                "stacked": count,
            }
            for row, right in enumerate(self.correct())
        ]

    def save(self, folder: Path) -> None:
        """Write a checkpoint that appears all at once."""
        progress = {"seconds": self.seconds, "lost": sorted(self.lost)}
        save_checkpoint(folder, self.step, self.learner, self.config, progress)

    def load(self, folder: Path) -> None:
        """Continue from the newest sound checkpoint, if there is one."""
        progress = load_newest(folder, self.learner, self.config)
        if progress is not None:
            self.step, self.seconds = progress["step"], progress["seconds"]
            self.lost = set(progress["lost"])

    @torch.no_grad()
    def _drop(self, loss: Tensor) -> None:
        """Give up members whose loss or gradient is not finite; zeros take their place, the others go on."""
        slopes = self.model.rows.grad
        assert slopes is not None
        # The greatest entry: the squares of finite slopes may overflow.
        greatest = torch.linalg.vector_norm(slopes, ord=torch.inf, dim=1)
        finite = torch.isfinite(loss.sum(1)) & torch.isfinite(greatest)
        if bool(finite.all()):
            return
        bad: list[int] = (~finite).nonzero().flatten().tolist()
        average = self.learner.average
        for rows in (self.model.rows, slopes, *([] if average is None else average.module.parameters())):
            rows[bad] = 0.0
        self.lost |= set(bad)
        warnings.warn(
            f"step {self.step}: the loss or gradient of members {bad} is not finite; they are given up",
            RuntimeWarning,
            stacklevel=3,
        )

    def _order(self, seed: int, epoch: int) -> Tensor:
        """Positions of the training images of one epoch, as `Assignment.order` has them."""
        shuffle, count = stream(seed, "batches", epoch), self.settings.train_examples
        if self.settings.balance == "classes":
            return balanced_order(self.views[0].train.labels[:count], shuffle)
        return torch.randperm(count, generator=shuffle)


def _settings(values: Mapping[str, Any], data: Dataset) -> Settings:
    """The settings that `retrain` would train with; those that differ between members are not asked for."""
    options = TrainOptions(out=".", **values["training"])
    return resolve(options, data=data.describe(), model=values["model"], train_size=len(data.train))


# Retrainings of one stack, at most. On a CPU more of them only leave its caches.
MEMBERS = {"cpu": 8, "cuda": 128}

# Bytes of one stack, at most, about: weights, gradients, moments and average, and a batch.
MEMORY = 2**30


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
    results = group_jobs(jobs, store, workers=workers_of(executor), device=device)
    if not results:
        return {}
    outcomes = run_jobs([stack for stack, _ in results], store, executor, progress=tell)
    for stack, members in results:
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


def group_jobs(
    jobs: Iterable[Job], store: Store, *, workers: int, device: str
) -> list[tuple[Job, list[Job]]]:
    """The stacks that are to be trained, each with its members.

    The same jobs are divided in the same way however much of them is done, so that an interrupted stack is
    found again; members with a result are then left out, and what is not stackable, or alone, too.
    """
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        if is_stackable(job.values):
            common = [job.values[name] for name in ("data", "model", "training", "recipe_source")]
            alike.setdefault(json.dumps(common, sort_keys=True), []).append(job)
    result = []
    for members in alike.values():
        # Those of one seed share their batches, and of one ranking the ranks.
        ordered = sorted(members, key=lambda job: (job.values["seed"], job.values["ranking"]["checksum"]))
        size = stack_size(members[0].values, len(members), workers, device)
        for first in range(0, len(ordered), size):
            chunk = ordered[first : first + size]
            # Named by all its members, so that it is recognised however many of them are finished.
            whole = _stack(chunk)
            # What was trained is handed out, even if a kill came in the middle of that.
            left = [job for job in chunk if not _finished(store, job)]
            if left and store.record(whole) is not None:
                result.append((whole, chunk))
            elif len(left) > 1:
                result.append((_stack(left), left))
    return result


def stack_size(values: Mapping[str, Any], count: int, workers: int, device: str) -> int:
    """Members of a stack: as many as are good for the device, fit into `MEMORY`, and leave no worker idle."""
    most = min(MEMBERS.get(resolve_device(device).type, MEMBERS["cpu"]), MEMORY // member_bytes(values))
    return max(1, min(most, -(-count // workers)))


def member_bytes(values: Mapping[str, Any]) -> int:
    """Bytes that one member takes, about: five arrays of its weights, and its batch with what is between."""
    channels, height, columns = values["model"]["shape"]
    inputs, classes = int(channels * height * columns), int(values["model"]["num_classes"])
    width = int(values["model"]["options"].get("width", 256))
    # Three layers with biases: D x W + W, W x W + W, W x K + K.
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
