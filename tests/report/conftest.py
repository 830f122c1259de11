"""Sections of both pages with deterministic numbers and galleries, small enough to write in a blink."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from veridical.report import DiffRoarSection, GalleryItem, ModelSection, UnmaskedItem

K = 10


def interval(value: float, half: float, n: int = 200) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def gallery_item(place: int, moved: int, shape: tuple[int, ...] = (12, 12)) -> GalleryItem:
    """An image whose perturbed map loses `moved` of its K most important pixels to others."""
    image = np.random.default_rng(place).random(shape)
    saliency = np.arange(1.0, 145.0).reshape(12, 12)
    perturbed = saliency.copy()
    top, other = perturbed.reshape(-1)[-K:], perturbed.reshape(-1)[:moved]
    other[:], top[:moved] = top[:moved].copy(), other.copy()
    return GalleryItem(
        image, saliency, np.clip(image + 0.1, 0, 1), perturbed, str(place), (K - moved) / K, 0.5
    )


@pytest.fixture
def section() -> Callable[..., ModelSection]:
    """A complete section; keyword arguments replace its parts."""

    def build(title: str = "Natural", topk: float = 0.31, tau: float = 0.18, **parts: Any) -> ModelSection:
        values = np.linspace(-0.2, 0.9, 50)
        complete: dict[str, Any] = {
            "subtitle": "the usual training",
            "metrics": {
                "natural_accuracy": interval(0.925, 0.01),
                "adversarial_accuracy": interval(0.011, 0.005),
                "topk_intersection": interval(topk, 0.02, 185),
                "kendall_tau": interval(tau, 0.02, 185),
                "mass_centre_shift": interval(1.5, 0.1, 185),
            },
            "published": {"natural_accuracy": 0.9086},
            "recalled": {"kendall_tau": 0.461},
            "gallery": [gallery_item(place, moved=4) for place in range(2)],
            "trace": np.linspace(1, tau, 30)[None] + np.linspace(-0.1, 0.1, 8)[:, None],
            "distributions": {"kendall_tau": values, "topk_intersection": np.abs(values)},
            "curve": [
                {"radius": 0.05, "natural_accuracy": 0.925, "kendall_tau": interval(0.5, 0.02)},
                {"radius": 0.1, "natural_accuracy": 0.925, "kendall_tau": interval(0.18, 0.02)},
            ],
        }
        return ModelSection(title=title, k=K, **(complete | parts))

    return build


LEVELS = (0.05, 0.5)


def measured(value: float, half: float | None = 0.01, repeats: int = 5) -> dict[str, Any]:
    """A number as the results hold it; without `half` it has no interval."""
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"repeats": [value] * repeats, "value": value, "low": low, "high": high}


def curve_of(
    tops: Sequence[float], bottoms: Sequence[float], half: float | None = 0.01, repeats: int = 5
) -> list[dict[str, Any]]:
    """A point for each of LEVELS."""
    return [
        {
            "level": level,
            "top": measured(top, half, repeats),
            "bottom": measured(bottom, half, repeats),
            "difference": measured(top - bottom, half, repeats),
        }
        for level, top, bottom in zip(LEVELS, tops, bottoms, strict=False)
    ]


def judged(
    values: Sequence[float], verdicts: Sequence[str | tuple[str, ...]], half: float | None = 0.01
) -> list[dict[str, Any]]:
    """A verdict for each of LEVELS, with what is as good behind it where it is a tuple."""
    found = []
    for level, value, said in zip(LEVELS, values, verdicts, strict=False):
        verdict, *as_good = (said,) if isinstance(said, str) else said
        ends = {name: measured(value, half)[name] for name in ("value", "low", "high")}
        found.append({"level": level, "verdict": verdict, **ends, "as_good": as_good})
    return found


def unmasked_item(place: int, colours: tuple[int, ...] = ()) -> UnmaskedItem:
    """A 6 x 6 image whose coordinates come in the order of their numbers."""
    image = np.random.default_rng(place).random((6, 6, *colours))
    order = np.linspace(1.0, 0.0, 36).reshape(6, 6)
    marked = np.broadcast_to((order > 0.5)[(..., *(None for _ in colours))], image.shape)
    ends = np.where(marked, image, 0.3), np.where(marked, 0.3, image)
    return UnmaskedItem(image, order, str(place), dict.fromkeys(LEVELS, ends))


@pytest.fixture
def diffroar_section() -> Callable[..., DiffRoarSection]:
    """A complete section: violated at 5%, satisfied at 50%; keyword arguments replace its parts."""

    def build(title: str = "Natural", **parts: Any) -> DiffRoarSection:
        complete: dict[str, Any] = {
            "curve": curve_of((0.62, 0.9), (0.7, 0.85)),
            "verdicts": judged([-0.08, 0.05], ["violated", "satisfied"]),
            "coordinates": 36,
            "subtitle": "mlp, natural",
            "baselines": {
                "random": curve_of((0.66, 0.87), (0.66, 0.87)),
                "input-agnostic": curve_of((0.75, 0.88), (0.6, 0.84)),
            },
            "control": curve_of((0.25, 0.12), (0.11, 0.1)),
            "chance": 0.1,
            "kar": [{"level": 0.05, "accuracy": measured(0.62)}, {"level": 0.5, "accuracy": measured(0.9)}],
            "roar": [{"level": 0.5, "accuracy": measured(0.85)}, {"level": 0.95, "accuracy": measured(0.7)}],
            "gallery": [unmasked_item(place) for place in range(2)],
        }
        return DiffRoarSection(title=title, **(complete | parts))

    return build
