"""Many retrainings of a multilayer perceptron as one job: which train together, and their arithmetic."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from veridical.attribution.method import CLASSIFIED
from veridical.data import Dataset, Split
from veridical.data.augmentation import balanced_order
from veridical.faithfulness.retraining import ACCURACY, load_unmasked
from veridical.faithfulness.unmasking import ConstantFill, MaskSplit, UnmaskedSplit, mask
from veridical.jobs import Job, Outcome, Progress, Store, run_jobs, workers_of
from veridical.models.networks import MLP, Standardise
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import read_json, write_sealed
from veridical.runtime.options import TrainOptions
from veridical.runtime.seeds import stream
from veridical.training.checkpoint import Learner, load_newest, save_checkpoint
from veridical.training.optimisation import arithmetic
from veridical.training.recipes import resolve
from veridical.training.run import build_recorded

STACKED = "veridical.faithfulness.stacked:retrain_stacked"
CHECKPOINTS = "checkpoints"
# Between checkpoints.
CHECKPOINT_SECONDS = 60.0


def retrain_stacked(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: many retrainings in one program; {"members": a result for each as `retrain` returns it, or None}.

    values: {"members": the values of their jobs}, of one data set, architecture and recipe. where: as in
    `retrain`, with each one's ranking. Killed at any moment, it continues from its newest
    checkpoint. A member whose loss or gradient stops being finite has no result; by itself it says why.
    """
    if (folder / ACCURACY).exists():
        kept: dict[str, Any] = read_json(folder / ACCURACY, sealed=True)
        return kept
    members = values["members"]
    views = [load_unmasked(one, where) for one in members]
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
        # What differs between members is not asked for.
        options, data = TrainOptions(out=".", **members[0]["training"]), views[0]
        self.settings = resolve(
            options, data=data.describe(), model=members[0]["model"], train_size=len(data.train)
        )
        networks = [build_recorded(members[0]["model"], seed) for seed in self.seeds]
        mlps = [network for network in networks if isinstance(network, MLP)]
        if len(mlps) < len(members):
            name = members[0]["model"]["name"]
            raise RunError(f"retrainings of {name} cannot be stacked, those of mlp can.")
        self.standardise = mlps[0].standardise
        self.model = StackedMLP(mlps, device)
        self.learner = Learner(self.model, self.settings.optimise)
        self.batches = _Batches([view.train for view in views], self.standardise, device)
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
            self.learner.move(self.step)
        self.step += 1

    def correct(self) -> list[int]:
        """How many test images each member, with the weights that its run delivers, classifies right.

        Members whose logits are not finite are lost.
        """
        model = self.learner.delivered
        tests = _Batches([view.test for view in self.views], self.standardise, self.device)
        result = torch.zeros(len(self.seeds), dtype=torch.int64, device=self.device)
        with arithmetic():
            for numbers in torch.arange(len(self.views[0].test)).split(CLASSIFIED):
                inputs, target = tests.batch([numbers] * len(self.seeds))
                logits = model(inputs)
                result += (logits.argmax(2) == target).sum(1)
                self.lost |= set((~logits.isfinite().flatten(1).all(1)).nonzero().flatten().tolist())
        return list(map(int, result))

    def results(self) -> list[dict[str, Any] | None]:
        """What `retrain` returns, for each member, with its share of the seconds; None for a lost one."""
        count, examples = len(self.seeds), len(self.views[0].test)
        share = self.seconds / count
        seen = self.step * self.settings.optimise.batch_size
        common = {
            "examples": examples,
            "training_seconds": round(share, 3),
            "examples_per_second": round(seen / share, 2) if share else 0.0,
            "stacked": count,
        }
        results = [{"accuracy": right / examples, "correct": right, **common} for right in self.correct()]
        return [None if row in self.lost else result for row, result in enumerate(results)]

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
        lost = f"step {self.step}: the loss or gradient of members {bad} is not finite; they are given up"
        warnings.warn(lost, RuntimeWarning, stacklevel=3)

    def _order(self, seed: int, epoch: int) -> Tensor:
        """Positions of the training images of one epoch, as `Assignment.order` has them."""
        shuffle, count = stream(seed, "batches", epoch), self.settings.train_examples
        if self.settings.balance == "classes":
            return balanced_order(self.views[0].train.labels[:count], shuffle)
        return torch.randperm(count, generator=shuffle)


# Retrainings of one stack, at most. On a CPU more of them only leave its caches.
MEMBERS = {"cpu": 8, "cuda": 128}

# Bytes of one stack, at most, about: weights, gradients, moments and average, and a batch.
MEMORY = 2**30


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
    stacks = _group_jobs(jobs, store, workers=workers_of(executor), device=device)
    if not stacks:
        return {}
    outcomes = run_jobs([stack for stack, _ in stacks], store, executor, progress=tell)
    for stack, members in stacks:
        outcome = outcomes[stack.id]
        if outcome.result is None:
            failure = f"{stack.label} failed and they are trained one by one: {outcome.error}"
            warnings.warn(failure, RuntimeWarning, stacklevel=2)
            continue
        for member, result in zip(members, outcome.result["members"], strict=True):
            if result is not None and not _finished(store, member):
                folder = store.folder(member)
                folder.mkdir(parents=True, exist_ok=True)
                write_sealed(folder / ACCURACY, result)
    return outcomes


def _group_jobs(
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
    most = min(MEMBERS.get(resolve_device(device).type, MEMBERS["cpu"]), MEMORY // _member_bytes(values))
    return max(1, min(most, -(-count // workers)))


def _member_bytes(values: Mapping[str, Any]) -> int:
    """Bytes that one member takes, about: five arrays of its weights, and its batch with what is between."""
    channels, height, columns = values["model"]["shape"]
    inputs, classes = int(channels * height * columns), int(values["model"]["num_classes"])
    width = int(values["model"]["options"].get("width", 256))
    # Three layers with biases: D x W + W, W x W + W, W x K + K.
    weights = (inputs + width + classes + 2) * width + classes
    rows = max(int(values["training"]["batch_size"]), 500)  # of the test, at least
    return 4 * (5 * weights + rows * (inputs + 4 * width + 3 * classes))


def _stack(members: Sequence[Job]) -> Job:
    where = {name: path for member in members for name, path in member.where.items()}
    label = f"{len(members)} retrainings together, from {members[0].label}"
    values = {"members": [member.values for member in members]}
    return Job(STACKED, values, where, label, sum(member.cost for member in members))


def _finished(store: Store, job: Job) -> bool:
    """Whether the job has a result, or needs only to pick it up."""
    return store.record(job) is not None or (store.folder(job) / ACCURACY).exists()


class _Batches:
    """The same part of the data set as each of R retrainings sees it, standardised.

    splits: one for each, over the same images, with a constant fill. Where one is asked for several
    retrainings' examples, images and ranks that they share are read once, and no image is held twice.
    """

    def __init__(self, splits: Sequence[Split], standardise: Standardise, device: torch.device) -> None:
        self.device = device
        self.splits: list[UnmaskedSplit] = []
        self.fills: list[Tensor] = []
        self.images = Split(splits[0].images, splits[0].labels)
        self.standardise = standardise
        one = torch.ones(1, self.images.images.shape[1], 1, 1, device=device)
        # To standardise before filling in gives the same floats as after, once instead of R times.
        self.seen = standardise(one)
        for split in splits:
            if not isinstance(split, UnmaskedSplit) or not isinstance(split.fill, ConstantFill):
                raise argument_error("splits", split, "an UnmaskedSplit with a constant fill")
            # A mask is 0 where nothing is shown.
            values = torch.tensor(split.fill.values, device=device).reshape(1, -1, 1, 1)
            self.splits.append(split)
            self.fills.append(standardise(one * (0.0 if isinstance(split, MaskSplit) else values)))
        self._room = torch.empty(0, device=device)

    def batch(self, numbers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs (R, n, D) and target (R, n) of each retraining's examples; inputs hold until the next call.

        numbers: R index tensors (n,). Those that are one object are looked up once.
        """
        shape = self.images.images.shape[1:]
        wanted = (len(self.splits), len(numbers[0]), *shape)
        if self._room.shape != wanted:
            self._room = torch.empty(wanted, device=self.device)
        cut: dict[int, tuple[Tensor, Tensor]] = {}
        ranks: dict[tuple[int, int], Tensor] = {}
        for row, (split, chosen) in enumerate(zip(self.splits, numbers, strict=True)):
            if id(chosen) not in cut:
                inputs, target = self.images.batch(chosen, device=self.device)
                cut[id(chosen)] = self.standardise(inputs), target
            key = id(split.ranks), id(chosen)
            if key not in ranks:
                rows = chosen.numpy() if len(split.ranks) > 1 else np.zeros(1, dtype=np.int64)
                ranks[key] = torch.from_numpy(split.ranks[rows]).to(self.device)
            stays = mask(ranks[key], split.kept, shape)
            seen = self.seen if isinstance(split, MaskSplit) else cut[id(chosen)][0]
            torch.where(stays, seen, self.fills[row], out=self._room[row])
        return self._room.flatten(2), torch.stack([cut[id(chosen)][1] for chosen in numbers])


def is_stackable(values: Mapping[str, Any]) -> bool:
    """Whether a retraining, by the values of its job, can be one of many in a stack.

    It is an `mlp` with the natural objective, unchanged images and a constant fill: imputation takes longer
    than the training, and every retraining needs its own.
    """
    training, fill = values["training"], values["fill"]
    return (
        values["model"]["name"] == "mlp"
        and values["model"]["options"].get("activation", "relu") == "relu"
        and training["objective"] == "natural"
        and training.get("augment", "none") == "none"
        and not training.get("bf16")
        and (fill is None or fill["kind"] == "constant")
    )


class StackedMLP(nn.Module):
    """R networks `MLP` of one shape; row r of the parameter `rows` (R, P) holds all weights of network r.

    The optimisers and the weights' average work by element, so that one call on `rows` moves every network as
    calls of their own would. Gradients are written into `rows.grad` by formula: on a CPU, buffers that stay
    where they are save a third of the time that autograd takes.
    """

    def __init__(self, networks: Sequence[MLP], device: torch.device) -> None:
        super().__init__()
        self.shapes = [parameter.shape for parameter in networks[0].parameters()]
        whole = torch.stack([nn.utils.parameters_to_vector(one.parameters()).detach() for one in networks])
        self.rows = nn.Parameter(whole.to(device))
        self._buffers_of: tuple[torch.Size, list[Tensor]] | None = None

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (R, n, K) of standardised inputs (R, n, D)."""
        weights = self._parts(self.rows)
        features = inputs
        for layer in range(0, len(weights), 2):
            features = torch.baddbmm(weights[layer + 1][:, None], features, weights[layer].mT)
            if layer + 2 < len(weights):
                features.relu_()
        return features

    @torch.no_grad()
    def gradients(self, inputs: Tensor, target: Tensor, *, mean: bool) -> Tensor:
        """Put the derivatives of every network's mean (or summed) cross-entropy into `rows.grad`.

        inputs (R, n, D) standardised, target (R, n). Returns the loss per example (R, n).
        """
        if self.rows.grad is None:
            self.rows.grad = torch.zeros_like(self.rows)
        weights, slopes = self._parts(self.rows), self._parts(self.rows.grad)
        first, second, logits, error2, error1 = self._room(inputs.shape)
        torch.bmm(inputs, weights[0].mT, out=first).add_(weights[1][:, None]).relu_()
        torch.bmm(first, weights[2].mT, out=second).add_(weights[3][:, None]).relu_()
        torch.bmm(second, weights[4].mT, out=logits).add_(weights[5][:, None])
        chosen = target[..., None]
        logs = logits.log_softmax(-1)
        loss = -logs.gather(2, chosen).squeeze(2)
        # The derivative of the cross-entropy in the logits: softmax minus one-hot.
        error = logs.exp_()
        error.scatter_add_(2, chosen, error.new_full((), -1.0).expand(chosen.shape))
        if mean:
            error.div_(inputs.shape[1])
        # Back through the layers: a ReLU lets pass where its output is positive.
        _sums(error, second, slopes[4], slopes[5])
        torch.bmm(error, weights[4], out=error2).mul_(second > 0)
        _sums(error2, first, slopes[2], slopes[3])
        torch.bmm(error2, weights[2], out=error1).mul_(first > 0)
        _sums(error1, inputs, slopes[0], slopes[1])
        return loss

    def _parts(self, rows: Tensor) -> list[Tensor]:
        """Views of weights (R, out, in) and biases (R, out), layer by layer."""
        pieces = rows.detach().split([shape.numel() for shape in self.shapes], dim=1)
        return [piece.unflatten(1, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def _room(self, shape: torch.Size) -> list[Tensor]:
        """Tensors for what lies between the layers, the same ones in every step."""
        if self._buffers_of is None or self._buffers_of[0] != shape:
            widths = [self.shapes[layer][0] for layer in (0, 2, 4, 2, 0)]
            self._buffers_of = shape, [self.rows.new_empty(*shape[:2], width) for width in widths]
        return self._buffers_of[1]


def _sums(error: Tensor, features: Tensor, weight: Tensor, bias: Tensor) -> None:
    """The derivatives in a layer's weights (R, out, in) and biases from its error and its inputs."""
    torch.bmm(error.mT, features, out=weight)
    torch.sum(error, 1, out=bias)
