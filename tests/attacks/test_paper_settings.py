"""The table of the paper's evaluation settings, and what follows from it for other data, radii and norms."""

from typing import Any

import pytest
import torch

from veridical.attacks.ascent import ascend
from veridical.attacks.ball import Linf
from veridical.attacks.protocols import PAPER_SETTINGS, evaluation_settings
from veridical.runtime.errors import UsageError


def test_the_table_is_the_published_one() -> None:
    names = ("radius", "attacked_k", "k", "step_size", "steps", "pgd_steps", "pgd_step_size")
    table = {data: tuple(getattr(row, name) for name in names) for data, row in PAPER_SETTINGS.items()}
    assert table == {
        "mnist": (0.3, 200, 100, 0.01, 100, 40, 0.01),
        "fashion-mnist": (0.1, 100, 100, 0.01, 100, 20, 0.01),
        "gtsrb": (8 / 255, 100, 100, 1 / 255, 50, 7, 2 / 255),
        "flowers17": (8 / 255, 1000, 1000, 1 / 255, 100, 7, 2 / 255),
    }


@pytest.mark.parametrize(
    ("data", "shape", "row"),
    [
        ("mnist-5k", (1, 28, 28), "mnist"),
        ("letters", (1, 28, 28), "fashion-mnist"),
        ("cifar10", (3, 32, 32), "gtsrb"),
        ("imagenette", (3, 96, 96), "flowers17"),
    ],
)
def test_other_data_get_the_row_of_like_images(data: str, shape: tuple[int, int, int], row: str) -> None:
    assert evaluation_settings(data, shape) == PAPER_SETTINGS[row]


def test_small_maps_get_fewer_pixels() -> None:
    assert evaluation_settings("letters", (1, 8, 8)).k == 8
    assert evaluation_settings("letters", (1, 14, 14)).k == 24
    assert evaluation_settings("letters", (1, 15, 15)).k == 100


def test_steps_follow_the_radius_and_what_is_given_is_used() -> None:
    half = evaluation_settings("mnist", (1, 28, 28), radius=0.15)
    assert half.step_size == pytest.approx(0.005)
    assert half.pgd_step_size == pytest.approx(0.005)
    assert (half.steps, half.pgd_steps, half.k, half.attacked_k) == (100, 40, 100, 200)
    given: dict[str, Any] = {"k": 50, "steps": 7, "step_size": 0.3, "pgd_steps": 3, "pgd_step_size": 0.2}
    changed = evaluation_settings("mnist", (1, 28, 28), **given)
    assert {name: getattr(changed, name) for name in given} == given
    assert changed.attacked_k == 50
    assert evaluation_settings("mnist", (1, 28, 28), radius=0.0).step_size == 0.01


def test_l2_needs_a_radius_and_takes_steps_from_it() -> None:
    with pytest.raises(UsageError, match="l2 has no radius in the paper"):
        evaluation_settings("mnist", (1, 28, 28), norm="l2")
    found = evaluation_settings("mnist", (1, 28, 28), norm="l2", radius=2.0)
    assert (found.step_size, found.pgd_step_size) == (0.2, 0.125)
    with pytest.raises(UsageError, match="radius"):
        evaluation_settings("mnist", (1, 28, 28), radius=-0.1)


def test_steps_of_a_grey_level_stay_on_grey_levels() -> None:
    """Why the authors' truncation of GTSRB and Flower iterates to whole grey levels needs no code here."""
    generator = torch.Generator().manual_seed(0)
    origin = torch.randint(0, 256, (4, 3, 6, 6), generator=generator).float() / 255
    weights = torch.randn(3, 6, 6, generator=generator)
    row = PAPER_SETTINGS["gtsrb"]
    score = lambda x: (x * weights).flatten(1).sum(1).cos() * 5  # noqa: E731
    moved = ascend(score, origin, Linf(row.radius), steps=row.steps, step_size=row.step_size).inputs
    levels = moved * 255
    assert float((levels - levels.round()).abs().max()) < 1e-3
    assert float((moved - origin).abs().max()) > 1 / 255
