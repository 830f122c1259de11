"""Importing what a text names; whether that code is trusted is for the caller to ask first."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from veridical.runtime.errors import UsageError, argument_error


def import_named(argument: str, name: str, expected: str) -> Any:
    """Import what "package.module:attribute" names; it was given for `argument`.

    Raises UsageError where the module cannot be found, or does not have `expected`, in words.
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
