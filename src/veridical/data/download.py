"""torchvision's own downloads, into the root; each archive is checked there against its published MD5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from veridical.data.registry import DatasetEntry
from veridical.runtime.errors import DataError


def download_original(entry: DatasetEntry, root: Path) -> None:
    """Let torchvision download a data set's original files into `root`; our readers read them afterwards.

    Raises DataError when torchvision has no such data set, is not installed, or fails, as it does without a
    network.
    """
    if entry.name not in _DOWNLOADS:
        raise DataError("it does not offer this data set")
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError(f"torchvision is not installed ({error})") from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        _DOWNLOADS[entry.name](datasets, str(root))
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        # URLError and HTTPError are OSErrors; torchvision makes RuntimeErrors of some, and of bad checksums.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"it failed ({reason}); is there a network?") from error


def _mnist(datasets: Any, root: str) -> None:
    datasets.MNIST(root, download=True)


def _fashion(datasets: Any, root: str) -> None:
    datasets.FashionMNIST(root, download=True)


def _gtsrb(datasets: Any, root: str) -> None:
    for split in ("train", "test"):
        datasets.GTSRB(root, split=split, download=True)


def _svhn(datasets: Any, root: str) -> None:
    for split in ("train", "test"):
        datasets.SVHN(root, split=split, download=True)


def _cifar(datasets: Any, root: str) -> None:
    # CIFAR10 is not constructed, as that would unpickle the batches: only its address and checksum are used.
    source = datasets.CIFAR10
    datasets.utils.download_and_extract_archive(
        source.url, root, filename=source.filename, md5=source.tgz_md5
    )


def _imagenette(datasets: Any, root: str) -> None:
    datasets.Imagenette(root, split="train", size="160px", download=True)


_DOWNLOADS: dict[str, Callable[[Any, str], None]] = {
    "mnist": _mnist,
    "fashion-mnist": _fashion,
    "gtsrb": _gtsrb,
    "svhn": _svhn,
    "cifar10": _cifar,
    "imagenette": _imagenette,
}
