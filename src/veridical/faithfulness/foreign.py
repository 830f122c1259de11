"""Code that is named as module:callable and runs only when it is trusted."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from veridical.runtime.errors import UsageError, fail_argument


def imported(name: str, spec: str, *, trust_code: bool) -> Callable[..., Any]:
    """Import "package.module:callable"; `name` is the argument it was given for.

    Raises UsageError where the code is not trusted, cannot be imported, or is no callable.
    """
    module, colon, attribute = spec.partition(":")
    if not (module and colon and attribute):
        raise fail_argument(name, spec, 'a name of the form "package.module:callable"')
    if not trust_code:
        hint = "Foreign code runs only with trust_code (--trust-code)."
        raise fail_argument(name, spec, "a name that Veridical knows", hint)
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{name}: {spec} cannot be imported ({error}). Put its module where Python looks for modules "
            "(PYTHONPATH), on every machine that takes part."
        ) from error
    except AttributeError:
        raise fail_argument(name, spec, f"a name that {module} has") from None
    if not callable(found):
        raise fail_argument(name, spec, f"a callable; it is a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def source_digest(code: object) -> str | None:
    """SHA-256 of the source of a function, a class or an object's class; None where there is no source."""
    subject = code if inspect.isroutine(code) or inspect.isclass(code) else type(code)
    try:
        return hashlib.sha256(inspect.getsource(subject).encode()).hexdigest()
    except (OSError, TypeError):
        return None
