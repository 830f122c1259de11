"""From the options of an attack to all that it needs: run, images, settings, protocol, direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from veridical.attacks.directions import DIRECTIONS, Direction, RandomSign, describe_direction, top_mask
from veridical.attacks.parts import PartStore
from veridical.attacks.protocols import EvaluationSettings, Protocol, evaluation_settings, protocol
from veridical.attacks.robustness import RobustnessResult, measure_robustness
from veridical.attribution.integrated_gradients import IntegratedGradients
from veridical.attribution.method import Attribution
from veridical.attribution.registry import ATTRIBUTIONS, describe_attribution, find_attribution
from veridical.data import Dataset, Split, load
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.study_config import AttackOptions
from veridical.training.run import MODEL, Run
from veridical.training.run import load as load_run


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

    def measure(
        self,
        parts: PartStore,
        progress: Callable[[int, int], Any] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> RobustnessResult:
        """Do the work, or a share of it; batches that `parts` holds are taken from there."""
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
            parts=parts,
            progress=progress,
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
            "run": {"weights": self.run.result["files"][MODEL], **self.run.settings.to_dict()},
            "data": self.data.describe() | {"split": options.split, "images": len(self.split)},
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
        method=_method(options, direction),
        direction=direction,
        protocol=replace(plan, name=options.protocol),
    )


def _direction(options: AttackOptions, settings: EvaluationSettings) -> Direction:
    entry = DIRECTIONS.get(options.attack, trust_code=options.trust_code)
    if (options.region is None) == ("region" in entry.takes):
        raise argument_error("region", options.region, "rows and columns with --attack target, and only then")
    if options.region is not None and len(options.region) != 4:
        raise argument_error("region", options.region, "four numbers: top, bottom, left, right")
    return entry.create(k=settings.attacked_k, compared=settings.k, region=options.region)


def _method(options: AttackOptions, direction: Direction) -> Attribution:
    """The attribution by name; a UsageError for one that cannot be climbed, unless nothing is climbed."""
    entry = find_attribution(options.attribution, trust_code=options.trust_code)
    if entry.is_differentiable is False and not isinstance(direction, RandomSign):
        known = ", ".join(e.name for e in ATTRIBUTIONS.entries() if e.is_differentiable)
        hint = "Its map cannot be differentiated: attack it with --attack random."
        raise argument_error("attribution", options.attribution, f"one of {known}", hint)
    method = entry.create(options.seed)
    # The protocol's nodes take the place of the method's own, which a record should not name.
    return method.with_nodes("auto") if isinstance(method, IntegratedGradients) else method
