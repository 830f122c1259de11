"""Importing what a text of the form "package.module:attribute" names."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from veridical.runtime.errors import UsageError, argument_error

TRUST_HINT = "Foreign code runs only with trust_code (--trust-code)."


def import_named(argument: str, name: str, expected: str) -> Any:
    """Import what "package.module:attribute" names; it was given for `argument`.

    Whether that code is trusted is for the caller to ask first. Raises UsageError where the module cannot be
    imported, or does not have `expected`, in words.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ModuleNotFoundError, TypeError, ValueError) as error:  # the others: a relative name
        raise UsageError(
            f"{argument}: {name} cannot be imported here ({error}). Put its module where Python looks for "
            "modules (PYTHONPATH), on every machine that takes part."
        ) from error
    except AttributeError:
        raise argument_error(argument, name, expected) from None
    except Exception as error:  # whatever the module's own code raises
        raise UsageError(f"{argument}: {name} cannot be imported: {type(error).__name__}: {error}") from error


def import_trusted(
    argument: str,
    spec: str,
    *,
    trust_code: bool,
    positional: Sequence[str] | None = (),
    named: Sequence[str] = (),
) -> Callable[..., Any]:
    """Import the callable "package.module:name", given for `argument`, if its code is trusted.

    positional, named: the arguments that it has to take; None for positional are any. Raises UsageError where
    the code is not trusted, cannot be imported, or is no callable of that form.
    """
    module, colon, attribute = spec.partition(":")
    if not (module and colon and attribute):
        raise argument_error(argument, spec, 'a name of the form "package.module:callable"')
    if not trust_code:
        raise argument_error(argument, spec, "a name that Veridical knows", TRUST_HINT)
    function = import_named(argument, spec, f"a name that {module} has")
    if not callable(function):
        raise argument_error(argument, spec, f"a callable; it is a {type(function).__name__}")
    if positional is not None:
        check_signature(argument, spec, function, positional, named)
    return function  # type: ignore[no-any-return]


def check_signature(
    argument: str,
    spec: str,
    function: Callable[..., Any],
    positional: Sequence[str] = (),
    named: Sequence[str] = (),
) -> None:
    """Raise a UsageError unless the callable takes these arguments."""
    try:
        inspect.signature(function).bind(*positional, **dict.fromkeys(named))
    except TypeError as error:
        form = ", ".join([*positional, *(f"{one}=..." for one in named)])
        raise argument_error(argument, spec, f"a callable that is called as ({form})", f"{error}.") from None
    except ValueError:
        pass  # a builtin whose parameters Python cannot tell


def source_digest(code: object) -> str | None:
    """SHA-256 of the source of a function, a class or an object's class; None where there is no source."""
    subject = code if inspect.isroutine(code) or inspect.isclass(code) else type(code)
    try:
        return hashlib.sha256(inspect.getsource(subject).encode()).hexdigest()
    except (OSError, TypeError):
        return None
