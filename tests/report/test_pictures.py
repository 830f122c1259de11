"""What the gallery's pictures show, read back from their PNG bytes by an independent decoder."""

import base64
import io
import itertools

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread
from numpy.typing import NDArray

from veridical.report import pictures


def decoded(uri: str) -> NDArray[np.uint8]:
    prefix, _, content = uri.partition(",")
    assert prefix == "data:image/png;base64"
    pixels = imread(io.BytesIO(base64.b64decode(content)), format="png")
    levels: NDArray[np.uint8] = np.rint(pixels * 255).astype(np.uint8)
    return levels


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1), (1, 4, 3)])
def test_images_survive_to_the_grey_level(shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape)
    shown = decoded(pictures.image_uri(levels / 255))
    assert np.array_equal(
        shown[..., :3] if shown.ndim == 3 else shown, levels.reshape(shown.shape[: shown.ndim])
    )


def test_images_are_clipped_and_never_wrap() -> None:
    shown = decoded(pictures.image_uri(np.array([[-0.5, 1.5], [np.nan, 0.5]])))
    assert shown.tolist() == [[0, 255], [0, 128]]


def test_maps_are_coloured_from_zero_and_do_not_depend_on_scale() -> None:
    saliency = np.random.default_rng(0).random((9, 9))
    saliency[0, 0] = 0
    shown = decoded(pictures.map_uri(saliency))
    table = colormaps[pictures.COLORMAP]
    assert shown[0, 0, :3].tolist() == list(table(0.0, bytes=True)[:3])
    assert shown[np.unravel_index(saliency.argmax(), (9, 9))][:3].tolist() == list(table(1.0, bytes=True)[:3])
    assert pictures.map_uri(saliency) == pictures.map_uri(saliency * 1024)
    assert np.unique(decoded(pictures.map_uri(np.zeros((4, 4)))).reshape(16, -1), axis=0).shape[0] == 1


def test_one_extreme_pixel_leaves_the_rest_visible() -> None:
    saliency = np.random.default_rng(0).random((28, 28))
    saliency[3, 3] = 1000.0
    assert decoded(pictures.map_uri(saliency))[..., :3].mean() > 50


def test_top_pixels_break_ties_like_the_metrics() -> None:
    assert pictures.top_mask(np.zeros((2, 3)), 2).ravel().tolist() == [False] * 4 + [True] * 2
    assert pictures.top_mask(np.array([[3.0, 1.0], [2.0, 3.0]]), 2).tolist() == [[True, False], [False, True]]
    assert pictures.top_mask(np.zeros((2, 2)), 9).all()
    heavy = np.random.default_rng(0).integers(0, 4, (28, 28)).astype(float)
    ranked = sorted(range(784), key=lambda place: (heavy.ravel()[place], place))
    assert set(np.flatnonzero(pictures.top_mask(heavy, 100))) == set(ranked[-100:])


def test_the_overlap_picture_counts_what_stayed() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random((10, 10)), rng.random((10, 10))
    image = np.zeros((10, 10, 3))
    shown = decoded(pictures.overlap_uri(image, before, after, 30))[..., :3]
    counted = {
        name: int((shown == colour).all(axis=-1).sum())
        for name, colour in (("kept", pictures.KEPT), ("lost", pictures.LOST), ("gained", pictures.GAINED))
    }
    tops = [set(np.argsort(one.ravel(), kind="stable")[-30:].tolist()) for one in (before, after)]
    shared = len(tops[0] & tops[1])
    assert 0 < shared < 30
    assert counted == {"kept": shared, "lost": 30 - shared, "gained": 30 - shared}
    assert pictures.kept(before, after, 30) == shared


def test_the_colour_scale_and_the_marks_differ_in_lightness() -> None:
    def lightness(colour: NDArray[np.uint8] | tuple[int, ...]) -> float:
        return float(np.dot(np.asarray(colour, dtype=float)[:3], (0.2126, 0.7152, 0.0722)))

    bar = [lightness(colour) for colour in decoded(pictures.colour_bar_uri())[0]]
    assert all(after > before - 0.5 for before, after in itertools.pairwise(bar))
    assert bar[-1] - bar[0] > 200
    marks = sorted(lightness(colour) for colour in (pictures.KEPT, pictures.LOST, pictures.GAINED))
    assert marks[0] > 100
    assert marks[1] - marks[0] > 40
    assert marks[2] - marks[1] > 40
