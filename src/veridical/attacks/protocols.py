"""How hard attacks try and how they are judged: protocols, and the paper's settings for each data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from veridical.attacks.directions import TopK
from veridical.attribution.path import Quadrature
from veridical.runtime.checking import Checked, Count, Factor, Length, Limit, StepSize
from veridical.runtime.errors import UsageError, argument_error, unknown_name_error

# Of a softplus.
_Sharpness = Annotated[float, Limit(0, 1e6, above=True)]


@dataclass(frozen=True)
class Restart(Checked):
    """One restart of an attribution attack.

    start: "origin" or "random" (uniform in the ball). beta, beta_end: softplus sharpness of the twin at the
    first and the last step (geometric growth); beta None climbs the network itself, which has no second
    derivative if it is piecewise linear. momentum, decay: as in `veridical.attacks.ascend`. goal: "attack" is
    the attack's own direction, "decorrelate" the smooth stand-in for tau. label_weight: of a hinge on the
    margin of the predicted class that keeps iterates admissible; 0 has none. step_scale: multiplies the
    protocol's step size.
    """

    start: Literal["origin", "random"] = "origin"
    beta: _Sharpness | None = 1.0
    beta_end: _Sharpness | None = None
    momentum: Factor = 0.0
    decay: Literal["constant", "linear"] = "constant"
    goal: Literal["attack", "decorrelate"] = "attack"
    label_weight: Factor = 0.0
    step_scale: StepSize = 1.0


@dataclass(frozen=True)
class Protocol(Checked):
    """An attribution attack's budget and judge.

    name: recorded in results. steps, step_size: iterations of each climb and their length in input units.
    k: pixels compared by the intersection; None takes those of the direction, 100 where it has none.
    climb_nodes, judge_nodes: quadratures of the map that is climbed (on the twin) and of the one that judges
    every iterate (real network). final_nodes: of the map that judges the `shortlist` best iterates again (of
    a short climb at most a quarter of them) and gives the result; None where the judge's map is the final
    one. climbs: the restarts. minimise_each: keep for tau and for the intersection each its own least
    iterate; otherwise both are those of the iterate with the least tau (the paper's).
    """

    name: str
    steps: Count = 100
    step_size: StepSize = 0.01
    k: Count | None = None
    climb_nodes: Quadrature = Quadrature("right", 100)
    judge_nodes: Quadrature = Quadrature("right", 100)
    final_nodes: Quadrature | None = None
    shortlist: Count = 1
    climbs: tuple[Restart, ...] = (Restart(),)
    minimise_each: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.climbs:
            raise UsageError(f"protocol {self.name!r} has no climbs; expected at least 1")

    @property
    def compared(self) -> int:
        """k, and 100 where nothing decides it."""
        return 100 if self.k is None else self.k

    @property
    def judged_again(self) -> int:
        """Iterates of a climb that the final map judges; most of a short climb's are not worth it."""
        return min(self.shortlist, max(1, self.steps // 4))

    def count_gradients(self, steps: int, *, along_path: bool = True) -> tuple[int, int]:
        """How many maps' gradients are climbed, and how many gradients judge, per example of so many steps.

        along_path: whether the explanation has the protocol's nodes; others are one gradient each.
        """
        moves = steps * len(self.climbs)
        if not along_path:
            return moves, moves
        again = replace(self, steps=steps).judged_again
        final = 0 if self.final_nodes is None else self.final_nodes.nodes * again
        return moves * self.climb_nodes.nodes, moves * self.judge_nodes.nodes + final

    def towards(self, direction: object) -> Protocol:
        """This protocol with the k of the direction that is attacked; a UsageError where they contradict."""
        if not isinstance(direction, TopK):
            return self
        # What is compared is what is attacked, unless the direction says otherwise.
        k = direction.k if direction.compared is None else direction.compared
        if self.k not in (None, k):
            raise UsageError(
                f"k: {direction} compares {k} pixels and protocol {self.name!r} {self.k}. Leave k out of the "
                f"protocol, or say TopK({direction.k}, compared={self.k}) if they are meant to differ."
            )
        return replace(self, k=k)


_FIVE, _TEN, _FINAL = Quadrature(nodes=5), Quadrature(nodes=10), Quadrature("right", 100)
# The twin is so smooth that five nodes climb as far as ten; the network, which judges, is not.
_PAPER_FAST = Protocol("paper-fast", climb_nodes=_FIVE, judge_nodes=_TEN, final_nodes=_FINAL, shortlist=5)
_further = partial(Restart, momentum=0.75, decay="linear", label_weight=1.0, step_scale=2.0)
_STRONG = replace(
    _PAPER_FAST,
    name="strong",
    climb_nodes=_TEN,
    climbs=(
        Restart(),
        _further("origin", 5.0, 50.0),
        _further("random", 20.0, 50.0),
        _further("random", 5.0, 50.0, goal="decorrelate"),
    ),
    minimise_each=True,
)
PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (Protocol("paper"), _PAPER_FAST, _STRONG)}


def protocol(name: str | Protocol, **changes: object) -> Protocol:
    """The protocol of that name, or that one, with those fields replaced that are given and not None."""
    if not isinstance(name, str | Protocol) or (isinstance(name, str) and name not in PROTOCOLS):
        raise unknown_name_error("protocol", name, PROTOCOLS)
    known = [field.name for field in fields(Protocol)]
    if unknown := next((key for key in changes if key not in known), None):
        raise unknown_name_error("field of a protocol", unknown, known)
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(PROTOCOLS[name] if isinstance(name, str) else name, **given)  # type: ignore[arg-type]


@dataclass(frozen=True)
class EvaluationSettings(Checked):
    """How predictions and explanations of one data set's models are attacked; lengths in input units.

    radius: of the ball, which is that of training. attacked_k, k: pixels that the top-k attack pushes down,
    and pixels compared by the intersection. step_size, steps: of the attack on explanations. pgd_steps,
    pgd_step_size: of the attack on predictions (those of training).
    """

    radius: Length
    attacked_k: Count
    k: Count
    step_size: StepSize
    steps: Count
    pgd_steps: Count
    pgd_step_size: StepSize


# Chen et al. (2019), their code: "k attacked / k evaluated", "alpha x iterations", "inner PGD". On GTSRB and
# Flower steps of one grey level from an image of whole grey levels stay on whole grey levels, so the
# truncation of iterates in the authors' code changes nothing here.
PAPER_SETTINGS: Final[Mapping[str, EvaluationSettings]] = MappingProxyType(
    {
        "mnist": EvaluationSettings(0.3, 200, 100, 0.01, 100, 40, 0.01),
        "fashion-mnist": EvaluationSettings(0.1, 100, 100, 0.01, 100, 20, 0.01),
        "gtsrb": EvaluationSettings(8 / 255, 100, 100, 1 / 255, 50, 7, 2 / 255),
        "flowers17": EvaluationSettings(8 / 255, 1000, 1000, 1 / 255, 100, 7, 2 / 255),
    }
)


def paper_row(data: str, shape: Sequence[int]) -> str:
    """The row of `PAPER_SETTINGS` that images of shape (C, H, W) get: their own, else that of like images.

    mnist-5k is a part of MNIST. Of data that the paper does not have grey images get Fashion-MNIST's row,
    colour images of up to 64 rows GTSRB's and larger ones Flower's.
    """
    channels, height, _ = shape
    like = "fashion-mnist" if channels == 1 else "gtsrb" if height <= 64 else "flowers17"
    return "mnist" if data == "mnist-5k" else data if data in PAPER_SETTINGS else like


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
    """The paper's settings of a data set with what is given in their place; None keeps the paper's.

    shape: of an image, (C, H, W). Where a map has fewer than 2 k pixels, k is an eighth of them: the overlap
    of almost all pixels with almost all says nothing.

    Step sizes follow the radius in proportion. In an L2 ball, which the paper does not have, a radius must be
    given, and the steps are a tenth of it (2.5 radius / steps in the attack on predictions).
    """
    row, pixels = PAPER_SETTINGS[paper_row(data, shape)], shape[1] * shape[2]
    changes: dict[str, Any] = {
        name: max(1, pixels // 8) if 2 * getattr(row, name) > pixels else getattr(row, name)
        for name in ("attacked_k", "k")
    }
    if norm == "l2" and radius is None:
        raise UsageError("norm l2 has no radius in the paper: give one (--radius), in Euclidean length")
    if radius is not None:
        if not 0 <= radius < float("inf"):
            raise argument_error("radius", radius, "a finite number of at least 0, in input units")
        share = radius / row.radius if radius > 0 else 1.0
        changes |= {"radius": radius, "step_size": row.step_size * share}
        changes |= {"pgd_step_size": row.pgd_step_size * share}
    named = {"k": k, "attacked_k": k, "steps": steps, "step_size": step_size}
    named |= {"pgd_steps": pgd_steps, "pgd_step_size": pgd_step_size}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    row = replace(row, **changes | given)
    if norm == "l2":
        # The paper has no such steps: a tenth of the radius, and PGD's usual 2.5 radii in all.
        length = row.radius or 1.0
        usual = {"step_size": length / 10, "pgd_step_size": 2.5 * length / row.pgd_steps}
        row = replace(row, **usual | given)
    return row
