"""The numbers of Chen, Wu, Rastogi, Liang and Jha, "Robust Attribution Regularization", NeurIPS 2019.

Every figure carries a mark. "published": stated by the authors in what was read again for this table.
"recalled": written down from memory of the paper's table and not read again, so it is shown as "recalled,
unverified". Neither kind is ever compared with a measurement to pass a verdict, here or in a test; both stand
beside it.

All values are fractions (0.9086, not 90.86%) except Kendall's tau, which lies in [-1, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

CITATION: Final = (
    "J. Chen, X. Wu, V. Rastogi, Y. Liang, S. Jha: "
    "Robust Attribution Regularization. NeurIPS 2019, arXiv:1905.09957."
)
MEASURES: Final = ("natural_accuracy", "adversarial_accuracy", "topk_intersection", "kendall_tau")

Mark = Literal["published", "recalled"]


@dataclass(frozen=True)
class Figure:
    """One number of the paper: a fraction in [0, 1] (a tau in [-1, 1]) and how well its origin is known."""

    value: float
    mark: Mark


@dataclass(frozen=True)
class PublishedRow:
    """What the paper reports for one network: NA, AA, IN and CO on a data set, under an objective."""

    data: str
    objective: str
    natural_accuracy: Figure
    adversarial_accuracy: Figure
    topk_intersection: Figure
    kendall_tau: Figure

    def marked(self, mark: Mark) -> dict[str, float]:
        """The figures with this mark, by measure name, in the order NA, AA, IN, CO."""
        figures: list[tuple[str, Figure]] = [(name, getattr(self, name)) for name in MEASURES]
        return {name: figure.value for name, figure in figures if figure.mark == mark}


# The natural accuracy of these three was stated by the authors; all other figures are recalled.
_STATED_ACCURACY: Final = frozenset({"natural", "ig-norm", "ig-sum-norm"})


def _row(data: str, objective: str, na: float, aa: float, topk: float, tau: float) -> PublishedRow:
    return PublishedRow(
        data,
        objective,
        Figure(na, "published" if objective in _STATED_ACCURACY else "recalled"),
        Figure(aa, "recalled"),
        Figure(topk, "recalled"),
        Figure(tau, "recalled"),
    )


ROWS: Final[tuple[PublishedRow, ...]] = (
    _row("mnist", "natural", 0.9917, 0.0000, 0.4661, 0.1758),
    _row("mnist", "adversarial", 0.9840, 0.9247, 0.6256, 0.2422),
    _row("mnist", "ig-norm", 0.9874, 0.8143, 0.7136, 0.2841),
    _row("mnist", "ig-sum-norm", 0.9834, 0.8817, 0.7245, 0.3111),
    _row("fashion-mnist", "natural", 0.9086, 0.0001, 0.3901, 0.4610),
    _row("fashion-mnist", "adversarial", 0.8573, 0.7301, 0.4612, 0.6251),
    _row("fashion-mnist", "ig-norm", 0.8513, 0.6595, 0.5922, 0.6171),
    _row("fashion-mnist", "ig-sum-norm", 0.8544, 0.7026, 0.7208, 0.6747),
    _row("gtsrb", "natural", 0.9857, 0.2105, 0.5416, 0.6790),
    _row("gtsrb", "adversarial", 0.9759, 0.8324, 0.6885, 0.7520),
    _row("gtsrb", "ig-norm", 0.9702, 0.7524, 0.7481, 0.7555),
    _row("gtsrb", "ig-sum-norm", 0.9568, 0.7712, 0.7404, 0.7684),
    _row("flowers17", "natural", 0.8676, 0.0000, 0.0812, 0.4978),
    _row("flowers17", "adversarial", 0.8382, 0.4191, 0.5587, 0.7784),
    _row("flowers17", "ig-norm", 0.8529, 0.2426, 0.6468, 0.7591),
    _row("flowers17", "ig-sum-norm", 0.8235, 0.4706, 0.6633, 0.7974),
)

PUBLISHED: Final[Mapping[tuple[str, str], PublishedRow]] = MappingProxyType(
    {(row.data, row.objective): row for row in ROWS}
)


def published(data: str, objective: str) -> dict[str, float]:
    """The stated figures by measure name; empty where the paper has no such network."""
    row = PUBLISHED.get((data, objective))
    return row.marked("published") if row else {}


def recalled(data: str, objective: str) -> dict[str, float]:
    """The recalled, unverified figures by measure name; empty where the paper has no such network."""
    row = PUBLISHED.get((data, objective))
    return row.marked("recalled") if row else {}
