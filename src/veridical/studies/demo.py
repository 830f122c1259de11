"""The demonstration: a natural and a robust model of the same digits, their explanations under attack."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from veridical.attacks.protocols import EvaluationSettings, evaluation_settings
from veridical.data import load
from veridical.jobs import InProcess, ProcessPool, WorkerLost
from veridical.report.formats import Interval
from veridical.runtime.devices import resolve_device
from veridical.runtime.errors import RunError
from veridical.runtime.files import CLAIM, claim_folder, result_document, write_json
from veridical.runtime.options import TrainOptions
from veridical.runtime.record import record
from veridical.runtime.study_config import DemoOptions
from veridical.studies.attack import Attack, AttackOptions, count_attacked
from veridical.studies.attack_page import REPORT, write_attack_page
from veridical.studies.attack_result import AttackResult
from veridical.studies.finished import RESULT
from veridical.studies.training import OBJECTIVE_TITLES
from veridical.training.log import read_log
from veridical.training.loop import train
from veridical.training.run import read_settings

Show = Callable[[str, str, int, int], Any]
"""(model, what is done to it, done, total)."""

NATURAL: str = "natural"
_NAMES: tuple[str, ...] = (NATURAL, "ig-sum-norm")
COMPARED = {"topk_intersection": "top pixels kept (IN)", "kendall_tau": "Kendall's tau (CO)"}


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
_LEAD = (
    "Two networks of one kind were trained on {data}: one in the ordinary way, one with Robust Attribution "
    "Regularization (IG-SUM-NORM), so that its explanations hold still. Then each test image was changed a "
    "little, so that the prediction stays and the explanation moves as far as it can."
)
RADIUS = {"mnist-5k": 0.2, "mnist": 0.2}
"""The paper's radius on MNIST, 0.3, needs many times the training; elsewhere the demo takes the paper's."""


@record
class Finished:
    """What the demo leaves: the page, both attacks by title, and the verdict, a line for each measure."""

    page: Path
    attacks: Mapping[str, AttackResult]
    verdict: tuple[str, ...]


def demo(options: DemoOptions, show: Show | None = None) -> Finished:
    """Train, attack and compare; finished pieces of an earlier session are taken as they are.

    Each model has a process of its own, so that two cores are used well: small batches gain little from a
    second thread. Raises what a process raised.
    """
    scale = SHORT if options.short else FULL
    folder = Path(options.out or ("runs/demo-short" if options.short else "runs/demo"))
    data = load(options.data, options.data_root)
    settings = evaluation_settings(data.name, data.shape, radius=RADIUS.get(data.name))
    settings = replace(settings, steps=scale.steps, step_size=scale.share_of_radius * settings.radius)
    config = {
        "data": data.describe(),
        "scale": asdict(scale),
        "evaluation": asdict(settings),
        "seed": options.seed,
    }
    resolve_device(options.device)  # refused, it leaves no claim
    claim_folder(folder, "demo", config)
    begun = time.monotonic()
    threads = max(1, (os.cpu_count() or 2) // 2)
    arms = {name: _Arm(name, options, scale, settings, folder, threads, len(data.train)) for name in _NAMES}
    tell = show or (lambda _model, _stage, _done, _total: None)

    def watch() -> None:
        for arm in arms.values():
            tell(OBJECTIVE_TITLES[arm.name], *arm.stage())

    with ProcessPool(len(arms), threads) if os.name == "posix" else InProcess() as executor:
        running = {executor.submit(_train_and_attack, arm) for arm in arms.values()}
        while running:
            done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    future.result()
                except WorkerLost as error:
                    raise RunError(f"a model's {error}. The same command continues where it was.") from None
            watch()
    attacks = {OBJECTIVE_TITLES[name]: Attack.read(arm.attacking.out) for name, arm in arms.items()}
    lines, apart = verdict(*attacks.values())
    seconds = {"seconds": round(time.monotonic() - begun, 3)}
    results: dict[str, object] = {}
    for name, attacked in zip(arms, attacks.values(), strict=True):
        results[name] = attacked.results
    surroundings = dict(next(iter(attacks.values())).document["environment"])
    del surroundings["run"]
    document = result_document({**results, "robust_above_natural": apart}, config, surroundings, seconds)
    write_json(folder / RESULT, document)
    page = write_attack_page(
        folder / REPORT,
        attacks,
        title="What an attack leaves of two models' explanations",
        lead=_LEAD.format(data=data.name),
        notes=_deviations(data.name, settings, scale),
    )
    return Finished(page, attacks, lines)


@dataclass(frozen=True)
class _Arm:
    """One model of the demo: how it is trained, and how it is attacked."""

    name: str
    options: DemoOptions
    scale: Scale
    settings: EvaluationSettings
    folder: Path
    threads: int
    images: int

    @property
    def training(self) -> TrainOptions:
        options, scale = self.options, self.scale
        validation = min(400, self.images // 10)
        robust = self.name != NATURAL
        return TrainOptions(
            out=str(self.folder / self.name),
            data=options.data,
            data_root=options.data_root,
            objective=self.name,
            radius=self.settings.radius if robust else None,
            epochs=scale.robust_epochs if robust else scale.natural_epochs,
            model_options={"initialisation": "he"},
            validation=validation,
            train_examples=min(scale.train_examples, self.images - validation),
            seed=options.seed,
            device=options.device,
            threads=self.threads,
            progress=False,
        )

    @property
    def attacking(self) -> AttackOptions:
        options, settings = self.options, self.settings
        return AttackOptions(
            run=self.training.out,
            out=f"{self.training.out}-attack",
            data_root=options.data_root,
            examples=self.scale.examples,
            radius=[settings.radius],
            steps=settings.steps,
            step_size=settings.step_size,
            seed=options.seed,
            device=options.device,
            threads=self.threads,
            workers=1,
            progress=False,
        )

    def stage(self) -> tuple[str, int, int]:
        """What its process is doing, how much is done, and of how much: read from its folders."""
        run, attack = Path(self.training.out), Path(self.attacking.out)
        if not (run / RESULT).exists():
            total = read_settings(run).optimise.steps if (run / CLAIM).exists() else 1
            log = read_log(run)
            return "training, steps", log[-1]["step"] if log else 0, total
        images = min(self.scale.examples, self.images)
        if (attack / RESULT).exists():
            return "attacked, images", images, images
        return "under attack, images", count_attacked(attack), images


def _train_and_attack(arm: _Arm) -> None:
    train(arm.training)
    Attack(arm.attacking).run()


def verdict(natural: AttackResult, robust: AttackResult) -> tuple[tuple[str, ...], dict[str, bool]]:
    """A line for IN and one for CO, and whether the robust model's interval lies above the natural one's."""
    lines, apart = [], {}
    for name, words in COMPARED.items():
        low, high = (Interval.read(attacked.results[name]) for attacked in (natural, robust))
        order = high.against(low)
        apart[name] = order == "higher"
        said = {
            "higher": "the robust model's explanations hold better, and the 95% intervals do not overlap",
            "lower": "the robust model's explanations hold less well",
            "overlap": "no difference is shown: the 95% intervals overlap",
            "unknown": "not measured for both",
        }[order]
        lines.append(f"{words}: {said}.")
    return tuple(lines), apart


def _deviations(data: str, settings: EvaluationSettings, scale: Scale) -> list[str]:
    """In what the demo is less than the paper's experiment."""
    steps = f"{scale.steps} steps of {settings.step_size:.3g} instead of the paper's 100"
    training = f"{scale.natural_epochs:g} epochs of natural and {scale.robust_epochs:g} of robust training"
    return [
        (
            f"This is a demonstration on {data}, in minutes: {training} on at most "
            f"{scale.train_examples:,} images, a ball of radius {settings.radius:.3g}, {scale.examples} test "
            f"images, {steps}. Its numbers do not compare with the paper's."
        )
    ]
