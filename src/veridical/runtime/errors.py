"""The exceptions that Veridical raises on purpose: they say what was given, expected and to be done."""

import difflib
import unicodedata
from collections.abc import Iterable


class VeridicalError(Exception):
    """Base of all of them; a command prints its message as one line and exits with 1."""


class UsageError(VeridicalError, ValueError):
    """An argument or option that cannot be used; a command exits with 2."""


class DataError(VeridicalError):
    """A data set that is missing, damaged or not what its name says."""


class RunError(VeridicalError):
    """A run folder, result or checkpoint that cannot be used, or a training that had to stop."""


def argument_error(name: str, given: object, expected: str, hint: str = "") -> UsageError:
    """Build (not raise) the error for one bad argument, in the wording that all of them share.

    `expected` completes "expected ..."; `hint` is a full sentence that says what to do.
    """
    message = f"{name}: expected {expected}, but got {_describe(given)}."
    return UsageError(f"{message} {hint}" if hint else message)


def visible(text: str, keep: str = "") -> str:
    r"""A name or message of others as it may reach a terminal or a page: what has no glyph is escaped.

    Control and formatting characters, lone surrogates and line ends become \x1b, \u202e and their like, but
    for those in `keep`. Without this a class name could colour a terminal or turn a page's words round.
    """
    return "".join(
        char.encode("unicode_escape", "surrogatepass").decode("ascii")
        if unicodedata.category(char) in _WITHOUT_GLYPH and char not in f"{_JOINERS}{keep}"
        else char
        for char in text
    )


_WITHOUT_GLYPH = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # words of many scripts, and some emoji, are spelt with them


def nearest(given: object, known: Iterable[str]) -> str | None:
    """The name that was meant: of these initials (lr: learning-rate), else the most alike or a longer one."""
    if not isinstance(given, str):
        return None
    # Spelling apart: train_examples, --train-examples and "Train examples" are one.
    names = {_normalise(name): name for name in known}
    wanted = _normalise(given)
    # Of one or two letters nearly every name is alike; initials are all that they can mean.
    initials = [name for plain, name in names.items() if wanted == "".join(w[0] for w in plain.split())]
    alike = difflib.get_close_matches(wanted, names, n=1) if len(wanted) > 2 else []
    longer = [plain for plain in names if len(wanted) > 2 and plain.startswith(wanted)]
    return next(iter([*initials, *(names[plain] for plain in [*alike, *longer])]), None)


def _normalise(name: str) -> str:
    return name.strip("-").replace("-", " ").replace("_", " ").lower()


def unknown_name_error(
    name: str, given: object, known: Iterable[str], hint: str = "", *, more: str = ""
) -> UsageError:
    """Build (not raise) the error for a name that is none of `known`; the nearest of them is suggested.

    `more` completes the list of what is possible, as in " or a file".
    """
    names = [*known]
    near = nearest(given, names)
    meant = f"Did you mean {near}? " if near else ""
    return argument_error(name, given, f"one of {', '.join(names)}{more}", (meant + hint).rstrip())


def _describe(given: object) -> str:
    """Show a value in one short line; of tensors and other objects what they are, not what they hold."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", None)
    if shape is not None and dtype is not None:
        return f"a {type(given).__name__} of shape {tuple(shape)} and dtype {dtype}"
    text = " ".join(repr(given).split())  # one line, whatever it holds
    plain = isinstance(given, str | bytes | int | float | list | tuple | dict)
    if hasattr(given, "named_parameters") or (not plain and (text.startswith("<") or len(text) > 200)):
        return f"a {type(given).__name__}"
    return text if len(text) <= 200 else f"{text[:197]}..."
