"""How far models, and their maps, rely on a planted shortcut: a patch that agrees with the class in training.

Shah, Jain, Netrapalli, "Do input gradients highlight discriminative features?", NeurIPS 2021, ask the same of
images whose truth is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.attribution.method import dataset_maps, predict_classes
from veridical.attribution.registry import check_on_black, create_attribution
from veridical.data.dataset import MaskedDataset, describe_source
from veridical.data.shortcut import ABSENT, shortcut_variants
from veridical.metrics.intervals import SHARE, over_runs, two_intervals
from veridical.metrics.localisation import LEVELS
from veridical.report import Curve, Interval, Panel, curves_illustration
from veridical.report.table import Column, Table, write_points
from veridical.runtime.checking import FilePath, Share, Width
from veridical.runtime.files import Arrays
from veridical.runtime.options import (
    CodeName,
    DataChoice,
    Gallery,
    NormName,
    PatchOptions,
    Placement,
    ShortcutOptions,
    ShortcutTestName,
    TrainingGrid,
)
from veridical.studies.maps import (
    check_data,
    describe_methods,
    examples_panel,
    first_of_each_class,
    make_topk_curve,
    map_measures,
    map_row,
    measures_over_seeds,
    scaled_saliency,
    topk_panel,
    train_step,
)
from veridical.studies.study import (
    Case,
    Context,
    Study,
    StudyResult,
    Work,
    check_different,
    compare,
    limit_count,
    list_settings,
    table_of,
)
from veridical.training.penalties import check_supported, training_title
from veridical.training.recipes import Settings
from veridical.training.task import predict_cost, study_settings, training_fields

# The test images: the patch as in training, independent of the class, and not there.
VARIANTS: tuple[ShortcutTestName, ...] = ("agreeing", "moved", "gone")

# Variants in which a model that relies on the patch loses accuracy.
LOST = ("moved", "gone")

# Test images whose maps are kept, the first ones of each class.
PICTURES = 10

_FOLLOWS = (
    "Of the moved images whose patch stands for another class than the image's (by its place, or as it is "
    "there or missing), how many are classified as the patch says and not as the image shows. It separates "
    "reliance on the patch from mere disturbance by it."
)
_ATTACKED = "Accuracy under the attack of the training's own ball, on images without a patch."
RELIANCE = (
    *(Column(f"accuracy/{variant}", variant, "share") for variant in VARIANTS),
    *(Column(f"lost/{variant}", f"lost, {variant}", "points") for variant in LOST),
    Column("follows", "follows the patch", "share", None, _FOLLOWS),
    Column("adversarial_accuracy", "attacked", "share", None, _ATTACKED),
)
_GONE = (
    "The mass at the pixels of the agreeing patch in images without it. What is still there is not about "
    "this image: the model looks where the patch usually is."
)
MAPS = (
    Column("agreeing/mass", "mass on the patch", "share"),
    Column("agreeing/area/examples/value", "its area", "share"),
    Column("agreeing/excess", "beyond the area", "points"),
    Column("gone/mass", "where it was, gone", "share", None, _GONE),
    Column("agreeing/pointing", "strongest value on it", "share"),
    Column("agreeing/auc", "AUC", "number"),
    Column("agreeing/zero", "exact zeros", "share"),
)

RELIANCE_TEXT = [
    (
        "Accuracy on the same test images with the patch as in training (agreeing), at a place (or with a "
        "presence) independent of the class (moved), and without it (gone). Lost: agreeing minus the other, "
        "in percentage points, paired by image. 95% intervals are over seeds where there are several, else "
        "over images."
    ),
    (
        "Patch tells nothing: the control, trained with a patch whose place (or presence) is independent of "
        "the class. What it loses when the patch is gone, and what of its maps lies on it, is what a patch "
        "does by itself; agreeing and moved images are alike to it."
    ),
]

# One data set with each kind of test images.
Planted = Mapping[ShortcutTestName, MaskedDataset]


@dataclass(frozen=True, kw_only=True)
class ShortcutStudyOptions(TrainingGrid, PatchOptions, Gallery, DataChoice, Placement):
    """Train on images with a planted shortcut and measure how far models, and their maps, rely on it.

    Args:
        data: Data set that the patch is planted in: fashion-mnist, mnist, mnist-5k or an .npz file.
        norm: Norm of the ball of the robust objectives.
        code: What of the patch agrees with the class, its place or its presence.
        rate: Probabilities that a training image's patch agrees with its class, each of which is trained.
        control: Also train with a patch that tells nothing, which shows what a mere patch does.
        attribution: Explanations by name: input-gradient, input-gradient-loss or smoothgrad, since those that
            multiply by the image are zero on a black ground.
        batch: Images whose attributions are computed at a time.
        gallery: Images shown in the report, at most 10.
        seed: First seed of the trainings, and the seed of the patches.
    """

    data: FilePath = "fashion-mnist"
    norm: NormName = "linf"
    rate: list[Share] = field(default_factory=lambda: [0.95])
    control: bool = True
    attribution: list[str] = field(default_factory=lambda: ["input-gradient"])
    batch: Width = 100


@dataclass(frozen=True)
class Condition:
    """One kind of training: a recipe on images whose patch agrees with the class at a rate.

    control: the rate is chance, so that the patch tells nothing. settings: of its first seed. images: the
    record of the data with the patch gone in testing. attributions: what explains, on these data.
    """

    control: bool
    shortcut: ShortcutOptions
    settings: Settings
    images: Mapping[str, Any]
    attributions: Mapping[str, Any]


class Shortcut(Study[ShortcutStudyOptions]):
    r"""Train on images with a planted shortcut and measure how far models, and their maps, rely on it.

    examples:
      veridical shortcut --data fashion-mnist --objective natural adversarial \
          ig-norm ig-sum-norm --out runs/shortcut
      veridical shortcut --data mnist-5k --model mlp --code presence --rate 0.9 1.0 --out runs/presence

    In training a small patch agrees with the class, by its place or presence, at the given rate. In testing
    it agrees, is moved, or is gone: what is lost is how far a model relied on it. An interrupted study is
    continued by the same command. DIR/report.html shows what came out, DIR/result.json has the numbers.
    """

    name = "shortcut"
    title = "Do models, and their maps, rely on a planted shortcut?"
    question = "do models rely on a shortcut?"
    Options = ShortcutStudyOptions

    def prepare(self) -> None:
        """Make the data, and fill every gap of the options."""
        options = self.options
        for name in options.attribution:
            check_on_black(name)
        for name in ("objective", "rate"):
            check_different(name, getattr(options, name))
        if options.radius is not None:
            check_different("radius", options.radius)
        robust = ("weight", "beta", "beta_from", "radius")
        check_supported(options.objective, {name: getattr(options, name) for name in robust})
        radii: list[float | None] = [None] if options.radius is None else [*options.radius]
        self.balls = [(options.norm, radius) for radius in radii]
        self.seeds = range(options.seed, options.seed + options.seeds)
        data = planted(self._shortcut(options.rate[0]), options.data_root)["gone"]
        self.classes = data.classes
        self.examples = len(data.test)
        self.explaining = {
            "attributions": describe_methods(options, data),
            "explained": limit_count(options.explained, self.examples),
            "levels": list(LEVELS),
            "map_seed": options.seed,
        }
        rates = [(rate, False) for rate in options.rate]
        if options.control:
            # At this rate the patch is independent of the class.
            rates.append((0.5 if options.code == "presence" else 1 / data.num_classes, True))
        self.conditions = dict(one for rate, control in rates for one in self._conditions(rate, control))

    def _conditions(self, rate: float, control: bool) -> Iterable[tuple[str, Condition]]:
        """By title every objective with every radius that it takes, on images of one rate of agreement."""
        options, shortcut = self.options, self._shortcut(rate)
        data = planted(shortcut, options.data_root)["gone"]
        agreement = ""
        if control:
            agreement = ", patch tells nothing"
        elif len(options.rate) > 1:
            agreement = f", agrees {100 * rate:.4g}%"
        methods = describe_methods(options, data)
        for settings in study_settings(options, self.balls, data):
            title = f"{training_title(settings.to_dict())}{agreement}"
            yield title, Condition(control, shortcut, settings, data.describe(), methods)

    def _shortcut(self, rate: float) -> ShortcutOptions:
        names = ("code", "size", "margin", "pattern", "contrast", "train_examples", "test_examples", "seed")
        source = describe_source(self.options.data, self.options.data_root, {})["data"]
        own = {name: getattr(self.options, name) for name in names}
        return ShortcutOptions(source=source, rate=rate, test="gone", **own)

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        arms = {
            title: {
                "control": one.control,
                "shortcut": asdict(one.shortcut),
                "data": dict(one.images),
                "training": training_fields(one.settings),
            }
            for title, one in self.conditions.items()
        }
        return {"arms": arms, "seeds": list(self.seeds), **self.explaining}

    def cases(self) -> Iterable[Case]:
        """A training and its measurement for each condition and seed."""
        for title, one in self.conditions.items():
            for seed in self.seeds:
                values = {
                    "shortcut": asdict(one.shortcut),
                    "data": {"checksum": one.images["checksum"]},
                    "training": training_fields(one.settings),
                    "seed": seed,
                    **self.explaining,
                    "attributions": dict(one.attributions),
                }
                cost = predict_cost(one.settings)
                yield Case(values, title, seed, stage="training", label=f"{title}, seed {seed}", cost=cost)

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Train, then test and explain with the patch there, elsewhere and gone.

        `label` (N,), `correct/VARIANT` and `predicted/VARIANT` (N,), `follows` (N,), and for the first images
        the `map_measures` of every attribution as `maps/ATTRIBUTION/VARIANT/MEASURE`. For the page, of the
        first images of each class, `index` (n,), and of every variant image/ uint8 (n, C, H, W), region/ bool
        (n, H, W) and, for every attribution, saliency/ATTRIBUTION/ float16 (n, H, W), each map divided by its
        maximum.
        """
        variants = planted(ShortcutOptions(**values["shortcut"]), context.data_root)
        data, seed, explained = variants["gone"], values["map_seed"], range(values["explained"])
        check_data(data, values["data"]["checksum"])
        trained = train_step(data, values, context)
        labels, count = data.test.labels, len(explained)
        index = first_of_each_class(labels[:count], PICTURES)
        arrays: Arrays = {"label": labels.numpy(), "index": np.asarray(index, dtype=np.int64)}
        for variant, shown in variants.items():
            # Maps are measured on the patch, or where it was in agreement if it is gone.
            regions = variants["agreeing" if variant == "gone" else variant].test_mask
            predicted = predict_classes(trained.model, shown.test)
            arrays[f"predicted/{variant}"] = predicted.numpy()
            arrays[f"correct/{variant}"] = (predicted == labels).numpy()
            arrays[f"image/{variant}"] = shown.test.images[index].numpy()
            arrays[f"region/{variant}"] = regions[index].numpy()
            for name in values["attributions"]:
                method = create_attribution(name, seed=seed, background=data.train)
                classes = predicted[:count]
                maps = dataset_maps(
                    trained.model,
                    shown.test,
                    method,
                    indices=explained,
                    target=classes,
                    batch_size=context.batch,
                    seed=seed,
                ).float()
                measures = map_measures(
                    maps, regions[:count], levels=values["levels"], seed=seed, indices=explained
                )
                arrays |= {f"maps/{name}/{variant}/{measure}": array for measure, array in measures.items()}
                arrays[f"saliency/{name}/{variant}"] = scaled_saliency(maps[index])
        # Where the moved patch happens to agree with the label nothing can be told: NaN.
        arrays["follows"] = follows(arrays["predicted/moved"], variants["moved"], values["shortcut"]["code"])
        results, timing = trained.result["results"], trained.result["timing"]
        return {"adversarial_accuracy": results["adversarial_accuracy"], "timing": timing, **arrays}

    def results(self, work: Work) -> dict[str, Any]:
        """Every condition's own numbers, and its differences to the first condition on the same images."""
        measured: dict[str, list[Arrays]] = {title: [] for title in self.conditions}
        attacked: dict[str, list[Any]] = {title: [] for title in self.conditions}
        for case in self.all_cases:
            run = work.arrays(case)
            # 1 where an image is right with the patch as in training and wrong without, -1 the reverse.
            right = run["correct/agreeing"].astype(np.float64)
            measured[case.group].append(run | {f"lost/{to}": right - run[f"correct/{to}"] for to in LOST})
            attacked[case.group].append(work.plain(case)["adversarial_accuracy"])
        differences = {}
        for title, one in self.conditions.items():
            # The first condition on the same images: compared with others, the patch would differ too.
            reference = next(t for t, other in self.conditions.items() if other.shortcut == one.shortcut)
            if reference != title:
                pair = (measured[title], measured[reference])
                differences[title] = {
                    "reference": reference,
                    **{f"lost_{to}": _difference(*pair, f"lost/{to}") for to in LOST},
                    "mass": {
                        name: _difference(*pair, f"maps/{name}/agreeing/mass")
                        for name in self.options.attribution
                    },
                }
        return {
            "examples": self.examples,
            "explained": self.explaining["explained"],
            "arms": {
                title: self._condition_results(one, measured[title], attacked[title])
                for title, one in self.conditions.items()
            },
            "differences": differences,
        }

    def _condition_results(
        self, one: Condition, runs: Sequence[Arrays], attacked: Sequence[Mapping[str, Any] | None]
    ) -> dict[str, Any]:
        """A condition's accuracies, what it loses without the patch's help, and where its maps lie."""
        robust = one.settings.robust
        # A model without a ball of its own has not been attacked.
        known = [interval for interval in attacked if interval is not None]
        return {
            "objective": one.settings.objective,
            "norm": None if robust is None else robust.norm,
            "radius": None if robust is None else robust.radius,
            "rate": one.shortcut.rate,
            "control": one.control,
            "seeds": list(self.seeds),
            "accuracy": {
                variant: two_intervals([run[f"correct/{variant}"] for run in runs], SHARE)
                for variant in VARIANTS
            },
            "adversarial_accuracy": over_runs(known, SHARE) if known else None,
            "lost": {to: two_intervals([run[f"lost/{to}"] for run in runs]) for to in LOST},
            "follows": two_intervals([run["follows"] for run in runs], SHARE),
            "maps": {
                name: {variant: measures_over_seeds(runs, f"maps/{name}/{variant}/") for variant in VARIANTS}
                for name in self.options.attribution
            },
        }

    def pictures(self, work: Work) -> Arrays:
        """Images and regions of every condition, and the maps of its first training."""
        shown = self.options.gallery
        arrays: Arrays = {
            "arms": np.asarray(list(self.conditions), dtype=np.str_),
            "classes": np.asarray(self.classes, dtype=np.str_),
        }
        for number, title in enumerate(self.conditions):
            first = work.arrays(self.cases_of(title)[0])
            for name, values in first.items():
                kind = name.partition("/")[0]
                if kind in ("index", "image", "region", "saliency"):
                    arrays[f"{number}/{name}"] = values[:shown]
                elif kind in ("label", "predicted"):  # of all images
                    arrays[f"{number}/{name}"] = values[first["index"][:shown]]
        return arrays

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """What models rely on, and for each attribution where their maps lie."""
        arms = result.results["arms"]
        tables = {"Reliance": table_of("model", RELIANCE, arms)}
        for name in result.config["attributions"]:
            maps = {title: arm["maps"][name] for title, arm in arms.items()}
            tables[f"Maps: {name}"] = table_of("model", MAPS, maps)
        return tables

    @classmethod
    def lead(cls, result: StudyResult) -> str:
        """What was planted, and what is asked."""
        patch = _patch(result)
        rates = " or ".join(f"{100 * rate:.4g}%" for rate in _rates(result))
        return (
            f"A patch of {patch['size']} x {patch['size']} pixels was planted into the images of "
            f"{Path(patch['source']).name}. In training its {patch['code']} agrees with the class in {rates} "
            "of the images. How much accuracy is lost when it moves, or goes?"
        )

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """A sentence for each kind of training, from the intervals alone."""
        sentences = []
        for title, arm in result.results["arms"].items():
            lost = arm["lost"]["moved"]
            verb = "loses" if Interval.read(lost).sign > 0 else "is not shown to lose"
            sentence = f"{title} {verb} accuracy when the patch moves, {write_points(lost)}"
            difference = result.results["differences"].get(title)
            if difference is not None:
                sentence += f"; {compare(difference['lost_moved'], difference['reference'])}"
            sentences.append(f"{sentence}.")
        return sentences

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """Reliance, over the rate of agreement too; maps, their strongest values, and images."""
        tables = cls.tables(result)
        panels = [Panel("Reliance", RELIANCE_TEXT, table=tables.pop("Reliance"))]
        panels += [_rates_panel(result)] if len(_rates(result)) > 1 else []
        text = (
            f"Of the first {result.results['explained']:,} test images, explained for the predicted class. A "
            "map without knowledge puts the share of the area on the patch."
        )
        panels += [Panel(title, [text], table=table) for title, table in tables.items()]
        return [*panels, _curves_panel(result), _gallery_panel(result)]

    @classmethod
    def facts(cls, result: StudyResult) -> dict[str, Any]:
        """How it was measured, as names and values."""
        config, patch = result.config, _patch(result)
        first = next(iter(config["arms"].values()))
        facts = {
            "Data": first["data"]["name"],
            "Images": f"{first['data']['train']:,} for training, {first['data']['test']:,} for testing",
            "Patch": f"{patch['pattern']}, {patch['size']} pixels wide, contrast {patch['contrast']:g}, "
            f"{patch['margin']} pixels from the border",
            "Seeds": ", ".join(map(str, config["seeds"])),
            "Trainings": str(len(config["arms"]) * len(config["seeds"])),
            "Ties": "random by seed and image",
        }
        trained = {title: arm["training"] for title, arm in config["arms"].items() if not arm["control"]}
        return facts | {name: list_settings(one) for name, one in (trained | config["attributions"]).items()}


@lru_cache(maxsize=1)
def planted(options: ShortcutOptions, root: str | None) -> Planted:
    """The data set with each kind of test images; a process keeps the last one."""
    return shortcut_variants(options, root)


def follows(predicted: NDArray[np.int64], moved: MaskedDataset, code: CodeName) -> NDArray[np.float64]:
    """1 where the prediction is what the moved patch stands for, else 0, (N,); NaN where that is the label.

    A place stands for its class, the patch's presence for a class of odd label, its absence for an even one.
    """
    place = moved.place("place", "test").numpy()
    hit = predicted == place if code == "place" else (predicted % 2 == 1) == (place != ABSENT)
    agrees = moved.place("agrees", "test").numpy() == 1
    return np.where(agrees, np.nan, hit.astype(np.float64))


def _difference(runs: Sequence[Arrays], others: Sequence[Arrays], name: str) -> dict[str, Any]:
    """The two intervals of a measure's difference between two conditions, paired by image and by seed."""
    return dict(two_intervals([run[name] - other[name] for run, other in zip(runs, others, strict=True)]))


# From a finished study to its page


def _patch(result: StudyResult) -> Mapping[str, Any]:
    patch: Mapping[str, Any] = next(iter(result.config["arms"].values()))["shortcut"]
    return patch


def _rates(result: StudyResult) -> list[float]:
    return sorted({arm["rate"] for arm in result.results["arms"].values() if not arm["control"]})


def _rates_panel(result: StudyResult) -> Panel:
    """The loss over the rate of agreement, a curve for each recipe."""
    kinds: dict[str, list[Any]] = {}
    for title, arm in result.results["arms"].items():
        if not arm["control"]:
            kinds.setdefault(title.rpartition(", agrees")[0], []).append(arm)
    curves = []
    for name, arms in kinds.items():
        ordered = sorted(arms, key=lambda arm: float(arm["rate"]))
        lost = [arm["lost"]["moved"] for arm in ordered]
        curves.append(Curve.through(name, [arm["rate"] for arm in ordered], lost))
    illustration = curves_illustration(
        curves,
        "Accuracy lost when the patch moves.",
        x_label="training images whose patch agrees",
        y_label="accuracy lost",
        x_percent=True,
        y_percent=True,
        y_bounds=(-1.0, 1.0),
    )
    return Panel("The rate of agreement", illustrations=[illustration])


def _curves_panel(result: StudyResult) -> Panel:
    arms, levels = result.results["arms"], result.config["levels"]
    charts = {
        name: [
            make_topk_curve(title, levels, arm["maps"][name]["agreeing"]["topk"])
            for title, arm in arms.items()
        ]
        for name in result.config["attributions"]
    }
    maps = next(iter(next(iter(arms.values()))["maps"].values()))
    area = maps["agreeing"]["area"]["examples"]["value"]  # the patch's, whatever is measured on it
    return topk_panel("The strongest values", charts, area, "on the patch")


def _gallery_panel(result: StudyResult) -> Panel:
    """Each image with the patch agreeing and moved, and the maps of every training's first seed."""
    arrays, arms = result.arrays, result.arrays["arms"].tolist()
    # A control has patches of its own at other places: what stands side by side must be the same images.
    shared = [n for n, title in enumerate(arms) if not result.results["arms"][title]["control"]]
    images = [arrays[f"{n}/image/agreeing"] for n in shared]
    same = [n for n, shown in zip(shared, images, strict=True) if np.array_equal(shown, images[0])]
    name, classes = next(iter(result.config["attributions"])), arrays["classes"]
    rows = []
    for place, label in enumerate(arrays[f"{same[0]}/label"].tolist()):
        for variant in ("agreeing", "moved"):
            image, region = (arrays[f"{same[0]}/{part}/{variant}"][place] for part in ("image", "region"))
            maps = [arrays[f"{n}/saliency/{name}/{variant}"][place] for n in same]
            said = [f"predicts {classes[arrays[f'{n}/predicted/{variant}'][place]]}" for n in same]
            outline = region if region.any() else None
            rows.append(map_row(f"{classes[label]}, patch {variant}", image, maps, said, outline))
    text = f"The patch is outlined. Maps by {name} of the first seed's models, and what they predict."
    return examples_panel("Examples", [text], rows, [arms[n] for n in same])
