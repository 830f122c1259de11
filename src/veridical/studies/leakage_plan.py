"""What a leakage study trains: every objective and ball on BlockMNIST and BlockMNIST-Top, several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from veridical.attacks.ball import ball
from veridical.attribution.method import Attribution
from veridical.attribution.registry import create_attribution, describe_attribution
from veridical.data.masked import MaskedDataset
from veridical.faithfulness.sources import source_by_name
from veridical.jobs import Job
from veridical.metrics.localisation import LEVELS
from veridical.runtime.config import NormName
from veridical.runtime.data_config import BlockOptions, PositionName
from veridical.runtime.errors import argument_error
from veridical.runtime.study_config import LeakageOptions
from veridical.studies.attacked import training_title
from veridical.studies.leakage_job import EXPLAIN, RUN, TEST, TRAIN, blocks_key, made
from veridical.studies.leakage_maps import PAIRED
from veridical.studies.training import predict_cost, study_settings, training_fields
from veridical.training.penalties import check_supported
from veridical.training.settings import Settings

TITLES: Mapping[str, str] = {
    "random": "BlockMNIST",
    "top": "BlockMNIST-Top",
    "bottom": "BlockMNIST-Bottom",
}
"""The data sets by where the digit stands."""

_SHARED = ("source", "classes", "null", "layout", "contrast", "noise", "train_examples", "test_examples")
"""Options of the study that are options of the data."""

Ball = tuple[NormName, float]


@dataclass(frozen=True)
class Condition:
    """One kind of training on one data set; settings are those of its first seed."""

    position: PositionName
    title: str
    settings: Settings


@dataclass(frozen=True)
class LeakagePlan:
    """All that the numbers depend on.

    data: by position, as planned with. arms: those of one title differ in the data alone. explained,
    attacked: the first so many test images.
    """

    options: LeakageOptions
    data: Mapping[PositionName, MaskedDataset]
    arms: Sequence[Condition]
    explained: int
    attacked: int

    @property
    def seeds(self) -> range:
        """The seeds of the trainings."""
        return range(self.options.seed, self.options.seed + self.options.seeds)

    @property
    def titles(self) -> list[str]:
        """The kinds of training, in the order of the options."""
        return list(dict.fromkeys(arm.title for arm in self.arms))

    @property
    def balls(self) -> list[Ball]:
        """The balls that all models are attacked in."""
        return balls_of(self.options)

    def training(self, arm: Condition, seed: int) -> Job:
        """One training."""
        values = {**self._blocks(arm), "training": training_fields(arm.settings), "seed": seed}
        label = f"{TITLES[arm.position]}, {arm.title}, seed {seed}"
        return Job(TRAIN, values, self._where(), label=label, cost=predict_cost(arm.settings))

    def test(self, arm: Condition, training: Job, folder: Path) -> Job:
        """The attacks on the predictions of a training in that folder."""
        balls = [list(one) for one in self.balls]
        values = {"training": training.id, **self._blocks(arm), "balls": balls}
        values |= {"attacked": self.attacked, "seed": self.options.seed}
        where = self._where() | {"run": str(folder / RUN)}
        return Job(TEST, values, where, label=f"{training.label}, attacked", cost=5.0 * len(balls))

    def explanation(self, arm: Condition, training: Job, folder: Path, attribution: str) -> Job:
        """The measures of one attribution's maps of a training in that folder."""
        record = {"name": attribution, **self._described(attribution)}
        values = {"training": training.id, **self._blocks(arm), "attribution": record}
        values |= {"explained": self.explained, "levels": list(LEVELS), "seed": self.options.seed}
        # Where the digit never moves in training, an image with a moved one is none that the model knows.
        values["pairs"] = list(PAIRED) if arm.position == "random" else []
        where = self._where() | {"run": str(folder / RUN), "batch": str(self.options.batch)}
        if self.options.trust_code:
            where["trust_code"] = "yes"
        return Job(EXPLAIN, values, where, label=f"{training.label}, {attribution}", cost=5.0)

    def describe(self) -> dict[str, Any]:
        """What the results depend on, as plain values; neither paths nor the machine."""
        models: dict[str, dict[str, Any]] = {}
        for arm in self.arms:
            fields = training_fields(arm.settings)
            models.setdefault(arm.title, {})[arm.position] = {"model": dict(arm.settings.model), **fields}
        return {
            "data": {position: data.describe() for position, data in self.data.items()},
            "models": models,
            "seeds": list(self.seeds),
            "balls": [list(one) for one in self.balls],
            "attributions": {name: self._described(name) for name in self.options.attribution},
            "explained": self.explained,
            "attacked": self.attacked,
            "levels": list(LEVELS),
            "ties": "random",
            "seed": self.options.seed,
        }

    def _blocks(self, arm: Condition) -> dict[str, Any]:
        data = self.data[arm.position]
        return {"blocks": asdict(_blocks(self.options, arm.position)), "data": {"checksum": data.checksum}}

    def _where(self) -> dict[str, str]:
        where = source_by_name(self.options.source, self.options.data_root, {})
        return {**where, "device": self.options.device}

    def _described(self, attribution: str) -> dict[str, Any]:
        return describe_attribution(_method(self.options, attribution))


def _method(options: LeakageOptions, name: str) -> Attribution:
    return create_attribution(name, seed=options.seed, trust_code=options.trust_code)


_ROBUST = ("weight", "beta", "beta_from", "inner_steps", "radius_warm_up")


def planned(options: LeakageOptions) -> LeakagePlan:
    """Make the data and fill every gap of the options; a UsageError for what does not fit."""
    _check(options)
    root = options.data_root
    data = {at: made(blocks_key(asdict(_blocks(options, at))), root) for at in options.position}
    arms = []
    for position in options.position:
        for objective in options.objective:
            for around in [None] if objective == "natural" else balls_of(options):
                settings = _settings(options, objective, around, data[position])
                arms.append(Condition(position, training_title(settings.to_dict()), settings))
    images = len(next(iter(data.values())).test)
    explained, attacked = (
        images if wanted is None else min(wanted, images) for wanted in (options.explained, options.attacked)
    )
    return LeakagePlan(options, data, arms, explained, attacked)


def balls_of(options: LeakageOptions) -> list[Ball]:
    """The balls that robust models are trained and all are attacked in: each radius with its norm."""
    norms, radii = list(options.norm), options.radius
    if radii is None:
        radii = [0.1 if norm == "linf" else 1.0 for norm in norms]
    if len(norms) == 1:
        norms *= len(radii)
    if len(norms) != len(radii) or not radii:
        expected = f"one norm, or one for each of the {len(radii)} radii"
        raise argument_error("norm", options.norm, expected, "For example --norm linf l2 --radius 0.1 1.0.")
    if len(set(zip(norms, radii, strict=True))) < len(radii):
        raise argument_error("radius", radii, "different radii for each norm")
    return list(zip(norms, (float(radius) for radius in radii), strict=True))


def _check(options: LeakageOptions) -> None:
    for name in ("position", "objective", "attribution"):
        values = getattr(options, name)
        if not values or len(set(values)) < len(values):
            raise argument_error(name, values, "different values, at least one")
    check_supported(options.objective, {name: getattr(options, name) for name in _ROBUST})
    for norm, radius in balls_of(options):
        ball(norm, radius)  # refuses radii that cannot be
    for name in options.attribution:
        _method(options, name)


def _blocks(options: LeakageOptions, position: PositionName) -> BlockOptions:
    given = {name: getattr(options, name) for name in _SHARED}
    given["source"] = source_by_name(options.source, options.data_root, {})["data"]
    return BlockOptions(position=position, seed=0, **given)


def _settings(options: LeakageOptions, objective: str, around: Ball | None, data: MaskedDataset) -> Settings:
    robust: dict[str, Any] = {}
    if around is not None:
        robust = {name: getattr(options, name) for name in _ROBUST} | {"norm": around[0], "radius": around[1]}
    return study_settings(options, objective, robust, data)
