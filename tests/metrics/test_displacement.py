"""Mass centre and its shift: known places, scipy, undefined maps, gradients."""

import math

import pytest
import torch
from scipy import ndimage

from veridical.metrics import mass_centre, mass_centre_shift
from veridical.runtime.errors import UsageError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_scipy(dtype: torch.dtype) -> None:
    maps = torch.rand(4, 7, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = [ndimage.center_of_mass(image.double().numpy()) for image in maps]
    torch.testing.assert_close(
        mass_centre(maps), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_is_row_then_column() -> None:
    maps = torch.zeros(1, 9, 9)
    maps[0, 2, 7] = 3.0
    assert mass_centre(maps).tolist() == [[2.0, 7.0]]


def test_shift_is_a_distance_in_pixels() -> None:
    a = torch.zeros(1, 20, 20)
    a[0, 3:6, 3:6] = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    assert mass_centre_shift(a, a.roll((3, 4), dims=(1, 2))).item() == pytest.approx(5.0, abs=1e-12)
    assert mass_centre_shift(a, a).item() == 0.0
    # From corner to corner.
    corner = torch.zeros(1, 20, 20)
    corner[0, 0, 0] = 1.0
    assert mass_centre_shift(corner, corner.flip(1, 2)).item() == pytest.approx(19 * math.sqrt(2))


def test_a_map_without_mass_has_no_centre() -> None:
    maps = torch.ones(3, 4, 4)
    maps[1] = 0
    maps[2, 0, 0] = torch.nan
    assert mass_centre(maps).isnan().all(dim=1).tolist() == [False, True, True]
    assert mass_centre_shift(torch.ones(3, 4, 4), maps).isnan().tolist() == [False, True, True]


def test_signed_maps_and_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 0"):
        mass_centre(torch.tensor([[[1.0, -1.0]]]))
    with pytest.raises(UsageError, match="channels"):
        mass_centre(torch.ones(2, 3, 4, 4))


def test_centre_is_differentiable() -> None:
    maps = torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    assert torch.autograd.gradcheck(mass_centre, (maps.requires_grad_(),))
