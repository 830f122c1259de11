"""Options of generated data sets as plain values; free of torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from veridical.runtime.checking import Checked, limited

ClassesName = Literal["ten", "two"]
NullName = Literal["square", "filled", "noise", "scramble"]
PositionName = Literal["random", "top", "bottom"]
LayoutName = Literal["vertical", "horizontal"]
CodeName = Literal["place", "presence"]
ShortcutTestName = Literal["agreeing", "moved", "gone"]
PatternName = Literal["checks", "solid"]


@dataclass(frozen=True, kw_only=True)
class BlockOptions(Checked):
    """What a BlockMNIST data set is: one signal block and null blocks in each image.

    Args:
        source: Data set of grey images, by name or .npz file; its images are the signal blocks.
        classes: "ten" takes all classes of the source, "two" its first two (digits 0 and 1).
        null: Content of a null block: a square's outline, a filled square, a square of noise, or the shuffled
            pixels of an image of the source.
        position: Where the signal stands: "random", "top" (the first block), "bottom" (the last), or the
            probability that it is the first block.
        layout: "vertical" (one above the other), "horizontal" (side by side), or k for k x k blocks.
        contrast: Factor of the signal block's grey levels, above 0 and at most 1.
        null_contrast: The same for null blocks; None takes that of the signal.
        noise: Standard deviation of the Gaussian noise added to every pixel, in input units (0 to 1).
        tile: Side in pixels of the squares that null "scramble" shuffles; 1 shuffles pixels.
        train_examples: Number of training images; None takes all.
        test_examples: Number of test images; None takes all.
        seed: Seed of positions, contents and noise.
    """

    source: str = "mnist-5k"
    classes: ClassesName = "ten"
    null: NullName = "square"
    position: PositionName | float = "random"
    layout: LayoutName | int = "vertical"
    contrast: float = 1.0
    null_contrast: float | None = None
    noise: float = 0.0
    tile: int = 1
    train_examples: int | None = None
    test_examples: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ShortcutOptions(Checked):
    """A patch planted in images, which agrees with the class in training and need not in testing.

    Args:
        source: Data set that the patch is planted in, by name or .npz file.
        code: What of the patch agrees with the class: its "place" (one for each class, along the border), or
            its "presence" (classes of odd label have it).
        rate: Probability that a training image's patch agrees with its class.
        test: Test images: "agreeing" at the same rate, "moved" (place or presence independent of the class),
            or "gone" (no patch).
        size: Side of the patch in pixels.
        margin: Pixels between patch and border.
        pattern: Black and white "checks" of one pixel, seen on any ground, or "solid" white.
        contrast: Share of the patch in its pixels, above 0 and at most 1; the image keeps the rest.
        train_examples: Number of training images; None takes all.
        test_examples: Number of test images; None takes all.
        seed: Seed of what is drawn for each image.
    """

    source: str = "fashion-mnist"
    code: CodeName = "place"
    rate: float = 0.95
    test: ShortcutTestName = "moved"
    size: int = 4
    margin: int = 0
    pattern: PatternName = "checks"
    contrast: float = 1.0
    train_examples: int | None = None
    test_examples: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class BlockFileOptions(BlockOptions):
    """A BlockMNIST data set, and where it is written.

    Args:
        out: Folder of data.npz, result.json and report.html; the same command finds it finished.
        moved: Write the counterfactuals instead: the signal changes places with the block this many further.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        gallery: Images shown in the report.
    """

    out: str
    moved: int = 0
    data_root: str | None = None
    gallery: int = field(default=12, metadata=limited(1, 1000))


@dataclass(frozen=True, kw_only=True)
class ShortcutFileOptions(ShortcutOptions):
    """A data set with a planted shortcut, and where it is written.

    Args:
        out: Folder of data.npz, result.json and report.html; the same command finds it finished.
        data_root: Folder of the data; else VERIDICAL_DATA, else ~/.cache/veridical.
        gallery: Images shown in the report.
    """

    out: str
    data_root: str | None = None
    gallery: int = field(default=12, metadata=limited(1, 1000))
