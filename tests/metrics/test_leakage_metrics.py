"""Leakage measures: closed forms, undefined cases, and the pixels that tell classes apart."""

import pytest
import torch

from veridical.metrics import cosine_within, left_behind
from veridical.metrics.localisation import discriminative_pixels
from veridical.runtime.errors import UsageError


def maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two batches (4, 2, 3, 5) of signed maps and regions (4, 3, 5), none of them empty."""
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 4, 2, 3, 5, generator=generator)
    region = torch.rand(4, 3, 5, generator=generator) < 0.5
    region[:, 0, 0] = True
    return a, b, region


def test_left_behind_compares_the_sums_in_the_region() -> None:
    a, b, region = maps()
    here, there = ((one.double().abs() * region[:, None]).sum(dim=(1, 2, 3)) for one in (a, b))
    torch.testing.assert_close(left_behind(a, b, region), here / (here + there), rtol=1e-12, atol=0)
    assert left_behind(a, -a, region).tolist() == [0.5] * 4
    assert left_behind(a * ~region[:, None], b, region).tolist() == [0.0] * 4
    assert left_behind(a, b * ~region[:, None], region).tolist() == [1.0] * 4


def test_cosine_is_signed_and_blind_to_what_lies_outside() -> None:
    a, b, region = maps()
    inside = region[:, None].expand(a.shape)
    expected = [torch.cosine_similarity(x[m], y[m], dim=0) for x, y, m in zip(a, b, inside, strict=True)]
    torch.testing.assert_close(cosine_within(a, b, region), torch.stack(expected).double())
    torch.testing.assert_close(cosine_within(a, 3 * a, region), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(cosine_within(a, -a, region), -torch.ones(4, dtype=torch.float64))
    elsewhere = torch.where(inside, a, 100 * b)
    torch.testing.assert_close(cosine_within(elsewhere, b, region), cosine_within(a, b, region))


@pytest.mark.parametrize("measure", [left_behind, cosine_within])
def test_undefined_cases_are_nan_and_stay_with_their_example(measure: object) -> None:
    assert callable(measure)
    a, b, region = maps()
    expected = measure(a, b, region)
    a[1], b[1] = 0.0, 0.0
    a[2, 0, 2, 4] = torch.nan
    found = measure(a, b, region)
    assert found.isnan().nonzero().flatten().tolist() == [1, 2]
    assert torch.equal(found[[0, 3]], expected[[0, 3]])
    assert measure(a[:0], b[:0], region[:0]).shape == (0,)
    with pytest.raises(UsageError, match=r"^region: expected a bool tensor"):
        measure(a, b, region[:, :2])
    with pytest.raises(UsageError, match=r"^b: expected maps of a's shape"):
        measure(a, b[1:], region)


def test_telling_places_are_where_class_means_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    images = 0.1 * torch.rand(300, 4, 4, generator=generator)
    images[:, 3, 3] += torch.rand(300, generator=generator) * 2  # varies most, but not with the class
    images[labels == 0, 0, 1] += 0.5
    images[labels == 1, 2, 2] += 0.5
    images[labels == 2, 1, 0] -= 0.5
    images[:, 0, 0] += 2.0  # bright in all classes
    images[labels == 1, 1, 3] += 0.5
    assert discriminative_pixels(images, labels, 0.25).nonzero().tolist() == [[0, 1], [1, 0], [1, 3], [2, 2]]
    # A class that is rare counts like the others.
    few = torch.cat([torch.arange(0, 300, 3), torch.arange(1, 300, 3), torch.tensor([2, 5, 8])])
    assert discriminative_pixels(images[few], labels[few], 0.25)[1, 0]
    for share, count in ((1.0, 16), (0.1, 2), (0.09, 1), (0.04, 1), (0.35, 6)):
        assert int(discriminative_pixels(images, labels, share).sum()) == count  # the nearest, at least one


def test_telling_places_check_what_they_get() -> None:
    images, labels = torch.rand(6, 4, 4), torch.arange(6)
    for wrong in (images.byte(), images[None], images[:0]):
        with pytest.raises(UsageError, match="images"):
            discriminative_pixels(wrong, labels)
    with pytest.raises(UsageError, match="labels"):
        discriminative_pixels(images, labels[1:])
    with pytest.raises(UsageError, match="share"):
        discriminative_pixels(images, labels, 0.0)
