"""How robust one model's predictions and explanations are on one data set: NA, AA, IN, CO and more."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from veridical.attacks.attribution import ROWS, Method, batch_size
from veridical.attacks.ball import ball
from veridical.attacks.directions import Direction, TopK
from veridical.attacks.protocols import Protocol, protocol_of
from veridical.attacks.protocols import protocol as protocol_by_name
from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.auditing.examples import FORMS, Arrays, Examination, examine
from veridical.auditing.parts import PartStore
from veridical.auditing.result import RadiusResult, RobustnessResult, notes, summary
from veridical.data.dataset import Split
from veridical.metrics.intervals import proportion_interval
from veridical.runtime.checking import checked
from veridical.runtime.errors import argument_error

Progress = Callable[[int, int], Any]
"""(examples done, examples in total), over all radii."""

_PART = re.compile(r"radius-.*-from-(\d+)-to-(\d+)\.npz")


@checked("split", "attribution", "attack", "protocol", "parts")
def measure_robustness(
    model: nn.Module,
    split: Split,
    *,
    radius: float,
    curve: Sequence[float] = (),
    norm: Literal["linf", "l2"] = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    protocol: str | Protocol = "paper-fast",
    k: int | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    attribution: Method | None = None,
    attack: Direction | None = None,
    pgd_steps: int = 20,
    pgd_step_size: float | None = None,
    window: int = 1,
    examples: int | None = None,
    pictures: int = 0,
    seed: int = 0,
    rows: int | None = None,
    share: tuple[int, int] = (0, 1),
    parts: PartStore | None = None,
    progress: Progress | None = None,
) -> RobustnessResult:
    """Attack the predictions and the explanations of the first `examples` images and measure what holds.

    Parameters
    ----------
    model
        Inputs (N, C, H, W) in [0, 1] to logits; computed on its own device and in its own dtype.
    split
        Test images and labels.
    radius, curve
        The main radius and further ones, in input units. Step sizes are those of the main radius, and in
        proportion at the others.
    norm, bounds
        The ball, and the valid range of pixels.
    protocol, k, steps, step_size
        The attack on explanations: by name ("paper", "paper-fast", "strong") or a Protocol, with fields of it
        replaced where given. step_size=None is a tenth of the radius for a protocol by name.
    attribution, attack
        The explanation of the label's logit, Integrated Gradients from black by default (with the protocol's
        nodes), and where it is pushed: TopK(k) by default.
    pgd_steps, pgd_step_size
        The attack on predictions; None is 2.5 radius / pgd_steps.
    window
        Shift in pixels that windowed_topk_intersection forgives.
    examples, pictures
        How many of the first images are attacked (None: all), and of how many images and maps are kept.
    seed
        Example i draws its noise from streams keyed by (seed, purpose, i): batches do not change a result.
    rows
        Bound on examples times nodes at once; None takes 160 for 28x28 grey images, less for larger ones.
    share
        (i, n): examine only every n-th batch from the i-th on. With common `parts`, n processes do the work
        of one, and a call for all of it then finds it done.
    parts, progress
        Where finished batches are kept and taken from; what is told how far the measurement is.

    Source: Chen et al. (2019), section 5; the settings per data set are in `veridical.auditing.settings`.
    """
    if not isinstance(split, Split):
        raise argument_error("split", split, "a split of a data set, such as load(NAME).test")
    count = len(split) if examples is None else min(examples, len(split))
    if count < 1:
        raise argument_error("examples", examples, f"a number from 1 to {len(split)}, the images there are")
    plan = _plan(protocol, radius, k, steps, step_size)
    method = IntegratedGradients() if attribution is None else attribution
    direction = TopK(plan.compared) if attack is None else attack
    plan = plan.towards(direction)
    lengths = plan.step_size, 2.5 * radius / pgd_steps if pgd_step_size is None else pgd_step_size

    def at(r: float) -> Examination:
        share = r / radius if r > 0 and radius > 0 else 1.0
        length, pgd_length = (share * one for one in lengths)
        if radius == 0:
            # Nothing is in proportion to no radius: those beside it have the steps that they have alone.
            length = r / 10 if r > 0 and step_size is None and isinstance(protocol, str) else length
            pgd_length = 2.5 * (r or 1.0) / pgd_steps if pgd_step_size is None else pgd_length
        return Examination(
            attribution=method,
            attack=direction,
            protocol=replace(plan, step_size=length),
            ball=ball(norm, r, bounds),
            pgd_steps=pgd_steps,
            pgd_step_size=pgd_length,
            window=window,
            seed=seed,
            pictures=pictures if r == radius else 0,
        )

    length = batch_length(split, method, plan, rows)
    batches = [range(first, min(first + length, count)) for first in range(0, count, length)]
    chosen = batches[share[0] :: share[1]]
    if not chosen:
        raise argument_error("share", share, f"(i, n) with i below {len(batches)}, the number of batches")
    examinations = {r: at(r) for r in sorted({radius, *curve})}
    return _result(model, split, radius, _collect(model, split, examinations, chosen, parts, progress), plan)


def batch_length(split: Split, attribution: Method, protocol: Protocol, rows: int | None = None) -> int:
    """How many examples are examined, and kept in one part, at a time."""
    if rows is None:
        rows = max(1, ROWS * 784 // max(784, split.images[0].numel()))
    return batch_size(attribution, protocol, rows)


def _plan(
    protocol: str | Protocol, radius: float, k: int | None, steps: int | None, step_size: float | None
) -> Protocol:
    if isinstance(protocol, str):
        length = (radius / 10 if radius > 0 else 1.0) if step_size is None else step_size
        return protocol_by_name(protocol, k=k, steps=steps, step_size=length)
    given = {"k": k, "steps": steps, "step_size": step_size}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(protocol_of(protocol), **changes)


def _collect(
    model: nn.Module,
    split: Split,
    examinations: Mapping[float, Examination],
    batches: Sequence[range],
    parts: PartStore | None,
    progress: Progress | None,
) -> dict[float, list[Arrays]]:
    """Examine batch by batch, or take what an earlier session kept; arrays of each batch by radius."""
    units = [(r, batch, part_key(r, batch)) for r in examinations for batch in batches]
    total = sum(len(batch) for _, batch, _ in units)
    done = sum(len(batch) for _, batch, key in units if parts and parts.has(key))
    tell = progress or (lambda _done, _total: None)
    tell(done, total)
    collected: dict[float, list[Arrays]] = {r: [] for r in examinations}
    like = parameter_like(model)
    for r, batch, key in units:
        arrays = parts.get(key, FORMS) if parts else None
        if arrays is None:
            inputs, target = split.batch(batch, like.dtype, like.device)
            rows = len(batch) * examinations[r].protocol.climb_nodes.nodes
            arrays = examine(model, inputs, target, list(batch), examinations[r], rows)
            if parts:
                parts.put(key, arrays)
            done += len(batch)
            tell(done, total)
        collected[r].append(arrays)
    return collected


def part_key(radius: float, batch: range) -> str:
    """The name under which a batch at one radius is kept."""
    return f"radius-{radius!r}-from-{batch.start:06d}-to-{batch.stop:06d}"


def examples_kept(folder: Path) -> int:
    """How many examples, over all radii, the parts below `folder` hold; each name says its own."""
    names = [_PART.fullmatch(path.name) for path in folder.glob("*/*.npz")]
    return sum(int(name[2]) - int(name[1]) for name in names if name)


def _result(
    model: nn.Module, split: Split, radius: float, collected: dict[float, list[Arrays]], plan: Protocol
) -> RobustnessResult:
    """Join the batches of every radius and take means and intervals."""
    per_batch = ("gradients", "seconds", "rewrites")
    curve = []
    for r, batches in collected.items():
        names = [name for name in batches[0] if name not in per_batch]
        arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
        curve.append(RadiusResult(r, summary(arrays), arrays))
    main = next(point for point in curve if point.radius == radius)
    gradients = np.stack([batch["gradients"] for batch in collected[radius]]).max(0).tolist()
    seconds = np.sum([batch["seconds"] for part in collected.values() for batch in part], axis=0).tolist()
    everything = main.metrics["natural_accuracy"]
    if len(main.arrays["index"]) < len(split):
        everything = proportion_interval(_correct(model, split), len(split))
    attacked = ("prediction", "explanation")
    return RobustnessResult(
        main=main,
        curve=tuple(curve),
        natural_accuracy_of_all=everything,
        gradient_evaluations=dict(zip(attacked, gradients, strict=True)),
        rewrites=max(int(batch["rewrites"][0]) for batch in collected[radius]),
        seconds=dict(zip(attacked, seconds, strict=True)),
        notes=tuple(notes(model, split, main, plan)),
    )


def _correct(model: nn.Module, split: Split, rows: int = 500) -> int:
    """How many images of the split are classified correctly."""
    like, found = parameter_like(model), 0
    for first in range(0, len(split), rows):
        indices = range(first, min(first + rows, len(split)))
        inputs, target = split.batch(indices, like.dtype, like.device)
        found += int((predict(model, inputs).argmax(1) == target).sum())
    return found
