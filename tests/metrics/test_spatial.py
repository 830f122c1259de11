"""SSIM against scikit-image; the centre of mass and its shift against scipy."""

from typing import Any, Literal

import pytest
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.testing import assert_close

from veridical.metrics import mass_centre, mass_centre_shift, ssim
from veridical.runtime.errors import UsageError


def pictures(
    shape: tuple[int, ...] = (4, 20, 17), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    a = torch.rand(*shape, generator=generator, dtype=dtype)
    b = 0.6 * a + 0.4 * torch.rand(*shape, generator=generator, dtype=dtype)
    return a, b


@pytest.mark.parametrize("sample_covariance", [False, True])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
@pytest.mark.parametrize(
    ("weights", "window", "theirs"),
    [
        ("gaussian", None, {"gaussian_weights": True, "sigma": 1.5}),
        ("uniform", None, {}),
        ("uniform", 5, {"win_size": 5}),
        ("uniform", 17, {"win_size": 17}),
    ],
)
def test_equal_to_scikit_image(
    weights: Literal["gaussian", "uniform"],
    window: int | None,
    theirs: dict[str, Any],
    data_range: float,
    sample_covariance: bool,
) -> None:
    a, b = (data_range * batch for batch in pictures())
    result = ssim(
        a, b, data_range=data_range, weights=weights, window=window, sample_covariance=sample_covariance
    )
    theirs = {**theirs, "data_range": data_range, "use_sample_covariance": sample_covariance}
    expected = [structural_similarity(one, other, **theirs) for one, other in zip(a.numpy(), b.numpy())]
    assert_close(result, torch.tensor(expected), rtol=1e-10, atol=1e-12)


def test_flat_pictures_are_compared_by_their_means_alone() -> None:
    low, high = torch.full((1, 11, 11), 0.2), torch.full((1, 11, 11), 0.6)
    expected = (2 * 0.2 * 0.6 + 0.01**2) / (0.2**2 + 0.6**2 + 0.01**2)
    assert ssim(low, high, data_range=1.0).item() == pytest.approx(expected, rel=1e-5)
    # Two blank pictures are the same picture.
    assert ssim(0 * low, 0 * high, data_range=1.0).item() == pytest.approx(1.0)


def test_a_picture_s_number_depends_on_no_other() -> None:
    a, b = pictures((5, 150, 160))  # more than are worked on together
    whole = ssim(a, b, data_range=1.0)
    assert torch.equal(torch.cat([ssim(a[i : i + 1], b[i : i + 1], data_range=1.0) for i in range(5)]), whole)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": 4}, "window: .*odd"),
        ({"window": 1}, "window: .*odd"),
        ({"window": 19}, "shorter side has 17"),
        ({"weights": "flat"}, "weights"),
        ({"data_range": 0.0}, "data_range"),
        ({"data_range": float("inf")}, "data_range"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], told: str) -> None:
    a, b = pictures()
    with pytest.raises(UsageError, match=told):
        ssim(a, b, **{"data_range": 1.0, **options})


def test_channels_are_combined_by_the_caller() -> None:
    a, b = pictures((2, 3, 12, 12))
    with pytest.raises(UsageError, match="one value per pixel"):
        ssim(a, b, data_range=1.0)
    with pytest.raises(UsageError, match="shorter side has 10"):
        ssim(a[:, 0, :10], b[:, 0, :10], data_range=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_scipy(dtype: torch.dtype) -> None:
    maps = torch.rand(4, 7, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = [ndimage.center_of_mass(image.double().numpy()) for image in maps]
    torch.testing.assert_close(
        mass_centre(maps), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


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
