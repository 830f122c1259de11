"""Which networks the block-margin experiment trains: at the main values, and along each that varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from veridical.data.block_world import BlockWorld
from veridical.jobs import Job
from veridical.runtime.options import NormName
from veridical.runtime.study_config import TheoryOptions
from veridical.studies.mean_field_job import MEAN_FIELD_JOB
from veridical.studies.theory_choices import chosen, seeds_of

Kind = Literal["natural", "adversarial", "linear"]
KINDS: tuple[Kind, ...] = ("natural", "adversarial", "linear")
"""The natural and the adversarially trained MLP, and a linear model trained naturally."""
MLPS = KINDS[:2]

DEFAULTS: Mapping[str, Any] = {
    "noise": [0.0, 0.01, 0.05, 0.1],
    "radius": [0.3, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35],
    "width": [10_000, 10, 100, 1000],
    "sweep_width": 1000,
    "deviation": 0.5,
    "steps": 600,
    "learning_rate": 2.0,
    "inner_steps": 5,
    "train_examples": 100,
    "test_examples": 1000,
}


@dataclass(frozen=True)
class Place:
    """One kind of network, and what it is trained with; radius is 0 where nothing attacks."""

    kind: Kind
    noise: float
    width: int
    radius: float


@dataclass(frozen=True)
class BlockMarginPlan:
    """The options of block-margin, all of them given; of lists the first is the main value."""

    blocks: int
    block_size: int
    norm: NormName
    noise: Sequence[float]
    radius: Sequence[float]
    width: Sequence[int]
    sweep_width: int
    deviation: float
    steps: int
    learning_rate: float
    inner_steps: int
    train_examples: int
    test_examples: int
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, options: TheoryOptions) -> BlockMarginPlan:
        """Fill in what the options left out; UsageError for what does not fit."""
        plan = cls(
            blocks=options.blocks,
            block_size=options.block_size,
            norm=options.norm,
            seeds=seeds_of(options),
            **chosen(options, DEFAULTS),
        )
        plan.world(plan.noise[0])  # refuses blocks that cannot be
        return plan

    def describe(self) -> dict[str, Any]:
        """What the results depend on, as plain values."""
        return asdict(self)

    def world(self, noise: float, seed: int = 0) -> BlockWorld:
        """The block world with this noise; `seed` is that of its examples."""
        return BlockWorld(self.blocks, self.block_size, noise, seed=seed)

    def main(self, kind: Kind) -> Place:
        """The network at the main values."""
        radius = self.radius[0] if kind == "adversarial" else 0.0
        return Place(kind, self.noise[0], 1 if kind == "linear" else self.width[0], radius)

    def by_width(self, kind: Kind) -> list[Place]:
        """A network for each width, in increasing order."""
        return [replace(self.main(kind), width=width) for width in sorted(set(self.width))]

    def by_noise(self, kind: Kind) -> list[Place]:
        """A network of the width for sweeps for each length of noise, in increasing order."""
        place = self.main(kind)
        width = place.width if kind == "linear" else self.sweep_width
        return [replace(place, noise=noise, width=width) for noise in sorted(set(self.noise))]

    def by_radius(self) -> list[Place]:
        """The natural network at radius 0, then an adversarially trained one for each radius, increasing."""
        natural = replace(self.main("natural"), width=self.sweep_width)
        attacked = replace(self.main("adversarial"), width=self.sweep_width)
        return [natural, *(replace(attacked, radius=radius) for radius in sorted(set(self.radius)))]

    def places(self) -> list[Place]:
        """Every network that is trained, each once."""
        found = [self.main(kind) for kind in KINDS]
        found += [place for kind in KINDS for place in self.by_noise(kind)]
        found += [place for kind in MLPS for place in self.by_width(kind)]
        return list(dict.fromkeys([*found, *self.by_radius()]))

    def jobs(self) -> dict[Place, list[Job]]:
        """The trainings of every place, seed by seed."""
        return {place: [self._job(place, seed) for seed in self.seeds] for place in self.places()}

    def _job(self, place: Place, seed: int) -> Job:
        linear = place.kind == "linear"
        robust = {"norm": self.norm, "radius": place.radius, "inner_steps": self.inner_steps}
        values = {
            "world": self.world(place.noise, seed).describe(),
            "network": {
                "kind": "linear" if linear else "mlp",
                "width": place.width,
                # The linear model starts from what a mean-field network computes in the limit: 0.
                "deviation": 0.0 if linear else self.deviation,
                "bias": not linear,
            },
            "objective": {"name": "adversarial", **robust} if place.radius else {"name": "natural"},
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "train_examples": self.train_examples,
            "test_examples": self.test_examples,
            "seed": seed,
        }
        passes = self.inner_steps + 1 if place.radius else 1
        examples = self.train_examples if place.noise else self.blocks
        cost = self.steps * (1e-3 + 1e-8 * passes * examples * place.width * self.blocks)
        label = (
            f"{place.kind}, noise {place.noise:g}, width {place.width}, radius {place.radius:g}, seed {seed}"
        )
        return Job(MEAN_FIELD_JOB, values, label=label, cost=cost)
