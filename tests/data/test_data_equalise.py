from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from veridical.data.arrays import equalise_levels


def pillow(images: np.ndarray) -> np.ndarray:
    planes = images.reshape(-1, *images.shape[-2:])
    result = [np.asarray(ImageOps.equalize(Image.fromarray(plane))) for plane in planes]
    return np.stack(result).reshape(images.shape)


@settings(max_examples=200, deadline=None)
@given(
    images=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 24), st.integers(1, 24)),
        elements=st.integers(0, 255),
    )
)
def test_equals_pillow_for_any_plane(images: np.ndarray) -> None:
    before = images.copy()
    result = equalise_levels(images)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, pillow(images))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("levels", [1, 2, 3, 17, 256])
@pytest.mark.parametrize("side", [8, 28, 32, 128])
def test_equals_pillow_on_images_of_few_and_many_levels(levels: int, side: int) -> None:
    generator = np.random.default_rng(levels)
    palette = generator.choice(256, size=levels, replace=False).astype(np.uint8)
    # Squared uniforms make some levels much more frequent than others.
    images = palette[(generator.random((5, 3, side, side)) ** 2 * levels).astype(int)]
    np.testing.assert_array_equal(equalise_levels(images), pillow(images))


def test_planes_do_not_see_each_other_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 90, size=(11, 3, 16, 16), dtype=np.uint8)
    whole = equalise_levels(images)
    monkeypatch.setattr("veridical.data.arrays._CHUNK", 4)
    np.testing.assert_array_equal(equalise_levels(images), whole)
    np.testing.assert_array_equal(equalise_levels(images[3:4, 1:2]), whole[3:4, 1:2])


def test_dark_images_become_full_range() -> None:
    images = np.random.default_rng(0).integers(0, 20, size=(1, 1, 32, 32), dtype=np.uint8)
    result = equalise_levels(images)
    assert result.min() == 0
    assert result.max() == 255


def test_no_images_give_no_images() -> None:
    assert equalise_levels(np.zeros((0, 3, 4, 4), dtype=np.uint8)).shape == (0, 3, 4, 4)
