"""BlockMNIST: masks by trained probes, exact independence of the labels, determinism, places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom, chisquare

from veridical.data import load
from veridical.data.block_mnist import BlockOptions, _cells_of, block_mnist
from veridical.data.dataset import MaskedDataset
from veridical.runtime.errors import DataError, UsageError

SIDE, CLASSES = 8, 4
KINDS: dict[str, dict[str, Any]] = {
    "square": {},
    "filled": {"null": "filled"},
    "noise patch": {"null": "noise"},
    "scramble": {"null": "scramble"},
    "scramble in tiles": {"null": "scramble", "tile": 4},
    "top": {"position": "top"},
    "bottom": {"position": "bottom"},
    "probability": {"position": 0.7, "null": "noise"},
    "two classes": {"classes": "two", "null": "scramble"},
    "horizontal": {"layout": "horizontal", "null": "noise"},
    "grid": {"layout": 2, "null": "scramble"},
    "noise": {"noise": 0.1, "null": "scramble"},
    "contrast": {"contrast": 0.5, "null_contrast": 0.9, "null": "noise"},
}
"""Every option at least once; the last two change grey levels of the signal as well."""


def written(path: Path, labels_rolled: int = 0) -> Path:
    """Images of a template for each class, more pixels bright in each class than in the one before."""
    generator = np.random.default_rng(3)
    order = generator.permutation(SIDE**2)
    order = np.stack([np.roll(order, 13 * label) for label in range(CLASSES)])
    members: dict[str, Any] = {}
    for part, count in (("train", 800), ("test", 400)):
        labels = generator.integers(0, CLASSES, count)
        images = generator.integers(0, 60, (count, SIDE**2))
        for image, label in zip(images, labels, strict=True):
            image[order[label, : 8 + 8 * label]] += 180
        members[f"x_{part}"] = images.astype(np.uint8).reshape(count, SIDE, SIDE)
        members[f"y_{part}"] = np.roll(labels, labels_rolled)
    np.savez(path, **members)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(written(tmp_path_factory.mktemp("source") / "templates.npz"))


def probe(
    train: npt.NDArray[Any], labels: npt.NDArray[Any], test: npt.NDArray[Any], truth: npt.NDArray[Any]
) -> int:
    """Right answers of a network with a trained last layer, which sees single pixels and the histogram.

    Ridge regression on (pixels, quantiles of an image's pixels, random ReLU features of both): the best
    solution is found, so a label that is not read is not there for such a network.
    """

    def features(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        flat = images.reshape(len(images), -1) / 255.0
        quantiles = np.sort(flat, axis=1)[:, np.linspace(0, flat.shape[1] - 1, 48).astype(int)]
        both = np.concatenate([flat, quantiles], axis=1)
        generator = np.random.default_rng(1)
        weights = generator.normal(size=(both.shape[1], 200)) / np.sqrt(both.shape[1])
        hidden = np.maximum(both @ weights + generator.normal(size=200) / 4, 0)
        return np.concatenate([both, hidden, np.ones((len(both), 1))], axis=1)

    known, wanted = features(train), np.eye(labels.max() + 1)[labels]
    readout = np.linalg.solve(known.T @ known + 3 * np.eye(known.shape[1]), known.T @ wanted)
    return int(((features(test) @ readout).argmax(1) == truth).sum())


def accuracy_inside_and_outside(data: MaskedDataset) -> tuple[float, int]:
    """Share of right answers from the masked-in pixels alone, and their number from all others alone."""
    shown = []
    for inside in (True, False):
        train, test = (
            (split.images[:, 0] * (mask if inside else ~mask)).numpy()
            for split, mask in ((data.train, data.train_mask), (data.test, data.test_mask))
        )
        shown.append(probe(train, data.train.labels.numpy(), test, data.test.labels.numpy()))
    return shown[0] / len(data.test), shown[1]


def chance(data: MaskedDataset) -> int:
    """Right answers that guessing the most frequent class exceeds once in a thousand times."""
    share = float(data.test.labels.bincount().max()) / len(data.test)
    return int(binom.ppf(0.999, len(data.test), share))


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_is_inside_the_mask_and_nowhere_else(source: str, kind: str) -> None:
    data = block_mnist(BlockOptions(source=source, **KINDS[kind]))
    inside, outside = accuracy_inside_and_outside(data)
    assert inside > 0.9
    assert outside <= chance(data)


def test_the_probe_finds_a_label_that_leaks_through_shuffled_pixels(source: str) -> None:
    data, origin = block_mnist(BlockOptions(source=source, null="scramble")), load(source)
    own = [
        np.random.default_rng(0).permuted(split.images.reshape(-1, SIDE**2).numpy(), axis=1)
        for split in (origin.train, origin.test)
    ]
    right = probe(own[0], data.train.labels.numpy(), own[1], data.test.labels.numpy())
    assert right > chance(data)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "two classes"])
def test_other_labels_give_the_same_images(source: str, tmp_path: Path, kind: str) -> None:
    options = BlockOptions(source=source, train_examples=200, test_examples=50, **KINDS[kind])
    data = block_mnist(options)
    other = block_mnist(replace(options, source=str(written(tmp_path / "rolled.npz", 1))))
    assert not data.train.labels.equal(other.train.labels)
    for part in ("train", "test"):
        here, there = getattr(data, part).images, getattr(other, part).images
        assert here.equal(there)
    assert data.train_mask.equal(other.train_mask)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_hold_the_source_s_image_and_the_null(source: str, kind: str) -> None:
    options = BlockOptions(source=source, train_examples=40, **KINDS[kind])
    data, origin = block_mnist(options), load(source)
    rows, columns = _cells_of(options)
    assert data.shape == (1, rows * SIDE, columns * SIDE)
    chosen = data.place("example", "train")
    if options.classes == "two":
        assert chosen.tolist() == (origin.train.labels < 2).nonzero().flatten()[:40].tolist()
    else:
        assert chosen.tolist() == list(range(40))
    assert data.train.labels.equal(origin.train.labels[chosen])
    for number in range(40):
        row, column = divmod(int(data.place("block", "train")[number]), columns)
        region = np.zeros(data.shape[1:], dtype=bool)
        region[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = True
        np.testing.assert_array_equal(data.train_mask[number].numpy(), region)
        if not options.noise:
            signal = data.train.images[number, 0].numpy()[region].reshape(SIDE, SIDE)
            digit = origin.train.images[chosen[number], 0].numpy()
            np.testing.assert_array_equal(signal, np.rint(digit * options.contrast).astype(np.uint8))


def nulls(data: MaskedDataset) -> npt.NDArray[np.uint8]:
    """The null block of vertical images, (N, h, w)."""
    height = data.shape[1] // 2
    images, block = data.train.images[:, 0].numpy(), data.place("block", "train").numpy()
    return np.stack([image[(1 - b) * height :][:height] for image, b in zip(images, block, strict=True)])


def test_contents_of_null_blocks(source: str, tmp_path: Path) -> None:
    options = BlockOptions(source=source)
    square = np.zeros((SIDE, SIDE), dtype=np.uint8)
    square[1:7, 1:7] = 255
    assert (nulls(block_mnist(replace(options, null="filled"))) == square).all()
    dim = replace(options, null="filled", null_contrast=0.5)
    assert (nulls(block_mnist(dim)) == square // 2 + square % 2).all()
    square[2:6, 2:6] = 0
    assert (nulls(block_mnist(options)) == square).all()
    noise = nulls(block_mnist(replace(options, null="noise")))
    assert (noise[:, 0] == 0).all()
    levels = np.bincount(noise[:, 1:7, 1:7].ravel(), minlength=256)
    assert chisquare(levels).pvalue > 0.001
    # A shuffled image has the pixels of one of the source's, and all of these come up.
    known = {np.sort(image.ravel()).tobytes(): n for n, image in enumerate(load(source).train.images.numpy())}
    shuffled = nulls(block_mnist(replace(options, null="scramble")))
    donors = [known[np.sort(image.ravel()).tobytes()] for image in shuffled]
    assert chisquare(np.bincount(np.array(donors) // 50, minlength=16)).pvalue > 0.001
    # Tiles are shuffled whole.
    tiled = nulls(block_mnist(replace(options, null="scramble", tile=4)))

    def tiles(images: npt.NDArray[np.uint8]) -> set[bytes]:
        corners = [(row, column) for row in (0, 4) for column in (0, 4)]
        return {image[y : y + 4, x : x + 4].tobytes() for image in images for y, x in corners}

    assert tiles(tiled) <= tiles(load(source).train.images[:, 0].numpy())
    # In images of MNIST's size the square is as large as MNIST's digits.
    images = np.full((2, 28, 28), 255, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=[0, 1], x_test=images, y_test=[0, 1])
    null = nulls(block_mnist(BlockOptions(source=str(tmp_path / "a.npz"))))[0]
    square = np.zeros((28, 28), dtype=np.uint8)
    square[4:24, 4:24] = 255
    square[6:22, 6:22] = 0
    assert (null == square).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_data_and_fewer_are_the_first_of_more(source: str, kind: str) -> None:
    options = BlockOptions(source=source, test_examples=20, **KINDS[kind])
    data = block_mnist(options)
    few = block_mnist(replace(options, train_examples=60))
    assert few.train.images.equal(data.train.images[:60])
    assert few.train_mask.equal(data.train_mask[:60])
    assert few.place("block", "train").equal(data.place("block", "train")[:60])
    again = block_mnist(replace(options, train_examples=60))
    assert again.checksum == few.checksum
    other = block_mnist(replace(options, train_examples=60, seed=1))
    fixed = kind in ("top", "bottom")  # nothing is drawn
    assert (other.checksum == few.checksum) == fixed


def test_two_classes_are_the_ten_class_images_of_these_digits(source: str) -> None:
    options = BlockOptions(source=source, null="noise", noise=0.05)
    data, two = block_mnist(options), block_mnist(replace(options, classes="two"))
    assert two.classes == data.classes[:2]
    assert set(two.train.labels.tolist()) == {0, 1}
    assert two.train.images.equal(data.train.images[two.place("example", "train")])
    # What is shuffled is of the two classes alone; the digits and their places are the same.
    scrambled = replace(options, null="scramble", noise=0.0)
    data, two = block_mnist(scrambled), block_mnist(replace(scrambled, classes="two"))
    chosen = two.place("example", "train")
    assert two.train_mask.equal(data.train_mask[chosen])
    assert (two.train.images * two.train_mask[:, None]).equal(
        data.train.images[chosen] * data.train_mask[chosen][:, None]
    )


def test_the_version_of_the_generator_keeps_its_bytes(tmp_path: Path) -> None:
    images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4) * 5
    np.savez(tmp_path / "a.npz", x_train=images, y_train=[0, 1, 2], x_test=images, y_test=[0, 1, 2])
    data = block_mnist(BlockOptions(source=str(tmp_path / "a.npz"), null="scramble", layout=2))
    assert (data.name, data.options["version"], data.options["null"]) == ("block-mnist", 1, "scramble")
    assert data.options["source_checksum"] == load(tmp_path / "a.npz").checksum
    # Raise the version with whatever changes this: results of different versions do not compare.
    assert data.checksum == "c7ef8ffce94d3f2471baba3ab40b9b6a40c3d5fd83a60e88d205c1ad0775920c"


def test_positions(source: str) -> None:
    options = BlockOptions(source=source)

    def counts(position: Any, layout: Any) -> npt.NDArray[np.int64]:
        chosen = replace(options, position=position, layout=layout)
        cells = int(np.prod(_cells_of(chosen)))
        return np.bincount(block_mnist(chosen).place("block", "train").numpy(), minlength=cells)

    assert block_mnist(replace(options, position="top")).name == "block-mnist-top"
    assert counts("top", 3).tolist() == [800] + 8 * [0]
    assert counts("bottom", 2).tolist() == [0, 0, 0, 800]
    assert counts(0.0, "vertical").tolist() == [0, 800]
    assert counts(1.0, "horizontal").tolist() == [800, 0]
    assert chisquare(counts("random", 3)).pvalue > 0.001
    assert chisquare(counts(0.7, 2), [560, 80, 80, 80]).pvalue > 0.001
    # Training and testing are drawn apart.
    data = block_mnist(options)
    assert not data.place("block", "train")[:400].equal(data.place("block", "test"))


@pytest.mark.parametrize(("layout", "step"), [("vertical", 1), ("horizontal", 1), (2, 1), (2, 3)])
def test_counterfactuals_move_the_signal_and_nothing_else(source: str, layout: Any, step: int) -> None:
    options = BlockOptions(source=source, layout=layout, null="scramble", train_examples=50)
    data, moved = block_mnist(options), block_mnist(options, moved=step)
    rows, columns = _cells_of(options)
    before, after = data.place("block", "train"), moved.place("block", "train")
    assert after.equal((before + step) % (rows * columns))
    assert moved.train.labels.equal(data.train.labels)
    assert moved.options["moved"] == step

    def blocks(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        grid = images.reshape(len(images), rows, SIDE, columns, SIDE).swapaxes(2, 3)
        return grid.reshape(len(images), rows * columns, SIDE, SIDE)

    expected = blocks(data.train.images[:, 0].numpy()).copy()
    for image, here, there in zip(expected, before.tolist(), after.tolist(), strict=True):
        image[[here, there]] = image[[there, here]]
    np.testing.assert_array_equal(blocks(moved.train.images[:, 0].numpy()), expected)
    masks = blocks(moved.train_mask.numpy())
    assert (masks.all(axis=(2, 3)).argmax(1) == after.numpy()).all()
    assert (masks.sum(axis=(1, 2, 3)) == SIDE**2).all()


def test_noise_is_a_share_of_white(source: str) -> None:
    """On grey that neither end cuts, rounded once: a deviation of noise * 255, and no shift."""
    options = BlockOptions(source=source, null="filled", null_contrast=0.5, contrast=0.5, noise=0.1)
    noisy, clean = (block_mnist(one).train.images.double() for one in (options, replace(options, noise=0.0)))
    offset = (noisy - clean)[(clean > 110) & (clean < 145)]
    spread = 255 * 0.1 * np.sqrt(1 + 1 / 12 / 25.5**2)
    assert float(offset.std()) == pytest.approx(spread, rel=0.01)
    assert abs(float(offset.mean())) < 5 * spread / np.sqrt(len(offset)) + 0.5  # 127.5 is rounded to 128
    # It stays with its pixel where the signal is moved.
    data, moved = (block_mnist(replace(options, layout=2, noise=0.02), moved=step) for step in (0, 1))
    elsewhere = ~(data.train_mask | moved.train_mask)
    assert data.train.images[:, 0][elsewhere].equal(moved.train.images[:, 0][elsewhere])


def test_what_does_not_apply_is_refused(source: str, tmp_path: Path) -> None:
    for step in (-1, 2):
        with pytest.raises(UsageError, match=r"moved: expected an integer from 0 to 1"):
            block_mnist(BlockOptions(source=source), moved=step)
    with pytest.raises(UsageError, match="tile: expected a divisor"):
        block_mnist(BlockOptions(source=source, null="scramble", tile=3))
    with pytest.raises(UsageError, match="test_examples: expected an integer from 1 to 400"):
        block_mnist(BlockOptions(source=source, test_examples=401))
    images = np.full((4, 6, 6, 3), 9, dtype=np.uint8)
    np.savez(tmp_path / "c.npz", x_train=images, y_train=[0, 1, 0, 1], x_test=images, y_test=[0, 1, 0, 1])
    with pytest.raises(DataError, match="expected grey images, but found 3 channels"):
        block_mnist(BlockOptions(source=str(tmp_path / "c.npz")))
