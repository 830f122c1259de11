"""Sections of two models with deterministic numbers and galleries, small enough to write in a blink."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from veridical.report import GalleryItem, ModelSection

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
