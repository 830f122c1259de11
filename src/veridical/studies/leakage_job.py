"""The jobs of the leakage study: train on blocks, attack the predictions, explain and see where maps lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from veridical.attacks.ball import Ball, ball
from veridical.attacks.prediction import pgd
from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.registry import create_attribution
from veridical.data.block_mnist import BlockOptions, block_mnist, counterfactual
from veridical.data.masked import MaskedDataset
from veridical.metrics.intervals import mean_interval, proportion_interval
from veridical.runtime.errors import RunError
from veridical.runtime.files import pack_arrays, write_atomic
from veridical.runtime.seeds import stream
from veridical.studies.leakage_maps import explained_arrays
from veridical.training.loop import train
from veridical.training.run import load

TRAIN = "veridical.studies.leakage_job:trained"
TEST = "veridical.studies.leakage_job:tested"
EXPLAIN = "veridical.studies.leakage_job:explained"

RUN, ARRAYS = "run", "measured.npz"
"""What jobs leave in their folders: the run of a training, the measures of its maps."""

SURE = 0.999
"""A prediction of at least this probability counts as saturated."""

ATTACK_STEPS = 20
_ROWS = 500


def trained(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: train one classifier on blocks. Killed at any moment, it continues from its checkpoint.

    values: blocks (the fields of `BlockOptions`), data (its checksum), training (fields of `TrainOptions`)
    and seed. where: data_root and device. Leaves the run in RUN; returns its accuracy, loss and times.
    """
    data = blocks_of(values, where)
    run = train(
        data=data,
        out=str(folder / RUN),
        seed=values["seed"],
        device=where.get("device", "auto"),
        progress=False,
        **values["training"],
    )
    timing = run.result["timing"]
    return {
        "accuracy": run.result["results"]["natural_accuracy"],
        "training_seconds": timing["training_seconds"],
        "examples_per_second": timing["examples_per_second"],
    }


def tested(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:  # noqa: ARG001
    """Job: a run's accuracy under attack, and how sure it is of what it sees.

    values: training (the id of its job, which names the weights), blocks, data, balls ([norm, radius] each),
    attacked (the first so many test images) and seed. where: run, data_root and device. Returns intervals:
    under_attack by ball, margin (the predicted logit above the next), sure (share of predictions of at least
    probability SURE) and loss (mean cross-entropy) of the test images.
    """
    data = blocks_of(values, where)
    run = load(where["run"], device=where.get("device", "auto"))
    held = {}
    for norm, radius in values["balls"]:
        hits = _hits_under_attack(run.model, data, ball(norm, radius), values["attacked"], values["seed"])
        held[ball_name(norm, radius)] = proportion_interval(hits, values["attacked"])
    logits, labels = _logits(run.model, data)
    greatest = logits.topk(2, dim=1).values
    sure = int((logits.softmax(1).amax(1) >= SURE).sum())
    return {
        "under_attack": held,
        "margin": mean_interval(greatest[:, 0] - greatest[:, 1]),
        "sure": proportion_interval(sure, len(logits)),
        "loss": mean_interval(nn.functional.cross_entropy(logits, labels, reduction="none")),
    }


def explained(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """Job: explain the first test images and measure where the maps lie; the arrays stay in ARRAYS.

    values: training (the id of its job), blocks, data, attribution (its name and record), explained (how many
    images), levels, pairs (what is measured on the images with the digit moved; they are not made for none)
    and seed. where: run, data_root, device, batch and trust_code. `explained_arrays` says what arrays are.
    """
    data = blocks_of(values, where)
    run = load(where["run"], device=where.get("device", "auto"))
    moved = None
    if values["pairs"]:
        options = block_options(values["blocks"])
        few = replace(options, train_examples=1, test_examples=values["explained"])
        moved = counterfactual(few, where.get("data_root"))
    trusted = where.get("trust_code") == "yes"
    method = create_attribution(values["attribution"]["name"], seed=values["seed"], trust_code=trusted)
    arrays = explained_arrays(run.model, data, moved, method, values, int(where.get("batch", "100")))
    write_atomic(folder / ARRAYS, pack_arrays(arrays))
    return {"explained": values["explained"]}


def ball_name(norm: str, radius: float) -> str:
    """A ball as people name it: linf 0.1."""
    return f"{norm} {radius:.4g}"


def block_options(values: Mapping[str, Any]) -> BlockOptions:
    """The options that a job's values hold."""
    return BlockOptions(**values)


def blocks_key(blocks: Mapping[str, Any]) -> str:
    """The fields of `BlockOptions` as one text, by which a process keeps the data set."""
    return json.dumps(dict(blocks), sort_keys=True)


def blocks_of(values: Mapping[str, Any], where: Mapping[str, str]) -> MaskedDataset:
    """The data set of a job's values, made once per process; a RunError if it is not the planned one."""
    data = made(blocks_key(values["blocks"]), where.get("data_root"))
    if data.checksum != values["data"]["checksum"]:
        raise RunError(
            f"{data.source} holds other images than were planned with. Give all machines the same."
        )
    return data


@lru_cache(maxsize=2)
def made(options: str, root: str | None) -> MaskedDataset:
    """The data set of `BlockOptions` as JSON; a process keeps two, as BlockMNIST and BlockMNIST-Top."""
    return block_mnist(block_options(json.loads(options)), root)


def _hits_under_attack(model: nn.Module, data: MaskedDataset, around: Ball, count: int, seed: int) -> int:
    hits = 0
    for first in range(0, count, _ROWS):
        inputs, target = _batch(model, data, first, count)
        generator = stream(seed, "leakage attack", first)
        moved = pgd(model, inputs, target, around, steps=ATTACK_STEPS, generator=generator)
        hits += int((predict(model, moved).argmax(1) == target).sum())
    return hits


def _logits(model: nn.Module, data: MaskedDataset) -> tuple[Tensor, Tensor]:
    """Logits of all test images and their labels, on the CPU."""
    count = len(data.test)
    parts = [predict(model, _batch(model, data, first, count)[0]).cpu() for first in range(0, count, _ROWS)]
    return torch.cat(parts).double(), data.test.labels


def _batch(model: nn.Module, data: MaskedDataset, first: int, count: int) -> tuple[Tensor, Tensor]:
    device = next(model.parameters()).device
    return data.test.batch(range(first, min(first + _ROWS, count)), parameter_like(model).dtype, device)
