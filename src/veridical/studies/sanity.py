"""Whether explanations care what a network has learnt: random weights, permuted labels, images of noise.

Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018; Hedström et al., "Sanity checks revisited:
an exploration to repair the model parameter randomisation test", 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from veridical.attribution.method import Attribution, predict_classes
from veridical.attribution.registry import create_attribution
from veridical.data import Dataset, Split
from veridical.data.dataset import load_source
from veridical.faithfulness.diffroar_plan import SEEDS_APART
from veridical.faithfulness.randomisation import (
    INVARIANT_ABOVE,
    LEARNT_BY_HEART,
    PASSES_BELOW,
    InvarianceVerdict,
    OrderName,
    Smoothing,
    combine_verdicts,
    compare_unrelated,
    draws_interval,
    fresh_seed,
    is_nearer,
    judge_remaining,
    judge_rise,
    model_randomisation,
    permute_labels,
    randomised_complexity,
    remaining_similarity,
    replace_by_noise,
    shorten_training,
    smooth_maps,
)
from veridical.faithfulness.retraining import hash_recipe, resolve_architecture, resolve_training, train_fresh
from veridical.metrics.complexity import BINS
from veridical.metrics.intervals import Interval, mean_interval, proportion_interval
from veridical.metrics.maps import TOP_QUANTILE, pictures
from veridical.metrics.registry import compare_maps, measures, ssim_window
from veridical.report import Curve, Illustration, Panel, curves_illustration
from veridical.report.formats import DASH, listed, percent
from veridical.report.table import Column, Table
from veridical.runtime.checking import Factor, Limit, Repeats, Width
from veridical.runtime.errors import argument_error
from veridical.runtime.files import Arrays
from veridical.runtime.options import AttributionChoice, Gallery, Placement, SubjectChoice, TargetName
from veridical.studies.maps import (
    RUN,
    describe_methods,
    examples_panel,
    first_images,
    first_of_each_class,
    map_row,
)
from veridical.studies.study import (
    Case,
    Context,
    Study,
    StudyResult,
    Work,
    check_different,
    limit_count,
    list_settings,
    table_of,
)
from veridical.training.penalties import training_title
from veridical.training.run import load
from veridical.training.subject import fresh_model, load_model, load_subject

# The training on true data beside those on randomised ones.
CONTROL = "true"

MEASURES = measures("sanity")
SIMILARITY = [Column(f"similarity/{name}", one.label, "number") for name, one in MEASURES.items()]
LEARNT = [
    Column("training_accuracy", "training accuracy", "share"),
    Column("test_accuracy", "test accuracy", "share"),
]
TRAINING_WORDS = {CONTROL: "true data", "labels": "permuted labels", "data": "images of noise"}
TEST_WORDS = {
    "weights": "random weights",
    "smooth": "random weights by smoothed maps",
    "labels": "permuted labels",
    "data": "images of noise",
}
ORDERS = {
    "cascading": "Layers randomised one after the other, from the logits down",
    "independent": "One layer randomised at a time, the others trained",
    "smooth": "Layers randomised one after the other, from the image up, maps smoothed",
}
# What `model_randomisation` calls the order of a test; those that are not here have its names.
_ORDER_NAMES: dict[str, OrderName] = {"smooth": "bottom-up"}
# Test of a cascade and the name of its verdict.
CASCADES = {"cascading": "weights", "smooth": "smooth"}
COMPLEXITY = [
    Column("trained", "entropy, trained", "number", meaning="Of the histogram of a map's values, in nats."),
    Column("randomised", "entropy, all random", "number"),
    Column(
        "rise",
        "rise",
        "share",
        meaning="(all random - trained) / trained, a mean over images and draws of weights.",
    ),
    Column("verdict", "complexity"),
]

# Stages at the end of a cascade on which its verdict rests: all random, and all but one.
_LAST = 2
# Columns of the gallery for the cascade.
_MOST_STATES = 4

AtLeastTwo = Annotated[int, Limit(2, 10**9)]


@dataclass(frozen=True, kw_only=True)
class SanityOptions(AttributionChoice, Gallery, SubjectChoice, Placement):
    """Check whether a model's maps care what the network has learnt (Adebayo et al., 2018).

    Args:
        tests: What is randomised: the weights from the logits down (cascading), one layer at a time
            (independent), the labels of a new training (labels), the images of one (data). Those of Hedström
            et al. (2023): weights from the image up, with maps averaged over noisy images (smooth), and the
            rise of the maps' complexity when all weights are random (efficient).
        target: Class that is explained, by every network the same: the model's prediction or the label.
        examples: The first so many test images.
        repeats: Draws of fresh weights.
        smooth_samples: Noisy images of each image in the test smooth, which costs so many times as much.
        smooth_noise: Standard deviation of their noise, of images in [0, 1].
        stages: All stages of a cascade, or the last ones alone, on which the verdict rests.
        train_examples: Training images of each new training; None takes all.
        epochs: Length of each new training; it has to learn random labels by heart.
        learning_rate: Greatest learning rate of the new trainings; None is the run's.
        seed: Seed of fresh weights, permutations, noise and new trainings.
    """

    tests: list[Literal["cascading", "independent", "labels", "data", "smooth", "efficient"]] = field(
        default_factory=lambda: ["cascading", "independent", "labels", "data"]
    )
    target: TargetName = "predicted"
    examples: AtLeastTwo = 200
    repeats: Repeats = 5
    stages: Literal["all", "last"] = "all"
    smooth_samples: Width = 50
    smooth_noise: Factor = 0.1
    train_examples: AtLeastTwo | None = 1000
    epochs: Annotated[float, Limit(0, 1e5, above=True)] = 60.0
    learning_rate: Factor | None = None
    gallery: Annotated[int, Limit(0, 1000)] = 4


class Sanity(Study[SanityOptions]):
    r"""Check whether explanations care what a network has learnt: weights, labels, data made random.

    examples:
      veridical sanity --run runs/natural --data fashion-mnist \
          --attribution input-gradient captum:GuidedBackprop --out runs/sanity
      veridical sanity --run runs/natural --tests cascading efficient --examples 500 --out runs/weights
      veridical sanity --model cnn --weights cnn.pt --data fashion-mnist --out runs/mine

    An explanation that stays the same when the layers get fresh weights, or when the network was trained on
    permuted labels, does not show what the network has learnt. labels and data each take a new training, and
    one on true data beside them. An interrupted check is continued by the same command. DIR/report.html shows
    what came out, DIR/result.json has the numbers.
    """

    name = "sanity"
    question = "a sanity check of explanations"
    Options = SanityOptions

    def prepare(self) -> None:
        """Load the subject, and settle the new trainings."""
        options = self.options
        check_different("tests", options.tests)
        self.subject = load_subject(options, device=options.device)
        self.data = self.subject.data
        if min(self.data.shape[1:]) < 3:
            raise argument_error("data", f"images of {self.data.shape}", "images of at least 3 x 3 pixels")
        self.methods = describe_methods(options, self.data)
        self.examples = min(options.examples, len(self.data.test))
        count = len(self.data.train)
        self.train_examples = limit_count(options.train_examples, count)
        self.orders = [name for name in ORDERS if name in options.tests]
        randomised = [name for name in ("labels", "data") if name in options.tests]
        self.kinds = [CONTROL, *randomised] if randomised else []
        self.is_efficient = "efficient" in options.tests
        # Of the noise of maps, whatever weights are drawn.
        smoothing = Smoothing(options.smooth_samples, options.smooth_noise, options.seed)
        self.smoothing = asdict(smoothing) if "smooth" in options.tests else None
        self.model: dict[str, Any] | None = None
        self.training: dict[str, Any] | None = None
        # Weights alone need no new training.
        if self.kinds:
            run = None if self.subject.run is None else self.subject.run.settings
            self.model = resolve_architecture(
                options.model, options.model_options, self.data, run, trust_code=options.trust_code
            )
            overrides = {
                # An average of weights lags behind; robust objectives never learn random labels by heart.
                "averaging": 0.0,
                "epochs": options.epochs,
                "learning_rate": options.learning_rate,
                "train_examples": self.train_examples,
            }
            if run is not None:
                # Fewer images than the run had may not fill one of its batches.
                overrides["batch_size"] = min(run.optimise.batch_size, self.train_examples)
            part = _randomise_data(self.data, CONTROL, self.train_examples, options.seed)
            self.training = resolve_training(part, self.model, run, "natural", overrides)

    def config(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        options = self.options
        _, height, width = self.data.shape
        return {
            "run": self.subject.describe(),
            "data": self.data.describe(),
            "attributions": self.methods,
            "tests": [*self.orders, *self.kinds[1:], *(["efficient"] if self.is_efficient else [])],
            "smoothing": self.smoothing,
            "stages": options.stages,
            "bins": list(BINS) if self.is_efficient else None,
            "target": options.target,
            "examples": self.examples,
            "repeats": options.repeats,
            "similarity": {
                "measures": {name: measure.help for name, measure in MEASURES.items()},
                "ssim_window": ssim_window(height, width),
                "picture_quantile": TOP_QUANTILE,
            },
            "thresholds": {
                "nearly_invariant_above": INVARIANT_ABOVE,
                "passes_below": PASSES_BELOW,
                "learnt_by_heart": LEARNT_BY_HEART,
            },
            "model": self.model,
            "training": self.training,
            "train_examples": self.train_examples if self.training is not None else None,
            "seed": options.seed,
            "gallery": options.gallery,
        }

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        return super().where() | self.subject.where(self.options.data_root)

    def cases(self) -> Iterable[Case]:
        """New trainings, and each attribution's maps beside those of every other network."""
        options = self.options
        data = {"checksum": self.data.checksum, "name": self.data.name}
        trainings = {
            kind: Case(
                {
                    "kind": kind,
                    "data": data,
                    "examples": self.train_examples,
                    "random_seed": options.seed,
                    "model": self.model,
                    "training": self.training,
                    "recipe_source": hash_recipe(),
                    # Not the run's: with its initial weights a new training would resemble it for that alone.
                    "seed": fresh_seed(options.seed),
                },
                group=kind,
                step="train",
                stage="training and explaining",
                label=f"training on {kind} data",
                cost=1000.0,
            )
            for kind in self.kinds
        }
        yield from trainings.values()
        # Apart, so that the draws of two seeds are never the same.
        draws = range(options.seed * SEEDS_APART, options.seed * SEEDS_APART + options.repeats)
        others: list[tuple[str, dict[str, Any]]] = [("unrelated", {"kind": "unrelated"})]
        smooth = {} if self.smoothing is None else {"smoothing": self.smoothing}
        if smooth:
            others.append((_SMOOTH_UNRELATED, {"kind": "unrelated", **smooth}))
        for order in self.orders:
            how: dict[str, Any] = dict(smooth) if order == "smooth" else {}
            if options.stages == "last" and order != "independent":
                how["last"] = _LAST
            others += [(order, {"kind": order, "draw": draw, **how}) for draw in draws]
        others += [(kind, {"kind": "trained"}) for kind in self.kinds]
        if self.is_efficient:
            others.append(("efficient", {"kind": "efficient", "draws": list(draws)}))
        for name, method in self.methods.items():
            for other, against in others:
                training = trainings.get(other)
                yield Case(
                    {
                        "weights": self.subject.digest,
                        "data": data,
                        "attribution": name,
                        "method": method,
                        "target": options.target,
                        "examples": self.examples,
                        "seed": options.seed,
                        "gallery": options.gallery,
                        "against": against,
                        "model": dict(self.subject.facts["model"]),
                    },
                    group=f"{name}/{other}",
                    step="weigh" if other == "efficient" else "explain",
                    after=training,
                    # What a training left must be there before it is explained.
                    stage="training and explaining" if training is None else "explaining",
                    label=f"{name}, {against['kind']}",
                    cost=self._cost(other) * self.examples / 100,
                )

    def _cost(self, other: str) -> float:
        of_smooth = other in ("smooth", _SMOOTH_UNRELATED)
        own = 8.0 if other in ORDERS else 2.0
        return own * (self.options.smooth_samples if of_smooth else 1)

    def compared(self, name: str) -> dict[str, list[Case]]:
        """The cases of an attribution by what its maps are compared with."""
        smooth = [] if self.smoothing is None else [_SMOOTH_UNRELATED]
        others = ["unrelated", *smooth, *self.orders, *self.kinds]
        return {other: self.cases_of(f"{name}/{other}", "explain") for other in others}

    @staticmethod
    def train(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Train the architecture on randomised data; its accuracies on that and on the test images."""
        true = load_source(context.where, values["data"]["checksum"])
        data = _randomise_data(true, values["kind"], values["examples"], values["random_seed"])
        run = train_fresh(values, data, context.folder / RUN, context.where)
        right = predict_classes(run.model, data.train) == data.train.labels
        return {
            "training_accuracy": proportion_interval(int(right.sum()), len(right)),
            "test_accuracy": run.result["results"]["natural_accuracy"],
        }

    @staticmethod
    def explain(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Compare the maps of some test images with those of one kind of other network.

        values: against is {"kind": "unrelated"}, {"kind": "cascading" or "independent", "draw": seed of the
        fresh weights}, both with the fields of a `Smoothing` if maps are smoothed, or {"kind": "trained"}, of
        the run that `context.after` left. Returns the names of the
        states, similarities float64 (states, N) by measure, agrees bool (states, N), and pictures float16
        (states, gallery, H, W).
        """
        model, data, split, target = _load_examples(values, context)
        seen = predict_classes(model, split)
        shown = first_of_each_class(split.labels, values["gallery"])
        states = _states(model, data, split, target, values, context)
        names, similarities, predicted, maps = zip(*states, strict=True)
        return {
            "states": list(names),
            **{name: np.stack([one[name].cpu().numpy() for one in similarities]) for name in MEASURES},
            "agrees": np.stack([(classes == seen).numpy() for classes in predicted]),
            "pictures": np.stack([pictures(one[shown]).cpu().numpy().astype(np.float16) for one in maps]),
        }

    @staticmethod
    def weigh(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """How complex maps are, trained (N,) and for each draw of random weights (draws, N); bins (N,)."""
        model, data, split, target = _load_examples(values, context)
        found = randomised_complexity(
            model,
            split,
            _create_method(values, data, context),
            draws=values["against"]["draws"],
            fresh=fresh_model(context.where, data.shape, data.num_classes),
            target=target,
            map_seed=values["seed"],
            batch_size=context.batch,
        )
        return {
            name: getattr(found, name).cpu().numpy() for name in ("trained", "randomised", "rise", "bins")
        }

    def results(self, work: Work) -> dict[str, Any]:
        """Similarities and verdicts of every attribution, the new trainings, and notes."""
        trainings = {kind: dict(work.plain(*self.cases_of(kind, "train"))) for kind in self.kinds}
        learnt = {
            kind: (result["training_accuracy"]["value"] or 0.0) >= LEARNT_BY_HEART
            for kind, result in trainings.items()
        }
        attributions = {
            name: self._judge(
                {
                    other: [_Compared(work, case) for case in cases]
                    for other, cases in self.compared(name).items()
                },
                learnt,
            )
            for name in self.methods
        }
        if self.is_efficient:
            for name, entry in attributions.items():
                (case,) = self.cases_of(f"{name}/efficient", "weigh")
                entry["efficient"] = _describe_complexity(work.arrays(case))
        notes = [
            f"The training on {TRAINING_WORDS[kind]} got only "
            f"{trainings[kind]['training_accuracy']['value']:.1%} of its own labels right: it needs more "
            "--epochs, fewer --train-examples or another --learning-rate before its maps say something."
            for kind, enough in learnt.items()
            if not enough
        ]
        for name, entry in attributions.items():
            states = [state for order in ORDERS for state in entry.get(order, [])]
            missing = sum(state["undefined"]["spearman_signed"] for state in states)
            if missing:
                notes.append(
                    f"{name}: {missing:,} rank correlations have no value, since a map was constant; they "
                    "are left out."
                )
        return {
            "examples": self.examples,
            "trainings": trainings,
            "attributions": attributions,
            "notes": notes,
        }

    def _judge(self, compared: Mapping[str, list[_Compared]], learnt: Mapping[str, bool]) -> dict[str, Any]:
        """One attribution's similarities, and its verdicts by weights, labels and data."""
        references, entry = {}, dict[str, Any](verdicts={})
        for kind in ("unrelated", _SMOOTH_UNRELATED):
            for unrelated in compared.get(kind, []):
                place = unrelated.states.index("other image")
                references[kind] = {m: unrelated.similarity[m][place] for m in MEASURES}
                entry[kind] = _describe_unrelated(unrelated)
        reference = references["unrelated"]
        for order in self.orders:
            # Smoothed maps of two images are more alike than others are.
            level = references[_unrelated_of(order)]
            entry[order] = [
                {
                    "stage": state,
                    "randomised": place + 1 if order in CASCADES else 1,
                    **_describe_state(compared[order], place, level),
                }
                for place, state in enumerate(compared[order][0].states)
            ]
            if order in CASCADES:
                # With all stages fresh but the last one, and with that too.
                verdict = _verdict(entry[order][-2:], dict.fromkeys(MEASURES, True))
                entry["verdicts"][CASCADES[order]] = verdict
        entry["trainings"] = {kind: _describe_state(compared[kind], 0, reference) for kind in self.kinds}
        for kind in self.kinds[1:]:
            (control,), (one,) = compared[CONTROL], compared[kind]
            # A measure can tell only where the control shows that trainings of true data are nearer.
            telling = {
                m: learnt[kind] and is_nearer(control.similarity[m][0], one.similarity[m][0], measure.alike)
                for m, measure in MEASURES.items()
            }
            verdict = _verdict([entry["trainings"][kind]], telling)
            entry["verdicts"][kind] = {**verdict, "telling": telling}
        return entry

    def pictures(self, work: Work) -> Arrays:
        """Index and label (n,), image uint8 (n, C, H, W), classes, and maps by name, float16 from 0 to 1.

        "ATTRIBUTION/own" is the model's own (n, H, W), "ATTRIBUTION/cascading" those of the first draw
        (states, n, H, W), "ATTRIBUTION/KIND" those after each new training.
        """
        arrays = first_images(self.data, self.examples, self.options.gallery)
        for name in self.methods:
            for other, cases in self.compared(name).items():
                if other not in ("independent", "smooth", _SMOOTH_UNRELATED):
                    maps = work.arrays(cases[0])["pictures"]
                    key = "own" if other == "unrelated" else other
                    arrays[f"{name}/{key}"] = maps if other == "cascading" else maps[0]
        return arrays

    @classmethod
    def heading(cls, result: StudyResult) -> str:
        """The title of the page."""
        return f"Do the maps care what {_model_title(result)} has learnt?"

    @classmethod
    def lead(cls, result: StudyResult) -> str:
        """What was compared."""
        model = result.config["run"]["model"]["name"]
        return (
            f"Whether the explanations of {result.results['examples']:,} test images of "
            f"{result.config['data']['name']} change when the network ({_model_title(result)}, {model}) "
            "loses what it has learnt."
        )

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """One sentence for each attribution and test, and notes."""
        sentences = [
            _headline(name, test, judged, entry)
            for name, entry in result.results["attributions"].items()
            for test, judged in entry["verdicts"].items()
        ]
        sentences += [
            _complexity_headline(name, entry["efficient"])
            for name, entry in result.results["attributions"].items()
            if "efficient" in entry
        ]
        return [*sentences, *result.results["notes"]]

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """What remained in each state that a verdict rests on."""
        columns = ["explanation", "network", "verdict"]
        rows = [
            [name, network, judged["verdict"], *(_remaining(state["remaining"][m]) for m in MEASURES)]
            for name, entry in result.results["attributions"].items()
            for test, judged in entry["verdicts"].items()
            for network, state in _judged_states(entry, test).items()
        ]
        verdicts = Table([*columns, *(measure.label for measure in MEASURES.values())], rows)
        weighed = {
            name: entry["efficient"]
            for name, entry in result.results["attributions"].items()
            if "efficient" in entry
        }
        tables = {"Verdicts": verdicts} if rows or not weighed else {}
        return tables | ({"Complexity": table_of("explanation", COMPLEXITY, weighed)} if weighed else {})

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """Verdicts, similarity over the layers, new trainings, maps, and what was measured."""
        text = (
            "What remains of the maps in networks that have lost what told the classes: 100% is the same "
            "map, 0% has no more in common with it than the map of another image."
        )
        tables = cls.tables(result)
        panels = [Panel("Verdicts", [text], table=tables["Verdicts"])] if "Verdicts" in tables else []
        if "Complexity" in tables:
            panels.append(Panel("Complexity of the maps", [_COMPLEXITY_TEXT], table=tables["Complexity"]))
        for name, entry in result.results["attributions"].items():
            panels += [_order_panel(name, order, entry) for order in ORDERS if order in entry]
        if result.results["trainings"]:
            panels += _trainings_panels(result)
        panels += [_gallery_panel(result, name) for name in result.results["attributions"]]
        return [*panels, Panel("What was measured", _meaning(result.config))]

    @classmethod
    def facts(cls, result: StudyResult) -> dict[str, Any]:
        """How it was measured, as names and values."""
        config = result.config
        facts: dict[str, Any] = {
            "Images": f"the first {config['examples']:,} test images of {config['data']['name']}",
            "Explained class": "the network's prediction" if config["target"] == "predicted" else "the label",
            "Draws of fresh weights": str(config["repeats"]),
            **_smoothing_fact(config.get("smoothing")),
            "SSIM": f"gaussian window of {config['similarity']['ssim_window']} pixels",
            "Seed": str(config["seed"]),
        }
        if config["training"] is not None:
            steps = config["training"]["steps"]
            facts["New trainings"] = f"{config['train_examples']:,} images, {steps:,} steps"
        return facts | {name: list_settings(one) for name, one in config["attributions"].items()}


# Similarity of smoothed maps to those of other images and to noise.
_SMOOTH_UNRELATED = "smooth_unrelated"


def _unrelated_of(order: str) -> str:
    return _SMOOTH_UNRELATED if order == "smooth" else "unrelated"


def _load_examples(values: Mapping[str, Any], context: Context) -> tuple[nn.Module, Dataset, Split, Tensor]:
    """In a step, the model, its data set, the images that are explained and the explained classes."""
    model = load_model(context.where, values["weights"], trust_code=context.trust_code)
    data = load_source(context.where, values["data"]["checksum"])
    split = data.test.subset(range(values["examples"]))
    target = predict_classes(model, split) if values["target"] == "predicted" else split.labels
    return model, data, split, target


def _create_method(values: Mapping[str, Any], data: Dataset, context: Context) -> Attribution:
    return create_attribution(
        values["attribution"], seed=values["seed"], trust_code=context.trust_code, background=data.train
    )


def _randomise_data(data: Dataset, kind: str, examples: int, seed: int) -> Dataset:
    """The training data of one kind: "true", with permuted "labels", or with noise for "data"."""
    part = shorten_training(data, examples, seed)
    change = {"labels": permute_labels, "data": replace_by_noise}.get(kind)
    return part if change is None else change(part, seed)


def _states(
    model: nn.Module, data: Dataset, split: Split, target: Tensor, values: Mapping[str, Any], context: Context
) -> Iterator[tuple[str, Mapping[str, Tensor], Tensor, Tensor]]:
    """What a model's maps are compared with.

    Of each other network (or map) its name, similarities by measure (N,), predictions (N,), and maps.
    """
    seed, batch, against = values["seed"], context.batch, values["against"]
    method = _create_method(values, data, context)
    smoothing = Smoothing(**against["smoothing"]) if "smoothing" in against else None
    explain = partial(
        smooth_maps,
        smoothing=smoothing,
        examples=split,
        attribution=method,
        target=target,
        batch_size=batch,
        seed=seed,
    )
    if against["kind"] in ORDERS:
        for one in model_randomisation(
            model,
            split,
            method,
            order=_ORDER_NAMES.get(against["kind"], against["kind"]),
            smoothing=smoothing,
            # The initial weights that its library draws; other networks are reset layer by layer.
            fresh=fresh_model(context.where, data.shape, data.num_classes),
            target=target,
            last=against.get("last"),
            seed=against["draw"],
            map_seed=seed,
            batch_size=batch,
        ):
            yield one.stage.name, one.similarity, one.predicted, one.maps
    elif against["kind"] == "unrelated":
        maps, seen = explain(model), predict_classes(model, split, batch)
        for other_map, similarity in compare_unrelated(maps, target, seed).items():
            yield other_map, similarity, seen, maps
    else:
        assert context.after is not None
        other = load(context.after / RUN, device=next(model.parameters()).device).model
        maps, others = explain(model), explain(other)
        # The other network explains the same classes; what it would say itself is recorded beside.
        seen = predict_classes(other, split, batch)
        yield "trained", compare_maps(maps, others, "sanity"), seen, others


class _Compared:
    """What an `explain` step left: names of states, similarities by measure (states, N), and agreement."""

    def __init__(self, work: Work, case: Case) -> None:
        arrays = work.arrays(case)
        self.states: list[str] = list(work.plain(case)["states"])
        self.similarity = {name: torch.from_numpy(arrays[name]) for name in MEASURES}
        self.agrees: Tensor = torch.from_numpy(arrays["agrees"])


def _describe_state(
    draws: Sequence[_Compared], place: int, reference: Mapping[str, Tensor]
) -> dict[str, Any]:
    """One state over the draws of its weights; reference: similarity to the map of another image (N,)."""
    similarity = {m: torch.stack([draw.similarity[m][place] for draw in draws]) for m in MEASURES}
    agrees = torch.stack([draw.agrees[place] for draw in draws])
    agreement: Interval = (
        proportion_interval(int(agrees.sum()), agrees.shape[1])
        if len(draws) == 1
        else draws_interval(agrees.double())
    )
    return {
        "agreement": agreement,
        "similarity": {m: draws_interval(values) for m, values in similarity.items()},
        "remaining": {
            m: remaining_similarity(values, reference[m], MEASURES[m].identical)
            for m, values in similarity.items()
        },
        # Such as rank correlations with a constant map.
        "undefined": {m: int(values.isnan().sum()) for m, values in similarity.items()},
    }


def _describe_unrelated(unrelated: _Compared) -> dict[str, Any]:
    """Similarity of a network's maps to maps that have nothing to do with them, by what those are."""
    return {
        state: {m: mean_interval(unrelated.similarity[m][place], undefined="exclude") for m in MEASURES}
        for place, state in enumerate(unrelated.states)
    }


def _describe_complexity(arrays: Arrays) -> dict[str, Any]:
    """What a `weigh` step left, with intervals and the verdict."""
    trained, randomised, rise = (torch.from_numpy(arrays[name]) for name in ("trained", "randomised", "rise"))
    interval = draws_interval(rise)
    return {
        "trained": mean_interval(trained, undefined="exclude"),
        "randomised": draws_interval(randomised),
        "rise": interval,
        "verdict": judge_rise(interval),
        "undefined": int(rise.isnan().sum()),
        "bins": float(arrays["bins"].mean()),
    }


def _verdict(states: Sequence[Mapping[str, Any]], telling: Mapping[str, bool]) -> dict[str, Any]:
    """By measure and over all whether maps care; one that cannot tell does not count towards passing."""
    judged: dict[str, InvarianceVerdict] = {}
    for measure in MEASURES:
        verdict = judge_remaining([state["remaining"][measure] for state in states])
        judged[measure] = "undecided" if verdict == "passes" and not telling[measure] else verdict
    return {"measures": judged, "verdict": combine_verdicts(judged, telling)}


# From a finished check to its page


def _model_title(result: StudyResult) -> str:
    """The checked network as people name it."""
    run = result.config["run"]
    return training_title(run) if "objective" in run else str(run["model"]["name"])


def _headline(name: str, test: str, judged: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    against = TEST_WORDS[test]
    if judged["verdict"] == "passes":
        return f"{name} passes against {against}: its maps become as unlike as those of unrelated images."
    if judged["verdict"] == "undecided":
        why = "its maps change, and the intervals leave open by how much"
        if "telling" in judged and not any(judged["telling"].values()):
            why = "the control is no nearer, or the new network did not learn its data by heart"
        return f"{name} is undecided against {against}: {why}."
    alike = [m for m, verdict in judged["measures"].items() if verdict == "nearly invariant"]
    left = max(_left(entry, test, measure) for measure in alike)
    by = listed([MEASURES[measure].label for measure in alike])
    return (
        f"{name} is nearly invariant against {against}, by {by}: up to {percent(left, 0)} of what tells "
        "its maps from those of other images is still there."
    )


def _complexity_headline(name: str, weighed: Mapping[str, Any]) -> str:
    change = _remaining(weighed["rise"], 1)
    if weighed["verdict"] == "rises":
        return f"{name}: its maps are more complex in networks with random weights, by {change}."
    if weighed["verdict"] == "does not rise":
        return f"{name}: its maps are no more complex in networks with random weights: {change}."
    return f"{name}: whether its maps are more complex in networks with random weights is open: {change}."


def _left(entry: Mapping[str, Any], test: str, measure: str) -> float:
    """The most that remained in a state that the verdict rests on."""
    return max(state["remaining"][measure]["value"] or 0.0 for state in _judged_states(entry, test).values())


def _judged_states(entry: Mapping[str, Any], test: str) -> dict[str, Mapping[str, Any]]:
    """The states that the verdict of a test rests on, by what stands in them for the checked network."""
    order = {verdict: order for order, verdict in CASCADES.items()}.get(test)
    if order is None:
        return {f"trained on {TRAINING_WORDS[test]}": entry["trainings"][test]}
    *before, last = entry[order]
    smoothed = ", smoothed" if order == "smooth" else ""
    states = {f"random but {last['stage']}{smoothed}": before[-1]} if before else {}
    return {**states, f"all random{smoothed}": last}


def _remaining(interval: Mapping[str, Any], digits: int = 0) -> str:
    if interval["value"] is None:
        return DASH
    if interval["low"] is None:
        return percent(interval["value"], digits)
    low, high = (percent(interval[end], digits) for end in ("low", "high"))
    return f"{percent(interval['value'], digits)} ({low} to {high})"


_COMPLEXITY_TEXT = (
    "The entropy of the histogram of a map's values, in the network as trained and in networks with random "
    "weights. These have learnt nothing that a map could single out, so maps that show what was learnt are "
    "expected to be more complex there. A rise does not say that they do: it says that maps changed in this "
    "way."
)


def _smoothing_fact(smoothing: Mapping[str, Any] | None) -> dict[str, str]:
    if smoothing is None:
        return {}
    return {"Smoothed maps": f"{smoothing['samples']:,} noisy images, deviation {smoothing['noise']:g}"}


def _meaning(config: Mapping[str, Any]) -> list[str]:
    """Paragraphs on what was measured and how the verdicts come about."""
    above, below = (config["thresholds"][name] for name in ("nearly_invariant_above", "passes_below"))
    quantile = config["similarity"]["picture_quantile"]
    more = []
    if "smooth" in config["tests"]:
        more.append(
            "Smoothed maps are means over noisy images. Their layers are randomised from the image up, and "
            "the verdict rests on all layers random but the logits' and on all; unrelated is the similarity "
            "to the smoothed map of another image."
        )
    if "efficient" in config["tests"]:
        least, most = config["bins"]
        more.append(
            "Complexity is the entropy of the histogram of a map's values, with their signs, in bins from "
            f"its least to its greatest value: from {least} to {most} of them, as many as the rule of "
            "Freedman and Diaconis gives the trained network's map, and the same number for the random "
            "networks'. It rises if the whole 95% interval of the relative change lies above 0."
        )
    return [
        *more,
        (
            "Every network explains the same class of an image, so that only the network differs. Similarity "
            "is Spearman's rank correlation of all values of two maps, with their signs (signed ranks) and "
            "by their sizes (ranks of sizes), and the structural similarity (SSIM) of the maps as pictures: "
            "sizes summed over channels, on a scale from zero to the map's own "
            f"{percent(quantile, 1)} quantile."
        ),
        (
            "What remains is (similarity - unrelated) / (1 - unrelated), where unrelated is the similarity "
            "to the map of another image by the same network: 100% is the same map, 0% has no more in common "
            "with it than another image's. The verdict on random weights rests on two states: all layers "
            "random but the one next to the image, and all layers random. Nearly invariant: at one of them "
            f"the 95% interval lies above {percent(above, 0)}. Passes: at both it lies below "
            f"{percent(below, 0)}. One measure is enough to be nearly invariant; all must pass."
        ),
        (
            "A network that was trained on permuted labels or on images of noise has learnt nothing that "
            "carries over. Trainings differ anyway: a measure counts towards passing only where the control, "
            "trained on true data, is clearly nearer to the checked network, and where the training accuracy "
            f"reached {percent(config['thresholds']['learnt_by_heart'], 0)}."
        ),
        (
            "Intervals join two sources: the images, and the draws of fresh weights. They do not cover "
            "another training of the checked network, nor of the new ones."
        ),
    ]


def _order_panel(name: str, order: str, entry: Mapping[str, Any]) -> Panel:
    """One attribution and one order: the curves of all measures, and the numbers beside them."""
    unrelated = entry[_unrelated_of(order)]
    others = {f"({other}, for comparison)": {"similarity": one} for other, one in unrelated.items()}
    cascading = order in CASCADES
    towards = "up" if order == "smooth" else "down"
    return Panel(
        f"{ORDERS[order]}: {name}",
        illustrations=[_curves(entry[order], unrelated["other image"], cascading)],
        table=table_of(
            f"randomised {towards} to" if cascading else "randomised",
            [Column("agreement", "same prediction", "share"), *SIMILARITY],
            {state["stage"]: state for state in entry[order]} | others,
        ),
    )


def _curves(
    states: Sequence[Mapping[str, Any]], unrelated: Mapping[str, Any], cascading: bool
) -> Illustration:
    """Similarity over the number of randomised stages, or over the stage; dashed what is unrelated."""
    x = list(range(0 if cascading else 1, len(states) + 1))
    curves = []
    for colour, (measure, one) in enumerate(MEASURES.items()):
        shown = [state["similarity"][measure] for state in states]
        if cascading:  # with nothing randomised, the same map
            shown = [dict.fromkeys(("value", "low", "high"), 1.0), *shown]
        curves.append(Curve.through(one.label, x, shown, colour=colour))
        level = unrelated[measure]["value"]
        curves.append(Curve("", x, [level] * len(x), dashed=True, colour=colour))
    return curves_illustration(
        curves,
        "Similarity to the trained network's map. Dashed: similarity to the map of another image.",
        x_label="layers randomised" if cascading else "the randomised layer, 1 being the logits'",
        y_label="similarity to the trained map",
        y_bounds=(-1.0, 1.0),
    )


def _trainings_panels(result: StudyResult) -> list[Panel]:
    """What the new networks have learnt, and for each attribution how alike their maps are."""
    results = result.results
    text = (
        "Networks of the same architecture, trained anew on "
        f"{result.config['train_examples']:,} images. Permuted labels and images of noise can only be learnt "
        "by heart, and carry nothing over to the test images."
    )
    learnt = {TRAINING_WORDS[kind]: one for kind, one in results["trainings"].items()}
    panels = [Panel("New trainings", [text], table=table_of("trained on", LEARNT, learnt))]
    for name, entry in results["attributions"].items():
        states = {TRAINING_WORDS[kind]: state for kind, state in entry["trainings"].items()}
        states["(other image, for comparison)"] = {"similarity": entry["unrelated"]["other image"]}
        table = table_of("trained on", SIMILARITY, states)
        panels.append(Panel(f"Maps after new trainings: {name}", table=table))
    return panels


def _gallery_panel(result: StudyResult, name: str) -> Panel:
    """Images and their maps by one attribution: of the network as trained, and of changed ones."""
    arrays, entry = result.arrays, result.results["attributions"][name]
    columns: dict[str, Any] = {"trained": arrays[f"{name}/own"]}
    if "cascading" in entry:
        states = entry["cascading"]
        chosen = np.unique(np.linspace(0, len(states) - 1, min(_MOST_STATES, len(states))).round())
        columns |= {
            f"down to {states[place]['stage']}": arrays[f"{name}/cascading"][place]
            for place in chosen.astype(int).tolist()
        }
    columns |= {f"trained on {TRAINING_WORDS[kind]}": arrays[f"{name}/{kind}"] for kind in entry["trainings"]}
    rows = [
        map_row(arrays["classes"][label], arrays["image"][place], [maps[place] for maps in columns.values()])
        for place, label in enumerate(arrays["label"].tolist())
    ]
    return examples_panel(f"Maps: {name}", ["Each map is on a scale of its own."], rows, list(columns))
