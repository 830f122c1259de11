"""The demonstration: a natural and two robust models of the same digits, their explanations under attack."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from veridical.attacks.protocols import evaluation_settings
from veridical.data import load
from veridical.jobs import Progress
from veridical.report import Interval, Panel, Table
from veridical.runtime.checking import FilePath
from veridical.runtime.files import CLAIM
from veridical.runtime.options import DataChoice, Machine, Placement, TrainOptions
from veridical.studies.attack import Attack, AttackOptions, count_attacked
from veridical.studies.attack_page import attack_panels, attack_table, attack_verdict, write_attack_page
from veridical.studies.study import REPORT, RESULT, Case, Context, ProgressCallback, Study, StudyResult, Work
from veridical.training.log import read_log
from veridical.training.loop import train
from veridical.training.penalties import objective_title
from veridical.training.run import read_settings

# Adversarial training is the control: IG-SUM-NORM is that and a term of its own.
NATURAL, CONTROL, ROBUST = MODELS = ("natural", "adversarial", "ig-sum-norm")
_COMPARED = ("topk_intersection", "kendall_tau")
# The paper's on MNIST, 0.3, can be seen, and needs many times the training; elsewhere it is the paper's.
RADIUS = {"mnist-5k": 0.1, "mnist": 0.1}


@dataclass(frozen=True)
class Scale:
    """How much is done: epochs over at most `train_examples` images, test images attacked, steps of that.

    share_of_radius: step length of the attack on explanations. Fewer and longer steps than the paper's (100
    of a tenth, on MNIST a thirtieth, of the radius) cover the same way.
    """

    natural_epochs: float
    robust_epochs: float
    train_examples: int
    examples: int
    steps: int
    share_of_radius: float


FULL = Scale(4.0, 6.0, 3600, 64, 40, 0.1)
SHORT = Scale(2.0, 3.0, 3600, 24, 20, 0.2)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(DataChoice, Machine):
    """Train a natural and two robust models, attack their explanations, and show them side by side.

    Args:
        out: Folder of everything; None is runs/demo, or runs/demo-short. The same command continues in it.
        data: Name of a data set, an .npz file or a folder of class folders.
        short: Less training, fewer images and steps, for a quick look.
        seed: Seed of weights, batches and noise.
        progress: Show progress bars.
    """

    out: FilePath | None = None
    data: FilePath = "mnist-5k"
    short: bool = False

    store = scheduler = None  # no options: everything lies in `out`, and one machine does it


class Demo(Study[DemoOptions]):
    """Train a natural and two robust models on digits, attack their explanations, show them side by side.

    examples:
      veridical demo
      veridical demo --short --out runs/quick

    Everything goes into one folder; an interrupted demo is continued by the same command. It ends by naming
    the page to open.
    """

    name = "demo"
    title = "What an attack leaves of three models' explanations"
    Options = DemoOptions

    def prepare(self) -> None:
        """Load the images and scale the attack of the paper down."""
        options = self.options
        out = options.out or ("runs/demo-short" if options.short else "runs/demo")
        self.options = replace(options, out=out)
        self.folder = Path(out)
        self.scale = SHORT if options.short else FULL
        self.data = load(options.data, options.data_root)
        settings = evaluation_settings(self.data.name, self.data.shape, radius=RADIUS.get(self.data.name))
        length = self.scale.share_of_radius * settings.radius
        self.settings = replace(settings, steps=self.scale.steps, step_size=length)

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        return {
            "data": self.data.describe(),
            "scale": asdict(self.scale),
            "evaluation": asdict(self.settings),
            "seed": self.options.seed,
        }

    def placement(self) -> Placement:
        """A process for each model, so that cores are used well: small batches gain little from threads."""
        cores = os.cpu_count() or 2
        workers = min(len(MODELS), cores) if os.name == "posix" else 1
        threads = max(1, cores // len(MODELS))
        return Placement(out=str(self.folder), device=self.options.device, workers=workers, threads=threads)

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        return {**super().where(), "data": self.options.data, "out": str(self.folder)}

    def cases(self) -> Iterable[Case]:
        """A training and an attack for each model."""
        scale, seed, images = self.scale, self.options.seed, len(self.data.train)
        validation = min(400, images // 10)
        for name in MODELS:
            is_robust = name != NATURAL
            training = {
                "objective": name,
                "radius": self.settings.radius if is_robust else None,
                "epochs": scale.robust_epochs if is_robust else scale.natural_epochs,
                "model_options": {"initialisation": "he"},
                "validation": validation,
                "train_examples": min(scale.train_examples, images - validation),
                "seed": seed,
            }
            lengths = {name: getattr(self.settings, name) for name in ("steps", "step_size")}
            attack = {"examples": scale.examples, "radius": [self.settings.radius], "seed": seed, **lengths}
            values = {"data": self.data.checksum, "training": training, "attack": attack}
            yield Case(values, name, stage="training and attacking")

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Train into the folder of the demo, where people look for the run, and attack it beside."""
        run = Path(context.where["out"]) / values["training"]["objective"]
        shared: dict[str, Any] = {"device": context.device, "data_root": context.data_root, "progress": False}
        train(TrainOptions(out=str(run), data=context.where["data"], **values["training"], **shared))
        attack = AttackOptions(run=str(run), out=f"{run}-attack", workers=1, **values["attack"], **shared)
        Attack(attack).run()
        return {}

    def run(
        self, progress: ProgressCallback | None = None, *, executor: Executor | None = None
    ) -> StudyResult:
        """Train, attack and compare; finished pieces of an earlier session are taken as they are."""
        return super().run(progress and (lambda _what, _state: self._report(progress)), executor=executor)

    def _report(self, progress: ProgressCallback) -> None:
        """Tell the steps of each training and the images of each attack, as their folders show them."""
        images = min(self.scale.examples, len(self.data.test))
        for name in MODELS:
            run, title = self.folder / name, objective_title(name)
            if not (run / CLAIM).exists():
                continue
            log, steps = read_log(run), read_settings(run).optimise.steps
            is_trained = (run / RESULT).exists()
            done = steps if is_trained else log[-1]["step"] if log else 0
            progress(f"{title}: training steps", Progress(done, steps, 0, 0, 0, None))
            if is_trained:
                attack = Path(f"{run}-attack")
                done = images if (attack / RESULT).exists() else count_attacked(attack)
                progress(f"{title}: attacked images", Progress(done, images, 0, 0, 0, None))

    def results(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - they lie in the demo's folder
        """The results of all attacks, and where IG-SUM-NORM's intervals lie above those of the others."""
        found = dict(zip(MODELS, (attack.results for attack in _attacks(self.folder).values()), strict=True))

        def above(other: str) -> dict[str, bool]:
            return {
                name: Interval.read(found[ROBUST][name]).against(Interval.read(found[other][name]))
                == "higher"
                for name in _COMPARED
            }

        return {**found, "robust_above_natural": above(NATURAL), "robust_above_adversarial": above(CONTROL)}

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """Every measure of all models."""
        return {"": attack_table(_attacks(result.folder)).transposed("measure")}

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """What the verdict of the page says first."""
        return list(attack_verdict(_attacks(result.folder)).headlines)

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """The parts of the page."""
        return attack_panels(_attacks(result.folder))

    @classmethod
    def write_page(cls, result: StudyResult) -> Path:
        """Draw the page that `compare` draws of attacks, with how far the demo is from the paper's."""
        data, scale = result.config["data"]["name"], Scale(**result.config["scale"])
        settings = result.config["evaluation"]
        lead = (
            f"Three networks of one kind were trained on {data}: one in the ordinary way; one on images that "
            "are changed against it (adversarial training); and one with Robust Attribution Regularization "
            "(IG-SUM-NORM), which is adversarial training with a term that keeps explanations still. Then "
            "each test image was changed a little, so that the prediction stays and the explanation moves as "
            "far as it can."
        )
        note = (
            f"This is a demonstration on {data}, in minutes: {scale.natural_epochs:g} epochs of natural, "
            f"{scale.robust_epochs:g} of robust training on at most {scale.train_examples:,} images, a ball "
            f"of radius {settings['radius']:.3g}, {scale.examples} test images, {scale.steps} steps of "
            f"{settings['step_size']:.3g} instead of the paper's 100. Its numbers do not compare with the "
            "paper's."
        )
        attacks = _attacks(result.folder)
        return write_attack_page(result.folder / REPORT, attacks, title=cls.title, lead=lead, notes=[note])


def _attacks(folder: Path) -> dict[str, StudyResult]:
    return {objective_title(name): Attack.read(f"{folder / name}-attack") for name in MODELS}
