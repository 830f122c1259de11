"""How hard an attribution attack tries and how it is judged: the published protocol and stronger ones."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

from veridical.attacks.directions import TopK
from veridical.attribution.quadrature import Quadrature
from veridical.runtime.checking import Checked, limited
from veridical.runtime.errors import UsageError, unknown_name_error


@dataclass(frozen=True)
class Restart(Checked):
    """One restart of an attribution attack.

    Parameters
    ----------
    start
        "origin" or "random" (uniform in the ball).
    beta, beta_end
        Softplus sharpness of the twin at the first and the last step (geometric growth); beta None climbs the
        network itself, which has no second derivative if it is piecewise linear.
    momentum, decay
        As in `veridical.attacks.ascend`.
    goal
        "attack": the attack's own direction; "decorrelate": the smooth stand-in for tau.
    label_weight
        Weight of a hinge on the margin of the predicted class that keeps iterates admissible; 0 has none.
    step_scale
        Multiplies the protocol's step size.
    """

    start: Literal["origin", "random"] = "origin"
    beta: float | None = field(default=1.0, metadata=limited(0, 1e6, above=True))
    beta_end: float | None = field(default=None, metadata=limited(0, 1e6, above=True))
    momentum: float = field(default=0.0, metadata=limited(0, 1e6))
    decay: Literal["constant", "linear"] = "constant"
    goal: Literal["attack", "decorrelate"] = "attack"
    label_weight: float = field(default=0.0, metadata=limited(0, 1e6))
    step_scale: float = field(default=1.0, metadata=limited(0, 1e4, above=True))


@dataclass(frozen=True)
class Protocol(Checked):
    """An attribution attack's budget and judge.

    Parameters
    ----------
    name
        Recorded in results.
    steps, step_size
        Iterations of each climb and their length in input units.
    k
        Pixels compared by the intersection; None takes those of the direction, 100 where it has none.
    climb_nodes, judge_nodes
        Quadratures of the map that is climbed (on the twin) and that judges every iterate (real network).
    final_nodes
        Quadrature of the map that judges the `shortlist` best iterates again and gives the result; None where
        the judge's map is the final one.
    climbs
        The restarts.
    minimise_each
        Keep for tau and for the intersection each its own least iterate; otherwise both are those of the
        iterate with the least tau (the paper's).
    """

    name: str
    steps: int = 100
    step_size: float = 0.01
    k: int | None = None
    climb_nodes: Quadrature = Quadrature("right", 100)
    judge_nodes: Quadrature = Quadrature("right", 100)
    final_nodes: Quadrature | None = None
    shortlist: int = field(default=1, metadata=limited(1, 10**9))
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

    def towards(self, direction: object) -> Protocol:
        """This protocol with the k of the direction that is attacked; a UsageError where they contradict."""
        if not isinstance(direction, TopK):
            return self
        k = direction.k if direction.compared is None else direction.compared
        if self.k not in (None, k):
            raise UsageError(
                f"k: {direction} compares {k} pixels and protocol {self.name!r} {self.k}. Leave k out of the "
                f"protocol, or say TopK({direction.k}, compared={self.k}) if they are meant to differ."
            )
        return replace(self, k=k)


PAPER = Protocol("paper")
PAPER_FAST = Protocol(
    "paper-fast",
    climb_nodes=Quadrature("gauss-legendre", 10),
    judge_nodes=Quadrature("gauss-legendre", 10),
    final_nodes=Quadrature("right", 100),
    shortlist=5,
)
STRONG = Protocol(
    "strong",
    climb_nodes=Quadrature("gauss-legendre", 10),
    judge_nodes=Quadrature("gauss-legendre", 10),
    final_nodes=Quadrature("right", 100),
    shortlist=5,
    climbs=(
        Restart(),
        Restart("origin", 5.0, 50.0, momentum=0.75, decay="linear", label_weight=1.0, step_scale=2.0),
        Restart("random", 20.0, 50.0, momentum=0.75, decay="linear", label_weight=1.0, step_scale=2.0),
        Restart(
            "random",
            5.0,
            50.0,
            momentum=0.75,
            decay="linear",
            goal="decorrelate",
            label_weight=1.0,
            step_scale=2.0,
        ),
    ),
    minimise_each=True,
)
PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (PAPER, PAPER_FAST, STRONG)}


def protocol(name: str, **changes: object) -> Protocol:
    """The protocol of that name, with those fields replaced that are given and not None."""
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise unknown_name_error("protocol", name, PROTOCOLS)
    known = [field.name for field in fields(Protocol)]
    if unknown := next((key for key in changes if key not in known), None):
        raise unknown_name_error("field of a protocol", unknown, known)
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(PROTOCOLS[name], **given)  # type: ignore[arg-type]


def protocol_of(given: str | Protocol) -> Protocol:
    """The protocol, which may be named."""
    return given if isinstance(given, Protocol) else protocol(given)
