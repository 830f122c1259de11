"""All that a sanity check needs, resolved: the run, its images, the attributions, and the jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.attribution.registry import create_attribution, describe_attribution
from veridical.data import Dataset, load
from veridical.faithfulness.invariance import INVARIANT_ABOVE, LEARNT_BY_HEART, PASSES_BELOW
from veridical.faithfulness.randomisation import fresh_seed
from veridical.faithfulness.retraining import hash_recipe, resolve_architecture, resolve_training
from veridical.faithfulness.sources import describe_source
from veridical.jobs import Job
from veridical.metrics.maps import TOP_QUANTILE
from veridical.metrics.registry import measures, ssim_window
from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.study_config import SanityOptions
from veridical.studies.sanity_job import EXPLAIN, TRAIN, randomised_data
from veridical.training.run import read_settings, weights_digest
from veridical.training.settings import Settings

CONTROL = "true"
"""The training on true data beside those on randomised ones."""


@dataclass(frozen=True)
class SanityPlan:
    """One check, before anything is computed.

    settings, weights: the run's, and the digest of its weights. examples: the first so many test images.
    training: the fields of each new training, and model its architecture, as plain values; None without one.
    where: how jobs find the data.
    """

    options: SanityOptions
    settings: Settings
    weights: str
    data: Dataset
    examples: int
    train_examples: int
    model: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    where: Mapping[str, str]

    @property
    def kinds(self) -> list[str]:
        """The kinds of new training, the control among them if there is any."""
        randomised = [name for name in ("labels", "data") if name in self.options.tests]
        return [CONTROL, *randomised] if randomised else []

    @property
    def orders(self) -> list[str]:
        """The orders in which weights are randomised."""
        return [name for name in ("cascading", "independent") if name in self.options.tests]

    def train_job(self, kind: str) -> Job:
        """The training of one kind."""
        assert self.training is not None
        assert self.model is not None
        values = {
            "kind": kind,
            "data": {"checksum": self.data.checksum, "name": self.data.name},
            "examples": self.train_examples,
            "random_seed": self.options.seed,
            "model": dict(self.model),
            "training": dict(self.training),
            "recipe_source": hash_recipe(),
            # Not the run's: with its initial weights a new training would resemble it for that alone.
            "seed": fresh_seed(self.options.seed),
        }
        where = {**self.where, "device": self.options.device}
        return Job(TRAIN, values, where, label=f"training on {kind} data", cost=1000.0)

    def explain_job(self, attribution: str, against: Mapping[str, Any], trained: Path | None = None) -> Job:
        """The comparison of the run's maps by one attribution with those of other networks."""
        options = self.options
        values = {
            "weights": self.weights,
            "data": {"checksum": self.data.checksum, "name": self.data.name},
            "attribution": attribution,
            "method": self._described(attribution),
            "target": options.target,
            "examples": self.examples,
            "seed": options.seed,
            "gallery": options.gallery,
            "against": dict(against),
        }
        where = {**self.where, "device": options.device, "batch": str(options.batch)}
        where["run"] = str(Path(options.run).absolute())
        if options.trust_code:
            where["trust_code"] = "yes"
        if trained is not None:
            where["trained"] = str(trained.absolute())
        states = 8.0 if against["kind"] in ("cascading", "independent") else 2.0
        label = f"{attribution}, {against['kind']}"
        return Job(EXPLAIN, values, where, label=label, cost=states * self.examples / 100)

    def weight_jobs(self, attribution: str) -> dict[str, list[Job]]:
        """By order of randomisation, a job for each draw of fresh weights."""
        first = self.options.seed * 1000
        draws = range(first, first + self.options.repeats)
        return {
            order: [self.explain_job(attribution, {"kind": order, "draw": draw}) for draw in draws]
            for order in self.orders
        }

    def describe(self) -> dict[str, Any]:
        """All that the numbers depend on, as plain values; neither paths nor the machine."""
        options = self.options
        _, height, width = self.data.shape
        return {
            "run": {"weights": self.weights, **self.settings.to_dict()},
            "data": self.data.describe(),
            "attributions": {name: self._described(name) for name in options.attribution},
            "tests": [*self.orders, *self.kinds[1:]],
            "target": options.target,
            "examples": self.examples,
            "repeats": options.repeats,
            "similarity": {
                "measures": {name: measure.help for name, measure in measures("sanity").items()},
                "ssim_window": ssim_window(height, width),
                "picture_quantile": TOP_QUANTILE,
            },
            "thresholds": {
                "nearly_invariant_above": INVARIANT_ABOVE,
                "passes_below": PASSES_BELOW,
                "learnt_by_heart": LEARNT_BY_HEART,
            },
            "model": None if self.model is None else dict(self.model),
            "training": None if self.training is None else dict(self.training),
            "train_examples": self.train_examples if self.training is not None else None,
            "seed": options.seed,
            "gallery": options.gallery,
        }

    def _described(self, name: str) -> dict[str, Any]:
        options = self.options
        method = create_attribution(name, seed=options.seed, trust_code=options.trust_code)
        return describe_attribution(method)


def planned(options: SanityOptions) -> SanityPlan:
    """Read the run, load its images and fill every gap; a UsageError for what does not fit together."""
    _check(options)
    folder = Path(options.run)
    settings = read_settings(folder)
    data = _images(options, settings)
    if min(data.shape[1:]) < 3:
        raise argument_error("data", f"images of {data.shape}", "images of at least 3 x 3 pixels")
    count = len(data.train)
    wanted = count if options.train_examples is None else min(options.train_examples, count)
    model, training = None, None
    if any(name in options.tests for name in ("labels", "data")):
        model = resolve_architecture(None, {}, data, settings, trust_code=False)
        training = _training(options, settings, data, model, wanted)
    return SanityPlan(
        options=options,
        settings=settings,
        weights=weights_digest(folder),
        data=data,
        examples=min(options.examples, len(data.test)),
        train_examples=wanted,
        model=model,
        training=training,
        where=describe_source(data.name, options.data_root, data.options),
    )


def _check(options: SanityOptions) -> None:
    for name in ("attribution", "tests"):
        values: Sequence[str] = getattr(options, name)
        if not values or len(set(values)) < len(values):
            raise argument_error(name, values, "different names, at least one")


def _images(options: SanityOptions, settings: Settings) -> Dataset:
    recorded = settings.data
    equalise = bool(recorded["options"].get("equalise", False))
    data = load(options.data or str(recorded["name"]), options.data_root, equalise=equalise)
    here, there = [list(data.shape), data.num_classes], [list(recorded["shape"]), recorded["num_classes"]]
    if here != there:
        raise UsageError(
            f"{options.run} was trained on {recorded['name']}, images {there[0]} of {there[1]} classes; "
            f"{data.name} has images {here[0]} of {here[1]} classes. Leave --data out."
        )
    return data


def _training(
    options: SanityOptions, settings: Settings, data: Dataset, model: Mapping[str, Any], examples: int
) -> dict[str, Any]:
    """The new trainings' fields: the run's recipe with the natural objective, long enough, not averaged.

    Robust objectives cannot learn random labels by heart, and an average of weights lags behind in it.
    """
    part = randomised_data(data, CONTROL, examples, options.seed)
    overrides = {
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "averaging": 0.0,
        "batch_size": min(settings.optimise.batch_size, examples),
        "train_examples": examples,
    }
    return resolve_training(part, model, settings, "natural", overrides)
