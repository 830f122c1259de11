"""What a report is made of: plain frozen dataclasses of numbers and numpy arrays, and the checks on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veridical.runtime.errors import UsageError, argument_error
from veridical.runtime.record import record

Array = NDArray[Any]


@record
class GalleryItem:
    """One image before and after an attack on its explanation.

    `image` and `perturbed` are (H, W), (H, W, 1) or (H, W, 3) in [0, 1]; `map` and `perturbed_map` are the
    saliency (H, W), not negative. `topk_intersection` is a fraction, `kendall_tau` lies in [-1, 1]; NaN
    or None where not measured. `label` is shown to the reader.
    """

    image: Array
    map: Array
    perturbed: Array
    perturbed_map: Array
    label: str
    topk_intersection: float | None
    kendall_tau: float | None

    def __post_init__(self) -> None:
        grid = np.shape(self.map)
        if len(grid) != 2 or 0 in grid:
            raise argument_error(
                "GalleryItem.map", self.map, "a saliency map of shape (H, W)", "Sum over channels."
            )
        if np.shape(self.perturbed_map) != grid:
            raise argument_error("GalleryItem.perturbed_map", self.perturbed_map, f"the map's shape {grid}")
        for name in ("image", "perturbed"):
            if np.shape(getattr(self, name)) not in (grid, (*grid, 1), (*grid, 3)):
                raise argument_error(
                    f"GalleryItem.{name}", getattr(self, name), f"shape {grid}, with 1 or 3 channels last"
                )


@record
class ModelSection:
    """Everything a report shows about one model; what was not measured is left out, None or NaN.

    `metrics` maps natural_accuracy, adversarial_accuracy, topk_intersection, kendall_tau and, if measured,
    spearman, windowed_topk_intersection and mass_centre_shift to {"value", "low", "high", "n"}: fractions
    (not percent), correlations, pixels, with a 95% interval over n examples. `published` and `recalled`
    hold the literature's numbers under the same names. Item i of every section's `gallery` is the same
    example. `trace` is (N, T), Kendall's tau of N examples after each of T attack iterations.
    `distributions` holds one number per example under kendall_tau and topk_intersection. `curve` is a
    list of {"radius": r, metric: number or interval}. `k` is the number of most important pixels that the
    top-k intersection counts.
    """

    title: str
    metrics: Mapping[str, Mapping[str, Any] | float | None]
    k: int
    subtitle: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    recalled: Mapping[str, float] = field(default_factory=dict)
    gallery: Sequence[GalleryItem] = ()
    trace: Array | None = None
    distributions: Mapping[str, Array] = field(default_factory=dict)
    curve: Sequence[Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise argument_error("ModelSection.k", self.k, "a positive number of pixels")
        if self.trace is not None and np.ndim(self.trace) != 2:
            raise argument_error("ModelSection.trace", self.trace, "an array of shape (examples, iterations)")


@dataclass(frozen=True)
class Protocol:
    """How the models were attacked, in the words and numbers that the page repeats.

    `radius` is in input units (pixels run from 0 to 1) and `norm` is "linf" or "l2"; `details` is shown as a
    list of terms and values, in order.
    """

    radius: float | None = None
    norm: str = "linf"
    details: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise argument_error("Protocol.norm", self.norm, '"linf" or "l2"')


def check_sections(sections: Sequence[ModelSection]) -> None:
    """Refuse what one page cannot compare: no section, equal titles, different k, other examples."""
    if not sections:
        raise UsageError(
            "sections: expected at least one ModelSection, but got none. Pass one for each model."
        )
    titles = [section.title for section in sections]
    if len(set(titles)) < len(titles):
        raise argument_error("sections", titles, "a different title for each model")
    counts = [section.k for section in sections]
    if len(set(counts)) > 1:
        raise argument_error(
            "sections", counts, "the same k in all of them", "Overlaps of different k do not compare."
        )
    shown = [section for section in sections if section.gallery]
    for section in shown[1:]:
        _check_same_examples(shown[0], section)


def _check_same_examples(first: ModelSection, other: ModelSection) -> None:
    if len(other.gallery) != len(first.gallery):
        raise argument_error(
            f"gallery of {other.title!r}",
            len(other.gallery),
            f"the {len(first.gallery)} examples of {first.title!r}",
        )
    for place, (here, there) in enumerate(zip(first.gallery, other.gallery, strict=True)):
        if not np.array_equal(np.squeeze(here.image), np.squeeze(there.image)):
            raise UsageError(
                f"gallery of {other.title!r}: item {place} is not the image that {first.title!r} has there. "
                "Pass the same examples, in the same order, for every model."
            )
