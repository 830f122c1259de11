"""The data sets by name: what each is, its classes and its usual sizes. Needs neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DatasetEntry:
    """What is known about a data set before any file of it is opened.

    shape: (channels, height, width) of one image. sizes: images for (training, testing) in the complete set.
    free_size: files of other heights and widths are this data set too; its original files differ in size and
    are resized to `shape` unless another size is asked for. downloadable: torchvision can fetch it. mirror:
    the label of a mirrored image by the image's label, for classes whose mirror images belong to a class.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    classes: tuple[str, ...]
    free_size: bool = False
    downloadable: bool = False
    mirror: Mapping[int, int] = field(default_factory=dict)

    def mirrored(self, classes: int) -> tuple[int | None, ...]:
        """The label of the mirror image for each of `classes` labels, None where there is none."""
        known = self.mirror if classes == len(self.classes) else {}
        return tuple(known.get(label) for label in range(classes))


def _unchanged(classes: tuple[str, ...]) -> dict[int, int]:
    """Every class holds its own mirror images."""
    return {label: label for label in range(len(classes))}


_DIGITS = tuple("0123456789")

_GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_SIGNS = (
    *(f"Speed limit {limit}" for limit in (20, 30, 50, 60, 70, 80)),
    "End of speed limit 80",
    "Speed limit 100",
    "Speed limit 120",
    "No passing",
    "No passing over 3.5 t",
    "Right-of-way at next intersection",
    "Priority road",
    "Yield",
    "Stop",
    "No vehicles",
    "Vehicles over 3.5 t prohibited",
    "No entry",
    "General caution",
    "Dangerous curve left",
    "Dangerous curve right",
    "Double curve",
    "Bumpy road",
    "Slippery road",
    "Road narrows on the right",
    "Road work",
    "Traffic signals",
    "Pedestrians",
    "Children crossing",
    "Bicycles crossing",
    "Beware of ice/snow",
    "Wild animals crossing",
    "End of all limits",
    "Turn right ahead",
    "Turn left ahead",
    "Ahead only",
    "Go straight or right",
    "Go straight or left",
    "Keep right",
    "Keep left",
    "Roundabout mandatory",
    "End of no passing",
    "End of no passing over 3.5 t",
)

# Signs that are their own mirror image, and pairs that are each other's (curves, turns, sides to keep to).
_SIGN_PAIRS = ((19, 20), (33, 34), (36, 37), (38, 39))
_SIGN_MIRRORS = {label: label for label in (11, 12, 13, 15, 17, 18, 22, 26, 30, 35)}
_SIGN_MIRRORS |= {a: b for pair in _SIGN_PAIRS for a, b in (pair, pair[::-1])}

_FLOWERS = (
    "daffodil",
    "snowdrop",
    "lily valley",
    "bluebell",
    "crocus",
    "iris",
    "tigerlily",
    "tulip",
    "fritillary",
    "sunflower",
    "daisy",
    "colts foot",
    "dandelion",
    "cowslip",
    "buttercup",
    "windflower",
    "pansy",
)

_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

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
"""WordNet id, which names the class folder, and class name; in the order of the labels."""

_ENTRIES = (
    DatasetEntry(
        "mnist-5k", "5,000 of MNIST's training digits, own split", (1, 28, 28), (4000, 1000), _DIGITS
    ),
    DatasetEntry(
        "mnist", "MNIST handwritten digits", (1, 28, 28), (60000, 10000), _DIGITS, downloadable=True
    ),
    DatasetEntry(
        "fashion-mnist",
        "Fashion-MNIST garments",
        (1, 28, 28),
        (60000, 10000),
        _GARMENTS,
        downloadable=True,
        mirror=_unchanged(_GARMENTS),
    ),
    DatasetEntry(
        "gtsrb",
        "GTSRB traffic signs",
        (3, 32, 32),
        (39209, 12630),
        _SIGNS,
        free_size=True,
        downloadable=True,
        mirror=_SIGN_MIRRORS,
    ),
    DatasetEntry(
        "flowers17",
        "Oxford 17 category flowers",
        (3, 128, 128),
        (1224, 136),
        _FLOWERS,
        free_size=True,
        mirror=_unchanged(_FLOWERS),
    ),
    DatasetEntry(
        "svhn", "Street View house numbers", (3, 32, 32), (73257, 26032), _DIGITS, downloadable=True
    ),
    DatasetEntry(
        "cifar10",
        "CIFAR-10 objects",
        (3, 32, 32),
        (50000, 10000),
        _OBJECTS,
        downloadable=True,
        mirror=_unchanged(_OBJECTS),
    ),
    DatasetEntry(
        "imagenette",
        "Imagenette, ten ImageNet classes",
        (3, 96, 96),
        (9469, 3925),
        tuple(IMAGENETTE_FOLDERS.values()),
        free_size=True,
        downloadable=True,
        mirror=_unchanged(tuple(IMAGENETTE_FOLDERS)),
    ),
)

DATASETS: Mapping[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}
"""The table of names; iterating gives the names."""
