"""May this model's explanations be shown? Questions to a model and its maps, answered by measurement."""

from __future__ import annotations

import hashlib
import math
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from veridical.attacks.ascent import pgd, random_search
from veridical.attacks.ball import ball
from veridical.attacks.protocols import evaluation_settings
from veridical.attribution.axioms import completeness, implementation_invariance
from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.inspection import inspect_form, inspect_model
from veridical.attribution.method import AttributionMethod, dataset_maps, predict_classes
from veridical.attribution.registry import (
    ATTRIBUTIONS,
    AttributionEntry,
    check_on_black,
    create_attribution,
    describe_attribution,
    find_attribution,
)
from veridical.data import Dataset
from veridical.data import load as load_data
from veridical.data.dataset import describe_source, from_examples, load_source, write_source
from veridical.data.masked import MaskedDataset, save_masked
from veridical.faithfulness.ranking import rank_coordinates
from veridical.faithfulness.removal import (
    ORDERS,
    BlurFill,
    adversarial_change,
    mask_leak,
    perturbation_curves,
    single_deletion,
    with_missing_patches,
)
from veridical.faithfulness.unmasking import FILLS, Fill
from veridical.jobs import Progress
from veridical.metrics.intervals import SHARE, mean_interval, proportion_interval
from veridical.metrics.maps import saliency
from veridical.metrics.rank import spearman
from veridical.models.registry import MODELS, ModelEntry
from veridical.report import Interval, Panel
from veridical.report.formats import listed, radius_text
from veridical.report.table import Column, Table, write_number
from veridical.runtime.checking import Length, Level, Limit, Width
from veridical.runtime.errors import RunError, UsageError, VeridicalError, argument_error
from veridical.runtime.files import Arrays
from veridical.runtime.guards import private_copy
from veridical.runtime.options import (
    AttributionChoice,
    CoordinateOrder,
    Gallery,
    NormName,
    Placement,
    ProtocolName,
    SubjectChoice,
)
from veridical.studies.alignment import Alignment, AlignmentOptions
from veridical.studies.attack import Attack, AttackOptions
from veridical.studies.audit_page import (
    COMPLETE,
    CONTROL,
    EVIDENCE,
    QUESTIONS,
    SAME,
    answers_table,
    audit_panels,
    judge,
    write_findings,
)
from veridical.studies.maps import (
    RUN,
    describe_methods,
    first_images,
    region_record,
    scaled_saliency,
)
from veridical.studies.sanity import Sanity, SanityOptions
from veridical.studies.study import (
    RESULT,
    Case,
    Context,
    ProgressCallback,
    Study,
    StudyResult,
    Work,
    check_different,
    limit_count,
)
from veridical.training.checkpoint import digest_weights
from veridical.training.loop import train
from veridical.training.run import load
from veridical.training.subject import load_model, load_subject

# Shares of the pixels that are removed, or inserted.
LEVELS = (0.1, 0.25, 0.5, 0.75)
# Fills of the three curves, by name of `FILLS` or "blur", and whether pixels are removed or alone are kept.
CURVES: Mapping[str, tuple[str, Literal["remove", "keep"]]] = {
    "deletion": ("mean", "remove"),
    "insertion": ("blur", "keep"),
    "road": ("linear", "remove"),
}
# Answers from the least favourable on.
_FAVOUR = {"not measured": 0, "fails": 1, "undecided": 2, "holds": 3}
# Queries of the black-box attack for each image.
_QUERIES = 200
# Learning rate of the fine-tuning: small, so that the model stays the one that is audited.
_FINETUNING_RATE = 1e-4
# Times the radius, at which an attack that works must do more.
_PLANTED = 4.0


@dataclass(frozen=True, kw_only=True)
class AuditOptions(AttributionChoice, Gallery, SubjectChoice, Placement):
    """Audit a model's explanations: accuracy, axioms, stability, dependence on the model, evidence.

    Args:
        attribution: Explanations by name: {attributions}, captum:CLASS, module:callable. A random map is
            always measured beside them.
        examples: The first so many test images, whose maps are judged.
        attacked: The first so many of them, which are attacked.
        norm: Norm of the ball around each image.
        radius: Radius of the ball, in input units; None takes the run's, or the paper's for like images.
        protocol: How explanations are attacked: "paper" (the RAR authors' evaluation), "paper-fast" or
            "strong".
        steps: Iterations of the attack on explanations.
        levels: Shares of the pixels that are removed or inserted.
        grid: Patches a side that are removed one at a time.
        finetune: Epochs of one fine-tuning on training images with patches missing, after which single
            deletions are asked of that model too (in-domain-deletion); 0 does none.
        repeats: Draws of fresh weights in the check of dependence on the model.
        thresholds: Values from which on a question holds, by its name, in place of the defaults.
        budget: Minutes after which no further part is begun; None does all.
        batch: Images whose attributions are computed at a time.
        gallery: Images shown in the report.
    """

    attribution: list[str] = field(default_factory=lambda: ["input-gradient", "integrated-gradients"])
    examples: Annotated[int, Limit(4, 10**6)] = 32
    attacked: Annotated[int, Limit(2, 10**6)] = 16
    norm: NormName = "linf"
    radius: Length | None = None
    protocol: ProtocolName = "paper-fast"
    steps: Annotated[int, Limit(2, 10**5)] = 20
    levels: list[Level] = field(default_factory=lambda: list(LEVELS))
    grid: Annotated[int, Limit(2, 32)] = 4
    finetune: Annotated[float, Limit(0, 1e4)] = 0.0
    repeats: Annotated[int, Limit(1, 100)] = 2
    thresholds: dict[str, float] = field(default_factory=dict)
    budget: Annotated[float, Limit(0, 1e6, above=True)] | None = None
    batch: Width = 8
    gallery: Annotated[int, Limit(0, 1000)] = 12


@dataclass(frozen=True)
class Part:
    """A piece of an audit: what it answers, for whom, and what does it.

    command: the words of the command line that answers it alone. do: runs it, and returns its result.
    """

    name: str
    questions: tuple[str, ...]
    attribution: str | None
    command: str | None
    do: Callable[[ProgressCallback], StudyResult]


class Audit(Study[AuditOptions]):
    r"""May this model's explanations be shown? Questions to one model and its maps, each answered.

    examples:
      veridical audit --run runs/igsum --out runs/igsum-audit
      veridical audit --model torchvision:resnet18 --weights resnet18.pt --data photos \
          --attribution integrated-gradients captum:GuidedBackprop --out runs/photos-audit
      veridical audit --model timm:vit_tiny_patch16_224 --weights vit.safetensors --data photos --out runs/vit

    Does it predict well, and under attack? Do its maps obey the axioms, hold still, depend on what the model
    has learnt, point at what it uses, and lie in the masks, where data have them? Every answer has its number
    with a 95% interval, its threshold, and the command that prints it. An interrupted audit leaves a page of
    what it has, and is continued by the same command. DIR/report.html shows what came out, DIR/result.json
    has the numbers.
    """

    name = "audit"
    title = "May these explanations be shown?"
    question = "an audit of explanations"
    Options = AuditOptions

    def prepare(self) -> None:
        """Load model and images, look at the model, and refuse what does not fit."""
        options = self.options
        for name, value in options.thresholds.items():
            if name not in QUESTIONS:
                raise argument_error("thresholds", name, f"questions: {', '.join(QUESTIONS)}")
            if not math.isfinite(value):
                raise argument_error(f"thresholds.{name}", value, "a finite number")
        check_different("levels", options.levels)
        self.subject = load_subject(options, device=self.local_device)
        self.data = self.subject.data
        self.methods = describe_methods(options)
        if CONTROL not in self.methods:
            control = create_attribution(CONTROL, seed=options.seed)
            self.methods[CONTROL] = describe_attribution(control)
        self.examples = limit_count(options.examples, len(self.data.test))
        self.attacked = min(options.attacked, self.examples)
        settings = evaluation_settings(
            self.data.name,
            self.data.shape,
            norm=options.norm,
            radius=options.radius if options.radius is not None else self._trained_radius(),
        )
        self.radius = settings.radius
        if not self._explained:
            expected = "at least one explanation beside the random map, which is there anyway"
            raise argument_error("attribution", options.attribution, expected)
        like = parameter_like(self.subject.model)
        inputs, _ = self.data.test.batch(range(min(8, self.examples)), like.dtype, like.device)
        self.remarks = inspect_model(self.subject.model, inputs, num_classes=self.data.num_classes)
        self.step_size = settings.step_size
        self.region = _region_kind(self.data)
        self.in_memory = False
        # What an interrupted or a bounded session has not come to.
        self.left_out: dict[str, str] = {}
        self.failed: set[str] = set()
        self.interrupted = False

    def _trained_radius(self) -> float | None:
        robust = None if self.subject.run is None else self.subject.run.settings.robust
        return robust.radius if robust is not None and robust.norm == self.options.norm else None

    def config(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        options = self.options
        return {
            "run": self.subject.describe(),
            "data": self.data.describe(),
            "attributions": self.methods,
            "examples": self.examples,
            "attacked": self.attacked,
            "norm": options.norm,
            "radius": self.radius,
            "protocol": options.protocol,
            "steps": options.steps,
            "levels": list(options.levels),
            "grid": options.grid,
            "finetune": options.finetune,
            "repeats": options.repeats,
            "seed": options.seed,
        }

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        data = describe_source(self.data.name, self.options.data_root, self.data.options)
        return {**super().where(), **data, **self.subject.source}

    def cases(self) -> Iterable[Case]:
        """For each attribution its maps and what follows from them, and the black-box attack."""
        options = self.options
        data = {"checksum": self.data.checksum, "name": self.data.name}
        # All that decides the model: its standardisation and its head, too, which no weight tells.
        shared: dict[str, Any] = {"weights": self.subject.digest, "run": self.subject.describe()}
        shared |= {"data": data, "seed": options.seed}
        place = {"norm": options.norm, "radius": self.radius}
        for name, method in self.methods.items():
            yield Case(
                {
                    **shared,
                    **place,
                    "attribution": name,
                    "method": method,
                    "examples": self.examples,
                    "levels": list(options.levels),
                    "grid": options.grid,
                },
                group=name,
                step="measure",
                stage="removing what maps mark",
                cost=float(self.examples),
            )
        if options.finetune:
            settings = {**shared, "grid": options.grid}
            tuning = Case(
                {**settings, "epochs": options.finetune},
                group="model",
                step="finetune",
                stage="removing what maps mark",
                label="fine-tuning on missing patches",
                cost=options.finetune * len(self.data.train),
            )
            yield tuning
            for name, method in self.methods.items():
                yield Case(
                    {**settings, "attribution": name, "method": method, "examples": self.examples},
                    group=name,
                    step="delete",
                    after=tuning,
                    stage="removing from the fine-tuned model",
                    cost=float(self.examples),
                )
        yield Case(
            {**shared, **place, "examples": self.attacked},
            group="model",
            step="predict",
            stage="removing what maps mark",
            label="predictions, attacked",
            cost=float(self.attacked),
        )

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Maps of one attribution of the first test images, and what the model says without what they mark.

        "CURVE/RANKING" float64 (2, L, N) for each of CURVES and for the map's own ranking and that of the
        mean map, of the control another random one ("own", "average"); "adversarial/RANKING" (2, 1, N);
        "leak/CURVE" (L, N); "single" (N,); "complete" and "invariant" (N,), NaN where they say nothing;
        "saliency" float16 (N, H, W); "seen" and "label" (N,).
        """
        seed, numbers = values["seed"], range(values["examples"])
        model = load_model(context.where, values["weights"], trust_code=context.trust_code)
        data = load_source(context.where, values["data"]["checksum"])
        split = data.test.subset(numbers)
        seen = predict_classes(model, split)
        method = create_attribution(values["attribution"], seed=seed, trust_code=context.trust_code)
        maps = dataset_maps(model, split, method, target=seen, batch_size=context.batch, seed=seed).float()
        like = parameter_like(model)
        inputs, _ = split.batch(numbers, like.dtype, like.device)
        target = seen.to(like.device)
        how = CoordinateOrder(per="pixel", seed=seed)
        sizes = saliency(maps.double())[:, None]
        # Of the other images: an image's own map must not be part of what it is compared with.
        average = (sizes.sum(dim=0, keepdim=True) - sizes) / (len(sizes) - 1)
        if values["attribution"] == CONTROL:
            # The mean of random maps is one random order, whose luck no interval over images covers.
            average = torch.zeros_like(average)
        rankings = {
            "own": rank_coordinates(maps, how, indices=numbers),
            "average": rank_coordinates(average, how, indices=numbers, purpose="mean map"),
        }
        fills: dict[str, Fill] = {
            name: BlurFill() if kind == "blur" else FILLS.get(kind).create(data.train, seed)
            for name, (kind, _) in CURVES.items()
        }
        arrays: Arrays = {"seen": seen.numpy(), "label": split.labels.numpy()}
        levels = values["levels"]
        for order, ranks in rankings.items():
            for name, (_, mode) in CURVES.items():
                said = perturbation_curves(
                    model, inputs, target, ranks, fills[name], levels=levels, mode=mode, indices=numbers
                )
                kept = (said.predicted == seen).double() if name == "road" else said.probability
                arrays[f"{name}/{order}"] = kept.numpy()
            around = ball(values["norm"], values["radius"])
            said_in = [
                adversarial_change(model, inputs[part], target[part], ranks[part], around, level=0.1)
                for part in _parts(len(inputs), context.batch)
            ]
            arrays[f"adversarial/{order}"] = torch.cat([one.probability for one in said_in], dim=2).numpy()
        leaks = {
            name: mask_leak(
                model,
                inputs,
                target,
                rankings["own"],
                fills[name],
                levels=levels,
                mode=mode,
                indices=numbers,
                seed=seed,
            )
            for name, (_, mode) in CURVES.items()
        }
        single = single_deletion(
            model, inputs, target, maps, fills["deletion"], grid=values["grid"], indices=numbers
        )
        axioms = _axioms(model, inputs, target, method, maps, context.batch)
        return {
            **arrays,
            **axioms,
            **{f"leak/{name}": leak.numpy() for name, leak in leaks.items()},
            "single": single.numpy(),
            "zero": (maps == 0).double().flatten(1).mean(1).numpy(),
            "saliency": scaled_saliency(maps),
        }

    @staticmethod
    def finetune(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Fine-tune the model on training images with patches missing; its accuracy on whole test images."""
        model = load_model(context.where, values["weights"], trust_code=context.trust_code)
        data = load_source(context.where, values["data"]["checksum"])
        fill, seed = FILLS.get("mean").create(data.train, values["seed"]), values["seed"]
        run = train(
            model=model,
            data=with_missing_patches(data, fill, grid=values["grid"], seed=seed),
            out=str(context.folder / RUN),
            seed=seed,
            device=context.device,
            progress=False,
            objective="natural",
            epochs=values["epochs"],
            learning_rate=_FINETUNING_RATE,
            batch_size=min(32, len(data.train)),
            averaging=0.0,
            validation=0,
        )
        return {"accuracy": run.result["results"]["natural_accuracy"]}

    @staticmethod
    def delete(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Single deletions of the fine-tuned model, by its own maps: single (N,)."""
        assert context.after is not None
        seed, numbers = values["seed"], range(values["examples"])
        own = load_model(context.where, values["weights"], trust_code=context.trust_code)
        model = load(context.after / RUN, model=own, device=context.device).model
        data = load_source(context.where, values["data"]["checksum"])
        split = data.test.subset(numbers)
        seen = predict_classes(model, split)
        method = create_attribution(values["attribution"], seed=seed, trust_code=context.trust_code)
        maps = dataset_maps(model, split, method, target=seen, batch_size=context.batch, seed=seed).float()
        like = parameter_like(model)
        inputs, _ = split.batch(numbers, like.dtype, like.device)
        fill = FILLS.get("mean").create(data.train, seed)
        target, grid = seen.to(like.device), values["grid"]
        return {
            "single": single_deletion(model, inputs, target, maps, fill, grid=grid, indices=numbers).numpy()
        }

    @staticmethod
    def predict(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """What the model gets right: of all test images, and of the first ones under two attacks.

        accuracy: with its interval. right, pgd and search bool (N,): the first images that are read right as
        they are, after projected gradient descent, and after a random search without gradients.
        """
        model = load_model(context.where, values["weights"], trust_code=context.trust_code)
        data = load_source(context.where, values["data"]["checksum"])
        like, numbers, seed = parameter_like(model), range(values["examples"]), values["seed"]
        whole = predict_classes(model, data.test) == data.test.labels
        inputs, target = data.test.batch(numbers, like.dtype, like.device)
        around = ball(values["norm"], values["radius"])
        right = whole[: len(numbers)]
        held: Arrays = {"right": right.numpy()}

        def attack(name: str, move: Callable[..., Tensor], **given: Any) -> None:
            kept = []
            for part in _parts(len(inputs), context.batch):
                some = {"seed": seed, "indices": numbers[part.start : part.stop], **given}
                moved = move(model, inputs[part], target[part], around, **some)
                kept.append((predict(model, moved).argmax(1) == target[part]).cpu())
            held[name] = (right & torch.cat(kept)).numpy()

        attack("search", random_search, queries=_QUERIES)
        refused = ""
        try:
            attack("pgd", pgd)
        except UsageError as error:  # probabilities, say, are not climbed
            refused = str(error)
        accuracy = proportion_interval(int(whole.sum()), len(whole))
        return {"accuracy": accuracy, "refused": refused, **held}

    # The parts that are studies of their own

    def parts(self) -> Iterator[Part]:
        """The studies that answer the other questions, the most telling first."""
        for name in self._attackable:
            yield self._attack_part("attack", name, ("stability",), self.radius)
        for name in self._explained:
            noise: dict[str, Any] = {"attack": "random", "steps": 1, "step_size": self.radius}
            yield self._attack_part("noise", name, ("stability-to-noise",), self.radius, **noise)
        yield from (self._sanity_part(name) for name in self._explained)
        yield from (self._alignment_part(name) for name in self._localised)
        if self._planted > self.radius:
            for name in self._attackable:
                yield self._attack_part("planted", name, (), self._planted)

    def _shared(self, name: str) -> dict[str, Any]:
        """The options that a part takes from the audit, and the folder of its own."""
        options = self.options
        names = ["seed", "device", "workers", "threads", "scheduler", "insecure"]
        return {
            **{one: getattr(options, one) for one in [*SubjectChoice.__dataclass_fields__, *names]},
            "progress": False,
            "store": options.store or str(Path(options.out) / "jobs"),
            "out": str(Path(options.out) / "parts" / name),
        }

    def _command(self, study: str, folder: str, name: str, given: Mapping[str, Any]) -> str | None:
        """The command line that answers a question alone; None for what exists in memory only."""
        if self.in_memory:
            return None
        told = {"attribution": name, **given, "seed": self.options.seed}
        words = [f"--{key.replace('_', '-')} {_word(value)}" for key, value in told.items()]
        out = _word(str(Path(self.options.out) / "parts" / folder))
        return " ".join(["veridical", study, *_subject_words(self.options), *words, "--out", out])

    def _attack_part(
        self, kind: str, name: str, questions: tuple[str, ...], radius: float, **given: Any
    ) -> Part:
        options = self.options
        chosen: dict[str, Any] = {"norm": options.norm, "protocol": options.protocol, "steps": options.steps}
        # Few steps have to be longer ones: together they can cross the ball.
        chosen |= {"step_size": max(self.step_size, 2.5 * radius / options.steps)}
        chosen |= {"examples": self.attacked, "radius": [radius], **given}
        folder = f"{kind}-{_file_name(name)}"

        def do(progress: ProgressCallback) -> StudyResult:
            whole = AttackOptions(**self._shared(folder), attribution=name, gallery=4, **chosen)
            return Attack(whole).run(progress)

        return Part(folder, questions, name, self._command("attack", folder, name, chosen), do)

    def _sanity_part(self, name: str) -> Part:
        chosen: dict[str, Any] = {
            "tests": ["cascading"],
            "examples": self.attacked,
            "repeats": self.options.repeats,
            "batch": self.options.batch,
        }
        folder = f"sanity-{_file_name(name)}"

        def do(progress: ProgressCallback) -> StudyResult:
            options = SanityOptions(**self._shared(folder), attribution=[name], gallery=2, **chosen)
            return Sanity(options).run(progress)

        command = self._command("sanity", folder, name, chosen)
        return Part(folder, ("depends-on-model",), name, command, do)

    def _alignment_part(self, name: str) -> Part:
        chosen: dict[str, Any] = {"examples": self.examples, "batch": self.options.batch}
        folder = f"alignment-{_file_name(name)}"

        def do(progress: ProgressCallback) -> StudyResult:
            shared = self._shared(folder)
            shared["run"] = None if shared["run"] is None else [shared["run"]]
            return Alignment(AlignmentOptions(**shared, attribution=[name], gallery=4, **chosen)).run(
                progress
            )

        return Part(folder, ("localisation",), name, self._command("alignment", folder, name, chosen), do)

    @property
    def _localised(self) -> list[str]:
        """The attributions that can be compared with the masks: none that are 0 on black ground."""
        if self.region in (None, "mask"):
            return list(self.methods) if self.region else []
        names = []
        for name in self.methods:
            with suppress(UsageError):
                check_on_black(name)
                names.append(name)
        return names

    @property
    def _planted(self) -> float:
        """A radius at which any attack that works moves maps further; a ball of 1 holds all images."""
        return min(_PLANTED * self.radius, 1.0 if self.options.norm == "linf" else np.inf)

    @property
    def _explained(self) -> list[str]:
        """The attributions but for the control."""
        return [name for name in self.methods if name != CONTROL]

    @property
    def _attackable(self) -> list[str]:
        """The attributions whose maps can be climbed."""
        trust, names = self.options.trust_code, self._explained
        return [
            name for name in names if find_attribution(name, trust_code=trust).is_differentiable
        ] or names[:0]

    def work(self, work: Work) -> None:
        """Its own steps, then its parts, until all is done, the budget is spent, or somebody stops it."""
        start, budget = time.monotonic(), self.options.budget
        self.done: dict[str, StudyResult] = {}
        self.seconds: dict[str, float] = {}
        parts = list(self.parts())
        steps: list[tuple[str, Callable[[ProgressCallback], Any]]] = [
            ("own", lambda _progress: self._measure(work)),
            *((part.name, part.do) for part in parts),
        ]
        for name, do in steps:
            spent = (time.monotonic() - start) / 60
            if self.interrupted or (budget is not None and spent > budget and name != "own"):
                why = "interrupted" if self.interrupted else f"the budget of {budget:g} minutes was spent"
                self.left_out[name] = why
                continue
            begun = time.monotonic()

            def tell(what: str, state: Progress, name: str = name) -> None:
                work.progress(f"{name}: {what}", state)

            try:
                result = do(tell)
            except KeyboardInterrupt:
                self.interrupted = True
                self.left_out[name] = "interrupted"
                continue
            except VeridicalError as error:
                # One question that cannot be asked of this model leaves the others.
                self.left_out[name] = _reason(error)
                continue
            self.seconds[name] = round(time.monotonic() - begun, 3)
            if isinstance(result, StudyResult):
                self.done[name] = result

    def _measure(self, work: Work) -> None:
        """The audit's own cases; an explanation that cannot be had of this model leaves the others."""
        try:
            work.run(self.all_cases)
        except RunError:
            for group in dict.fromkeys(case.group for case in self.all_cases):
                try:  # what is done is only looked up
                    work.run(case for case in self.all_cases if case.group == group)
                except RunError as error:
                    self.failed.add(group)
                    self.left_out[f"maps of {group}"] = _reason(error)

    def run(self, progress: ProgressCallback | None = None) -> StudyResult:
        """Do what is not done; interrupted, write the page of what there is and raise KeyboardInterrupt."""
        result = super().run(progress)
        if self.interrupted:
            raise KeyboardInterrupt
        return result

    # What came out

    def results(self, work: Work) -> dict[str, Any]:
        """Answers, flags, evidence by attribution, disagreement, and what is missing."""
        options = self.options
        own = {name: work.arrays(self._case(name)) for name in self._measured}
        answers = [*self._of_attacks(), *self._of_own(own), *self._of_parts()]
        for name in own if self.options.finetune else ():
            (case,) = self.cases_of(name, "delete")
            single = torch.from_numpy(work.arrays(case)["single"])
            answers.append(
                self._answer("in-domain-deletion", name, mean_interval(single, undefined="exclude"))
            )
        if own and "model" not in self.failed:
            (case,) = self.cases_of("model", "predict")
            answers.append(self._answer("accuracy", None, work.plain(case)["accuracy"]))
            if (held := work.arrays(case).get("pgd")) is not None:
                under_attack = proportion_interval(int(held.sum()), len(held))
                answers.append(self._answer("accuracy-under-attack", None, under_attack))
            else:
                self.left_out["attack on predictions"] = work.plain(case)["refused"]
        known = {(one["question"], one["attribution"]) for one in answers}
        commands = {
            (name, part.attribution): part.command for part in self.parts() for name in part.questions
        }
        for question in QUESTIONS.values():
            names = list[str | None](self.methods) if question.each else [None]
            answers += [
                self._answer(question.name, name, None)
                for name in names
                if (question.name, name) not in known
            ]
        whole = None if self.in_memory else _own_command(options)
        apart = {name for part in self.parts() for name in part.questions}
        for one in answers:
            own_command = None if one["question"] in apart else whole
            one["command"] = commands.get((one["question"], one["attribution"]), own_command)
        order = {name: place for place, name in enumerate(QUESTIONS)}
        answers.sort(key=lambda one: order[one["question"]])
        return {
            "examples": self.examples,
            "attacked": self.attacked,
            "answers": answers,
            "thresholds": {
                name: options.thresholds.get(name, one.threshold) for name, one in QUESTIONS.items()
            },
            "flags": self._flags(work, own),
            "remarks": [one.to_dict() for one in self.remarks],
            "fine_tuned": work.plain(self.cases_of("model", "finetune")[0])["accuracy"]
            if own and self.options.finetune
            else None,
            "evidence": {name: _evidence(arrays) for name, arrays in own.items()},
            "disagreement": _disagreement(own),
            "classes": self._by_class(own),
            "left_out": self.left_out,
        }

    @property
    def _measured(self) -> list[str]:
        """The attributions of which there are maps; none without those of the control."""
        names = [name for name in self.methods if name not in self.failed]
        return names if CONTROL in names and "own" not in self.left_out else []

    @property
    def _first(self) -> str | None:
        return next(iter(self._attackable), None)

    def _case(self, name: str) -> Case:
        return self.cases_of(name)[0]

    def _answer(
        self, question: str, attribution: str | None, value: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """One row: the value against the threshold, by its interval alone."""
        threshold = self.options.thresholds.get(question, QUESTIONS[question].threshold)
        interval = Interval.read(value)
        return {
            "question": question,
            "attribution": attribution,
            "verdict": judge(interval, threshold),
            "value": None if value is None else dict(value),
            "threshold": threshold,
        }

    def _of_attacks(self) -> Iterator[dict[str, Any]]:
        """What attacks say of the model, and of each map."""
        for name in self._attackable:
            result = self.done.get(f"attack-{_file_name(name)}")
            if result is None:
                continue
            yield self._answer("stability", name, result.results["topk_intersection"])
        for name in self.methods:
            if (result := self.done.get(f"noise-{_file_name(name)}")) is not None:
                yield self._answer("stability-to-noise", name, result.results["topk_intersection"])

    def _of_own(self, own: Mapping[str, Arrays]) -> Iterator[dict[str, Any]]:
        """Axioms and evidence, each map's beyond what the random map and its own mean map have."""
        for name, arrays in own.items():
            for question, key, limit in (
                ("completeness", "complete", COMPLETE),
                ("invariance", "invariant", SAME),
            ):
                residual = arrays[key]
                if name == CONTROL and question == "invariance":
                    continue  # a draw does not ask what the model is
                known = residual[np.isfinite(residual)]
                value = proportion_interval(int((known < limit).sum()), len(known)) if len(known) else None
                yield self._answer(question, name, value)
            yield self._answer(
                "single-deletion",
                name,
                mean_interval(torch.from_numpy(arrays["single"]), undefined="exclude"),
            )
            for question in EVIDENCE:
                mine = _gap(arrays, question, "own")
                others = [_gap(arrays, question, "average")]
                if name != CONTROL:  # which has another random order to be above
                    others.append(_gap(own[CONTROL], question, "own"))
                beyond = [
                    self._answer(question, name, mean_interval(torch.from_numpy(mine - other)))
                    for other in others
                ]
                # It has to be beyond both: the less favourable answer counts.
                yield min(beyond, key=lambda one: (_FAVOUR[one["verdict"]], one["value"]["value"] or 0.0))

    def _of_parts(self) -> Iterator[dict[str, Any]]:
        """What the checks of dependence on the model, and the masks, say."""
        for name in self.methods:
            if (result := self._part("sanity", name)) is not None:
                yield self._answer("depends-on-model", name, _gone(result.results["attributions"][name]))
            if (result := self._part("alignment", name)) is not None:
                (model,) = result.results["models"].values()
                yield self._answer("localisation", name, model["maps"][name]["excess"]["examples"])

    def _part(self, kind: str, name: str) -> StudyResult | None:
        return self.done.get(f"{kind}-{_file_name(name)}")

    def _flags(self, work: Work, own: Mapping[str, Arrays]) -> list[dict[str, Any]]:
        """What would make these numbers look better than they are; raised is None where a look is due."""
        flags = [
            _flag(one.name, True if one.severity == "problem" else None, one.text)
            for one in self.remarks
            if one.severity != "note"
        ]
        for name in self._attackable:
            flags += self._attack_flags(name)
        if not self._attackable:
            text = "No explanation here can be climbed, so none was attacked: only random noise moved them."
            flags.append(_flag("no attack on explanations", None, text))
        if own and "model" not in self.failed:
            arrays = work.arrays(self.cases_of("model", "predict")[0])
            if "pgd" in arrays:
                found = int((arrays["pgd"] & ~arrays["search"]).sum())
                text = (
                    f"Random search over signs, {_QUERIES} queries an image and no gradient, misleads the "
                    f"model on {found} of {len(arrays['right'])} images on which projected gradient descent "
                    "does not. Any such image says that gradients are masked."
                )
                flags.append(_flag("black-box attack stronger", found > 0, text))
        for name, arrays in own.items():
            empty = int((arrays["zero"] == 1).sum())
            if empty:
                text = f"{empty} of {len(arrays['zero'])} maps of {name} are zero everywhere."
                flags.append(_flag("maps of zeros", True, text))
        return flags

    def _attack_flags(self, name: str) -> Iterator[dict[str, Any]]:
        """Whether the attack on one explanation did what an attack has to."""
        attack = self._part("attack", name)
        if attack is None:
            return
        if not len(_kept_of(attack)):
            text = f"{name}: the model reads none of the images right, so no explanation was attacked."
            yield _flag("nothing attacked", True, text)
            return
        if (noise := self._part("noise", name)) is not None:
            # Image by image: the same ones in both.
            less = mean_interval(torch.from_numpy(_kept_of(noise) - _kept_of(attack)), undefined="exclude")
            text = (
                f"{name}: the attack leaves {_share(attack)} of the top pixels, random noise of the same "
                f"size {_share(noise)}. An attack has to do clearly more."
            )
            yield _flag("noise as strong as the attack", Interval.read(less).sign <= 0, text)
        yield _steps_flag(name, attack)
        if attack.results["twin_rewrites"] == 0:
            text = (
                f"{name}: no ReLU or the like was smoothed in the attack. For a model of smooth activations "
                "that is right; for one of ReLUs that are hidden, the attack saw second derivatives of 0."
            )
            yield _flag("twin without effect", None, text)
        if (planted := self._part("planted", name)) is not None:
            more = mean_interval(torch.from_numpy(_kept_of(attack) - _kept_of(planted)), undefined="exclude")
            text = (
                f"{name}: in a ball of radius {radius_text(self._planted)} the attack leaves "
                f"{_share(planted)} of the top pixels, in its own {_share(attack)}. It has to move maps more "
                "there, unless nothing was left before."
            )
            # Two unrelated maps share k of D pixels by chance: near that, nothing was left to move.
            chance = attack.config["protocol"]["k"] / attack.arrays["saliency"][0].size
            nothing = float(np.nanmean(_kept_of(attack))) < 2 * chance
            yield _flag("planted check", not nothing and Interval.read(more).sign <= 0, text)

    def _by_class(self, own: Mapping[str, Arrays]) -> dict[str, Any]:
        """Images and right predictions by class, of the examined images."""
        if not own:
            return {}
        first = next(iter(own.values()))
        right = first["seen"] == first["label"]
        return {
            self.data.classes[label]: {
                "images": int((first["label"] == label).sum()),
                "right": int(right[first["label"] == label].sum()),
            }
            for label in np.unique(first["label"]).tolist()
        }

    def surroundings(self) -> dict[str, Any]:
        """What was audited, where it lay."""
        return {"run": self.subject.title}

    def timing(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - the parts' own
        """Seconds of every part."""
        return {"parts": self.seconds}

    def pictures(self, work: Work) -> Arrays:
        """The first images of each class, and their maps by every attribution.

        As `first_images`, and "saliency/ATTRIBUTION" float16 (n, H, W), seen (n,).
        """
        arrays = first_images(self.data, self.examples, self.options.gallery)
        for name in self._measured:
            kept = work.arrays(self._case(name))
            arrays[f"saliency/{name}"] = kept["saliency"][arrays["index"]]
            arrays["seen"] = kept["seen"][arrays["index"]]
        return arrays

    # What is said about it

    @classmethod
    def heading(cls, result: StudyResult) -> str:
        """The title of the page."""
        return f"May explanations of {result.document['environment']['run']} be shown?"

    @classmethod
    def lead(cls, result: StudyResult) -> str:
        """What was audited."""
        names = [name for name in result.config["attributions"] if name != CONTROL]
        norm = {"linf": "no pixel by more than", "l2": "a Euclidean distance of at most"}[
            result.config["norm"]
        ]
        return (
            f"Explanations by {listed(names)} of the first {result.results['examples']:,} test images of "
            f"{Path(result.config['data']['name']).name}. Attacks change {norm} "
            f"{radius_text(result.config['radius'])}, on {result.results['attacked']:,} images. Each answer "
            "stands on a 95% interval over images against a threshold; there is no single score."
        )

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """Questions by explanations."""
        return {"Answers": answers_table(result)}

    @classmethod
    def frames(cls, result: StudyResult) -> dict[str, Table]:
        """A row for each answer, with its numbers."""
        columns: list[Column | str] = ["question", "explanation", "answer"]
        columns += [Column("value", "value", "number"), Column("threshold", "holds above", "number")]
        rows = [
            [one["question"], one["attribution"] or "", one["verdict"], one["value"], one["threshold"]]
            for one in result.results["answers"]
        ]
        return {"Answers": Table(columns, rows)}

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """What holds and fails, by explanation; flags that are raised; what is missing."""
        return write_findings(result)

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """Answers, whether to trust them, evidence, images, requirements, limits."""
        return audit_panels(result)

    @classmethod
    def facts(cls, result: StudyResult) -> dict[str, Any]:
        """How it was measured, as names and values."""
        names = (
            "examples",
            "attacked",
            "norm",
            "radius",
            "protocol",
            "steps",
            "levels",
            "grid",
            "repeats",
            "seed",
        )
        return {
            "model": result.config["run"]["model"],
            **{name: result.config[name] for name in names},
            "seconds of the parts": result.document["timing"]["parts"],
        }


def audit(
    model: nn.Module | str | Path,
    data: Any = None,
    attributions: Sequence[str] | Mapping[str, Any] = ("input-gradient", "integrated-gradients"),
    *,
    out: str | Path | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> StudyResult:
    """Audit a model's explanations; see `Audit` for the questions, and `AuditOptions` for the options.

    model: an nn.Module from images in [0, 1] to logits (N, K), which stays as it is; a run's folder; or what
    --model takes. data: a `veridical.data.Dataset`, a torch Dataset or DataLoader of (image, label), or what
    --data takes; None for a run's own. classes: names of its classes. attributions: names, or a mapping of
    names to attributions of one's own. out: folder, which continues an audit that was interrupted; None makes
    a temporary one. A model or an attribution in memory is examined in this process.
    """
    folder = Path(tempfile.mkdtemp(prefix="veridical-audit-")) / "audit" if out is None else Path(out)
    given: dict[str, Any] = {"out": str(folder), **options}
    with ExitStack() as stack:
        examples: Dataset | None = None
        if isinstance(data, str | Path):
            given["data"] = str(data)
        elif data is not None:
            examples = data if isinstance(data, Dataset) else from_examples(data, classes)
            folder.parent.mkdir(parents=True, exist_ok=True)
            # By its content: the same folder may be asked for with other images.
            path = folder.parent / f"{folder.name}-data-{examples.checksum[:12]}.npz"
            if isinstance(examples, MaskedDataset) and not path.exists():
                save_masked(path, examples)
            given["data"] = write_source(examples, path)["data"]
        if isinstance(model, nn.Module):
            entry = _entry_in_memory(model, examples or load_data(given["data"], options.get("data_root")))
            given |= {"model": stack.enter_context(MODELS.registered(entry)).name, "workers": 1}
        else:
            given["run" if (Path(model) / RESULT).exists() else "model"] = str(model)
        for name, method in attributions.items() if isinstance(attributions, Mapping) else ():
            if name != method:
                stack.enter_context(ATTRIBUTIONS.registered(_attribution_in_memory(name, method)))
                given["workers"] = 1
        given["attribution"] = list(attributions)
        study = Audit(AuditOptions(**given))
        study.in_memory = given.get("workers") == 1 and isinstance(model, nn.Module)
        if isinstance(model, nn.Module):  # of which a copy in eval mode is examined
            study.remarks = list({one.name: one for one in (*inspect_form(model), *study.remarks)}.values())
        return study.run()


def _entry_in_memory(model: nn.Module, data: Dataset) -> ModelEntry:
    """A model of this process by a name that tells it from others: its weights, and what it says of images.

    Constants and code are no weights; they show in the logits.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        expected = "a model that can be copied and smoothed, as it was before torch.jit"
        raise argument_error("model", f"a scripted {type(model).__name__}", expected)
    copied = private_copy(model)
    like = parameter_like(copied)
    inputs, _ = data.test.batch(range(min(8, len(data.test))), like.dtype, like.device)
    said = predict(copied, inputs).double().cpu().numpy().tobytes()
    digest = hashlib.sha256(digest_weights(copied).encode() + said).hexdigest()[:12]
    return ModelEntry(
        f"{type(model).__name__}-{digest}",
        "a model in memory",
        lambda **_sizes: private_copy(copied),
        options=None,
        has_weights=True,
    )


def _attribution_in_memory(name: str, method: Any) -> AttributionEntry:
    """An attribution of this process by name: a known one's other name, or code of the caller's."""
    if isinstance(method, str):
        return replace(find_attribution(method), name=name)
    if not callable(method):
        expected = "a name, or a function called as (model, inputs, target)"
        raise argument_error("attributions", method, expected)
    is_climbed = isinstance(method, AttributionMethod) or "create_graph" in signature(method).parameters
    return AttributionEntry(
        name, "an attribution in memory", lambda: method, is_differentiable=is_climbed or None
    )


def _axioms(
    model: nn.Module, inputs: Tensor, target: Tensor, method: Any, maps: Tensor, batch: int
) -> Arrays:
    """Residuals of completeness from black and of invariance to how ReLU is written, float64 (N,).

    Relative to the output's change and to the map's greatest value; NaN where a method does not know the
    twin.
    """

    def known(chosen_model: nn.Module, chosen: Tensor, classes: Tensor) -> Tensor:
        del chosen_model, classes
        return maps.to(chosen)

    black = torch.zeros_like(inputs)
    change = _logit(model, inputs, target) - _logit(model, black, target)
    residual = completeness(known, model, inputs, target).cpu() / change.abs().clamp_min(1e-12)
    invariant = torch.full((len(inputs),), torch.nan, dtype=torch.float64)
    sizes = maps.double().abs().flatten(1).amax(1).clamp_min(1e-30)
    parts = []
    for first in range(0, len(inputs), batch):
        rows = slice(first, first + batch)
        try:
            parts.append(implementation_invariance(method, model, _Twin(model), inputs[rows], target[rows]))
        except UsageError:  # a layer is named that the twin has under another name
            break
    if len(parts) * batch >= len(inputs):
        invariant = (torch.cat(parts).cpu() / sizes).masked_fill((maps == 0).flatten(1).all(1), torch.nan)
    return {"complete": residual.numpy(), "invariant": invariant.numpy()}


def _logit(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    return predict(model, inputs).double().gather(1, target[:, None])[:, 0].cpu()


class _Twin(nn.Module):
    """The same function in other words: x = relu(x + 1) - relu(-x - 1) - 1 before the model.

    A gradient passes it unchanged; rules that treat each ReLU in a way of their own do not.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.above, self.below, self.model = nn.ReLU(), nn.ReLU(), model
        self.train(model.training)

    def forward(self, inputs: Tensor) -> Any:
        """What the model returns."""
        shifted = inputs + 1
        return self.model(self.above(shifted) - self.below(-shifted) - 1)


def _gap(arrays: Arrays, question: str, ranking: str) -> NDArray[np.float64]:
    """How much more the model keeps in the order that should harm less, mean over levels, (N,)."""
    most, least = arrays[f"{question}/{ranking}"].mean(axis=1)
    gap: NDArray[np.float64] = most - least if question == "insertion" else least - most
    return gap


def _evidence(arrays: Arrays) -> dict[str, Any]:
    """Curves, gaps and leak of one attribution with their intervals."""
    plain: dict[str, Any] = {
        "single_deletion": mean_interval(torch.from_numpy(arrays["single"]), undefined="exclude"),
        # A pair of images of other classes has a number at every level, an image without one at none.
        "mask_leak": {
            name: mean_interval(torch.from_numpy(arrays[f"leak/{name}"].mean(axis=0)), undefined="exclude")
            for name in CURVES
        },
        "zero": mean_interval(torch.from_numpy(arrays["zero"]), bounds=SHARE),
    }
    for question in EVIDENCE:
        for ranking in ("own", "average"):
            values = arrays[f"{question}/{ranking}"]
            plain.setdefault(question, {})[ranking] = {
                order: [mean_interval(torch.from_numpy(level), bounds=SHARE) for level in values[place]]
                for place, order in enumerate(ORDERS)
            } | {"gap": mean_interval(torch.from_numpy(_gap(arrays, question, ranking)), bounds=(-1.0, 1.0))}
    return plain


def _disagreement(own: Mapping[str, Arrays]) -> dict[str, dict[str, Any]]:
    """Spearman's correlation of the saliency of every two attributions, mean over images."""
    flat = {name: torch.from_numpy(a["saliency"].astype(np.float64)).flatten(1) for name, a in own.items()}
    return {
        one: {other: mean_interval(spearman(a, b), undefined="exclude") for other, b in flat.items()}
        for one, a in flat.items()
    }


def _gone(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is gone of a map when layers are random, at the state and measure of which most is left.

    One minus what remains, so that the interval lies where the verdict of the check does.
    """
    left = [
        measure
        for state in entry["cascading"][-2:]
        for measure in state["remaining"].values()
        if measure["value"] is not None
    ]
    if not left:
        return {"value": None, "low": None, "high": None, "n": 0}
    worst = max(left, key=lambda one: float(one["value"]))
    ends = {"value": "value", "low": "high", "high": "low"}
    return {
        **{end: None if worst[other] is None else 1.0 - worst[other] for end, other in ends.items()},
        "n": worst["n"],
    }


def _flag(name: str, raised: bool | None, text: str) -> dict[str, Any]:
    return {"name": name, "raised": raised, "text": text}


def _kept_of(attack: StudyResult) -> NDArray[np.float64]:
    """The share of top pixels that an attack left, of each image that was read right, (n,)."""
    right = attack.arrays["predicted"] == attack.arrays["label"]
    kept: NDArray[np.float64] = attack.arrays["topk_intersection"][right].astype(np.float64)
    return kept


def _steps_flag(name: str, attack: StudyResult) -> dict[str, Any]:
    """Whether more iterations would move maps further: whether the last tenth still did."""
    trace = attack.arrays["trace"][attack.arrays["predicted"] == attack.arrays["label"]]
    known = trace[np.isfinite(trace).all(axis=1)]
    if not len(known):
        return _flag("too few steps", None, f"{name}: the course of the attack is not known.")
    means = known.mean(axis=0)
    before, last = float(means[int(0.9 * (len(means) - 1))]), float(means[-1])
    text = (
        f"{name}: Kendall's tau to the map before the attack is {last:.3f} after the last iteration and "
        f"{before:.3f} a tenth of them earlier. If it still falls, more --steps would find stronger changes."
    )
    return _flag("too few steps", before - last > 0.01, text)


def _share(attack: StudyResult) -> str:
    return write_number(Interval.read(attack.results["topk_intersection"]).value, "share")


def _region_kind(data: Dataset) -> str | None:
    """What the data's masks are, "mask", "box" or "foreground"; None where there are none."""
    is_known = data.name in ("gtsrb", "fashion-mnist") or (
        data.source.endswith(".npz") and bool(np.load(data.source).files.count("mask_test"))
    )
    return region_record(data)["kind"] if is_known else None


def _reason(error: VeridicalError) -> str:
    """The first job that failed and why, without its traceback; the folder of the jobs has the rest."""
    return "\n".join(str(error).splitlines()[:2])


def _parts(count: int, batch: int) -> list[slice]:
    return [slice(first, min(first + batch, count)) for first in range(0, count, batch)]


def _subject_words(options: AuditOptions) -> list[str]:
    """The options that name model and data, as they are given on the command line."""
    words = []
    for name in SubjectChoice.__dataclass_fields__:
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if isinstance(value, dict):
            words += [f"{flag}.{key} {_word(one)}" for key, one in value.items()]
        elif value not in (None, False, []):
            words.append(flag if value is True and name != "equalise" else f"{flag} {_word(value)}")
    return words


def _own_command(options: AuditOptions) -> str:
    """The audit itself, with the options that its numbers depend on."""
    names = ("attribution", "examples", "attacked", "norm", "radius", "protocol", "steps", "levels", "grid")
    told = {name: getattr(options, name) for name in (*names, "finetune", "repeats", "seed", "out")}
    words = [f"--{name} {_word(value)}" for name, value in told.items() if value is not None]
    return " ".join(["veridical audit", *_subject_words(options), *words])


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(_word(one) for one in value)
    return shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))


def _file_name(name: str) -> str:
    """An attribution's name as a folder may have it; another one for every name."""
    plain = "".join(char if char.isalnum() or char in "-_." else "-" for char in name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
