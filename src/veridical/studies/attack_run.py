"""Attack one trained run and keep everything in a folder: result.json, examples.npz, report.html."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from veridical.attacks.directions import Direction, MassCentre, RandomSign, TargetRegion, TopK
from veridical.attacks.protocols import Protocol, protocol
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.method import AttributionMethod
from veridical.attribution.methods import InputGradient
from veridical.auditing.parts import Arrays, PartStore, packed_arrays
from veridical.auditing.result import RobustnessResult
from veridical.auditing.robustness import batch_length, examples_kept, measure_robustness
from veridical.auditing.settings import EvaluationSettings, evaluation_settings
from veridical.data import Dataset, Split, load
from veridical.runtime.config import AttackOptions
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import UsageError, fail_argument
from veridical.runtime.files import claim_folder, write_atomic, write_json
from veridical.runtime.guards import thread_count
from veridical.runtime.provenance import environment, result_document
from veridical.studies.processes import run_side_by_side
from veridical.training.run import MODEL, Run
from veridical.training.run import load as load_run

KIND, RESULT, EXAMPLES, PARTS = "attack", "result.json", "examples.npz", "parts"

METHODS: dict[str, AttributionMethod] = {
    "integrated-gradients": IntegratedGradients(),
    "input-gradient": InputGradient(),
}


def attack_run(options: AttackOptions, progress: Callable[[int, int], Any] | None = None) -> dict[str, Any]:
    """Measure a run as `options` say, write result.json and examples.npz into its `out`, return the former.

    Finished batches are kept as they come: interrupted at any moment, the same options continue. Several
    processes share the batches; their number changes nothing beyond rounding. Raises UsageError where the
    folder belongs to other options, weights or images. progress: see measure_robustness.
    """
    task = _assign(options)
    config = task.describe()
    folder = claim_folder(options.out, KIND, config)
    workers = _workers(task)
    if workers > 1:
        alone = replace(options, workers=1, threads=options.threads or 1)
        total, tell = task.images * len(task.radii), progress or (lambda _done, _total: None)
        run_side_by_side(
            {f"worker {i}": (_examine_share, (alone, i, workers)) for i in range(workers)},
            lambda: tell(examples_kept(folder / PARTS), total),
        )
    with nullcontext() if options.threads is None else thread_count(options.threads):
        result = task.measure(folder, config, None if workers > 1 else progress)
        surroundings = environment(task.device, torch.float32, seed=options.seed)
    surroundings |= {"run": str(task.run.folder), "workers": workers}
    write_atomic(folder / EXAMPLES, packed_arrays(_stacked(result, task.data)))
    timing = {f"{name}_seconds": round(seconds, 3) for name, seconds in result.seconds.items()}
    document = result_document(result.to_dict(), config, surroundings, timing)
    write_json(folder / RESULT, document)
    return document


def _examine_share(options: AttackOptions, worker: int, workers: int) -> None:
    """In a process of its own: leave this worker's batches in the folder's parts."""
    with thread_count(options.threads or 1):
        task = _assign(options)
        task.measure(Path(options.out), task.describe(), None, (worker, workers))


def _workers(task: _Task) -> int:
    """How many processes: as many as asked for, else one per core with four batches or more for each."""
    batches = -(-task.images // batch_length(task.split, task.method, task.protocol))
    if task.options.workers is not None:
        if task.options.workers < 1:
            raise fail_argument("workers", task.options.workers, "a number of at least 1")
        return min(task.options.workers, batches)
    if task.device.type != "cpu":
        return 1
    cores = (os.cpu_count() or 1) // (task.options.threads or 1)
    return max(1, min(cores, batches * len(task.radii) // 4, batches))


@dataclass(frozen=True)
class _Task:
    """What the options come to for this run and data set; images is how many are attacked."""

    options: AttackOptions
    device: torch.device
    run: Run
    data: Dataset
    split: Split
    images: int
    settings: EvaluationSettings
    radii: tuple[float, ...]
    method: AttributionMethod
    direction: Direction
    protocol: Protocol

    def measure(
        self,
        folder: Path,
        config: dict[str, Any],
        progress: Callable[[int, int], Any] | None,
        share: tuple[int, int] = (0, 1),
    ) -> RobustnessResult:
        """Do the work, or a share of it; batches in the folder's parts are taken from there."""
        return measure_robustness(
            self.run.model,
            self.split,
            radius=self.settings.radius,
            curve=self.radii,
            norm=self.options.norm,
            protocol=self.protocol,
            attribution=self.method,
            attack=self.direction,
            pgd_steps=self.settings.pgd_steps,
            pgd_step_size=self.settings.pgd_step_size,
            examples=self.images,
            pictures=self.pictures,
            seed=self.options.seed,
            share=share,
            parts=PartStore(folder / PARTS, config),
            progress=progress,
        )

    @property
    def pictures(self) -> int:
        """Examples whose images and maps are kept, more than are shown: some are not classified correctly."""
        return 4 * max(0, self.options.gallery)

    def describe(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        weights = hashlib.sha256((self.run.folder / MODEL).read_bytes()).hexdigest()
        options = self.options
        return {
            "run": {"weights": weights, **self.run.settings.to_dict()},
            "data": self.data.describe() | {"split": options.split, "images": len(self.split)},
            "examples": self.images,
            "norm": options.norm,
            "radii": list(self.radii),
            "evaluation": asdict(self.settings),
            "protocol": asdict(self.protocol),
            "attribution": self.method.describe(),
            "attack": {"direction": options.attack, **asdict(self.direction)},  # type: ignore[call-overload]
            "pictures": self.pictures,
            "seed": options.seed,
        }


def _images(options: AttackOptions, run: Run) -> tuple[Dataset, Split]:
    """The data set asked for, else the run's, and the part of it that is attacked."""
    recorded = run.settings.data
    if options.data in (None, recorded["name"]):
        data = run.data(options.data_root)
    else:
        equalise = bool(recorded["options"].get("equalise", False))
        data = load(options.data or "", options.data_root, equalise=equalise)
        here, there = [list(data.shape), data.num_classes], [list(recorded["shape"]), recorded["num_classes"]]
        if here != there:
            raise UsageError(
                f"{options.run} was trained on {recorded['name']}, images {there[0]} of {there[1]} classes; "
                f"{options.data} has images {here[0]} of {here[1]} classes. Leave --data out."
            )
    if options.split == "test":
        return data, data.test
    if options.data not in (None, recorded["name"]):
        raise UsageError("--split validation is for the data set of the run. Leave --data out.")
    return data, run.validation_images(data)


def _assign(options: AttackOptions) -> _Task:
    device = resolve_device(options.device)
    run = load_run(options.run, device=device)
    data, split = _images(options, run)
    robust = run.settings.robust
    trained = robust.radius if robust is not None and robust.norm == options.norm else None
    usual = evaluation_settings(data.name, data.shape).radius if options.norm == "linf" else None
    main = trained if trained is not None else usual
    radii = tuple(sorted(options.radius)) if options.radius else ()
    if radii and main not in radii:
        main = radii[-1]
    settings = evaluation_settings(
        data.name,
        data.shape,
        norm=options.norm,
        radius=main,
        k=options.k,
        steps=options.steps,
        step_size=options.step_size,
        pgd_steps=options.pgd_steps,
        pgd_step_size=options.pgd_step_size,
    )
    plan = protocol(options.protocol, k=settings.k, steps=settings.steps, step_size=settings.step_size)
    direction = _direction(options, settings)
    return _Task(
        options=options,
        device=device,
        run=run,
        data=data,
        split=split,
        images=len(split) if options.examples is None else min(options.examples, len(split)),
        settings=settings,
        radii=radii or (settings.radius,),
        method=METHODS[options.attribution],
        direction=direction,
        protocol=replace(plan, name=options.protocol),
    )


def _direction(options: AttackOptions, settings: EvaluationSettings) -> Direction:
    if (options.region is None) == (options.attack == "target"):
        raise fail_argument("region", options.region, "rows and columns with --attack target, and only then")
    if options.region is not None:
        if len(options.region) != 4:
            raise fail_argument("region", options.region, "four numbers: top, bottom, left, right")
        return TargetRegion(*options.region)
    if options.attack == "topk":
        return TopK(settings.attacked_k)
    return MassCentre() if options.attack == "mass-centre" else RandomSign()


def _stacked(result: RobustnessResult, data: Dataset) -> Arrays:
    """examples.npz: the main radius's arrays by name, those of all radii as "radius-R/NAME", class names."""
    arrays = dict(result.main.arrays)
    arrays["classes"] = np.asarray(data.classes, dtype=np.str_)
    for point in result.curve:
        if point.radius != result.main.radius:
            kept = {"index", "trace", "image", "perturbed", "saliency", "perturbed_saliency"}
            arrays |= {f"radius-{point.radius:.6g}/{n}": v for n, v in point.arrays.items() if n not in kept}
    return arrays
