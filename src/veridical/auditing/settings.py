"""The RAR authors' evaluation settings, one row per data set; free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from veridical.runtime.errors import UsageError, argument_error, check_count, check_positive


@dataclass(frozen=True)
class EvaluationSettings:
    """How predictions and explanations of one data set's models are attacked; lengths in input units.

    radius: of the ball, which is that of training. attacked_k, k: pixels that the top-k attack pushes down,
    and pixels compared by the intersection. step_size, steps: of the attack on explanations. pgd_steps,
    pgd_step_size: of the attack on predictions (those of training).
    """

    radius: float
    attacked_k: int
    k: int
    step_size: float
    steps: int
    pgd_steps: int
    pgd_step_size: float

    def __post_init__(self) -> None:
        for name in ("attacked_k", "k", "steps", "pgd_steps"):
            check_count(name, getattr(self, name))
        for name in ("step_size", "pgd_step_size"):
            check_positive(name, getattr(self, name))

    def at(self, radius: float) -> EvaluationSettings:
        """The settings for another radius: both step sizes in proportion to it (radius 0 keeps them)."""
        share = radius / self.radius if radius > 0 else 1.0
        return replace(
            self,
            radius=radius,
            step_size=self.step_size * share,
            pgd_step_size=self.pgd_step_size * share,
        )


# Chen et al. (2019), their code: "k attacked / k evaluated", "alpha x iterations", "inner PGD". On GTSRB and
# Flower steps of one grey level from an image of whole grey levels stay on whole grey levels, so the
# truncation of iterates in the authors' code changes nothing here.
PAPER: Final[Mapping[str, EvaluationSettings]] = MappingProxyType(
    {
        "mnist": EvaluationSettings(0.3, 200, 100, 0.01, 100, 40, 0.01),
        "fashion-mnist": EvaluationSettings(0.1, 100, 100, 0.01, 100, 20, 0.01),
        "gtsrb": EvaluationSettings(8 / 255, 100, 100, 1 / 255, 50, 7, 2 / 255),
        "flowers17": EvaluationSettings(8 / 255, 1000, 1000, 1 / 255, 100, 7, 2 / 255),
    }
)


def paper_settings(data: str, shape: Sequence[int]) -> EvaluationSettings:
    """The row of a data set, or of like images for one that the paper does not have; shape is (C, H, W).

    mnist-5k is a part of MNIST. Other grey images get Fashion-MNIST's row, colour images of up to 64 rows
    GTSRB's and larger ones Flower's. Where a map has fewer than 2 k pixels, k is an eighth of them: the
    overlap of almost all pixels with almost all says nothing.
    """
    channels, height, width = shape
    name = "mnist" if data == "mnist-5k" else data
    if name not in PAPER:
        name = "fashion-mnist" if channels == 1 else "gtsrb" if height <= 64 else "flowers17"
    row, pixels = PAPER[name], height * width
    eighth = max(1, pixels // 8)
    return replace(
        row,
        attacked_k=row.attacked_k if 2 * row.attacked_k <= pixels else eighth,
        k=row.k if 2 * row.k <= pixels else eighth,
    )


def evaluation_settings(
    data: str,
    shape: Sequence[int],
    *,
    norm: str = "linf",
    radius: float | None = None,
    k: int | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    pgd_steps: int | None = None,
    pgd_step_size: float | None = None,
) -> EvaluationSettings:
    """The paper's settings with what is given in their place; None keeps the paper's.

    Step sizes follow the radius in proportion. In an L2 ball, which the paper does not have, a radius must be
    given, and the steps are a tenth of it (2.5 radius / steps in the attack on predictions).
    """
    row = paper_settings(data, shape)
    if norm == "l2" and radius is None:
        raise UsageError("norm l2 has no radius in the paper: give one (--radius), in Euclidean length")
    if radius is not None:
        if not 0 <= radius < float("inf"):
            raise argument_error("radius", radius, "a finite number of at least 0, in input units")
        row = row.at(radius)
    given = {"k": k, "attacked_k": k, "steps": steps, "pgd_steps": pgd_steps}
    row = replace(row, **{name: value for name, value in given.items() if value is not None})
    if norm == "l2":
        length = row.radius or 1.0
        row = replace(row, step_size=length / 10, pgd_step_size=2.5 * length / row.pgd_steps)
    return replace(
        row,
        step_size=row.step_size if step_size is None else step_size,
        pgd_step_size=row.pgd_step_size if pgd_step_size is None else pgd_step_size,
    )
