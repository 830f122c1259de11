"""The data sets by name: what each is, its classes and its usual sizes. Needs neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veridical.runtime.registry import Registry

if TYPE_CHECKING:
    from veridical.data.arrays import Arrays

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """One place where a data set may lie: files, or folders, in a folder.

    names: what has to be there; one that ends in [.gz] may be compressed. With nothing missing `read` can be
    called, which tells whether the files are sound. kind: "npz", "original", "debian" or "package". label:
    for messages, where the folder's path does not tell. shapes: reads the shapes of training and test images
    from headers alone, where that is quick.
    """

    folder: Path
    names: Sequence[str]
    read: Callable[[], Arrays]
    kind: str = "original"
    label: str = ""
    shapes: Callable[[], Shapes] | None = None

    @property
    def where(self) -> str:
        """The place in messages."""
        return self.label or str(self.folder)

    @cached_property
    def missing(self) -> list[str]:
        """The names that are not there."""
        return [name for name in self.names if not any(map(self._is_there, _spellings(name)))]

    def _is_there(self, name: str) -> bool:
        # A pipe or a device of that name is no file: reading it could wait for ever.
        return (self.folder / name).is_file() or (self.folder / name).is_dir()

    def describe(self) -> str:
        """One line for the list of places that were tried."""
        if len(self.missing) in (0, len(self.names)):
            return f"{self.where}: {'not there' if self.missing else 'found'}"
        more = f" and {len(self.missing) - 4} more" if len(self.missing) > 4 else ""
        return f"{self.where}: incomplete, without {', '.join(self.missing[:4])}{more}"


def _spellings(name: str) -> tuple[str, ...]:
    plain = name.removesuffix("[.gz]")
    return (name,) if plain == name else (plain, f"{plain}.gz")


@dataclass(frozen=True)
class DatasetEntry:
    """What is known about a data set before any file of it is opened.

    shape: (channels, height, width) of one image. sizes: images for (training, testing) in the complete set.
    factory: called with the root folder and the size to which image files are resized, it returns the places
    of the original files in the order of lookup; "package.module:attribute" is imported late.
    free_size: files of other heights and widths are this data set too; its original files differ in size and
    are resized to `shape` unless another size is asked for. download: the class of torchvision.datasets that
    fetches it ("" for none), and download_calls the options of each call of it. mirror: the label of a
    mirrored image by the image's label, for classes whose mirror images belong to a class.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    classes: tuple[str, ...]
    factory: str | Callable[[Path, int], list[Place]]
    free_size: bool = False
    download: str = ""
    download_calls: Sequence[Mapping[str, Any]] = ({},)
    mirror: Mapping[int, int] = field(default_factory=dict)

    def mirrored(self, classes: int) -> tuple[int | None, ...]:
        """The label of the mirror image for each of `classes` labels, None where there is none."""
        # As many classes as are known: another set under this name has classes of its own.
        known = self.mirror if classes == len(self.classes) else {}
        return tuple(known.get(label) for label in range(classes))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


_DIGITS = tuple("0123456789")
_GARMENTS = _names("T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot")
_OBJECTS = _names("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck")
_FLOWERS = _names(
    "daffodil, snowdrop, lily valley, bluebell, crocus, iris, tigerlily, tulip, fritillary, sunflower, "
    "daisy, colts foot, dandelion, cowslip, buttercup, windflower, pansy"
)
_SIGNS = _names(
    "Speed limit 20, Speed limit 30, Speed limit 50, Speed limit 60, Speed limit 70, Speed limit 80, "
    "End of speed limit 80, Speed limit 100, Speed limit 120, No passing, No passing over 3.5 t, "
    "Right-of-way at next intersection, Priority road, Yield, Stop, No vehicles, "
    "Vehicles over 3.5 t prohibited, No entry, General caution, Dangerous curve left, Dangerous curve right, "
    "Double curve, Bumpy road, Slippery road, Road narrows on the right, Road work, Traffic signals, "
    "Pedestrians, Children crossing, Bicycles crossing, Beware of ice/snow, Wild animals crossing, "
    "End of all limits, Turn right ahead, Turn left ahead, Ahead only, Go straight or right, "
    "Go straight or left, Keep right, Keep left, Roundabout mandatory, End of no passing, "
    "End of no passing over 3.5 t"
)
# Signs that are their own mirror image, and pairs that are each other's (curves, turns, sides to keep to).
_SIGN_MIRRORS = {label: label for label in (11, 12, 13, 15, 17, 18, 22, 26, 30, 35)}
_SIGN_MIRRORS |= {19: 20, 20: 19, 33: 34, 34: 33, 36: 37, 37: 36, 38: 39, 39: 38}

# WordNet id, which names the class folder, and class name; in the order of the labels.
IMAGENETTE_FOLDERS: Mapping[str, str] = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}

_BOTH_PARTS = ({"split": "train"}, {"split": "test"})


def _unchanged(classes: Sequence[str]) -> dict[int, int]:
    """Every class holds its own mirror images."""
    return {label: label for label in range(len(classes))}


# The table of names; iterating gives the names.
DATASETS = Registry(
    "data",
    "veridical.datasets",
    DatasetEntry,
    [
        DatasetEntry(
            "mnist-5k",
            "5,000 of MNIST's training digits, own split",
            (1, 28, 28),
            (4000, 1000),
            _DIGITS,
            "veridical.data.array_files:digit_places",
        ),
        DatasetEntry(
            "mnist",
            "MNIST handwritten digits",
            (1, 28, 28),
            (60000, 10000),
            _DIGITS,
            "veridical.data.array_files:mnist_places",
            download="MNIST",
        ),
        DatasetEntry(
            "fashion-mnist",
            "Fashion-MNIST garments",
            (1, 28, 28),
            (60000, 10000),
            _GARMENTS,
            "veridical.data.array_files:fashion_places",
            download="FashionMNIST",
            mirror=_unchanged(_GARMENTS),
        ),
        DatasetEntry(
            "gtsrb",
            "GTSRB traffic signs",
            (3, 32, 32),
            (39209, 12630),
            _SIGNS,
            "veridical.data.image_files:gtsrb_places",
            free_size=True,
            download="GTSRB",
            download_calls=_BOTH_PARTS,
            mirror=_SIGN_MIRRORS,
        ),
        DatasetEntry(
            "flowers17",
            "Oxford 17 category flowers",
            (3, 128, 128),
            (1224, 136),
            _FLOWERS,
            "veridical.data.image_files:flower_places",
            free_size=True,
            mirror=_unchanged(_FLOWERS),
        ),
        DatasetEntry(
            "svhn",
            "Street View house numbers",
            (3, 32, 32),
            (73257, 26032),
            _DIGITS,
            "veridical.data.array_files:svhn_places",
            download="SVHN",
            download_calls=_BOTH_PARTS,
        ),
        DatasetEntry(
            "cifar10",
            "CIFAR-10 objects",
            (3, 32, 32),
            (50000, 10000),
            _OBJECTS,
            "veridical.data.array_files:cifar_places",
            download="CIFAR10",
            mirror=_unchanged(_OBJECTS),
        ),
        DatasetEntry(
            "imagenette",
            "Imagenette, ten ImageNet classes",
            (3, 96, 96),
            (9469, 3925),
            tuple(IMAGENETTE_FOLDERS.values()),
            "veridical.data.image_files:imagenette_places",
            free_size=True,
            download="Imagenette",
            download_calls=({"split": "train", "size": "160px"},),
            mirror=_unchanged(tuple(IMAGENETTE_FOLDERS)),
        ),
    ],
    more=", an .npz file, a folder of class folders or package.module:callable",
)
