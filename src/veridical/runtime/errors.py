"""The exceptions that Veridical raises on purpose: they say what was given, expected and to be done."""

import unicodedata


class VeridicalError(Exception):
    """Base of all of them; a command prints its message as one line and exits with 1."""


class UsageError(VeridicalError, ValueError):
    """An argument or option that cannot be used; a command exits with 2."""


class DataError(VeridicalError):
    """A data set that is missing, damaged or not what its name says."""


class RunError(VeridicalError):
    """A run folder, result or checkpoint that cannot be used, or a training that had to stop."""


def fail_argument(name: str, given: object, expected: str, hint: str = "") -> UsageError:
    """Build (not raise) the error for one bad argument, in the wording that all of them share.

    `expected` completes "expected ..."; `hint` is a full sentence that says what to do.
    """
    message = f"{name}: expected {expected}, but got {_shown(given)}."
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


def _shown(given: object) -> str:
    """Show a value in one short line; a tensor or array shows its shape and dtype, not its numbers."""
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", None)
    if shape is not None and dtype is not None:
        return f"a {type(given).__name__} of shape {tuple(shape)} and dtype {dtype}"
    text = " ".join(repr(given).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
