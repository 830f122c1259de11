"""Code that is named as module:callable and runs only when it is trusted."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from veridical.runtime.errors import argument_error
from veridical.runtime.importing import import_named


def imported(
    name: str, spec: str, *, trust_code: bool, positional: Sequence[str] = (), named: Sequence[str] = ()
) -> Callable[..., Any]:
    """Import "package.module:callable"; `name` is the argument it was given for.

    positional, named: the arguments that it has to take. Raises UsageError where the code is not trusted,
    cannot be imported, or is no callable of that form.
    """
    module, colon, attribute = spec.partition(":")
    if not (module and colon and attribute):
        raise argument_error(name, spec, 'a name of the form "package.module:callable"')
    if not trust_code:
        hint = "Foreign code runs only with trust_code (--trust-code)."
        raise argument_error(name, spec, "a name that Veridical knows", hint)
    found = import_named(name, spec, f"a name that {module} has")
    if not callable(found):
        raise argument_error(name, spec, f"a callable; it is a {type(found).__name__}")
    function: Callable[..., Any] = found
    try:
        inspect.signature(function).bind(*positional, **dict.fromkeys(named))
    except TypeError as error:
        form = ", ".join([*positional, *(f"{one}=..." for one in named)])
        raise argument_error(name, spec, f"a callable that is called as ({form})", f"{error}.") from None
    except ValueError:
        return function  # a builtin whose parameters Python cannot tell
    return function


def source_digest(code: object) -> str | None:
    """SHA-256 of the source of a function, a class or an object's class; None where there is no source."""
    subject = code if inspect.isroutine(code) or inspect.isclass(code) else type(code)
    try:
        return hashlib.sha256(inspect.getsource(subject).encode()).hexdigest()
    except (OSError, TypeError):
        return None
