"""What an alignment study compares: runs grouped into models, images with known regions, and the jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.attribution.method import Attribution
from veridical.attribution.registry import check_on_black, create_attribution, describe_attribution
from veridical.data import Dataset, load
from veridical.faithfulness.sources import describe_source
from veridical.jobs import Job
from veridical.metrics.localisation import LEVELS
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.study_config import AlignmentOptions
from veridical.studies.alignment_job import MEASURE
from veridical.studies.attacked import training_title
from veridical.studies.finished import distinct_titles
from veridical.studies.maps import region_record
from veridical.training.run import read_settings, weights_digest
from veridical.training.settings import Settings

STRETCH = 500
"""Test images of one job."""


@dataclass(frozen=True)
class Member:
    """One run: its folder, its settings and the digest of its weights."""

    folder: Path
    settings: Settings
    weights: str


@dataclass(frozen=True)
class AlignmentPlan:
    """All that the numbers depend on, and how jobs find it.

    models: the runs by title; those of one title differ in the seed alone. examples: the first so many test
    images. where: the data, as jobs load it.
    """

    options: AlignmentOptions
    data: Dataset
    models: Mapping[str, Sequence[Member]]
    examples: int
    where: Mapping[str, str]

    @property
    def stretches(self) -> list[range]:
        """The images of each job."""
        return [range(f, min(f + STRETCH, self.examples)) for f in range(0, self.examples, STRETCH)]

    def jobs(self, member: Member, attribution: str) -> list[Job]:
        """The measurement of one run by one attribution, a job for each stretch of images."""
        options = self.options
        place = {"run": str(member.folder.absolute()), "device": options.device, "batch": str(options.batch)}
        if options.trust_code:
            place["trust_code"] = "yes"
        return [
            Job(
                MEASURE,
                {
                    "weights": member.weights,
                    "data": {"checksum": self.data.checksum, "region": region_record(self.data)},
                    "attribution": attribution,
                    "method": self._described(attribution),
                    "first": numbers.start,
                    "last": numbers.stop,
                    "levels": list(LEVELS),
                    "seed": options.seed,
                },
                where={**self.where, **place},
                label=f"{member.folder.name}, {attribution}, images {numbers.start} to {numbers.stop - 1}",
                cost=float(len(numbers)),
            )
            for numbers in self.stretches
        ]

    def describe(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        options = self.options
        return {
            "models": {
                title: [{"weights": one.weights, **one.settings.to_dict()} for one in members]
                for title, members in self.models.items()
            },
            "data": self.data.describe() | {"split": "test", "images": len(self.data.test)},
            "region": region_record(self.data),
            "examples": self.examples,
            "attributions": {name: self._described(name) for name in options.attribution},
            "levels": list(LEVELS),
            "seed": options.seed,
        }

    def _described(self, attribution: str) -> dict[str, Any]:
        return describe_attribution(_method(self.options, attribution))


def planned(options: AlignmentOptions) -> AlignmentPlan:
    """Read the runs, load the images and group the runs; a UsageError for what does not fit together."""
    if not options.run:
        raise argument_error("run", options.run, "at least one folder of a run")
    if len(set(options.attribution)) < len(options.attribution) or not options.attribution:
        raise argument_error("attribution", options.attribution, "different names, at least one")
    members = [_member(Path(folder)) for folder in options.run]
    name = options.data or str(members[0].settings.data["name"])
    recorded = members[0].settings.data
    equalise = bool(recorded["options"].get("equalise", False))
    data = load(name, options.data_root, equalise=equalise)
    for member in members:
        _check_fits(member, data)
    kind = region_record(data)["kind"]
    for one in options.attribution:
        _check_attribution(one, options, kind)
    images = len(data.test)
    examples = images if options.examples is None else min(options.examples, images)
    if examples < 2:
        raise argument_error("examples", options.examples, "at least 2 images")
    root = None if options.data_root is None else str(options.data_root)
    where = describe_source(name, root, data.options)
    return AlignmentPlan(options, data, _grouped(members, options.titles), examples, where)


def _member(folder: Path) -> Member:
    settings = read_settings(folder)
    return Member(folder, settings, weights_digest(folder))


def _check_fits(member: Member, data: Dataset) -> None:
    """Raise unless the run was trained on images of this kind, prepared in the same way."""
    there = member.settings.data
    kind = [list(there["shape"]), there["num_classes"], bool(there["options"].get("equalise", False))]
    here = [list(data.shape), data.num_classes, bool(data.options.get("equalise", False))]
    if kind != here:
        raise UsageError(
            f"{member.folder} was trained on {there['name']}, images {kind[0]} of {kind[1]} classes, "
            f"equalise={kind[2]}; {data.name} is here images {here[0]} of {here[1]} classes, "
            f"equalise={here[2]}. Compare runs of one data set, prepared in one way."
        )


def _grouped(members: Sequence[Member], titles: Sequence[str] | None) -> dict[str, list[Member]]:
    """The runs by title; runs of which only the seed differs are one model."""
    groups: list[list[Member]] = []
    for member in members:
        like = next((group for group in groups if _recipe(group[0]) == _recipe(member)), None)
        if like is None:
            groups.append([member])
        elif any(member.weights == other.weights for other in like):
            same = next(other.folder for other in like if other.weights == member.weights)
            hint = f"{same} has the same weights."
            raise argument_error("run", str(member.folder), "different runs", hint)
        else:
            like.append(member)
    defaults = [training_title(group[0].settings.to_dict()) for group in groups]
    chosen = distinct_titles(titles, defaults, [group[0].folder for group in groups], "model")
    return dict(zip(chosen, groups, strict=True))


def _recipe(member: Member) -> dict[str, Any]:
    return {key: value for key, value in member.settings.to_dict().items() if key != "seed"}


def _method(options: AlignmentOptions, name: str) -> Attribution:
    return create_attribution(name, seed=options.seed, trust_code=options.trust_code)


def _check_attribution(name: str, options: AlignmentOptions, kind: str) -> None:
    """Raise for a name that is none, or that says nothing about where on a black ground a model looks."""
    if kind == "mask":
        _method(options, name)
    else:
        check_on_black(name)
