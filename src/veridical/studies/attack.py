"""Attack the predictions and the explanations of a model, batch by batch, and measure what holds.

Chen et al., "Robust Attribution Regularization", NeurIPS 2019; Ghorbani, Abid, Zou, "Interpretation of neural
networks is fragile", AAAI 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from veridical.attacks.ball import ball
from veridical.attacks.directions import DIRECTIONS, Direction, RandomSign, describe_direction, top_mask
from veridical.attacks.protocols import EvaluationSettings, Protocol, Restart, evaluation_settings, protocol
from veridical.attacks.robustness import Examination, batch_length, measure_robustness
from veridical.attribution.method import Attribution
from veridical.attribution.methods import IntegratedGradients
from veridical.attribution.path import Quadrature
from veridical.attribution.registry import ATTRIBUTIONS, describe_attribution, find_attribution
from veridical.data import Dataset
from veridical.data.dataset import load_source
from veridical.jobs.pool import usable_cores, visible_cards
from veridical.metrics.registry import measures
from veridical.report import Panel, Table
from veridical.runtime.checking import Count, Limit
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import Arrays, read_json, to_plain
from veridical.runtime.options import AttackChoice, Gallery, Placement, SubjectChoice
from veridical.studies.attack_page import (
    ARRAYS_FORM,
    FORM,
    attack_panels,
    attack_table,
    run_title,
    write_attack_page,
)
from veridical.studies.study import JOBS, REPORT, Case, Context, Study, StudyResult, Work, limit_count
from veridical.training.subject import load_examined, load_subject

_EDGES = ("top", "bottom", "left", "right")
# What a job is told of an examination beside its ball and protocol.
_STEPS = ("pgd_steps", "pgd_step_size", "window")


@dataclass(frozen=True, kw_only=True)
class AttackOptions(AttackChoice, Gallery, SubjectChoice, Placement):
    """Attack the predictions and the explanations of a model and measure what holds.

    Args:
        examples: The first so many test images; None takes all.
        split: Images that are attacked: the test set, or the run's validation images (for choosing settings).
        seed: Seed of random starts.
        threads: Torch threads of each process; None is one for several, and leaves torch's choice to one.
        workers: Processes; None is one for each core or GPU, fewer for few images.
    """

    examples: Count | None = 1000
    gallery: Annotated[int, Limit(0, 1000)] = 8
    split: Literal["test", "validation"] = "test"


class Attack(Study[AttackOptions]):
    r"""Attack the predictions and the explanations of a model and measure what holds.

    examples:
      veridical attack --run runs/igsum --data fashion-mnist --protocol paper-fast --examples 1000 \
          --out runs/igsum-attack
      veridical attack --run runs/igsum --protocol strong --radius 0.02 0.05 0.1 --out runs/igsum-strong
      veridical attack --model cnn --weights cnn.pt --data fashion-mnist --out runs/mine

    An interrupted attack is continued by the same command. DIR/report.html shows what came out,
    DIR/result.json has the numbers, DIR/examples.npz those of every image. --workers shares the images among
    processes, one for each GPU where there are several, and --scheduler among those of a Dask cluster on
    several machines.
    """

    name = "attack"
    question = "do explanations hold still?"
    Options = AttackOptions
    form = FORM
    forms = ARRAYS_FORM

    def prepare(self) -> None:
        """Load model and images and fill every gap of the options."""
        options = self.options
        self.subject = load_subject(options, device=self.local_device)
        self.data = self.subject.data
        self.split = self.subject.split(options.split)
        self.images = limit_count(options.examples, len(self.split))
        radii = tuple(sorted(options.radius)) if options.radius else ()
        main = main_radius(radii, options.norm, self.subject.trained_radius(options.norm), self.data)
        given = ("norm", "k", "steps", "step_size", "pgd_steps", "pgd_step_size")
        self.settings = evaluation_settings(
            self.data.name,
            self.data.shape,
            radius=main,
            **{name: getattr(options, name) for name in given},
        )
        self.radii = radii or (self.settings.radius,)
        budget = {name: getattr(self.settings, name) for name in ("k", "steps", "step_size")}
        self.protocol = protocol(options.protocol, **budget)
        self.direction = _direction(options, self.settings)
        is_climbed = not isinstance(self.direction, RandomSign)
        self.method = _create_method(
            options.attribution, options.seed, self.data, options.trust_code, is_climbed=is_climbed
        )
        # Refused now, and not when a folder is claimed and images are being attacked.
        black = torch.zeros(1, *self.data.shape[1:])
        top_mask(black, self.settings.k)
        if is_climbed:
            self.direction(black)
        # Examples whose images and maps are kept, more than are shown: some are not classified correctly.
        self.pictured = 4 * max(0, options.gallery)

    def config(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        options = self.options
        # What is compared is the protocol's k.
        direction = {
            name: value for name, value in describe_direction(self.direction).items() if name != "compared"
        }
        return {
            "run": self.subject.describe(),
            "data": self.data.describe() | {"split": options.split, "images": len(self.split)},
            "examples": self.images,
            "norm": options.norm,
            "radii": list(self.radii),
            "evaluation": asdict(self.settings),
            "protocol": asdict(self.protocol),
            "attribution": describe_attribution(self.method),
            "attack": {"direction": options.attack, **direction},
            "pictures": self.pictured,
            "seed": options.seed,
        }

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        return super().where() | self.subject.where(self.options.data_root)

    def surroundings(self) -> dict[str, Any]:
        """What was attacked, where it lay."""
        return {"run": self.subject.title}

    def placement(self) -> AttackOptions:
        """As many processes as asked for, else one per GPU, or core with four batches for each."""
        options = self.options
        jobs = -(-self.images // batch_length(self.split, self.method, self.protocol)) * len(self.radii)
        workers = options.workers
        if workers is not None:
            workers = min(workers, jobs)
        elif options.scheduler is None and resolve_device(options.device).type == "cuda":
            workers = min(jobs, max(1, len(visible_cards()))) if options.device in ("auto", "cuda") else 1
        elif options.scheduler is None:
            workers = max(1, min(usable_cores() // (options.threads or 1), jobs // 4))
        return replace(options, workers=workers)

    def work(self, work: Work) -> None:
        """A case for each batch at one radius; the measures tell which there are."""
        facts = self.config()

        def examine(batches: Sequence[tuple[Examination, range]]) -> list[Arrays]:
            cases = [self._case(facts, *batch) for batch in batches]
            work.run(cases)
            return [work.arrays(case) for case in cases]

        self.measured = measure_robustness(
            self.subject.model,
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
            pictures=self.pictured,
            seed=self.options.seed,
            examine=examine,
        )

    def _case(self, facts: Mapping[str, Any], examination: Examination, batch: range) -> Case:
        # The checksum names the images; another path to them changes nothing.
        images = {name: value for name, value in facts["data"].items() if name != "name"}
        return Case(
            {name: facts[name] for name in ("run", "norm", "attribution", "attack", "seed")}
            | {
                "data": images,
                "method": self.options.attribution,
                # Batches that an earlier version left without one of them are examined again.
                "measures": list(measures("attack")),
                "radius": examination.ball.radius,
                "protocol": asdict(examination.protocol),
                **{name: getattr(examination, name) for name in _STEPS},
                "first": batch.start,
                "images": len(batch),
                "pictures": min(max(0, examination.pictures - batch.start), len(batch)),
            },
            stage="attacked",
            label=f"attack at radius {examination.ball.radius:g}, images from {batch.start}",
            cost=float(len(batch)),
        )

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Attack one batch of images at one radius: the arrays of `Examination.examine`."""
        facts, trust = values["data"], context.trust_code
        data = load_source(context.where, facts["checksum"])
        model, split = load_examined(
            context.where, values["run"]["weights"], data, facts["split"], trust_code=trust
        )
        method = _create_method(values["method"], values["seed"], data, trust)
        # A worker on another machine may have other code behind the same name.
        described = to_plain(describe_attribution(method), "attribution")
        if described != values["attribution"] or len(split) != facts["images"]:
            what = "its images, code or settings differ. Repeat the command."
            raise RunError(f"{values['method']} is not what was to be attacked: {what}")
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
            **{name: values[name] for name in (*_STEPS, "seed")},
            pictures=first + values["pictures"],
        )
        return {"images": images, **examination.examine(model, split, range(first, first + images))}

    def results(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - measured when the batches were done
        """Every measure with its interval, at the main radius and along the curve."""
        return self.measured.to_dict()

    def timing(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - as above
        """What the parts of the attack took."""
        return {f"{name}_seconds": round(seconds, 3) for name, seconds in self.measured.seconds.items()}

    def pictures(self, work: Work) -> Arrays:  # noqa: ARG002 - as above
        """The main radius's arrays by name, those of all radii as "radius-R/NAME", class names."""
        arrays = dict(self.measured.main.arrays)
        arrays["classes"] = np.asarray(self.data.classes, dtype=np.str_)
        left_out = {"index", "trace", "image", "perturbed", "saliency", "perturbed_saliency"}
        # Pictures are of the main radius alone: a page shows no others, and files stay small.
        for point in self.measured.curve:
            if point.radius != self.measured.main.radius:
                place = f"radius-{point.radius:.6g}"
                arrays |= {f"{place}/{n}": v for n, v in point.arrays.items() if n not in left_out}
        return arrays

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """Every measure with its interval."""
        return {"": attack_table({run_title(result): result}).transposed("measure")}

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """What is to be known beside the numbers."""
        return [f"note: {note}" for note in result.results["notes"]]

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """The parts of the page."""
        return attack_panels({run_title(result): result}, result.config["pictures"] // 4)

    @classmethod
    def write_page(cls, result: StudyResult) -> Path:
        """Draw the page that `compare` draws of several attacks, and return its path."""
        name, config = run_title(result), result.config
        run = result.document["environment"]["run"]
        return write_attack_page(
            result.folder / REPORT,
            {name: result},
            title=f"How {name} on {config['data']['name']} holds under attack",
            lead=f"The predictions and explanations of {run}, attacked by protocol "
            f"{config['protocol']['name']}.",
            gallery=config["pictures"] // 4,
        )


def main_radius(radii: Sequence[float], norm: str, trained: float | None, data: Dataset) -> float | None:
    """The radius of which steps are told: that of the training, else the paper's for the data.

    Where several are asked for and it is not among them, the largest; None where neither is known.
    """
    usual = evaluation_settings(data.name, data.shape).radius
    main = trained if trained is not None else usual if norm == "linf" else None
    return max(radii) if radii and main not in radii else main


def count_attacked(folder: Path) -> int:
    """How many images, over all radii, the jobs in the folder of an unfinished attack are done with."""
    paths = (folder / JOBS).glob("*/*/result.json")
    return sum(read_json(path)["result"]["images"] for path in paths)


def _direction(options: AttackOptions, settings: EvaluationSettings) -> Direction:
    entry = DIRECTIONS.get(options.attack, trust_code=options.trust_code)
    if (options.region is None) == ("region" in entry.takes):
        raise argument_error("region", options.region, "rows and columns with --attack target, and only then")
    if options.region is not None and len(options.region) != len(_EDGES):
        raise argument_error("region", options.region, f"four numbers: {', '.join(_EDGES)}")
    return entry.create(k=settings.attacked_k, compared=settings.k, region=options.region)


def _create_method(
    name: str, seed: int, data: Dataset, trust_code: bool, *, is_climbed: bool = False
) -> Attribution:
    """The attribution by name; a UsageError for one that cannot be climbed where it has to be."""
    entry = find_attribution(name, trust_code=trust_code)
    if is_climbed and entry.is_differentiable is False:
        known = ", ".join(e.name for e in ATTRIBUTIONS.entries() if e.is_differentiable)
        hint = "Its map cannot be differentiated: attack it with --attack random."
        raise argument_error("attribution", name, f"one of {known}", hint)
    method = entry.create(seed, data.train)
    # The protocol's nodes take the place of the method's own, which a record should not name.
    return method.with_nodes("auto") if isinstance(method, IntegratedGradients) else method
