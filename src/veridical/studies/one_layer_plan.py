"""Which trainings the one-layer experiment makes: every radius with every weight, from several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from veridical.data import load
from veridical.data.block_world import BlockWorld
from veridical.faithfulness.sources import describe_source
from veridical.jobs import Job
from veridical.runtime.errors import argument_error
from veridical.runtime.study_config import TheoryOptions
from veridical.studies.one_layer_job import ONE_LAYER_JOB
from veridical.studies.theory_choices import chosen, seeds_of

DEFAULTS: Mapping[str, Any] = {
    "noise": [0.3],
    "radius": [0.1],
    "weight": [1.0, 0.5],
    "deviation": 0.5,
    "steps": 400,
    "learning_rate": 0.1,
    "inner_steps": 2,
    "train_examples": 500,
}
BATCH = 50
"""Examples of a step."""


@dataclass(frozen=True)
class OneLayerPlan:
    """The options of one-layer, all of them given.

    data: {name, checksum} of images, or None for blocks. where: where the images lie.
    """

    blocks: int
    block_size: int
    noise: Sequence[float]
    radius: Sequence[float]
    weight: Sequence[float]
    deviation: float
    steps: int
    learning_rate: float
    inner_steps: int
    train_examples: int
    seeds: tuple[int, ...]
    data: Mapping[str, str] | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, options: TheoryOptions) -> OneLayerPlan:
        """Fill in what the options left out; UsageError for what does not fit."""
        values = chosen(options, DEFAULTS)
        if options.norm != "linf":
            raise argument_error("norm", options.norm, "linf", "The one-layer theorem is about that ball.")
        if not values["deviation"]:
            raise argument_error("deviation", 0, "a number above 0", "The theorem needs the sign of w.")
        if len(values["noise"]) != 1:
            raise argument_error("noise", values["noise"], "one number", "block-margin takes several.")
        data, where = None, {}
        if options.data is not None:
            _refuse_blocks(options)
            images = load(options.data, options.data_root)
            data = {"name": images.name, "checksum": images.checksum}
            where = describe_source(options.data, options.data_root, images.options)
        seeds = seeds_of(options)
        plan = cls(options.blocks, options.block_size, seeds=seeds, data=data, where=where, **values)
        BlockWorld(plan.blocks, plan.block_size, plan.noise[0])  # refuses blocks that cannot be
        return plan

    def describe(self) -> dict[str, Any]:
        """What the results depend on, as plain values; no paths."""
        return {name: value for name, value in asdict(self).items() if name != "where"}

    def jobs(self) -> dict[tuple[float, float], list[Job]]:
        """The trainings of every radius and weight, seed by seed."""
        return {
            (radius, weight): [self._job(radius, weight, seed) for seed in self.seeds]
            for radius in self.radius
            for weight in self.weight
        }

    def _job(self, radius: float, weight: float, seed: int) -> Job:
        world = BlockWorld(self.blocks, self.block_size, self.noise[0], seed=seed)
        values = {
            "world": world.describe() if self.data is None else None,
            "data": self.data,
            "radius": radius,
            "weight": weight,
            "deviation": self.deviation,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "inner_steps": self.inner_steps,
            "train_examples": self.train_examples,
            "batch_size": BATCH,
            "seed": seed,
        }
        label = f"radius {radius:g}, lambda {weight:g}, seed {seed}"
        return Job(ONE_LAYER_JOB, values, self.where, label, cost=0.03 * self.steps)


def _refuse_blocks(options: TheoryOptions) -> None:
    """Raise where blocks are described although images replace them."""
    own = {
        name: TheoryOptions.__dataclass_fields__[name].default for name in ("blocks", "block_size", "noise")
    }
    for name, default in own.items():
        if getattr(options, name) != default:
            raise argument_error(
                name, getattr(options, name), "nothing", f"{options.data} replaces the blocks."
            )
