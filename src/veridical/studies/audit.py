"""May this model's explanations be shown? Questions to a model and its maps, answered by measurement."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from veridical.attribution.method import dataset_maps, predict_classes
from veridical.attribution.registry import (
    ATTRIBUTIONS,
    AttributionEntry,
    create_attribution,
    describe_attribution,
    find_attribution,
)
from veridical.data import Dataset
from veridical.data.dataset import describe_source, from_examples, load_source, write_source
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
from veridical.report.formats import listed, percent, radius_text
from veridical.report.table import Table, write_number
from veridical.runtime.checking import Length, Limit, Share, Width
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
    regions_of,
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
    levels: list[Share] = field(default_factory=lambda: list(LEVELS))
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
    command: str
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
        for name in options.thresholds:
            if name not in QUESTIONS:
                raise argument_error("thresholds", name, f"questions: {', '.join(QUESTIONS)}")
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
        like = parameter_like(self.subject.model)
        inputs, _ = self.data.test.batch(range(min(8, self.examples)), like.dtype, like.device)
        self.remarks = inspect_model(self.subject.model, inputs, num_classes=self.data.num_classes)
        self.has_masks = _has_masks(self.data)
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
            "thresholds": {
                name: options.thresholds.get(name, one.threshold) for name, one in QUESTIONS.items()
            },
            "seed": options.seed,
            "gallery": options.gallery,
        }

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        data = describe_source(self.data.name, self.options.data_root, self.data.options)
        return {**super().where(), **data, **self.subject.source}

    def cases(self) -> Iterable[Case]:
        """For each attribution its maps and what follows from them, and the black-box attack."""
        options = self.options
        data = {"checksum": self.data.checksum, "name": self.data.name}
        shared = {"weights": self.subject.digest, "data": data, "seed": options.seed}
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
        "leak" (L, N); "single" (N,); "complete" and "invariant" (N,), NaN where they say nothing;
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
        average = saliency(maps.double()).mean(dim=0, keepdim=True)[:, None].expand(len(maps), -1, -1, -1)
        if values["attribution"] == CONTROL:
            # The mean of random maps is one random order, whose luck no interval over images covers.
            average = torch.zeros_like(average)
        rankings = {
            "own": rank_coordinates(maps, how, indices=numbers),
            "average": rank_coordinates(average, how, indices=numbers, purpose="mean map"),
        }
        fills: dict[str, Fill] = {
            name: BlurFill() if kind == "blur" else FILLS.get(kind).create(data.test, seed)
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
            said = adversarial_change(model, inputs, target, ranks, around, level=0.1)
            arrays[f"adversarial/{order}"] = said.probability.numpy()
        leak = mask_leak(
            model,
            inputs,
            target,
            rankings["own"],
            fills["deletion"],
            levels=levels,
            indices=numbers,
            seed=seed,
        )
        single = single_deletion(
            model, inputs, target, maps, fills["deletion"], grid=values["grid"], indices=numbers
        )
        axioms = _axioms(model, inputs, target, method, maps, context.batch)
        return {
            **arrays,
            **axioms,
            "leak": leak.numpy(),
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
        moved = {
            "pgd": pgd(model, inputs, target, around, seed=seed, indices=numbers),
            "search": random_search(
                model, inputs, target, around, queries=_QUERIES, seed=seed, indices=numbers
            ),
        }
        right = whole[: len(numbers)]
        held = {name: right & (predict(model, one).argmax(1) == target).cpu() for name, one in moved.items()}
        return {
            "accuracy": proportion_interval(int(whole.sum()), len(whole)),
            "right": right.numpy(),
            **{name: one.numpy() for name, one in held.items()},
        }

    # The parts that are studies of their own

    def parts(self) -> Iterator[Part]:
        """The studies that answer the other questions, the most telling first."""
        radii = [self.radius / 4, self.radius / 2, self.radius]
        for name in self._attackable:
            yield self._attack_part("attack", name, ("stability",), radius=radii)
        for name in self._explained:
            given = {"radius": [self.radius], "attack": "random"}
            yield self._attack_part("noise", name, ("stability-to-noise",), **given)
        yield self._sanity_part()
        if self.has_masks:
            yield self._alignment_part()
        for name in self._attackable[:1]:
            few = min(4, self.attacked)
            yield self._attack_part("planted", name, (), radius=[self._planted], examples=few)

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

    def _command(self, study: str, attributions: Sequence[str], given: Mapping[str, Any]) -> str:
        told = " ".join(f"--{key} {_word(value)}" for key, value in given.items())
        words = _subject_words(self.options)
        return f"veridical {study} {words} --attribution {' '.join(attributions)} {told}"

    def _attack_part(self, kind: str, name: str, questions: tuple[str, ...], **given: Any) -> Part:
        options = self.options
        chosen: dict[str, Any] = {"norm": options.norm, "protocol": options.protocol, "steps": options.steps}
        chosen |= {"examples": self.attacked, **given}
        folder = f"{kind}-{_file_name(name)}"

        def do(progress: ProgressCallback) -> StudyResult:
            whole = AttackOptions(**self._shared(folder), attribution=name, gallery=4, **chosen)
            return Attack(whole).run(progress)

        return Part(folder, questions, name, self._command("attack", [name], chosen), do)

    def _sanity_part(self) -> Part:
        chosen: dict[str, Any] = {
            "tests": ["cascading"],
            "examples": self.attacked,
            "repeats": self.options.repeats,
            "batch": self.options.batch,
        }

        def do(progress: ProgressCallback) -> StudyResult:
            shared = self._shared("sanity")
            options = SanityOptions(**shared, attribution=self._explained, gallery=2, **chosen)
            return Sanity(options).run(progress)

        command = self._command("sanity", self._explained, chosen)
        return Part("sanity", ("depends-on-model",), None, command, do)

    def _alignment_part(self) -> Part:
        chosen: dict[str, Any] = {"examples": self.examples, "batch": self.options.batch}
        names = list(self.methods)

        def do(progress: ProgressCallback) -> StudyResult:
            shared = self._shared("alignment")
            shared["run"] = None if shared["run"] is None else [shared["run"]]
            return Alignment(AlignmentOptions(**shared, attribution=names, gallery=4, **chosen)).run(progress)

        return Part("alignment", ("localisation",), None, self._command("alignment", names, chosen), do)

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
                self.left_out[name] = str(error)
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
                    self.left_out[f"maps of {group}"] = str(error)

    def run(self, progress: ProgressCallback | None = None) -> StudyResult:
        """Do what is not done; interrupted, write the page of what there is and raise KeyboardInterrupt."""
        result = super().run(progress)
        if self.interrupted:
            raise KeyboardInterrupt
        return result

    # What came out

    def results(self, work: Work) -> dict[str, Any]:
        """Answers, flags, evidence by attribution, disagreement, and what is missing."""
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
            right, held = work.arrays(case)["right"], work.arrays(case)["pgd"]
            answers.append(self._answer("accuracy", None, work.plain(case)["accuracy"]))
            under_attack = proportion_interval(int(held.sum()), len(right))
            answers.append(self._answer("accuracy-under-attack", None, under_attack))
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
        mine = _own_command(self.options)
        for one in answers:
            key = (one["question"], one["attribution"] if QUESTIONS[one["question"]].each else None)
            either = commands.get(key) or commands.get((one["question"], None))
            one["command"] = either or commands.get((one["question"], self._first)) or mine
        order = {name: place for place, name in enumerate(QUESTIONS)}
        answers.sort(key=lambda one: order[one["question"]])
        return {
            "examples": self.examples,
            "attacked": self.attacked,
            "answers": answers,
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
                beyond = [mean_interval(torch.from_numpy(mine - other)) for other in others]
                least = min(beyond, key=lambda one: one["value"] if one["value"] is not None else np.inf)
                yield self._answer(question, name, least)

    def _of_parts(self) -> Iterator[dict[str, Any]]:
        """What the check of dependence on the model, and the masks, say."""
        if (result := self.done.get("sanity")) is not None:
            for name, entry in result.results["attributions"].items():
                yield self._answer("depends-on-model", name, _gone(entry))
        if (result := self.done.get("alignment")) is not None:
            (model,) = result.results["models"].values()
            for name, maps in model["maps"].items():
                yield self._answer("localisation", name, maps["excess"]["examples"])

    def _flags(self, work: Work, own: Mapping[str, Arrays]) -> list[dict[str, Any]]:
        """What would make these numbers look better than they are; raised is None where it is not known."""
        flags = [
            _flag(one.name, one.severity == "problem", one.text)
            for one in self.remarks
            if one.severity != "note"
        ]
        attack = self.done.get(f"attack-{_file_name(self._first)}") if self._first else None
        noise = self.done.get(f"noise-{_file_name(self._first)}") if self._first else None
        if attack is not None and noise is not None:
            strong, weak = (Interval.read(one.results["topk_intersection"]) for one in (attack, noise))
            raised = strong.against(weak) != "lower"
            text = (
                f"The attack leaves {_share(strong)} of the top pixels, random noise of the same size "
                f"{_share(weak)}: an attack has to do clearly more."
            )
            flags.append(_flag("noise as strong as the attack", raised, text))
        if attack is not None:
            flags.append(_steps_flag(attack))
            if attack.results["twin_rewrites"] == 0:
                text = (
                    "No ReLU or the like was smoothed in the attack. For a model of smooth activations that "
                    "is right; for one of ReLUs that are hidden, the attack saw second derivatives of 0."
                )
                flags.append(_flag("twin without effect", None, text))
        planted = self.done.get(f"planted-{_file_name(self._first)}") if self._first else None
        if attack is not None and planted is not None:
            here, there = (one.results["topk_intersection"] for one in (attack, planted))
            raised = (there["value"] or 0.0) >= (here["value"] or 0.0)
            text = (
                f"In a ball of radius {radius_text(self._planted)} the attack leaves "
                f"{_share(Interval.read(there))} of the top pixels: it has to move maps more there, or it "
                "does not work on this model."
            )
            flags.append(_flag("planted check", raised, text))
        if own and "model" not in self.failed:
            arrays = work.arrays(self.cases_of("model", "predict")[0])
            black_box, white_box = (float(arrays[name].mean()) for name in ("search", "pgd"))
            text = (
                f"Random search over signs, {_QUERIES} queries an image and no gradient, leaves "
                f"{percent(black_box, 1)} right; projected gradient descent {percent(white_box, 1)}. If the "
                "first is less, gradients are masked."
            )
            flags.append(_flag("black-box attack stronger", black_box < white_box, text))
        for name, arrays in own.items():
            empty = int((arrays["zero"] == 1).sum())
            if empty:
                text = f"{empty} of {len(arrays['zero'])} maps of {name} are zero everywhere."
                flags.append(_flag("maps of zeros", True, text))
        return flags

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
        """The images of which the model's maps were moved most, else the first; maps of every attribution.

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
    data: Any,
    attributions: Sequence[str] | Mapping[str, Any] = ("input-gradient", "integrated-gradients"),
    *,
    out: str | Path | None = None,
    **options: Any,
) -> StudyResult:
    """Audit a model's explanations; see `Audit` for the questions, and `AuditOptions` for the options.

    model: an nn.Module from images in [0, 1] to logits (N, K), which stays as it is; a run's folder; or what
    --model takes. data: a `veridical.data.Dataset`, a torch Dataset or DataLoader of (image, label), or what
    --data takes. attributions: names, or a mapping of names to attributions of one's own. out: folder, which
    continues an audit that was interrupted; None makes a temporary one. A model or an attribution in memory
    is examined in this process.
    """
    folder = Path(tempfile.mkdtemp(prefix="veridical-audit-")) / "audit" if out is None else Path(out)
    given: dict[str, Any] = {"out": str(folder), **options}
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            copied = private_copy(model)
            entry = ModelEntry(
                f"{type(model).__name__}-{digest_weights(model)[:8]}",
                "a model in memory",
                lambda **_sizes: private_copy(copied),
                has_weights=True,
            )
            given |= {"model": stack.enter_context(MODELS.registered(entry)).name, "workers": 1}
        else:
            given["run" if (Path(model) / RESULT).exists() else "model"] = str(model)
        if isinstance(data, str | Path):
            given["data"] = str(data)
        else:
            examples = data if isinstance(data, Dataset) else from_examples(data)
            folder.parent.mkdir(parents=True, exist_ok=True)
            given["data"] = write_source(examples, folder.parent / f"{folder.name}-data.npz")["data"]
        for name, method in attributions.items() if isinstance(attributions, Mapping) else ():
            if name != method:
                own = AttributionEntry(
                    name, "an attribution in memory", lambda method=method: method, is_differentiable=None
                )
                stack.enter_context(ATTRIBUTIONS.registered(own))
                given["workers"] = 1
        given["attribution"] = list(attributions)
        study = Audit(AuditOptions(**given))
        if isinstance(model, nn.Module):  # of which a copy in eval mode is examined
            study.remarks = [*inspect_form(model), *study.remarks]
        return study.run()


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
        invariant = torch.cat(parts).cpu() / sizes
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
        "mask_leak": mean_interval(torch.from_numpy(arrays["leak"].mean(axis=0)), undefined="exclude"),
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


def _steps_flag(attack: StudyResult) -> dict[str, Any]:
    """Whether more iterations would move maps further: whether the last tenth still did."""
    trace = attack.arrays["trace"][attack.arrays["predicted"] == attack.arrays["label"]]
    known_rows = trace[np.isfinite(trace).all(axis=1)]
    means = known_rows.mean(axis=0) if len(known_rows) else np.full(2, np.nan)
    before, last = float(means[int(0.9 * (len(means) - 1))]), float(means[-1])
    text = (
        f"Kendall's tau to the map before the attack is {last:.3f} after the last iteration and {before:.3f} "
        "a tenth of them earlier. If it still falls, more --steps would find stronger changes."
    )
    known = np.isfinite(before) and np.isfinite(last)
    return _flag("too few steps", bool(before - last > 0.01) if known else None, text)


def _share(interval: Interval) -> str:
    return write_number(interval.value, "share")


def _has_masks(data: Dataset) -> bool:
    try:
        regions_of(data)
    except VeridicalError:
        return False
    return True


def _subject_words(options: AuditOptions) -> str:
    """The options that name model and data, as they are given on the command line."""
    words = []
    for name in SubjectChoice.__dataclass_fields__:
        value = getattr(options, name)
        if value not in (None, False, {}, []):
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value is True else f"{flag} {_word(value)}")
    return " ".join(words)


def _own_command(options: AuditOptions) -> str:
    return f"veridical audit {_subject_words(options)} --attribution {' '.join(options.attribution)}"


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(f"{one:.6g}" if isinstance(one, float) else str(one) for one in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _file_name(name: str) -> str:
    """An attribution's name as a folder may have it."""
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in name)
