"""Files of our own, whole or absent: atomic writes, one reader per format, the claim of a folder by a run."""

import contextlib
import hashlib
import io
import json
import math
import numbers
import os
import platform
import secrets
import stat
import time
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn, TypeAlias, TypedDict, TypeVar, overload

from veridical.runtime.checking import as_path, check_structure, json_schema
from veridical.runtime.errors import RunError, UsageError, argument_error

CLAIM = "claim.json"
# What to do about a damaged file, where that file can be written again.
REPEAT_HINT = "Delete it and repeat the command that wrote it."
# Bytes at most of a JSON file, and of all arrays in an .npz file together.
MOST_TEXT, MOST_ARRAYS = 2**26, 2**33
_DEEPEST = 64
# Bytes of an array's header, more than numpy parses.
_MOST_HEADER = 2**14
_MOST_DIFFERENCES = 6
_ABSENT = object()
_SEAL = "seal"
F = TypeVar("F")
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
# Arrays by name, as an .npz file holds them.
Arrays: TypeAlias = "dict[str, NDArray[Any]]"


class Claim(TypedDict):
    """Whose a folder is: the command, and the options that decide its results."""

    kind: str
    config: dict[str, Any]


class Environment(TypedDict):
    """What computed a result; beside these each command has its own."""

    veridical: str
    python: str
    torch: str
    numpy: str
    platform: str
    cpu: str
    cores: int | None
    device: str
    gpu: str | None
    dtype: str
    threads: int
    seed: int | None


class Frame(TypedDict):
    """What every result.json has beside its results and its config, whose structure is each command's own."""

    schema: Literal[1]
    environment: dict[str, Any]
    timing: dict[str, Any]
    files: dict[str, str]


class Document(Frame):
    """Any result.json."""

    results: dict[str, Any]
    config: dict[str, Any]


def result_schema(command: str, *forms: Any) -> dict[str, Any]:
    """The JSON Schema of a command's result.json: what every one has, and each of the forms."""
    frame = {
        "schema": Literal[1],
        "results": dict,
        "config": dict,
        "environment": Environment,
        "timing": dict,
        "files": dict[str, str],
    }
    return _schema(f"result.json of `veridical {command}`", f"result:{command}", frame, *forms)


def claim_schema() -> dict[str, Any]:
    """The JSON Schema of claim.json, by which a folder belongs to one run of a command."""
    return _schema("claim.json of a folder", "claim", Claim)


def _schema(title: str, name: str, *forms: Any) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:veridical:{name}:1",
        "title": title,
        "allOf": [json_schema(form) for form in forms],
    }


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` (text as UTF-8) as `atomic` does; the folder must exist."""
    with atomic(Path(path)) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic(target: Path, *, once: bool = False, flush: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that becomes `target` when the block ends, and vanishes if it raises.

    So `target` holds the old content or all of the new, even after a kill. once: only where there is no
    `target` yet, of all processes and machines; else a FileExistsError. flush: the bytes reach the disk
    before the name does, and the name before this returns; False leaves that to the system, and a power cut
    may lose them. What the disk refuses is a RunError that names `target` and the reason.
    """
    # The temporary file lies in the same folder, since a rename is atomic only within one file system. Its
    # name starts with a dot: what a killed process leaves behind is not taken for a file of the run. It also
    # says who writes it, so that `sweep` knows when nobody does.
    token = _system_id() + secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{token}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if flush:
                os.fsync(file.fileno())
        if once:
            _link(temporary, target)
        else:
            os.replace(temporary, target)
        if flush:
            _sync_folder(target.parent)
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{target} cannot be written: {reason}. What was there before is whole.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _link(temporary: Path, target: Path) -> None:
    """Give a complete file its name unless that is taken."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a disk without links: a kill may leave the file cut, which its reader says
        with target.open("xb") as file:
            file.write(temporary.read_bytes())


def sweep(folder: Path) -> None:
    """Remove, below `folder`, the temporary files of writers that are gone.

    A writer of this system is gone when its process is; one of another system (or container), whose processes
    cannot be seen from here, after a day.
    """
    for path in folder.rglob(".*.tmp"):
        process, token = path.name.split(".")[-3:-1]
        if not process.isdecimal():
            continue  # not of `atomic`
        with contextlib.suppress(OSError):  # others may sweep too
            elsewhere = len(token) == len(_system_id()) + 8 and not token.startswith(_system_id())
            old = time.time() - path.stat().st_mtime > 86_400
            gone = old if elsewhere else not _is_running(int(process))
            if gone:
                path.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


@cache
def _system_id() -> str:
    """Name the kernel, and the container, in which a process number means something."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        name = f"{kernel} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        name = platform.node()
    return digest(name.encode())[:8]


def _sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can open folders."""
    with contextlib.suppress(PermissionError):  # Windows refuses to open a folder; its renames are journalled
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | os.PathLike[str], obj: object, flush: bool = True) -> None:
    """Write plain values as indented JSON, atomically and in insertion order; NaN and infinities become null.

    Mappings with text keys, sequences, numbers (numpy scalars too), text, paths, booleans and None are plain;
    anything else is a `UsageError` that names its place. flush: as in `atomic`.
    """
    content = _as_json(obj)  # first: what cannot be written leaves no temporary file
    with atomic(Path(path), flush=flush) as file:
        file.write(content)


def create_json(path: Path, obj: object, flush: bool = True) -> bool:
    """Write plain values as `write_json` does, as the first of all processes; False if the file is there."""
    try:
        with atomic(path, once=True, flush=flush) as file:
            file.write(_as_json(obj))
    except FileExistsError:
        return False
    return True


def _as_json(obj: object) -> bytes:
    plain = to_plain(obj, "value")
    return (json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_bytes(
    path: str | os.PathLike[str],
    most: int | None = None,
    hint: str = REPEAT_HINT,
    *,
    sha256: str | None = None,
) -> bytes:
    """All of a file; a RunError, which names it, for one that is not as it was written.

    That is missing, no file, unreadable, above `most` bytes, or not of the digest that some record keeps of
    it. hint: a sentence that says what to do about it.
    """
    source = as_path(path)
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):  # a folder, or a pipe, which would wait for ever
            _fail_damaged(source, "it is not a file", hint)
        if most is not None and status.st_size > most:
            _fail_damaged(source, f"it has {status.st_size:,} bytes, and at most {most:,} make sense", hint)
        content = source.read_bytes()
    except FileNotFoundError:
        raise RunError(
            f"{source} does not exist. Check the folder, or run the command that writes it."
        ) from None
    except OSError as error:
        raise RunError(f"{source} cannot be read: {error.strerror}. Check its permissions.") from error
    if sha256 is not None and digest(content) != sha256:
        _fail_damaged(source, "its content is not what was written (SHA-256 differs)", hint)
    return content


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal digits, as records keep it."""
    return hashlib.sha256(content).hexdigest()


def write_sealed(path: str | os.PathLike[str], record: Mapping[str, object]) -> None:
    """Write a mapping as `write_json` does, with the SHA-256 of all of it as its last entry, "seal"."""
    plain = to_plain(dict(record), "record")
    write_json(path, {**plain, _SEAL: _seal(plain)})


def _seal(plain: object) -> str:
    # Keys in one order: the seal is of what is said, not of how it is laid out.
    return digest(json.dumps(plain, sort_keys=True).encode())


@overload
def read_json(
    path: str | os.PathLike[str], *, hint: str = REPEAT_HINT, sealed: bool = False
) -> dict[str, Any]: ...
@overload
def read_json(
    path: str | os.PathLike[str], form: type[F], *, hint: str = REPEAT_HINT, sealed: bool = False
) -> F: ...
def read_json(
    path: str | os.PathLike[str], form: Any = dict, *, hint: str = REPEAT_HINT, sealed: bool = False
) -> Any:
    """The content of a JSON file of our own, after its structure was checked.

    form: an annotation as `check_structure` takes it, best a TypedDict of the keys that the caller reads.
    sealed: it is of `write_sealed`; whatever was changed since is damage too. hint: as in `read_bytes`.
    Whatever is wrong (missing, unreadable, too large, not UTF-8, not JSON, NaN, nested too deeply, without a
    key, a value of another type) is a RunError that names file and field.
    """
    source = as_path(path)
    value = _parse(read_bytes(source, MOST_TEXT, hint), form, source, hint)
    if sealed and value.pop(_SEAL, None) != _seal(value):
        _fail_damaged(source, "it is not what was written (its seal differs)", hint)
    return value


def check_form(value: object, form: Any, source: object, hint: str = REPEAT_HINT) -> None:
    """Raise a RunError that names `source` and the field, unless the plain value fits (`check_structure`)."""
    try:
        check_structure(value, form)
    except UsageError as error:
        _fail_damaged(source, str(error).removesuffix("."), hint)


def read_json_lines(path: str | os.PathLike[str], form: type[F], *, hint: str = REPEAT_HINT) -> list[F]:
    """The lines of a JSON Lines file, each checked as by `read_json`; no lines if there is no file.

    What a kill or a power cut leaves, a last line without its end or zeros, is left out; any other line that
    cannot be read is a RunError that names file, line and field.
    """
    source = as_path(path)
    # The last text has no line end behind it: empty, or cut by a kill.
    texts = read_bytes(source, MOST_TEXT, hint).split(b"\n") if source.exists() else [b""]
    lines: list[F] = []
    for number, text in enumerate(texts, start=1):
        if not text.strip(b"\0"):
            continue
        try:
            lines.append(_parse(text, form, f"{source}, line {number},", hint))
        except RunError:
            if number < len(texts):
                raise
    return lines


def pack_arrays(arrays: Mapping[str, "NDArray[Any]"]) -> bytes:
    """An .npz file, compressed; numbers, booleans and text only (a UsageError for objects)."""
    import numpy as np

    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise argument_error(name, array, "numbers, booleans or text")
    buffer = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def read_arrays(
    path: str | os.PathLike[str],
    forms: Mapping[str, str] | None = None,
    *,
    sha256: str | None = None,
    hint: str = REPEAT_HINT,
) -> dict[str, Any]:
    """All arrays of an .npz file of our own, by name, after headers, sizes and `forms` were checked.

    forms: what must be in it, as {"index": "i N", "image": "u N C H W"}: numpy's letters of allowed kinds,
    then an axis each; axes of one name have one length, "*" is any number of further axes. More arrays may be
    there; one whose name ends in "?" may be missing. sha256: the file's digest, if some record keeps it.
    Pickles are never loaded. Whatever is wrong is a RunError that names file and array; hint as in
    `read_bytes`.
    """
    source = as_path(path)
    content = read_bytes(source, MOST_ARRAYS, hint, sha256=sha256)
    try:
        # From memory: numpy and zipfile leave a damaged file open.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(info.file_size for info in archive.infolist())  # before a byte is unpacked
            if size > MOST_ARRAYS:
                raise ValueError(f"it unpacks to {size:,} bytes")
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            for name in names:
                read_array_header(archive, name)
            arrays = {name: read_array(archive, name) for name in names}
    except Exception as error:  # noqa: BLE001 - damaged archives and headers fail in nearly any way
        _fail_damaged(source, f"it is not an .npz file as it was written ({_shorten_reason(error)})", hint)
    lengths: dict[str, int] = {}
    for key, form in (forms or {}).items():
        name = key.removesuffix("?")
        if name not in arrays and key != name:
            continue
        if name not in arrays:
            _fail_damaged(source, f"it has no array {name}", hint)
        if not _has_form(arrays[name], form, lengths):
            given = f"{arrays[name].dtype} {arrays[name].shape}"
            _fail_damaged(source, f"the array {name} is {given}, and not ({form})", hint)
    return arrays


def read_array_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    """Shape and dtype of an array in an .npz file, of which as much is there as its header says.

    Raises KeyError for no array of that name, ValueError for a header that is not numpy's or not true, and
    for Python objects.
    """
    from numpy.lib import format as npy

    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        start = io.BytesIO(stream.read(_MOST_HEADER))
    try:
        version = npy.read_magic(start)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}")
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(
            start
        )
    except (ValueError, SyntaxError, tokenize.TokenError) as error:  # all of them from numpy's parser
        raise ValueError(f"an unreadable header ({error})") from error
    if dtype.hasobject:
        raise ValueError("an array of Python objects, and pickles are never loaded")
    # Python's integers are exact, however large the header claims the array to be.
    size, content = math.prod(map(int, shape)) * dtype.itemsize, info.file_size - start.tell()
    if content != size:
        raise ValueError(f"{content} bytes of content, and not {size} for shape {shape} of {dtype}")
    return shape, dtype


def read_array(archive: zipfile.ZipFile, name: str) -> Any:
    """The content of an array whose header was checked, in this machine's byte order."""
    import numpy as np

    with archive.open(f"{name}.npy") as stream:
        # Numpy reads in small pieces: of an LZMA member zipfile unpacks all it has read, however much it is.
        array = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # zipfile compares the checksum only when the end is reached
    if array.dtype.kind == "U":
        array.tolist()  # numpy looks at its characters only now
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _has_form(array: Any, form: str, lengths: dict[str, int]) -> bool:
    """Whether kind and shape are as said; new axes get their length."""
    kinds, *axes = form.split()
    named = [axis for axis in axes if axis != "*"]
    if (
        array.dtype.kind not in kinds
        or array.ndim < len(named)
        or (named == axes and array.ndim > len(named))
    ):
        return False
    return all(
        lengths.setdefault(axis, length) == length for axis, length in zip(named, array.shape, strict=False)
    )


def _parse(content: bytes, form: type[F], place: object, hint: str) -> F:
    """A JSON text of our own as plain values that fit a form."""
    try:
        value = json.loads(content.decode(), parse_constant=_refuse_constant, parse_float=_parse_finite)
        level = [value]  # of one depth; no recursion, which the depth itself could break
        for _ in range(_DEEPEST):
            level = [inner for outer in level for inner in _inner_values(outer)]
        if level:
            raise ValueError(f"nested more than {_DEEPEST} times")
        if rb"\u" in content:  # halves of a character, which nothing could write again
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        _fail_damaged(place, f"it is not valid JSON ({_shorten_reason(error)})", hint)
    check_form(value, form, place, hint)
    return value  # type: ignore[no-any-return]


def _inner_values(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _parse_finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _refuse_constant(text)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant[:40]}")


def _shorten_reason(error: BaseException) -> str:
    """An error of another library in a few words, without its advice."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."


def _fail_damaged(source: object, fault: str, hint: str) -> NoReturn:
    raise RunError(f"{source} is damaged: {fault}. {hint}") from None


def to_plain(obj: object, place: str) -> Any:
    """Turn `obj` into what the json module writes and reads back unchanged; `place` names it in errors."""
    if obj is None or isinstance(obj, str | bool):
        return obj
    if isinstance(obj, numbers.Integral):
        return int(obj)
    if isinstance(obj, numbers.Real):
        number = float(obj)
        return number if math.isfinite(number) else None
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise argument_error(f"{place}: key", key, "text keys only")
        return {key: to_plain(value, f"{place}.{key}") for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_plain(value, f"{place}[{index}]") for index, value in enumerate(obj)]
    raise argument_error(
        place, obj, "a value that JSON can hold", "Convert it to numbers, text, lists or mappings."
    )


def result_document(
    results: Mapping[str, object],
    config: Mapping[str, object],
    environment: Mapping[str, object],
    timing: Mapping[str, object],
    files: Mapping[str, bytes] | None = None,
) -> dict[str, object]:
    """Return the content of a `result.json`: two results are equal when `results` and `config` are.

    files: what was written beside it, by name, of which it keeps the digests.
    """
    return {
        "schema": 1,
        "results": dict(results),
        "config": dict(config),
        "environment": dict(environment),
        "timing": dict(timing),
        "files": {name: digest(content) for name, content in (files or {}).items()},
    }


def claim_folder(path: str | os.PathLike[str], kind: str, config: Mapping[str, object]) -> Path:
    """Create the folder, or enter it again, for the one run described by (`kind`, `config`); return its path.

    The claim is kept in `claim.json`. A folder with another run's claim, or with files and no claim, is
    refused with a `UsageError` that names what differs. Names that start with a dot are not looked at, but
    what killed writers left below the folder is removed.
    """
    folder = as_path(path, "out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise argument_error(
            "out", str(folder), "a folder, or a name that is free", "A file is there."
        ) from None
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}.") from error
    claim = {"kind": kind, "config": to_plain(dict(config), "config")}
    # Looked at before it is claimed: a folder of something else must not get a claim.json.
    if not (folder / CLAIM).exists():
        _refuse_foreign_files(folder)
        create_json(folder / CLAIM, claim)
    # Another process may have been first: what counts is what the file says.
    existing = read_claim(folder)
    if existing["kind"] != kind:
        raise UsageError(
            f"{folder} belongs to another command: `veridical {existing['kind']}` made it, and this is "
            f"`veridical {kind}`. Name another folder."
        )
    if existing["config"] != claim["config"]:
        differences = "; ".join(list_differences(existing["config"], claim["config"]))
        raise UsageError(
            f"{folder} belongs to another run: {differences}. "
            "Name another folder, or repeat the same options."
        )
    sweep(folder)  # last: a folder that is refused is left as it was
    return folder


def read_claim(folder: Path) -> Claim:
    """Whose a folder is; a RunError where that cannot be read."""
    hint = "What else lies in the folder is as it was, but begin anew in another folder."
    return read_json(folder / CLAIM, Claim, hint=hint)


def _refuse_foreign_files(folder: Path) -> None:
    """Raise when a folder that nobody claimed holds anything."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if names and not (folder / CLAIM).exists():  # which another process may have written by now
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UsageError(
            f"{folder} holds files of something else ({shown}). "
            "Name a new or empty folder, so that nothing is mixed."
        )


def list_differences(before: object, now: object) -> list[str]:
    """What differs, in words: an option once, of however many trainings it is part, and not without end."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for place, old, new in _walk_differences(before, now):
        places.setdefault((place.rpartition(".")[2], _brief(old), _brief(new)), []).append(place)
    lines = [
        f"{where[0]} is {old} there, {new} here"
        if len(where) == 1
        else f"{option} is {old} there, {new} here (in {len(where)} places)"
        for (option, old, new), where in places.items()
    ]
    more = len(lines) - _MOST_DIFFERENCES
    return [*lines[:_MOST_DIFFERENCES], *([f"{more} more differences"] if more > 0 else [])]


def _walk_differences(before: object, now: object, place: str = "") -> Iterator[tuple[str, object, object]]:
    """Walk two JSON values and yield (dotted place, before, now) wherever they differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in {**before, **now}:
            inner = f"{place}.{key}" if place else key
            yield from _walk_differences(before.get(key, _ABSENT), now.get(key, _ABSENT), inner)
    elif before != now:
        yield place, before, now


def _brief(value: object) -> str:
    if value is _ABSENT:
        return "absent"
    # A whole training, say, would drown what else differs.
    return "given" if isinstance(value, Mapping) else json.dumps(value)
