"""May this model's explanations be shown? Questions to a model and its maps, answered by measurement."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import resources
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from veridical.attacks.ascent import pgd, random_search
from veridical.attacks.ball import ball
from veridical.attacks.protocols import PROTOCOLS, evaluation_settings
from veridical.attribution.axioms import relative_residuals
from veridical.attribution.classifier import parameter_like, predict
from veridical.attribution.inspection import count_flops, inspect_form, inspect_model
from veridical.attribution.method import AttributionMethod, batch_maps, dataset_maps, predict_classes
from veridical.attribution.methods import IntegratedGradients, StoredMaps
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
from veridical.data.dataset import MaskedDataset, from_examples, load_source, write_source
from veridical.data.masked import save_masked
from veridical.faithfulness.evidence import CURVES, LEVELS, measure_evidence, measure_in_domain
from veridical.faithfulness.removal import single_deletion, with_missing_patches
from veridical.faithfulness.unmasking import FILLS
from veridical.jobs import Progress
from veridical.jobs.pool import usable_cores
from veridical.metrics.intervals import proportion_interval
from veridical.models.external import Examined, Preprocessing
from veridical.models.registry import MODELS, ModelEntry
from veridical.report import Panel
from veridical.report.formats import duration, listed, radius_text
from veridical.report.table import Column, Table
from veridical.runtime.checking import FilePath, Length, Level, Limit, Width
from veridical.runtime.errors import RunError, UsageError, VeridicalError, argument_error
from veridical.runtime.files import Arrays, digest
from veridical.runtime.guards import private_copy
from veridical.runtime.options import (
    AttributionChoice,
    Gallery,
    NormName,
    Placement,
    ProtocolName,
    SubjectChoice,
    TimeLimit,
)
from veridical.studies.attack import Attack, AttackOptions, main_radius
from veridical.studies.audit_answers import Answers, Done
from veridical.studies.audit_page import (
    CONTROL,
    QUERIES,
    QUESTIONS,
    answers_table,
    audit_panels,
    write_findings,
)
from veridical.studies.diffroar import DiffRoar, DiffRoarOptions
from veridical.studies.maps import (
    RUN,
    has_regions,
    map_measures,
    region_record,
    regions_of,
    scaled_saliency,
    stored_maps,
)
from veridical.studies.sanity import Sanity, SanityOptions
from veridical.studies.study import (
    RESULT,
    Budget,
    Case,
    Context,
    ProgressCallback,
    Study,
    StudyResult,
    Work,
    check_different,
    limit_count,
    read_duration,
)
from veridical.training.checkpoint import digest_weights
from veridical.training.loop import train
from veridical.training.run import load
from veridical.training.subject import load_model, load_subject, share_subjects

# Learning rate of the fine-tuning: small, so that the model stays the one that is audited.
_FINETUNING_RATE = 1e-4
# Times the radius, at which an attack that works must do more.
_PLANTED = 4.0
# Shares of the coordinates that DiffROAR keeps.
_KEPT = (0.1, 0.3, 0.5)


class Extent(NamedTuple):
    """How much is looked at where options leave it open. shares: of the radius, attacked beside it."""

    examples: int
    attacked: int
    steps: int
    repeats: int
    protocols: tuple[ProtocolName, ...]
    shares: tuple[float, ...]
    tested: int | None


# From so many GFLOP of one image's forward pass on: a count, so that every machine asks the same.
_EXTENTS = (
    (0.0, Extent(64, 32, 20, 3, ("paper-fast", "strong"), (0.25, 0.5), None)),
    (0.2, Extent(24, 8, 10, 2, ("paper-fast", "strong"), (0.5,), 2000)),
    (2.0, Extent(6, 2, 6, 1, ("paper-fast",), (), 500)),
)


@dataclass(frozen=True, kw_only=True)
class AuditOptions(AttributionChoice, TimeLimit, Gallery, SubjectChoice, Placement):
    """Audit a model's explanations: accuracy, axioms, stability, dependence on the model, evidence.

    What is None follows from what the model costs: a large network is asked about fewer images.

    Args:
        attribution: Explanations by name: {attributions}, captum:CLASS, module:callable, or an .npz file
            whose attribution_test holds a map for every test image. A random map is always measured beside
            them.
        examples: The first so many test images, whose maps are judged; None is 64, 24 or 6.
        attacked: The first so many of them, which are attacked; None is 32, 8 or 2, and for explanations as
            many as have so many among them that are read right.
        tested: The first so many test images, of which the accuracy is taken; None is all, 2,000 or 500.
        norm: Norm of the ball around each image.
        radius: Radius of the ball, in input units; None takes the run's, or the paper's for like images.
        shares: Shares of the radius at which explanations are attacked, too.
        protocol: How explanations are attacked: "paper" (the RAR authors' evaluation), "paper-fast" or
            "strong". The first is repeated at all radii; the strongest change of all counts.
        steps: Iterations of the attack on explanations; None is 20, 10 or 6.
        levels: Shares of the pixels that are removed or inserted.
        grid: Patches a side that are removed one at a time.
        finetune: Epochs of one fine-tuning on training images with patches missing, after which deletions
            are asked of that model too (in-domain-deletion, in-domain-removal); 0 does none.
        retrain: Retrainings for every level and end of DiffROAR, which takes long; 0 does none.
        repeats: Draws of fresh weights in the check of dependence on the model; None is 3, 2 or 1.
        smooth: Noisy images of each image over which maps are averaged in that check, too (depends-smoothed);
            0 does none.
        thresholds: Values from which on a question holds, by its name, in place of the defaults.
        against: Folder of an earlier audit, whose answers are shown beside these.
        dry_run: Only predict how long it takes.
        batch: Images whose attributions are computed at a time.
        gallery: Images shown in the report.
    """

    attribution: list[str] = field(default_factory=lambda: ["input-gradient", "integrated-gradients"])
    examples: Annotated[int, Limit(4, 10**6)] | None = None
    attacked: Annotated[int, Limit(2, 10**6)] | None = None
    tested: Annotated[int, Limit(2, 10**9)] | None = None
    norm: NormName = "linf"
    radius: Length | None = None
    shares: list[Level] | None = None
    protocol: list[ProtocolName] | None = None
    steps: Annotated[int, Limit(2, 10**5)] | None = None
    levels: list[Level] = field(default_factory=lambda: list(LEVELS))
    grid: Annotated[int, Limit(2, 32)] = 4
    finetune: Annotated[float, Limit(0, 1e4)] = 0.0
    retrain: Annotated[int, Limit(0, 100)] = 0
    repeats: Annotated[int, Limit(1, 100)] | None = None
    smooth: Annotated[int, Limit(0, 1000)] = 0
    thresholds: dict[str, float] = field(default_factory=dict)
    against: FilePath | None = None
    dry_run: bool = False
    batch: Width = 8
    gallery: Annotated[int, Limit(0, 1000)] = 12


@dataclass(frozen=True)
class Part:
    """A piece of an audit: what it answers, for whom, and what does it.

    command: the words of the command line that answers it alone. cost: predicts seconds of one process, and
    how many can share it, from a timing. do: runs it, and returns its result.
    """

    name: str
    questions: tuple[str, ...]
    attribution: str | None
    command: str | None
    cost: Callable[[], tuple[float, int]]
    do: Callable[[ProgressCallback, Executor], StudyResult]


class AuditReport(StudyResult):
    """What an audit left in its folder, with its answers at hand."""

    def answer(self, question: str, attribution: str | None = None) -> dict[str, Any]:
        """One answer: verdict, value with its interval, threshold, command; a UsageError for none such."""
        for one in self.results["answers"]:
            if (one["question"], one["attribution"]) == (question, attribution):
                return dict(one)
        expected = f"one of {', '.join(QUESTIONS)}, and an explanation where it is asked of each"
        raise argument_error("question", f"{question} of {attribution}", expected)

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON Schema of an audit's result.json."""
        return Audit.schema()

    @property
    def raised(self) -> list[str]:
        """The flags that say to trust these numbers less."""
        return [one["name"] for one in self.results["flags"] if one["raised"]]


class Audit(Study[AuditOptions]):
    r"""May this model's explanations be shown? Questions to one model and its maps, each answered.

    examples:
      veridical audit --run runs/igsum --out runs/igsum-audit
      veridical audit --model torchvision:resnet18 --weights resnet18.pt --data photos \
          --masks photo-masks --attribution integrated-gradients captum:GuidedBackprop --out runs/photos-audit
      veridical audit --model timm:vit_tiny_patch16_224 --weights vit.safetensors --data photos \
          --budget 10m --out runs/vit

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
    Result = AuditReport

    def prepare(self) -> None:
        """Load model and images, look at the model, and refuse what does not fit."""
        options = self.options
        _check_thresholds(options.thresholds)
        self.limit = read_duration(options.budget)
        self.subject = load_subject(options, device=self.local_device)
        self.data = self.subject.data
        self.files = {name: str(Path(name).absolute()) for name in options.attribution if _is_file(name)}
        check_different("attribution", options.attribution)
        names = dict.fromkeys([*options.attribution, CONTROL])
        self.explanations = {name: self._create(name) for name in names}
        self.methods = {name: describe_attribution(one) for name, one in self.explanations.items()}
        if not self._explained:
            expected = "at least one explanation beside the random map, which is there anyway"
            raise argument_error("attribution", options.attribution, expected)
        for name, method in self.explanations.items():
            if isinstance(method, StoredMaps):
                method.check(len(self.data.test), self.data.shape, name)
        like = parameter_like(self.subject.model)
        inputs, _ = self.data.test.batch(range(min(8, len(self.data.test))), like.dtype, like.device)
        self.gflops = count_flops(self.subject.model, inputs[:1]) / 1e9
        self.extent = self._settle(next(one for least, one in reversed(_EXTENTS) if self.gflops >= least))
        self.examples, self.attacked = self.extent.examples, self.extent.attacked
        if options.attacked is None:
            self.attacked = self._count_attacked(self.extent.attacked)
        check_different("levels", options.levels)
        check_different("protocol", self.extent.protocols)
        trained = self.subject.trained_radius(options.norm)
        settings = evaluation_settings(
            self.data.name,
            self.data.shape,
            norm=options.norm,
            radius=options.radius if options.radius is not None else trained,
        )
        self.radius = settings.radius
        self.radii = sorted(
            {self.radius, *(share * self.radius for share in self.extent.shares), self.planted}
        )
        # One step and its share of the radius, however large the ball is.
        self.step_share = settings.step_size / (self.radius or 1.0)
        self.remarks = inspect_model(self.subject.model, inputs, num_classes=self.data.num_classes)
        self.region = region_record(self.data) if has_regions(self.data) else None
        self.before = None if options.against is None else Audit.read(options.against)
        self.in_memory = False
        # Attributions that the command line knows by no name, or by another.
        self.unnamed: set[str] = set()
        # What an interrupted or a bounded session has not come to.
        self.left_out: dict[str, str] = {}
        self.failed: set[str] = set()
        self.interrupted = False

    def _settle(self, usual: Extent) -> Extent:
        """How much is looked at: what the options say, else the usual, and no more than there is."""
        options, images = self.options, len(self.data.test)
        examples = limit_count(options.examples or usual.examples, images)
        return Extent(
            examples,
            min(options.attacked or usual.attacked, examples),
            options.steps or usual.steps,
            options.repeats or usual.repeats,
            tuple(usual.protocols if options.protocol is None else options.protocol),
            tuple(usual.shares if options.shares is None else options.shares),
            limit_count(options.tested or usual.tested, images),
        )

    def _count_attacked(self, wanted: int) -> int:
        """How many images, from the first on, have so many among them that are read right.

        No explanation of a misread image is attacked, and of a few images all may be misread. The share of
        these images that are right would mean nothing, since their number depends on it.
        """
        seen = predict_classes(self.subject.model, self.data.test.subset(range(self.examples)))
        right = (seen == self.data.test.labels[: self.examples]).nonzero()
        return self.examples if len(right) < wanted else int(right[wanted - 1]) + 1

    @property
    def planted(self) -> float:
        """A radius at which any attack that works moves maps further; a ball of 1 holds all images."""
        return min(_PLANTED * self.radius, max(1.0, self.radius) if self.options.norm == "linf" else np.inf)

    def config(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        options, extent = self.options, self.extent
        return {
            "run": self.subject.describe(),
            "data": self.data.describe(),
            "region": self.region,
            "attributions": self.methods,
            "examples": self.examples,
            "attacked": self.attacked,
            "tested": extent.tested,
            "norm": options.norm,
            "radius": self.radius,
            "radii": self.radii,
            "protocols": list(extent.protocols),
            "steps": extent.steps,
            "levels": list(options.levels),
            "grid": options.grid,
            "finetune": options.finetune,
            "retrain": options.retrain,
            "repeats": extent.repeats,
            "smooth": options.smooth,
            "against": None
            if options.against is None
            else digest((Path(options.against) / RESULT).read_bytes()),
            "seed": options.seed,
        }

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        files = {f"maps {name}": path for name, path in self.files.items()}
        return super().where() | self.subject.where(self.options.data_root) | files

    def cases(self) -> Iterable[Case]:
        """For each attribution its maps and what follows from them, and the attacks on predictions."""
        options = self.options
        data = {"checksum": self.data.checksum, "name": self.data.name}
        # All that decides the model: its standardisation and its head, too, which no weight tells.
        shared: dict[str, Any] = {"weights": self.subject.digest, "run": self.subject.describe()}
        shared |= {"data": data, "seed": options.seed}
        place = {"norm": options.norm, "radius": self.radius}
        asked = {"examples": self.examples, "levels": list(options.levels), "grid": options.grid}
        for name, method in self.methods.items():
            yield Case(
                {
                    **shared,
                    **place,
                    **asked,
                    "attribution": name,
                    "method": method,
                    "region": self.region if name in self._localised else None,
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
                    {**shared, **asked, "attribution": name, "method": method},
                    group=name,
                    step="delete",
                    after=tuning,
                    stage="removing from the fine-tuned model",
                    cost=float(self.examples),
                )
        yield Case(
            {**shared, **place, "examples": self.extent.attacked, "tested": self.extent.tested},
            group="model",
            step="predict",
            stage="removing what maps mark",
            label="predictions, attacked",
            cost=float(self.extent.attacked),
        )

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Maps of one attribution of the first test images, and what the model says without what they mark.

        The arrays of `measure_evidence`, of `relative_residuals` as complete, sensitive and invariant (N,),
        and, where there are regions, of `map_measures`; "saliency" float16 (N, H, W); "seen", "label" (N,).
        """
        model, data, method = _load(values, context)
        numbers, seed = range(values["examples"]), values["seed"]
        seen, maps = _explain(model, data, numbers, method, context.batch, seed)
        like = parameter_like(model)
        inputs, labels = data.test.batch(numbers, like.dtype, like.device)
        stored = isinstance(method, StoredMaps)
        residuals = relative_residuals(
            None if stored else method, model, inputs, seen.to(like.device), maps, batch=context.batch
        )
        if values["attribution"] == CONTROL:  # a draw does not ask what the model is
            residuals |= dict.fromkeys(("invariant", "sensitive"), torch.full((len(maps),), torch.nan))
        evidence = measure_evidence(
            model,
            data,
            numbers,
            maps,
            seen,
            ball(values["norm"], values["radius"]),
            levels=values["levels"],
            grid=values["grid"],
            batch=context.batch,
            seed=seed,
            own_mean=values["attribution"] != CONTROL,
        )
        inside: Arrays = {}
        if values["region"] is not None:
            regions = regions_of(data)[: len(numbers)]
            found = map_measures(maps, regions, seed=seed, indices=numbers)
            inside = {f"inside/{name}": one for name, one in found.items()}
        return {
            **evidence,
            **inside,
            **{name: one.double().numpy() for name, one in residuals.items()},
            "saliency": scaled_saliency(maps),
            "seen": seen.numpy(),
            "label": labels.cpu().numpy(),
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
        """Deletions asked of the fine-tuned model: "single" (N,) by its own maps, and `measure_in_domain`.

        The latter is of the audited model's maps: they are judged, and the fine-tuned model is the judge.
        """
        own, data, method = _load(values, context)
        assert context.after is not None
        model = load(context.after / RUN, model=private_copy(own), device=context.device).model
        numbers, seed, grid = range(values["examples"]), values["seed"], values["grid"]
        like = parameter_like(model)
        inputs, _ = data.test.batch(numbers, like.dtype, like.device)
        fill = FILLS.get("mean").create(data.train, seed)
        seen, maps = _explain(own, data, numbers, method, context.batch, seed)
        domain = measure_in_domain(
            model,
            data,
            numbers,
            maps,
            seen,
            levels=values["levels"],
            grid=grid,
            seed=seed,
            own_mean=values["attribution"] != CONTROL,
        )
        if isinstance(method, StoredMaps):  # which are of the audited model
            return {**domain, "single": np.full(len(numbers), np.nan)}
        tuned, maps = _explain(model, data, numbers, method, context.batch, seed)
        target = tuned.to(like.device)
        single = single_deletion(model, inputs, target, maps, fill, grid=grid, indices=numbers)
        return {**domain, "single": single.numpy()}

    @staticmethod
    def predict(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """What the model gets right: of the first test images, and of fewer under two attacks.

        accuracy: with its interval. right, pgd and search bool (N,): the first images that are read right as
        they are, after projected gradient descent, and after a random search without gradients.
        """
        model = load_model(context.where, values["weights"], trust_code=context.trust_code)
        data = load_source(context.where, values["data"]["checksum"])
        like, numbers, seed = parameter_like(model), range(values["examples"]), values["seed"]
        tested = data.test.subset(range(values["tested"]))
        said = predict_classes(model, tested)
        whole = said == tested.labels
        inputs, target = data.test.batch(numbers, like.dtype, like.device)
        around = ball(values["norm"], values["radius"])
        attacked = data.test.subset(numbers)
        right = predict_classes(model, attacked) == attacked.labels
        held: Arrays = {"right": right.numpy(), "said": said.numpy()}

        def attack(name: str, move: Callable[..., Tensor], **given: Any) -> None:
            kept = []
            for first in range(0, len(inputs), context.batch):
                part = slice(first, min(first + context.batch, len(inputs)))
                some = {"seed": seed, "indices": numbers[part], **given}
                moved = move(model, inputs[part], target[part], around, **some)
                kept.append((predict(model, moved).argmax(1) == target[part]).cpu())
            held[name] = (right & torch.cat(kept)).numpy()

        attack("search", random_search, queries=QUERIES)
        refused = ""
        try:
            attack("pgd", pgd)
        except UsageError as error:  # probabilities, say, are not climbed
            refused = str(error)
        accuracy = proportion_interval(int(whole.sum()), len(whole))
        return {"accuracy": accuracy, "refused": refused, **held}

    # The parts that are studies of their own

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The JSON Schema of an audit's result.json, every field of it."""
        text = resources.files("veridical.studies").joinpath("audit.schema.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def parts(self) -> Iterator[Part]:
        """The studies that answer the other questions, the most telling first."""
        first, *further = self.extent.protocols
        for name in self.attackable:
            yield self._attack_part("attack", name, self.radii, protocol=first)
        for name in self._moved:
            yield self._attack_part("noise", name, [one for one in self.radii if one <= self.radius])
        yield from (self._sanity_part(name) for name in self._moved)
        for name in self.attackable:
            for other in further:
                yield self._attack_part(f"attack-{other}", name, [self.radius], protocol=other)
        if self.options.retrain:
            yield from (self._diffroar_part(name) for name in self._explained)

    @staticmethod
    def part_name(kind: str, name: str) -> str:
        """The name of an attribution's part, which is its folder's."""
        return f"{kind}-{_file_name(name)}"

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
        if self.in_memory or name in self.unnamed:
            return None
        told = {"attribution": name, **given, "seed": self.options.seed}
        words = [f"--{key.replace('_', '-')} {_word(value)}" for key, value in told.items()]
        out = _word(str(Path(self.options.out) / "parts" / folder))
        return " ".join(["veridical", study, *_subject_words(self.options), *words, "--out", out])

    def _attack_part(
        self, kind: str, name: str, radii: Sequence[float], protocol: ProtocolName | None = None
    ) -> Part:
        steps = self.extent.steps
        trained = self.subject.trained_radius(self.options.norm)
        main = main_radius(radii, self.options.norm, trained, self.data)
        chosen: dict[str, Any] = {"norm": self.options.norm, "radius": list(radii), "examples": self.attacked}
        if protocol is None:  # noise, in one step as large as the ball
            chosen |= {"attack": "random", "steps": 1, "step_size": main}
        else:
            # Few steps have to be longer ones: together they can cross the ball.
            length = max(self.step_share, 2.5 / steps) * (main or 1.0)
            chosen |= {"protocol": protocol, "steps": steps, "step_size": length}
        folder = self.part_name(kind, name)

        def do(progress: ProgressCallback, executor: Executor) -> StudyResult:
            whole = AttackOptions(**self._shared(folder), attribution=name, gallery=4, **chosen)
            return Attack(whole).run(progress, executor=executor)

        asks = "stability-to-noise" if protocol is None else "stability"
        cost = partial(self._attack_cost, name, protocol, len(radii))
        return Part(folder, (asks,), name, self._command("attack", folder, name, chosen), cost, do)

    def _sanity_part(self, name: str) -> Part:
        smooth = self.options.smooth
        chosen: dict[str, Any] = {
            "tests": ["cascading", "efficient", *(["smooth"] if smooth else [])],
            "stages": "last",
            "examples": self.extent.attacked,
            "repeats": self.extent.repeats,
            "batch": self.options.batch,
        }
        if smooth:
            chosen["smooth_samples"] = smooth
        folder = self.part_name("sanity", name)

        def do(progress: ProgressCallback, executor: Executor) -> StudyResult:
            options = SanityOptions(**self._shared(folder), attribution=[name], gallery=2, **chosen)
            return Sanity(options).run(progress, executor=executor)

        command = self._command("sanity", folder, name, chosen)

        def cost() -> tuple[float, int]:
            each = self.extent.attacked * self._unit.maps.get(name, 0.0)
            return each * (3 + 4 * self.extent.repeats) * (1 + smooth), 2 + self.extent.repeats

        asks = ("depends-on-model", "complexity-rises", *(["depends-smoothed"] if smooth else []))
        return Part(folder, asks, name, command, cost, do)

    def _diffroar_part(self, name: str) -> Part:
        options = self.options
        chosen: dict[str, Any] = {"levels": list(_KEPT), "repeats": options.retrain, "per": "pixel"}
        folder = self.part_name("diffroar", name)
        given = {**chosen, "attribution": self.files.get(name, name), "batch": options.batch}

        def do(progress: ProgressCallback, executor: Executor) -> StudyResult:
            whole = DiffRoarOptions(**self._shared(folder), gallery=2, **given)
            return DiffRoar(whole).run(progress, executor=executor)

        command = self._command("diffroar", folder, name, chosen)

        def cost() -> tuple[float, int]:
            # Each passes through the training images as often as a training of ours does, about ten times.
            passes = 10 * 3 * len(self.data.train) * self._unit.forward
            retrainings = 2 * len(_KEPT) * (3 * options.retrain + 1)
            return passes * retrainings, retrainings

        return Part(folder, ("diffroar",), name, command, cost, do)

    @property
    def _localised(self) -> list[str]:
        """The attributions that can be compared with the masks: none that are 0 on black ground."""
        if self.region is None or self.region["kind"] == "mask":
            return list(self.methods) if self.region else []
        names = []
        for name in self.methods:
            with suppress(UsageError):
                check_on_black(name)
                names.append(name)
        return names

    @property
    def _explained(self) -> list[str]:
        """The attributions but for the control."""
        return [name for name in self.methods if name != CONTROL]

    @property
    def _moved(self) -> list[str]:
        """The attributions that can be asked about other images and models: none that lie in a file."""
        return [name for name in self._explained if not isinstance(self.explanations[name], StoredMaps)]

    def _create(self, name: str) -> Any:
        return _create(self.files.get(name, name), self.data, self.options.seed, self.options.trust_code)

    @cached_property
    def attackable(self) -> list[str]:
        """The attributions whose maps can be climbed."""
        names = []
        for name in self._moved:
            entry = find_attribution(name, trust_code=self.options.trust_code)
            # Code of the caller's says by its signature whether it makes a graph.
            takes = entry.is_differentiable is None and _makes_graph(self.explanations[name])
            if entry.is_differentiable or takes:
                names.append(name)
        return names

    # What it will cost

    @cached_property
    def _unit(self) -> _Unit:
        """Seconds that one process takes for one image, timed here; nothing else depends on them."""
        model, seed = self.subject.model, self.options.seed
        like = parameter_like(model)
        inputs, target = self.data.test.batch(range(1), like.dtype, like.device)
        forward = _timed(lambda: predict(model, inputs))
        gradient = _timed(lambda: create_attribution("input-gradient")(model, inputs, target))
        maps = {CONTROL: 0.0}
        for name in self._explained:
            method = self.explanations[name]
            with suppress(Exception):  # one that cannot be had is named when it is measured
                maps[name] = _timed(partial(batch_maps, method, model, inputs, target, [0], seed))
        return _Unit(forward, gradient, maps)

    def _attack_cost(self, name: str, protocol: ProtocolName | None, radii: int) -> tuple[float, int]:
        plan, unit = PROTOCOLS[protocol or "paper-fast"], self._unit
        nodes = isinstance(self.explanations[name], IntegratedGradients)
        steps = 1 if protocol is None else self.extent.steps
        climbed, judged = plan.count_gradients(steps, along_path=nodes)
        # A second derivative costs about three gradients.
        each = (20 + 3 * climbed + judged) * unit.gradient
        if not nodes and protocol is None:
            each = 20 * unit.gradient + 4 * unit.maps.get(name, 0.0)
        # An image of many nodes is a batch of its own; misread ones are not climbed.
        images = self.extent.attacked
        return radii * images * each, radii * (images if nodes else 1)

    def costs(self) -> dict[str, float]:
        """Predicted seconds of every part, with as many processes as the options say."""
        unit, examples = self._unit, self.examples
        levels = len(self.options.levels)
        passes = 4 * len(CURVES) * levels + 2 * len(CURVES) * levels + self.options.grid**2
        own = examples * len(self.methods) * (passes * unit.forward + 20 * unit.gradient)
        own += sum(4 * examples * seconds for seconds in unit.maps.values())
        predict_cost = self.extent.tested * unit.forward if self.extent.tested else 0.0
        predict_cost += self.extent.attacked * (QUERIES * unit.forward + 20 * unit.gradient)
        workers = self._workers
        found = {"own": (own + predict_cost) / min(workers, len(self.methods) + 1)}
        for part in self.parts():
            seconds, shared = part.cost()
            found[part.name] = seconds / min(workers, shared)
        return found

    @property
    def _workers(self) -> int:
        return self.options.workers or usable_cores()

    def announce(self) -> str:
        """How long it will take, about, and what takes most of it."""
        costs = self.costs()
        most = sorted(costs.items(), key=lambda pair: -pair[1])[:3]
        told = ", ".join(f"{name} {duration(seconds)}" for name, seconds in most)
        return (
            f"About {duration(sum(costs.values()))} with {self._workers} process(es), by a timing of one "
            f"image ({self.gflops:.2g} GFLOP each); the longest: {told}. --budget 10m stops earlier."
        )

    def forecast(self) -> str | None:
        """With --dry-run, what it costs, part by part; nothing is written."""
        if not self.options.dry_run:
            return None
        lines = [f"{name:<40} {duration(seconds)}" for name, seconds in self.costs().items()]
        return "\n".join([self.announce(), *lines])

    def work(self, work: Work) -> None:
        """Its own steps, then its parts, until all is done, the budget is spent, or somebody stops it."""
        self.done: dict[str, StudyResult] = {}
        self.seconds: dict[str, float] = {}
        steps: list[tuple[str, Callable[[ProgressCallback, Executor], Any]]] = [
            ("own", lambda _progress, _executor: self._measure(work)),
            *((part.name, part.do) for part in self.parts()),
        ]
        with share_subjects(self.options, self.subject, self.local_device):
            self._do(steps, work)
        self.answers = self._answers(work)

    def _do(self, steps: Sequence[tuple[str, Callable[..., Any]]], work: Work) -> None:
        budget = Budget(self.limit, {} if self.limit is None else self.costs())
        for name, do in steps:
            why = "interrupted" if self.interrupted else name != "own" and budget.refuse(name)
            if why:
                self.left_out[name] = why
                continue
            begun = time.monotonic()

            def tell(what: str, state: Progress, name: str = name) -> None:
                work.progress(f"{name}: {what}", state)

            try:
                result = do(tell, work.executor)
            except KeyboardInterrupt:
                self.interrupted = True
                self.left_out[name] = "interrupted"
                continue
            except VeridicalError as error:
                # One question that cannot be asked of this model leaves the others.
                self.left_out[name] = _reason(error)
                continue
            self.seconds[name] = budget.spend(name, time.monotonic() - begun)
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
        except KeyboardInterrupt:
            # What is done is kept, and shown.
            for group in dict.fromkeys(case.group for case in self.all_cases):
                cases = [case for case in self.all_cases if case.group == group]
                if all(work.is_done(case) for case in cases):
                    work.run(cases)
                else:
                    self.failed.add(group)
                    self.left_out[f"maps of {group}" if group in self.methods else group] = "interrupted"
            raise

    def run(
        self, progress: ProgressCallback | None = None, *, executor: Executor | None = None
    ) -> StudyResult:
        """Do what is not done; interrupted, write the page of what there is and raise KeyboardInterrupt."""
        result = super().run(progress, executor=executor)
        if self.interrupted:
            raise KeyboardInterrupt
        return result

    # What came out

    def results(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - put together when all was done
        """Answers, flags, evidence by attribution, disagreement, failures, and what is missing."""
        found = self.answers.to_dict()
        commands: dict[tuple[str, str | None], list[str]] = {}
        for part in self.parts():
            for question in part.questions if part.command is not None else ():
                commands.setdefault((question, part.attribution), []).append(str(part.command))
        apart = {question for question, _ in commands}
        # No command line makes an audit with an attribution in memory.
        whole = None if self.in_memory or self.unnamed else _own_command(self.options, self)
        for one in found["answers"]:
            own = [] if whole is None or one["question"] in apart else [whole]
            given = commands.get((one["question"], one["attribution"]), own)
            one["command"] = " && ".join(given) or None
        return {
            "examples": self.examples,
            "attacked": self.attacked,
            **found,
            "remarks": [one.to_dict() for one in self.remarks],
            "left_out": self.left_out,
        }

    def _answers(self, work: Work) -> Answers:
        """All that was measured, with what it means."""
        measured = [] if CONTROL in self.failed else [one for one in self.methods if one not in self.failed]
        tuned = bool(self.options.finetune) and "model" not in self.failed
        done = Done(
            own={name: work.arrays(self.cases_of(name)[0]) for name in measured},
            tuned={name: work.arrays(self.cases_of(name, "delete")[0]) for name in measured if tuned},
            parts=self.done,
        )
        if "model" not in self.failed:
            (case,) = self.cases_of("model", "predict")
            done.predicted = {**work.plain(case), **work.arrays(case)}
            if tuned:
                done.fine_tuned = dict(work.plain(self.cases_of("model", "finetune")[0])["accuracy"])
        return Answers(self, done)

    def surroundings(self) -> dict[str, Any]:
        """What was audited, where it lay."""
        return {"run": self.subject.title}

    def timing(self, work: Work) -> dict[str, Any]:  # noqa: ARG002 - the parts' own
        """Seconds of every part."""
        return {"parts": self.seconds}

    def pictures(self, work: Work) -> Arrays:  # noqa: ARG002 - as above
        """Images of every class, and those whose maps fail most, with all maps; and every image's values.

        index, label and seen (n,), image uint8 (n, C, H, W), "saliency/ATTRIBUTION" float16 (n, H, W),
        classes; region bool (n, H, W) where they are known; "values/QUESTION/ATTRIBUTION" float64 (N,), NaN
        where an image has none.
        """
        answers = self.answers
        values = {f"values/{question}/{name or ''}": one for (question, name), one in answers.values.items()}
        index = answers.shown
        arrays: Arrays = {
            "index": np.asarray(index, dtype=np.int64),
            "label": self.data.test.labels[index].numpy(),
            "image": self.data.test.images[index].numpy(),
            "classes": np.asarray(self.data.classes, dtype=np.str_),
        }
        for name, kept in answers.done.own.items():
            arrays[f"saliency/{name}"] = kept["saliency"][index]
            arrays["seen"] = kept["seen"][index]
        if self.region is not None:
            arrays["region"] = regions_of(self.data)[index].numpy()
        return {**arrays, **values}

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
        left_out = ("run", "data", "region", "attributions", "against")
        return {
            "model": result.config["run"]["model"],
            **{name: value for name, value in result.config.items() if name not in left_out},
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
) -> AuditReport:
    """Audit a model's explanations; see `Audit` for the questions, and `AuditOptions` for the options.

    model: an nn.Module from images in [0, 1] to logits (N, K), which stays as it is; a run's folder; or what
    --model takes. data: a `veridical.data.Dataset`, a torch Dataset or DataLoader of (image, label), or what
    --data takes, with `masks` as --masks; None for a run's own. classes: names of its classes. attributions:
    names, or a mapping of names to attributions of one's own: functions called as (model, inputs, target), or
    maps of all test images (M, C, H, W). out: folder, which continues an audit that was interrupted; None
    makes a temporary one. A model or an attribution in memory is examined in this process.
    """
    folder = Path(tempfile.mkdtemp(prefix="veridical-audit-")) / "audit" if out is None else Path(out)
    given: dict[str, Any] = {"out": str(folder), **options}
    with ExitStack() as stack:
        examples: Dataset | None = None
        if isinstance(data, str | Path):
            given["data"] = str(data)
        elif data is not None:
            examples = data if isinstance(data, Dataset) else from_examples(data, classes)
            given["data"] = _keep_examples(examples, folder)
        if isinstance(model, nn.Module):
            if data is None:
                raise argument_error("data", None, "the images", "A model does not know its own: give data.")
            entry = _entry_in_memory(
                model,
                examples or _load_for_memory(given),
                given.get("output"),
                bool(given.get("one_logit")),
            )
            given |= {"model": stack.enter_context(MODELS.registered(entry)).name, "workers": 1}
        else:
            given["run" if (Path(model) / RESULT).exists() else "model"] = str(model)
        unnamed = set()
        for name, method in attributions.items() if isinstance(attributions, Mapping) else ():
            if not isinstance(method, str) or name != method:
                unnamed.add(name)
                stack.enter_context(ATTRIBUTIONS.registered(_attribution_in_memory(name, method)))
                given["workers"] = 1
        given["attribution"] = list(attributions)
        study = Audit(AuditOptions(**given))
        study.in_memory = isinstance(model, nn.Module)
        study.unnamed = unnamed
        if isinstance(model, nn.Module):  # of which a copy in eval mode is examined
            study.remarks = list({one.name: one for one in (*inspect_form(model), *study.remarks)}.values())
        return cast("AuditReport", study.run())


def _load_for_memory(given: Mapping[str, Any]) -> Dataset:
    """The images that options name for a model in memory, of whose preprocessing nothing is recorded."""
    return load_data(
        given["data"],
        given.get("data_root"),
        equalise=bool(given.get("equalise")),
        size=given.get("image_size"),
        trust_code=bool(given.get("trust_code")),
    )


def _keep_examples(examples: Dataset, folder: Path) -> str:
    """A file of images in memory beside the audit's folder, for its jobs; its name follows the content."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    content = examples.checksum[:12]
    if isinstance(examples, MaskedDataset):  # the same images may be asked for with other masks
        content += f"-{region_record(examples)['sha256'][:12]}"
    path = folder.parent / f"{folder.name}-data-{content}.npz"
    if isinstance(examples, MaskedDataset) and not path.exists():
        save_masked(path, examples)
    return write_source(examples, path)["data"]


def _entry_in_memory(model: nn.Module, data: Dataset, output: str | None, one_logit: bool) -> ModelEntry:
    """A model of this process by a name that tells it from others: its weights, and what it says of images.

    Constants and code are no weights; they show in the logits, which `output` and `one_logit` make of what it
    returns.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        expected = "a model that can be copied and smoothed, as it was before torch.jit"
        raise argument_error("model", f"a scripted {type(model).__name__}", expected)
    copied = private_copy(model)
    like = parameter_like(copied)
    inputs, _ = data.test.batch(range(min(8, len(data.test))), like.dtype, like.device)
    head = Examined(copied, Preprocessing(), output, one_logit)
    said = predict(head, inputs).double().cpu().numpy().tobytes()
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
    if isinstance(method, Tensor | np.ndarray):
        maps = StoredMaps(torch.as_tensor(method))
        return AttributionEntry(name, "maps in memory", lambda: maps, is_differentiable=False)
    if not callable(method):
        expected = "a name, a function called as (model, inputs, target), or maps of all test images"
        raise argument_error("attributions", method, expected)
    return AttributionEntry(name, "an attribution in memory", lambda: method, is_differentiable=None)


class _Unit(NamedTuple):
    """Seconds for one image: a forward pass, a gradient, and the map of each attribution."""

    forward: float
    gradient: float
    maps: Mapping[str, float]


def _timed(call: Callable[[], object]) -> float:
    """Seconds of a second call: the first also sets things up."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _load(values: Mapping[str, Any], context: Context) -> tuple[nn.Module, Dataset, Any]:
    """In a job, the model, the data and the attribution that its values name."""
    model = load_model(context.where, values["weights"], trust_code=context.trust_code)
    data = load_source(context.where, values["data"]["checksum"])
    name = context.where.get(f"maps {values['attribution']}", values["attribution"])
    return model, data, _create(name, data, values["seed"], context.trust_code)


def _create(name: str, data: Dataset, seed: int, trust_code: bool) -> Any:
    """The attribution of a name, or the maps of a file."""
    if _is_file(name):
        return stored_maps(name)
    return create_attribution(name, seed=seed, trust_code=trust_code, background=data.train)


def _explain(
    model: nn.Module, data: Dataset, numbers: range, method: Any, batch: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The predicted classes of the first test images, and their maps, float32 (N, C, H, W)."""
    split = data.test.subset(numbers)
    seen = predict_classes(model, split)
    return seen, dataset_maps(model, split, method, target=seen, batch_size=batch, seed=seed).float()


def _check_thresholds(thresholds: Mapping[str, float]) -> None:
    for name, value in thresholds.items():
        if name not in QUESTIONS:
            raise argument_error("thresholds", name, f"questions: {', '.join(QUESTIONS)}")
        if not math.isfinite(value):
            raise argument_error(f"thresholds.{name}", value, "a finite number")


def _is_file(name: str) -> bool:
    return name.endswith(".npz")


def _makes_graph(method: Any) -> bool:
    """Whether an attribution says that its map can be differentiated, as ours do, by create_graph."""
    return isinstance(method, AttributionMethod) or "create_graph" in signature(method).parameters


def _reason(error: VeridicalError) -> str:
    """The first job that failed and why, without its traceback; the folder of the jobs has the rest."""
    return "\n".join(str(error).splitlines()[:2])


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


def _own_command(options: AuditOptions, audit: Audit) -> str:
    """The audit itself, with the options that its numbers depend on."""
    extent = audit.extent._asdict() | {"protocol": audit.extent.protocols}
    names = ("examples", "attacked", "tested", "steps", "repeats", "protocol")
    told = {"attribution": options.attribution, "norm": options.norm, "radius": audit.radius}
    told |= {name: extent[name] for name in names}
    if extent["shares"]:
        told["shares"] = extent["shares"]
    told |= {
        name: getattr(options, name) for name in ("levels", "grid", "finetune", "retrain", "seed", "out")
    }
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
