"""How much of a model's maps lies where people look: inside a sign's box, on a garment, in a file's masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from veridical.attribution.method import dataset_maps, predict_classes
from veridical.attribution.registry import check_on_black, create_attribution
from veridical.data.dataset import describe_source, load_source
from veridical.metrics.intervals import SHARE, mean_interval, paired_difference, two_intervals
from veridical.metrics.localisation import LEVELS, area_share, mass_share
from veridical.metrics.maps import saliency
from veridical.report import Panel
from veridical.report.formats import percent
from veridical.report.table import Column, Table, write_cell
from veridical.runtime.checking import Count, FilePath
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.files import Arrays
from veridical.runtime.options import AttributionChoice, Gallery, Placement, SubjectChoice
from veridical.studies.maps import (
    describe_methods,
    examples_panel,
    first_images,
    joined,
    make_topk_curve,
    map_measures,
    map_row,
    measures_over_seeds,
    region_record,
    regions_of,
    topk_panel,
    undertrained,
)
from veridical.studies.study import (
    Case,
    Context,
    Study,
    StudyResult,
    Work,
    compare,
    distinct_titles,
    limit_count,
    list_settings,
    table_of,
)
from veridical.training.penalties import training_title
from veridical.training.subject import Subject, load_model, load_subject

# Test images of one job.
STRETCH = 500

_ONE_MAP = (
    "Mass inside minus that of the model's mean map over all images, put on every image. Objects stand "
    "mostly in the middle, so a map that is the same for all images can lie inside without looking at any; "
    "only what is above it follows the image."
)
_EXCESS = "Mass inside minus the area, in percentage points; a map that looks at nothing has 0."
_AUC = "The chance that a value inside is greater than one outside; 0.5 says nothing."
_POINTING = "The pointing game: how often the greatest |attribution| lies inside."
COLUMNS = (
    Column("accuracy", "accuracy", "share"),
    Column("mass", "mass inside", "share", None, "Share of the sum of |attribution| inside the region."),
    Column("area/examples/value", "its area", "share", None, "The region's share of the image."),
    Column("excess", "beyond the area", "points", None, _EXCESS),
    Column("beyond_one_map", "beyond one map", "points", None, _ONE_MAP),
    Column("pointing", "strongest value inside", "share", None, _POINTING),
    Column("auc", "AUC", "number", None, _AUC),
    Column("zero", "exact zeros", "share"),
)


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions(AttributionChoice, Gallery, SubjectChoice, Placement):
    """Measure how much of a model's maps lies where people look: in the sign's box, on the garment.

    Args:
        run: Folders of trained runs; those that differ in the seed alone are shown as one model.
        data: Data set with known regions: gtsrb (boxes), fashion-mnist (foreground), an .npz file with masks,
            or class folders with --masks; None takes the first run's.
        attribution: Explanations by name; on gtsrb and fashion-mnist input-gradient, input-gradient-loss and
            smoothgrad, since those that multiply by the image are zero on a black ground by construction.
        examples: The first so many test images; None takes all.
        titles: A name for each model; None takes the objectives'.
        seed: Seed of ties and of the noise of smoothgrad.
    """

    run: list[FilePath] | None = None  # type: ignore[assignment]  # several, where others examine one
    attribution: list[str] = field(default_factory=lambda: ["input-gradient", "smoothgrad"])
    examples: Count | None = 1000
    titles: list[str] | None = None


class Alignment(Study[AlignmentOptions]):
    """How much of a model's maps lies where people look: on the sign, on the garment, on what tells.

    examples:
      veridical alignment --run runs/natural runs/robust --data fashion-mnist --out runs/alignment
      veridical alignment --run runs/signs --data gtsrb --attribution smoothgrad --out runs/boxes
      veridical alignment --model cnn --weights cnn.pt --data fashion-mnist --out runs/mine
      veridical alignment --run runs/photos --data photos --masks masks --out runs/on-masks

    On gtsrb it is the sign's bounding box, on fashion-mnist the garment, and on data with masks what they
    mark; images without a mask are left out. The region's share of the area stands beside every share. Runs
    that differ in the seed alone are one model. An interrupted measurement is continued by the same command.
    DIR/report.html shows what came out, DIR/result.json has the numbers.
    """

    name = "alignment"
    question = "do explanations lie where people look?"
    Options = AlignmentOptions

    def prepare(self) -> None:
        """Load the subjects and their images, and group runs of one recipe."""
        options = self.options
        if options.run == []:
            raise argument_error("run", options.run, "at least one folder of a run")
        subjects: list[Subject] = []
        own = {name: getattr(options, name) for name in SubjectChoice.__dataclass_fields__}
        folders: list[str | None] = [None] if options.run is None else [*options.run]
        for folder in folders:
            one = SubjectChoice(**{**own, "run": folder})
            if subjects and one.data is None:  # all on the images of the first
                one = replace(one, data=subjects[0].data.name)
            subjects.append(load_subject(one, device=options.device))
            _check_same_images(folder, subjects)
        self.data = subjects[0].data
        self.region = region_record(self.data)
        if self.region["kind"] != "mask":
            for name in options.attribution:
                check_on_black(name)
        self.methods = describe_methods(options, self.data)
        self.models = _group(subjects, options)
        images = len(self.data.test)
        self.examples = limit_count(options.examples, images)
        if self.examples < 2:
            raise argument_error("examples", options.examples, "at least 2 images")
        if not regions_of(self.data)[: self.examples].any():
            raise argument_error("examples", self.examples, "more images, since none of these has a mask")

    def config(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        return {
            "models": {title: [one.describe() for one in members] for title, members in self.models.items()},
            "data": self.data.describe() | {"split": "test", "images": len(self.data.test)},
            "region": self.region,
            "examples": self.examples,
            "attributions": self.methods,
            "levels": list(LEVELS),
            "seed": self.options.seed,
        }

    def where(self) -> dict[str, str]:
        """What all steps are told of paths and machine."""
        return super().where() | describe_source(self.data.name, self.options.data_root, self.data.options)

    def cases(self) -> Iterable[Case]:
        """Each model by each attribution, a case for each stretch of images."""
        data = {"checksum": self.data.checksum, "region": self.region}
        for title, members in self.models.items():
            for number, subject in enumerate(members):
                for name, method in self.methods.items():
                    for first in range(0, self.examples, STRETCH):
                        last = min(first + STRETCH, self.examples)
                        yield Case(
                            {
                                "weights": subject.digest,
                                "model": dict(subject.facts["model"]),
                                "data": data,
                                "attribution": name,
                                "method": method,
                                "first": first,
                                "last": last,
                                "levels": list(LEVELS),
                                "seed": self.options.seed,
                            },
                            group=title,
                            seed=number,
                            stage="explaining",
                            label=f"{title}, {name}, images {first} to {last - 1}",
                            cost=float(last - first),
                            where=subject.source,
                        )

    @staticmethod
    def measure(values: Mapping[str, Any], context: Context) -> Arrays:
        """Explain some test images by one attribution of one model and compare the maps with the regions.

        The measures of `map_measures`, correct bool (n,), and `average`, float64 (H, W), the sum of the maps
        after each was divided by its own sum.
        """
        seed, numbers = values["seed"], range(values["first"], values["last"])
        model = load_model(context.where, values["weights"], trust_code=context.trust_code)
        data = load_source(context.where, values["data"]["checksum"])
        method = create_attribution(
            values["attribution"], seed=seed, trust_code=context.trust_code, background=data.train
        )
        shown, regions = data.test.subset(numbers), regions_of(data)[numbers.start : numbers.stop]
        predicted = predict_classes(model, shown)
        options: dict[str, Any] = {"target": predicted, "batch_size": context.batch, "seed": seed}
        maps = dataset_maps(model, data.test, method, indices=numbers, **options).float()
        sizes = saliency(maps.double())
        total = sizes.sum(dim=(1, 2), keepdim=True)
        # A map of zeros stays one.
        shares = sizes / torch.where(total == 0, torch.ones_like(total), total)
        return {
            **map_measures(maps, regions, levels=values["levels"], seed=seed, indices=numbers),
            "correct": (predicted == shown.labels).numpy(),
            "average": sum(part.sum(0) for part in shares.split(context.batch)).numpy(),
        }

    def results(self, work: Work) -> dict[str, Any]:
        """Every model's measures by attribution, and how they differ from the first model's."""
        area = area_share(regions_of(self.data)[: self.examples])
        runs = {
            (title, name): [self._measured(work, title, number, name) for number in range(len(members))]
            for title, members in self.models.items()
            for name in self.methods
        }
        seeds = {title: [_seed(one) for one in members] for title, members in self.models.items()}
        mass = {
            (title, name): {seed: run["mass"] for seed, run in zip(seeds[title], measured, strict=True)}
            for (title, name), measured in runs.items()
        }
        first, *others = self.models
        by = next(iter(self.methods))  # what is read right does not depend on how it is explained
        return {
            "examples": self.examples,
            "area": mean_interval(area[area > 0], bounds=SHARE),
            "models": {
                title: {
                    "seeds": seeds[title],
                    "accuracy": two_intervals([run["correct"] for run in runs[title, by]], SHARE),
                    "maps": {name: _intervals(runs[title, name]) for name in self.methods},
                }
                for title in self.models
            },
            "reference": first,
            "differences": {
                title: {
                    name: paired_difference(mass[title, name], mass[first, name]) for name in self.methods
                }
                for title in others
            },
        }

    def _measured(self, work: Work, title: str, number: int, attribution: str) -> Arrays:
        """What was measured of one run's maps of all images, and the mass of their mean map, `one_map`."""
        parts = [
            work.arrays(case)
            for case in self.cases_of(title)  # stretches in the order of the images
            if (case.seed, case.values["attribution"]) == (number, attribution)
        ]
        # A map that only knows where signs and garments usually are: what one map for all images would reach.
        average = torch.from_numpy(np.sum([part.pop("average") for part in parts], axis=0))
        regions = regions_of(self.data)[: self.examples]
        one_map = mass_share(average.expand(regions.shape), regions)
        one_map[~regions.flatten(1).any(dim=1)] = torch.nan  # nothing can lie in an empty region
        return joined(parts) | {"one_map": one_map.numpy()}

    def pictures(self, work: Work) -> Arrays:  # noqa: ARG002 - drawn from the models themselves
        """The first images of each class and the maps of each model's first run.

        index and label (n,), image uint8 (n, C, H, W), region bool (n, H, W), saliency float32 (models,
        attributions, n, H, W), and the names of models, attributions and classes.
        """
        split, options = self.data.test, self.options
        arrays = first_images(self.data, self.examples, options.gallery)
        index = arrays["index"].tolist()
        rows = []
        for first, *_ in self.models.values():
            classes = predict_classes(first.model, split.subset(index))
            for name in self.methods:
                method = create_attribution(
                    name, seed=options.seed, trust_code=options.trust_code, background=self.data.train
                )
                given: dict[str, Any] = {"batch_size": options.batch, "seed": options.seed}
                maps = dataset_maps(first.model, split, method, indices=index, target=classes, **given)
                rows.append(saliency(maps.float()).numpy())
        shape = (len(self.models), len(self.methods), *rows[0].shape)
        return arrays | {
            "region": regions_of(self.data)[index].numpy(),
            "saliency": np.stack(rows).reshape(shape),
            "models": np.asarray(list(self.models), dtype=np.str_),
            "attributions": np.asarray(options.attribution, dtype=np.str_),
        }

    @classmethod
    def heading(cls, result: StudyResult) -> str:
        """The title of the page."""
        return f"Do maps lie on {result.config['region']['words']}?"

    @classmethod
    def tables(cls, result: StudyResult) -> dict[str, Table]:
        """For each attribution what lies inside, a row for each model."""
        models = result.results["models"].items()
        return {
            f"Inside and outside: {name}": table_of(
                "model", COLUMNS, {title: {**one, **one["maps"][name]} for title, one in models}
            )
            for name in result.config["attributions"]
        }

    @classmethod
    def lead(cls, result: StudyResult) -> str:
        """What was measured."""
        area = percent(result.results["area"]["value"], 1)
        return (
            f"How much of the explanations of {result.results['examples']:,} test images of "
            f"{_data_name(result)} lies inside {result.config['region']['words']}, which covers {area} of an "
            "image on average."
        )

    @classmethod
    def findings(cls, result: StudyResult) -> list[str]:
        """One sentence for each model and attribution, from the intervals alone."""
        results, sentences = result.results, []
        for title, model in results["models"].items():
            warning = undertrained(model["accuracy"], result.config["data"]["num_classes"])
            for name, maps in model["maps"].items():
                sentence = (
                    f"{title}, {name}: {write_cell(maps['mass'], 'share')} of the map lies inside, "
                    f"{compare(maps['excess'], 'its area')}"
                )
                difference = results["differences"].get(title, {}).get(name)
                if difference is not None:
                    sentence += f"; {compare(difference, results['reference'])}"
                sentences.append(f"{sentence}." + (f" The model {warning}." if warning else ""))
        return sentences

    @classmethod
    def panels(cls, result: StudyResult) -> list[Panel]:
        """Tables, the strongest values over k, and images with their regions."""
        results, arrays = result.results, result.arrays
        area = results["area"]["value"]
        text = (
            f"A map without knowledge puts {percent(area, 1)} inside, the share of the area. Values stand "
            "with their 95% intervals, over seeds where a model was trained several times, else over images."
        )
        caution = (
            "A high share is no proof that a model is right for the right reasons, and a low one no proof of "
            "the reverse: what surrounds an object can tell its class, too."
        )
        charts = {
            name: [
                make_topk_curve(title, result.config["levels"], model["maps"][name]["topk"])
                for title, model in results["models"].items()
            ]
            for name in result.config["attributions"]
        }
        titles = [f"{model}, {name}" for model in arrays["models"] for name in arrays["attributions"]]
        rows = []
        for place, label in enumerate(arrays["label"].tolist()):
            region = arrays["region"][place]
            maps = arrays["saliency"][:, :, place].reshape(-1, *region.shape)
            inside = [_inside(one, region) for one in maps]
            rows.append(map_row(arrays["classes"][label], arrays["image"][place], maps, inside, region))
        shown = "The region is outlined; below each map stands the share of it that lies inside."
        return [
            *(Panel(title, [text], table=table) for title, table in cls.tables(result).items()),
            topk_panel("The strongest values", charts, area, "inside", [caution]),
            examples_panel("Examples", [shown], rows, titles),
        ]

    @classmethod
    def facts(cls, result: StudyResult) -> dict[str, Any]:
        """How it was measured, as names and values."""
        config = result.config
        facts = {
            "Images": f"the first {config['examples']:,} test images of {_data_name(result)}",
            "Region": config["region"]["words"],
            "Seed": str(config["seed"]),
        }
        if "threshold" in config["region"]:
            facts["Garment"] = f"grey levels above {config['region']['threshold']}, and what they enclose"
        for title, model in result.results["models"].items():
            facts[title] = f"seeds {', '.join(map(str, model['seeds']))}"
        return facts | {name: list_settings(one) for name, one in config["attributions"].items()}


def _check_same_images(folder: str | None, subjects: Sequence[Subject]) -> None:
    """Raise unless the last subject takes the images of the first, prepared in the same way."""
    first, last = subjects[0].data, subjects[-1].data
    here, there = (
        [list(data.shape), data.num_classes, bool(data.options.get("equalise", False))]
        for data in (first, last)
    )
    if here != there:
        raise UsageError(
            f"{folder}: images {there[0]} of {there[1]} classes, equalise={there[2]}; {first.name} before it "
            f"has images {here[0]} of {here[1]} classes, equalise={here[2]}. Compare runs of one data set, "
            "prepared in one way."
        )


def _group(subjects: Sequence[Subject], options: AlignmentOptions) -> dict[str, list[Subject]]:
    """The subjects by title; runs of which only the seed differs are one model."""
    by_recipe: dict[str, list[Subject]] = {}
    for one in subjects:
        # Trainings that differ in the seed alone are repetitions of one model.
        recipe = json.dumps({**one.facts, "seed": None}, sort_keys=True)
        like = by_recipe.setdefault(recipe, [])
        if any(one.digest == other.digest for other in like):
            # Twice the same weights would make the interval over seeds too narrow.
            raise argument_error("run", one.title, "different runs", "Two of them have the same weights.")
        like.append(one)
    groups = list(by_recipe.values())
    defaults = [
        group[0].title if group[0].run is None else training_title(group[0].run.settings.to_dict())
        for group in groups
    ]
    places = [Path(group[0].title) for group in groups]
    chosen = distinct_titles(options.titles, defaults, places, "model")
    return dict(zip(chosen, groups, strict=True))


def _seed(subject: Subject) -> int:
    return 0 if subject.run is None else subject.run.settings.seed


def _intervals(runs: Sequence[Arrays]) -> dict[str, Any]:
    """Every measure of one model's maps with its two intervals, from each of its runs."""
    return measures_over_seeds(runs) | {
        "one_map": two_intervals([run["one_map"] for run in runs]),
        "beyond_one_map": two_intervals([run["mass"] - run["one_map"] for run in runs]),
        # Of images that the model reads right: elsewhere the map explains a mistake.
        "mass_where_correct": two_intervals([np.where(run["correct"], run["mass"], np.nan) for run in runs]),
    }


def _data_name(result: StudyResult) -> str:
    return Path(result.config["data"]["name"]).name


def _inside(saliency: Any, region: Any) -> str:
    total = float(saliency.sum())
    if not region.any():
        return "no mask"
    return "a map of zeros" if total == 0 else f"{percent(float(saliency[region].sum()) / total, 0)} inside"
