"""What galleries show, read back from their PNG bytes by an independent decoder."""

import base64
import io
import itertools
import re
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread
from numpy.typing import NDArray

from veridical.report import PictureGallery, PictureRow, channels_last, pictures
from veridical.report.pictures import colour_pixels, largest_side
from veridical.runtime.errors import UsageError


def decoded(uri: str, form: str = "png") -> NDArray[np.uint8]:
    prefix, _, content = uri.partition(",")
    assert prefix == f"data:image/{form};base64"
    pixels = imread(io.BytesIO(base64.b64decode(content)), format=form)
    levels = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255)
    return levels.astype(np.uint8)[..., :3]


def shown(picture: Any, colours: Any = "grey") -> NDArray[np.uint8]:
    """What a gallery of one picture shows."""
    gallery = PictureGallery([PictureRow("r", [picture])], ["a"], [colours])
    (tile,) = gallery.tiles(gallery.rows[0])
    return decoded(tile["uri"])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (1, 1), (1, 4, 3)])
def test_images_survive_to_the_grey_level(shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, shape)
    expected = levels if shape[2:] == (3,) else np.repeat(levels.reshape(*shape[:2], 1), 3, axis=-1)
    assert np.array_equal(shown(levels / 255), expected)
    # What is outside is clipped and never wraps.
    assert shown(np.array([[-0.5, 1.5], [np.nan, 0.5]]))[..., 0].tolist() == [[0, 255], [0, 128]]


def test_maps_are_coloured_from_zero_and_do_not_depend_on_scale() -> None:
    saliency = np.random.default_rng(0).random((9, 9))
    saliency[0, 0] = 0
    drawn, table = shown(saliency, "heat"), colormaps[pictures.COLORMAP]
    assert drawn[0, 0].tolist() == list(table(0.0, bytes=True)[:3])
    assert drawn[np.unravel_index(saliency.argmax(), (9, 9))].tolist() == list(table(1.0, bytes=True)[:3])
    assert np.array_equal(drawn, shown(saliency * 1024, "heat"))
    assert np.unique(shown(np.zeros((4, 4)), "heat").reshape(16, -1), axis=0).shape[0] == 1
    order = np.argsort(saliency, axis=None)
    assert (np.diff(drawn.astype(int).sum(axis=-1).ravel()[order]) >= 0).all()
    extreme = np.random.default_rng(0).random((28, 28))
    extreme[3, 3] = 1000.0  # one pixel, which leaves the rest visible
    assert shown(extreme, "heat").mean() > 50
    # Signs are red above zero and blue below.
    signed = np.zeros((3, 3))
    signed[0, 0], signed[0, 1] = 1.0, -1.0
    expected = [tuple(colormaps["RdBu_r"](place, bytes=True)[:3]) for place in (1.0, 0.0, 0.5)]
    assert [tuple(pixel) for pixel in shown(signed, "signed")[0]] == expected


def test_large_pictures_are_averaged_down_and_small_ones_kept() -> None:
    image = np.zeros((900, 600))
    image[:, 300:] = 1.0
    drawn = shown(image)
    assert drawn.shape == (300, 200, 3)
    assert drawn[:, :100].max() == 0
    assert drawn[:, 100:].min() == 255
    gallery = PictureGallery([PictureRow("r", [image, image[:64, :64]])], ["a", "b"], ["grey", "grey"])
    assert [tile["crisp"] for tile in gallery.tiles(gallery.rows[0])] == [False, True]


@pytest.mark.parametrize(
    "values", [[0.0], [5e-324], [-3e38, 3e38], [np.nan], [-np.inf, np.inf], [np.nan, 0.4]]
)
@pytest.mark.parametrize("colours", ["grey", "heat", "signed"])
def test_every_picture_is_drawn_of_anything(values: list[float], colours: Any) -> None:
    picture = np.abs(np.resize(values, (2, 3)))
    assert shown(picture, colours).shape == (2, 3, 3)
    assert pictures.overlap(picture, picture, picture, 1).shape == (2, 3, 3)


def test_channels_come_last_and_bytes_become_numbers() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(3, 2, 4)
    assert channels_last(image).shape == (2, 4, 3)
    assert channels_last(image)[1, 2, 0] == image[0, 1, 2] / 255
    assert channels_last(image[:1] / 255.0).tolist() == (image[0] / 255.0).tolist()


def test_top_pixels_break_ties_like_the_metrics() -> None:
    assert pictures.top_mask(np.zeros((2, 3)), 2).ravel().tolist() == [False] * 4 + [True] * 2
    assert pictures.top_mask(np.array([[3.0, 1.0], [2.0, 3.0]]), 2).tolist() == [[True, False], [False, True]]
    assert pictures.top_mask(np.zeros((2, 2)), 9).all()
    heavy = np.random.default_rng(0).integers(0, 4, (28, 28)).astype(float)
    ranked = sorted(range(784), key=lambda place: (heavy.ravel()[place], place))
    assert set(np.flatnonzero(pictures.top_mask(heavy, 100))) == set(ranked[-100:])


def test_the_overlap_picture_counts_what_stayed() -> None:
    before, after = np.random.default_rng(0).random((2, 10, 10))
    drawn = shown(pictures.overlap(np.zeros((10, 10, 3)), before, after, 30))
    counted = [
        int((drawn == mark).all(axis=-1).sum()) for mark in (pictures.KEPT, pictures.LOST, pictures.GAINED)
    ]
    shared = np.count_nonzero(pictures.top_mask(before, 30) & pictures.top_mask(after, 30))
    assert 0 < shared < 30
    assert counted == [shared, 30 - shared, 30 - shared]


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


def test_outlines_follow_the_borders_of_the_mask() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 0:2] = True
    strokes = {stroke for stroke in pictures._mask_borders(mask).split("M") if stroke}
    assert strokes == {"0 1h2", "0 3h2", "0 1v2", "2 1v2"}
    assert pictures._mask_borders(mask & False) == ""


def test_outlines_are_the_edges_between_pixels_of_which_one_is_in_the_mask() -> None:
    mask = np.random.default_rng(0).random((7, 9)) > 0.5

    def is_in(x: int, y: int) -> bool:
        return 0 <= x < 9 and 0 <= y < 7 and bool(mask[y, x])

    drawn = []
    for x, y, way, length in re.findall(r"M(\d+) (\d+)([hv])(\d+)", pictures._mask_borders(mask)):
        step = (1, 0) if way == "h" else (0, 1)
        drawn += [(int(x) + n * step[0], int(y) + n * step[1], way) for n in range(int(length))]
    expected = {(x, y, "h") for x in range(9) for y in range(8) if is_in(x, y) != is_in(x, y - 1)}
    expected |= {(x, y, "v") for x in range(10) for y in range(7) if is_in(x, y) != is_in(x - 1, y)}
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == expected


def test_few_pictures_stay_exact_and_many_large_ones_fit() -> None:
    def gallery(rows: int, side: int) -> PictureGallery:
        row = PictureRow("r", [np.zeros((side, side))] * 4)
        return PictureGallery([row] * rows, [""] * 4, ["grey", "heat", "heat", "heat"])

    room = 14_000_000
    assert largest_side([gallery(1000, 28)], room) is None
    assert largest_side([gallery(12, 224)], room) is None
    # The largest s with 2,000 pictures of 0.7 bytes a pixel, and 600 bytes around each.
    assert largest_side([gallery(500, 224)], room) == int(((room - 2000 * 600) / 0.7 / 2000) ** 0.5)
    # All galleries of a page count, small pictures too, and none gets smaller than a small picture.
    halves = [gallery(250, 224)] * 2
    assert largest_side(halves, room) == largest_side([gallery(500, 224)], room)
    beside = largest_side([*halves, gallery(200, 28)], room)
    assert beside == int(((room - 2800 * 600 - 4 * 800 * 28**2) / 0.7 / 2000) ** 0.5)
    assert largest_side([gallery(5000, 224)], room) == 64


def test_pictures_that_are_stored_smaller_are_like_the_exact_ones() -> None:
    ramp = np.add.outer(np.arange(128.0), np.arange(128.0)) / 254
    image = np.stack([ramp, 1 - ramp, ramp**2], axis=-1)
    looks: list[Any] = ["grey", "heat", "signed"]
    gallery = PictureGallery([PictureRow("r", [image, ramp, ramp - 0.5])], [*"abc"], looks)
    small = [tile["uri"] for tile in gallery.tiles(gallery.rows[0], 64)]
    photo, heat, signed = decoded(small[0], "jpeg"), decoded(small[1]), decoded(small[2])
    halved = image.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(photo - 255 * halved).mean() < 3
    means, top = ramp.reshape(64, 2, 64, 2).mean(axis=(1, 3)), float(np.quantile(ramp, 0.995))
    for drawn, name, shares, last in (
        (heat, pictures.COLORMAP, np.clip(means / top, 0, 1), 15),
        (signed, "RdBu_r", 0.5 + (means - 0.5) / 2 / float(np.quantile(np.abs(ramp - 0.5), 0.995)), 14),
    ):
        nearest = np.rint(last * np.clip(shares, 0, 1)) / last
        expected = colormaps[name](nearest, bytes=True)[..., :3]
        # Values at the border between two colours may be rounded either way.
        assert (drawn == expected).all(axis=-1).mean() > 0.97
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == last + 1
    # What is small stays as it is.
    little = PictureGallery([PictureRow("r", [image[:64, :64], ramp[:64, :64]])], [*"ab"], ["grey", "heat"])
    assert little.tiles(little.rows[0], 64) == little.tiles(little.rows[0])


def test_an_explorable_gallery_ranks_rows_from_the_worst_and_counts_labels() -> None:
    def controls(*rows: tuple[str, float | None], columns: int = 2) -> dict[str, Any]:
        look: Any = ["grey", "heat"][:columns]
        made = [PictureRow("r", [np.eye(2)] * columns, label=label, score=score) for label, score in rows]
        gallery = PictureGallery(made, ["a"] * columns, look, explorable=True)
        return gallery.controls(made)

    found = controls(("10", 0.5), ("2", None), ("10", -1.0), ("a", float("nan")), ("", 0.5))
    assert found["labels"] == [("2", 1), ("10", 2), ("a", 1)]
    assert found["ranks"] == [1, 3, 0, 4, 2]
    assert found["overlay"]
    # What would change nothing cannot be chosen.
    assert controls(("a", 1.0), ("a", 1.0), columns=1) == {"labels": [], "ranks": [], "overlay": False}


def test_what_cannot_be_drawn_is_refused() -> None:
    square = np.zeros((2, 2))
    refused = {
        "captions": lambda: PictureRow("r", [square], ["a", "b"]),
        "alts": lambda: PictureRow("r", [square], alts=["a", "b"]),
        r"mask of the picture's \(2, 2\)": lambda: PictureRow(
            "r", [square], (), [np.zeros((3, 3), dtype=bool)]
        ),
        r"pictures \(H, W\)": lambda: PictureRow("r", [np.zeros(4)]),
        "one for each picture": lambda: PictureGallery([PictureRow("r", [square])], ["a", "b"], ["grey"]),
        "rows of": lambda: PictureGallery([], [], []),
        "grey or heat or signed": lambda: PictureGallery([PictureRow("r", [square])], ["a"], ["hot"]),  # type: ignore[list-item]
        "rows without a heading": lambda: PictureGallery(
            [PictureRow("r", [square], heading="h")], ["a"], ["grey"], explorable=True
        ),
        "below zero": lambda: PictureGallery([PictureRow("r", [square - 1])], ["a"], ["heat"]),
        "Sum over channels": lambda: PictureGallery(
            [PictureRow("r", [np.zeros((2, 2, 3))])], ["a"], ["heat"]
        ),
    }
    for message, attempt in refused.items():
        with pytest.raises(UsageError, match=message):
            attempt()
    assert colour_pixels(np.zeros((2, 2, 1)), "heat").shape == (2, 2, 3)
