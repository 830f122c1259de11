"""From attributions to the maps that are compared."""

import pytest
import torch
from torch.testing import assert_close

from veridical.metrics.maps import normalised_to_area, pictures, saliency
from veridical.runtime.errors import UsageError


def test_saliency_sums_sizes_over_channels() -> None:
    attribution = torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.5]]]], dtype=torch.float64)
    assert saliency(attribution).tolist() == [[[4.0, 2.5]]]
    assert saliency(attribution).dtype == torch.float64
    assert saliency(attribution[:0]).shape == (0, 1, 2)
    with pytest.raises(UsageError, match=r"attribution: expected \(N, C, H, W\)"):
        saliency(attribution[0])


def test_area_normalisation_gives_a_mean_of_one_and_ignores_scale() -> None:
    maps = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normalised = normalised_to_area(maps)
    assert_close(normalised / maps, (12 / maps.sum(dim=(1, 2), keepdim=True)).expand_as(maps))
    assert_close(normalised_to_area(7 * maps), normalised)
    # The gradient goes through the normaliser, also where it is zero.
    assert torch.autograd.gradcheck(normalised_to_area, maps.requires_grad_())
    zeros = torch.zeros(1, 3, 3, requires_grad=True)
    normalised_to_area(zeros).square().sum().backward()
    assert not bool(normalised_to_area(zeros).any())
    assert zeros.grad is not None
    assert bool(zeros.grad.isfinite().all())
    with pytest.raises(UsageError, match=r"maps: expected \(N, H, W\)"):
        normalised_to_area(torch.zeros(2, 1, 3, 4))


def test_pictures_end_their_scale_at_a_quantile_or_at_what_there_is() -> None:
    for side in (1, 2, 14, 28, 201):
        wide = torch.randn(5, 2, side, 3, generator=torch.Generator().manual_seed(side))
        sizes = wide.double().abs().sum(dim=1)
        tops = torch.stack([row.quantile(0.995) for row in sizes])
        assert torch.equal(pictures(wide), (sizes / tops[:, None, None]).clamp(max=1))
    assert pictures(torch.tensor([[[[torch.nan] + 300 * [1.0]]]])).isnan().all()
    sparse = torch.zeros(2, 1, 32, 32)
    sparse[0, 0, 3, 4] = -0.5
    assert pictures(sparse)[0, 3, 4] == 1.0
    assert not bool(pictures(sparse)[1].any())
