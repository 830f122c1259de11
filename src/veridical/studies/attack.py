"""Attack one trained run, batch by batch as jobs: result.json, examples.npz and the store in one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from veridical.attacks.ball import ball
from veridical.attacks.directions import DIRECTIONS, Direction, RandomSign, describe_direction, top_mask
from veridical.attacks.protocols import EvaluationSettings, Protocol, Restart, evaluation_settings, protocol
from veridical.attacks.robustness import (
    Examination,
    Examiner,
    RobustnessResult,
    batch_length,
    measure_robustness,
)
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.method import Attribution
from veridical.attribution.quadrature import Quadrature
from veridical.attribution.registry import ATTRIBUTIONS, describe_attribution, find_attribution
from veridical.data import Dataset, Split, load
from veridical.faithfulness.diffroar import check_outcomes
from veridical.faithfulness.sources import describe_source, load_source
from veridical.jobs import Job, Progress, Store, run_jobs, workers_of
from veridical.jobs.pool import usable_cores, visible_cards
from veridical.runtime.devices import environment, resolve_device
from veridical.runtime.errors import RunError, UsageError, argument_error
from veridical.runtime.files import (
    Arrays,
    claim_folder,
    pack_arrays,
    read_json,
    result_document,
    to_plain,
    write_atomic,
    write_json,
)
from veridical.runtime.study_config import AttackOptions
from veridical.studies.executors import executor_of
from veridical.studies.finished import EXAMPLES, RESULT
from veridical.training.run import MODEL, Run
from veridical.training.run import load as load_run

KIND, JOBS, ARRAYS = "attack", "jobs", "arrays.npz"
_STAGE = "attacked"
_EDGES = ("top", "bottom", "left", "right")


@dataclass(frozen=True)
class AttackTask:
    """What the options come to for this run and data set; images is how many are attacked."""

    options: AttackOptions
    device: torch.device
    run: Run
    data: Dataset
    split: Split
    images: int
    settings: EvaluationSettings
    radii: tuple[float, ...]
    method: Attribution
    direction: Direction
    protocol: Protocol

    def measure(self, examine: Examiner) -> RobustnessResult:
        """Let `examine` do the batches, and make numbers of them."""
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
            examine=examine,
        )

    @property
    def pictures(self) -> int:
        """Examples whose images and maps are kept, more than are shown: some are not classified correctly."""
        return 4 * max(0, self.options.gallery)

    def describe(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        options = self.options
        # What is compared is the protocol's k.
        direction = {
            name: value for name, value in describe_direction(self.direction).items() if name != "compared"
        }
        return {
            **_describe_examined(self.run, self.data, self.split, options.split),
            "examples": self.images,
            "norm": options.norm,
            "radii": list(self.radii),
            "evaluation": asdict(self.settings),
            "protocol": asdict(self.protocol),
            "attribution": describe_attribution(self.method),
            "attack": {"direction": options.attack, **direction},
            "pictures": self.pictures,
            "seed": options.seed,
        }

    def jobs(self, work: Sequence[tuple[Examination, range]]) -> list[Job]:
        """A job for each batch at one radius, named by what its numbers depend on."""
        options, facts = self.options, self.describe()
        shared = ("run", "norm", "attribution", "attack", "seed")
        # The checksum names the images; another path to them changes nothing.
        images = {name: value for name, value in facts["data"].items() if name != "name"}
        where = {"run": str(self.run.folder.absolute()), "device": options.device}
        where |= describe_source(self.data.name, options.data_root, self.data.options)
        where |= {"trust_code": "yes"} if options.trust_code else {}
        return [
            Job(
                "veridical.studies.attack:attack_batch",
                {name: facts[name] for name in shared}
                | {
                    "data": images,
                    "method": options.attribution,
                    "radius": examination.ball.radius,
                    "protocol": asdict(examination.protocol),
                    "pgd_steps": examination.pgd_steps,
                    "pgd_step_size": examination.pgd_step_size,
                    "window": examination.window,
                    "first": batch.start,
                    "images": len(batch),
                    "pictures": min(max(0, examination.pictures - batch.start), len(batch)),
                },
                where,
                label=f"attack at radius {examination.ball.radius:g}, images from {batch.start}",
                cost=float(len(batch)),
            )
            for examination, batch in work
        ]


def attack_run(
    options: AttackOptions, progress: Callable[[str, Progress], object] | None = None
) -> dict[str, Any]:
    """Measure a run as `options` say, write result.json and examples.npz into its `out`, return the former.

    Finished batches are kept in the store as they come: interrupted at any moment, the same options continue.
    How many processes there are, and where, changes nothing beyond rounding. Raises UsageError where the
    folder belongs to other options, weights or images, and RunError, when all others are finished, with the
    reasons and logs of batches that failed. progress: called with what is done and how many jobs are.
    """
    report = progress or (lambda _what, _state: None)
    # The model here only counts what is classified correctly; a cluster's devices are other machines'.
    task = assign(options if options.scheduler is None else replace(options, device="cpu"))
    task = replace(task, options=options)
    config = task.describe()
    placed = replace(options, workers=_workers(task))
    with executor_of(placed) as executor:
        store = None if options.store is None else Store(options.store)  # refused, it leaves no claim
        folder = claim_folder(options.out, KIND, config)
        kept = store or Store(folder / JOBS)

        def examine(work: Sequence[tuple[Examination, range]]) -> list[Arrays]:
            jobs = task.jobs(work)
            outcomes = run_jobs(jobs, kept, executor, progress=lambda state: report(_STAGE, state))
            check_outcomes(outcomes, {job: job for job in jobs})
            return [kept.arrays(job, ARRAYS) for job in jobs]

        result = task.measure(examine)
        surroundings = environment(task.device, torch.float32, torch.get_num_threads(), options.seed)
        surroundings |= {"run": str(task.run.folder), "workers": workers_of(executor)}
        surroundings |= {"executor": type(executor).__name__, "store": str(kept.root)}
    examples = pack_arrays(_stack(result, task.data))
    write_atomic(folder / EXAMPLES, examples)
    timing = {f"{name}_seconds": round(seconds, 3) for name, seconds in result.seconds.items()}
    document = result_document(result.to_dict(), config, surroundings, timing, {EXAMPLES: examples})
    write_json(folder / RESULT, document)
    return document


def attack_batch(values: dict[str, Any], folder: Path, where: dict[str, str]) -> dict[str, Any]:
    """A job: attack one batch of images at one radius, and leave the arrays of `Examination.examine`."""
    model, split = _load_examined(where, values["run"], values["data"])
    trust = where.get("trust_code") == "yes"
    method = _create_method(values["method"], values["seed"], trust_code=trust)
    if to_plain(describe_attribution(method), "attribution") != values["attribution"]:
        raise RunError(f"{values['method']} is not what was to be attacked: its code or settings differ.")
    plan, aim = dict(values["protocol"]), values["attack"]
    for name in ("climb_nodes", "judge_nodes", "final_nodes"):
        plan[name] = plan[name] and Quadrature(**plan[name])
    plan["climbs"] = tuple(Restart(**climb) for climb in plan["climbs"])
    direction = DIRECTIONS.get(aim["direction"], trust_code=trust).create(
        k=aim.get("k"), compared=plan["k"], region=[aim.get(edge) for edge in _EDGES]
    )
    first, images = values["first"], values["images"]
    examination = Examination(
        attribution=method,
        attack=direction,
        protocol=Protocol(**plan),
        ball=ball(values["norm"], values["radius"]),
        pgd_steps=values["pgd_steps"],
        pgd_step_size=values["pgd_step_size"],
        window=values["window"],
        seed=values["seed"],
        pictures=first + values["pictures"],
    )
    arrays = examination.examine(model, split, range(first, first + images))
    write_atomic(folder / ARRAYS, pack_arrays(arrays))
    return {"images": images}


def count_attacked(folder: Path) -> int:
    """How many images, over all radii, the jobs in the folder of an unfinished attack are done with."""
    paths = (folder / JOBS).glob("*/*/result.json")
    return sum(read_json(path)["result"]["images"] for path in paths)


def _load_examined(
    where: Mapping[str, str], recorded: Mapping[str, Any], data_facts: Mapping[str, Any]
) -> tuple[nn.Module, Split]:
    """The model and the images that a job names; a RunError if they are others than it was planned for."""
    run = _load_cached(where["run"], where["device"], recorded["weights"])
    data = load_source(where, data_facts["checksum"])
    split = data.test if data_facts["split"] == "test" else run.validation_images(data)
    here = to_plain(_describe_examined(run, data, split, data_facts["split"]), "examined")
    del here["data"]["name"]
    if here != {"run": recorded, "data": data_facts}:
        raise RunError(
            f"{where['run']} or its images are not those that were to be attacked: weights or settings "
            "differ. Repeat the command."
        )
    return run.model, split


@lru_cache(maxsize=1)
def _load_cached(folder: str, device: str, weights: str) -> Run:
    """A run in the memory of its worker; weights: their digest, since the folder may get others."""
    del weights
    return load_run(folder, device=resolve_device(device))


def _describe_examined(run: Run, data: Dataset, split: Split, part: str) -> dict[str, Any]:
    """What is attacked: the run's settings, and checksums of weights and images."""
    return {
        "run": {"weights": run.result["files"][MODEL], **run.settings.to_dict()},
        "data": data.describe() | {"split": part, "images": len(split)},
    }


def _workers(task: AttackTask) -> int | None:
    """How many processes: as many as asked for, else one per GPU, or core with four batches for each."""
    options = task.options
    length = batch_length(task.split, task.method, task.protocol)
    jobs = -(-task.images // length) * len(task.radii)
    if options.workers is not None:
        return min(options.workers, jobs)
    if options.scheduler is not None:
        return None
    if task.device.type == "cuda":
        return min(jobs, max(1, len(visible_cards()))) if options.device in ("auto", "cuda") else 1
    return max(1, min(usable_cores() // (options.threads or 1), jobs // 4))


def _stack(result: RobustnessResult, data: Dataset) -> Arrays:
    """examples.npz: the main radius's arrays by name, those of all radii as "radius-R/NAME", class names."""
    arrays = dict(result.main.arrays)
    arrays["classes"] = np.asarray(data.classes, dtype=np.str_)
    for point in result.curve:
        if point.radius != result.main.radius:
            kept = {"index", "trace", "image", "perturbed", "saliency", "perturbed_saliency"}
            arrays |= {f"radius-{point.radius:.6g}/{n}": v for n, v in point.arrays.items() if n not in kept}
    return arrays


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


def assign(options: AttackOptions) -> AttackTask:
    """Load the run and its images and fill every gap of the options; a UsageError for what does not fit."""
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
    method = _create_method(
        options.attribution,
        options.seed,
        trust_code=options.trust_code,
        is_climbed=not isinstance(direction, RandomSign),
    )
    # Refused now, and not when a folder is claimed and images are being attacked.
    black = torch.zeros(1, *data.shape[1:])
    top_mask(black, settings.k)
    if not isinstance(direction, RandomSign):
        direction(black)
    return AttackTask(
        options=options,
        device=device,
        run=run,
        data=data,
        split=split,
        images=len(split) if options.examples is None else min(options.examples, len(split)),
        settings=settings,
        radii=radii or (settings.radius,),
        method=method,
        direction=direction,
        protocol=replace(plan, name=options.protocol),
    )


def _direction(options: AttackOptions, settings: EvaluationSettings) -> Direction:
    entry = DIRECTIONS.get(options.attack, trust_code=options.trust_code)
    if (options.region is None) == ("region" in entry.takes):
        raise argument_error("region", options.region, "rows and columns with --attack target, and only then")
    if options.region is not None and len(options.region) != len(_EDGES):
        raise argument_error("region", options.region, f"four numbers: {', '.join(_EDGES)}")
    return entry.create(k=settings.attacked_k, compared=settings.k, region=options.region)


def _create_method(name: str, seed: int, *, trust_code: bool, is_climbed: bool = False) -> Attribution:
    """The attribution by name; a UsageError for one that cannot be climbed where it has to be."""
    entry = find_attribution(name, trust_code=trust_code)
    if is_climbed and entry.is_differentiable is False:
        known = ", ".join(e.name for e in ATTRIBUTIONS.entries() if e.is_differentiable)
        hint = "Its map cannot be differentiated: attack it with --attack random."
        raise argument_error("attribution", name, f"one of {known}", hint)
    method = entry.create(seed)
    # The protocol's nodes take the place of the method's own, which a record should not name.
    return method.with_nodes("auto") if isinstance(method, IntegratedGradients) else method
