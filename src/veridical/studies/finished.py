"""What a finished command left in its folder, as it is read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, TypeVar

from veridical.runtime.checking import as_path
from veridical.runtime.errors import RunError, argument_error
from veridical.runtime.files import AGAIN, Document, check_form, read_arrays, read_json
from veridical.runtime.record import record

RESULT, EXAMPLES = "result.json", "examples.npz"


class Named(TypedDict):
    """A record of which the name is shown."""

    name: str


class Robust(TypedDict):
    """The robust part of a training, as pages tell it."""

    norm: str
    radius: float
    weight: NotRequired[float]
    beta: NotRequired[float | None]
    training_radius: NotRequired[float | None]


class Trained(TypedDict):
    """The settings of the run that was examined, as pages tell them."""

    objective: str
    recipe: str
    model: Named
    robust: Robust | None


@record
class Finished:
    """The content of a result.json, and the arrays of the examples.npz beside it."""

    folder: Path
    document: Mapping[str, Any]
    arrays: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """What the numbers depend on."""
        config: Mapping[str, Any] = self.document["config"]
        return config

    @property
    def results(self) -> Mapping[str, Any]:
        """What was measured."""
        results: Mapping[str, Any] = self.document["results"]
        return results


F = TypeVar("F", bound=Finished)


def read_finished(
    kind: type[F],
    folder: str | Path,
    command: str,
    key: str,
    *,
    part: Literal["config", "results"] = "config",
    what: str = "study",
    form: Any = Document,
    forms: Mapping[str, str] | None = None,
) -> F:
    """Read what a command left in its folder; a RunError for a folder that is not of that command.

    kind: what is returned. key: an entry of `part` of the document that this command's documents have and no
    other's. what: the thing that the command makes, for the message. form, forms: what document and arrays
    must have, as `read_json` and `read_arrays` take it.
    """
    path = as_path(folder)
    document = read_json(path / RESULT, Document)
    if key not in document[part] or EXAMPLES not in document["files"]:
        raise RunError(f"{path} is not a finished {what}: `veridical {command} --out {path}` makes one.")
    check_form(document, form, path / RESULT)
    arrays = read_arrays(path / EXAMPLES, forms, sha256=document["files"][EXAMPLES])
    if forms and not set(arrays["label"].tolist()) <= set(range(len(arrays["classes"]))):
        raise RunError(f"{path / EXAMPLES} is damaged: label names classes that are not there. {AGAIN}")
    return kind(path, document, arrays)


def distinct_titles(
    titles: Sequence[str] | None, defaults: Sequence[str], folders: Sequence[Path], what: str
) -> list[str]:
    """Different titles: those given, else the defaults, with the folder's name where two are equal.

    what: what is named, for messages. Raises UsageError for titles of another number, or that are equal.
    """
    if titles is not None and len(titles) != len(defaults):
        raise argument_error("titles", list(titles), f"{len(defaults)} names, one for each {what}")
    chosen = list(titles or defaults)
    if titles is None:
        chosen = [
            title if chosen.count(title) == 1 else f"{title} ({folder.name})"
            for title, folder in zip(chosen, folders, strict=True)
        ]
    if len(set(chosen)) < len(chosen):
        raise argument_error("titles", chosen, f"a different name for each {what}", "Give --titles.")
    return chosen
