"""What a shortcut study trains: every objective, radius and rate of agreement, each with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from veridical.attribution.registry import create_attribution, describe_attribution
from veridical.data.masked import MaskedDataset
from veridical.faithfulness.sources import source_by_name
from veridical.jobs import Job
from veridical.metrics.localisation import LEVELS
from veridical.runtime.data_config import CodeName, ShortcutOptions
from veridical.runtime.errors import argument_error
from veridical.runtime.study_config import ShortcutStudyOptions
from veridical.studies.attacked import training_title
from veridical.studies.shortcut_job import RUN_JOB, planted
from veridical.studies.training import predict_cost, study_settings, training_fields
from veridical.training.penalties import check_supported
from veridical.training.settings import Settings


@dataclass(frozen=True)
class Condition:
    """One kind of training: a recipe on images whose patch agrees with the class at a rate.

    control: the rate is chance, so that the patch tells nothing. settings: of its first seed. images: the
    record of the data with the patch gone in testing.
    """

    title: str
    control: bool
    shortcut: Mapping[str, Any]
    settings: Settings
    images: Mapping[str, Any]


@dataclass(frozen=True)
class ShortcutPlan:
    """All that the numbers depend on.

    arms: by title; of those on the same images the first is what the others are compared with. explained: the
    first so many test images.
    """

    options: ShortcutStudyOptions
    arms: Mapping[str, Condition]
    explained: int
    classes: Sequence[str]

    @property
    def seeds(self) -> range:
        """The seeds of the trainings."""
        return range(self.options.seed, self.options.seed + self.options.seeds)

    def job(self, arm: Condition, seed: int) -> Job:
        """One training and its measurement."""
        options = self.options
        where = source_by_name(options.data, options.data_root, {})
        where |= {"device": options.device, "batch": str(options.batch)}
        values = {
            "shortcut": dict(arm.shortcut),
            "data": {"checksum": arm.images["checksum"]},
            "training": training_fields(arm.settings),
            "seed": seed,
            **self._explaining(),
        }
        return Job(RUN_JOB, values, where, label=f"{arm.title}, seed {seed}", cost=predict_cost(arm.settings))

    def describe(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        arms = {
            title: {
                "control": arm.control,
                "shortcut": dict(arm.shortcut),
                "data": dict(arm.images),
                "training": training_fields(arm.settings),
            }
            for title, arm in self.arms.items()
        }
        return {"arms": arms, "seeds": list(self.seeds), **self._explaining()}

    def _explaining(self) -> dict[str, Any]:
        seed = self.options.seed
        return {
            "attributions": {
                name: describe_attribution(create_attribution(name, seed=seed))
                for name in self.options.attribution
            },
            "explained": self.explained,
            "levels": list(LEVELS),
            "map_seed": seed,
        }


def planned(options: ShortcutStudyOptions) -> ShortcutPlan:
    """Make the data once and fill every gap of the options; a UsageError for what does not fit."""
    _check(options)
    data = planted(asdict(_shortcut(options, options.rate[0])), options.data_root)["gone"]
    rates = [(rate, False) for rate in options.rate]
    if options.control:
        rates.append((chance_rate(options.code, data.num_classes), True))
    arms: dict[str, Condition] = {}
    for rate, control in rates:
        shortcut = asdict(_shortcut(options, rate))
        data = planted(shortcut, options.data_root)["gone"]
        for objective, radius in _recipes(options):
            settings = _settings(options, objective, radius, data)
            title = training_title(settings.to_dict())
            if control:
                title += ", patch tells nothing"
            elif len(options.rate) > 1:
                title += f", agrees {100 * rate:.4g}%"
            arms[title] = Condition(title, control, shortcut, settings, data.describe())
    images = len(data.test)
    explained = images if options.explained is None else min(options.explained, images)
    return ShortcutPlan(options, arms, explained, data.classes)


def chance_rate(code: CodeName, classes: int) -> float:
    """The rate of agreement at which the patch is independent of the class."""
    return 0.5 if code == "presence" else 1 / classes


def _check(options: ShortcutStudyOptions) -> None:
    for name in ("objective", "rate", "attribution"):
        values = getattr(options, name)
        if not values or len(set(values)) < len(values):
            raise argument_error(name, values, "different values, at least one")
    robust = ("weight", "beta", "beta_from", "radius")
    check_supported(options.objective, {name: getattr(options, name) for name in robust})
    if options.radius is not None and (not options.radius or len(set(options.radius)) < len(options.radius)):
        raise argument_error("radius", options.radius, "different values, at least one")


def _recipes(options: ShortcutStudyOptions) -> list[tuple[str, float | None]]:
    """Every objective with every radius that it takes."""
    radii: list[float | None] = [None] if options.radius is None else [*options.radius]
    return [
        (objective, radius)
        for objective in options.objective
        for radius in ([None] if objective == "natural" else radii)
    ]


def _shortcut(options: ShortcutStudyOptions, rate: float) -> ShortcutOptions:
    names = ("code", "size", "margin", "pattern", "contrast", "train_examples", "test_examples", "seed")
    return ShortcutOptions(
        source=source_by_name(options.data, options.data_root, {})["data"],
        rate=rate,
        test="gone",
        **{name: getattr(options, name) for name in names},
    )


def _settings(
    options: ShortcutStudyOptions, objective: str, radius: float | None, data: MaskedDataset
) -> Settings:
    robust = {name: getattr(options, name) for name in ("norm", "weight", "beta", "beta_from")}
    robust["radius"] = radius
    return study_settings(options, objective, robust, data)
